"""Plays one episode of the benchmark, keeps its row, and plays it again from the row."""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from esper_agents import load_policy
from esper_agents.provenance import commit, cpu, versions
from esper_agents.recording import EpisodeRecorder
from esper_agents.tamiyo import Controller, Interface, Planting, Schedule, make_controller
from esper_env import EsperEnv, Stage
from esper_env.leyline import Op
from esper_env.leyline.events import Event


@dataclass(frozen=True)
class Job:
    """One episode to play."""

    suite: str
    task: str
    """Environment id."""
    arguments: dict[str, Any]
    """Of the environment."""
    controller: str
    """Its name in the results."""
    seed: int
    kind: str
    """How it is built: "scripted", "schedule", "policy" or "structure"."""
    what: Any = None
    """Name of the scripted controller, plantings of the schedule, file of the policy, or the structure that the episode
    starts with, in which it waits."""
    hash: str = ""
    """Of what decides: a schedule's, a policy's."""
    trained_on: str = ""
    """As in a row."""

    @property
    def options(self) -> dict[str, Any]:
        """Of the reset."""
        return {"structure": self.what} if self.kind == "structure" else {}

    @property
    def key(self) -> tuple[str, str, str, int]:
        """Tells this episode from every other."""
        return self.task, json.dumps(self.arguments, sort_keys=True), self.controller, self.seed


@dataclass(frozen=True)
class Row:
    """What one episode came to. JSON texts are marked so; accuracies are fractions."""

    suite: str
    task: str
    arguments: str
    """JSON"""
    controller: str
    controller_hash: str
    controller_settings: str
    """JSON: plantings of a schedule, temperature at which a policy acts."""
    trained_on: str
    """Id of the environment a policy was trained on, and its arguments if it has any but the data set; empty for what
    is not trained."""
    seed: int
    episode_return: float
    committed_accuracy: float
    """On the whole validation split, of the committed network."""
    validation_accuracy: float
    """On the validation subset, at the last epoch."""
    test_accuracy: float
    best_accuracy: float
    """Highest on the validation subset."""
    params: int
    peak_params: int
    growth: float
    flops_training: int
    flops_shadow: int
    flops_evaluation: int
    flops_total: int
    images: int
    """Training images met."""
    seconds: float
    operations: str
    """JSON: number of each operation that was executed."""
    germinated: int
    fossilized: int
    pruned: int
    invalid_actions: int
    rollbacks: int
    error_code: int
    stability: float
    structure: str
    """JSON: the seeds fossilised at the end."""
    actions: str
    """JSON: what was asked for, epoch by epoch."""
    options: str
    """JSON: the reset options."""
    curve: str
    """JSON: validation accuracy, epoch by epoch."""
    stages: str
    """JSON: stage of every slot, epoch by epoch."""
    blueprints: str
    """JSON: index of the blueprint in every slot, -1 for none, epoch by epoch."""
    alphas: str
    """JSON: alpha of every slot, epoch by epoch."""
    provenance: str
    """JSON"""
    versions: str
    """JSON"""
    cpu: str
    threads: int
    commit: str

    @property
    def key(self) -> tuple[str, str, str, int]:
        """That of its job."""
        return self.task, self.arguments, self.controller, self.seed


EXACT = (
    "episode_return",
    "committed_accuracy",
    "validation_accuracy",
    "test_accuracy",
    "best_accuracy",
    "params",
    "peak_params",
    "growth",
    "flops_training",
    "flops_shadow",
    "flops_evaluation",
    "flops_total",
    "operations",
    "germinated",
    "fossilized",
    "pruned",
    "invalid_actions",
    "rollbacks",
    "error_code",
    "stability",
    "structure",
    "curve",
    "stages",
    "blueprints",
    "alphas",
)
"""Fields that a replay must have bit for bit."""

IDENTITY = (
    "suite",
    "task",
    "arguments",
    "controller",
    "controller_hash",
    "controller_settings",
    "trained_on",
    "options",
)
"""Fields that say what was played, besides the seed."""

SERIES = ("stages", "blueprints", "alphas")
"""What is kept of every slot, epoch by epoch."""

_TYPES: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "str": str}


def read(path: Path) -> list[Row]:
    """The rows of a file in the order they were made; a line that was cut off is none."""
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    types = {f.name: _TYPES[str(f.type)] for f in fields(Row)}
    return [
        Row(**{name: types[name](value) for name, value in line.items()}) for line in csv.DictReader(io.StringIO(whole))
    ]


def append(path: Path, row: Row) -> None:
    """Add a row in one write, behind a whole line."""
    names = [f.name for f in fields(Row)]
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    there = path.read_bytes() if path.exists() else b""
    if b"\n" not in there:
        there = b""
        writer.writeheader()
    writer.writerow(asdict(row))
    with path.open("ab") as file:
        file.truncate(there.rfind(b"\n") + 1)
        file.write(text.getvalue().encode())
        file.flush()
        os.fsync(file.fileno())


@dataclass
class _Log:
    """What happened in an episode."""

    actions: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    curve: list[float] = field(default_factory=list)
    rows: dict[str, list[list[float]]] = field(default_factory=lambda: {name: [] for name in SERIES})
    executed: list[Op] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def play(job: Job, emit: Callable[[Event], None] | None = None, number: int = 0) -> Row:
    """Play an episode; `emit` is told what happens, as in environment `number`."""
    torch.set_num_threads(1)
    env = _environment(job.task, job.arguments)
    recorder = EpisodeRecorder(number, Interface.of(env), job.controller)
    controller, settings = _controller(job, env)
    state: Any = None

    def decide(observation: Any, info: dict[str, Any]) -> int:
        nonlocal state
        batched = {k: np.asarray(v)[None] for k, v in info.items()}
        actions, state = controller(observation[None], info["action_mask"][None], batched, state)
        return int(actions[0])

    def told(action: int | None, reward: float, info: dict[str, Any]) -> None:
        if emit is None:
            return
        if action is None:
            recorder.begin(info, job.seed)
            return
        for event in recorder.step(action, reward, info, env.seconds):
            emit(event)
        if env.done:
            emit(recorder.end(info, env.last_error if info["error_code"] else None))

    log = _run(env, job.seed, job.options, decide, told)
    arguments = json.dumps(job.arguments, sort_keys=True)
    identity = {"suite": job.suite, "task": job.task, "arguments": arguments, "controller": job.controller}
    identity |= {"controller_hash": job.hash, "controller_settings": json.dumps(settings)}
    identity |= {"trained_on": job.trained_on, "options": json.dumps(job.options)}
    return _row(identity, job.seed, env, log)


def replay(row: Row) -> Row:
    """Play a row's episode again from its seed and its actions."""
    torch.set_num_threads(1)
    env = _environment(row.task, json.loads(row.arguments))
    actions = iter(json.loads(row.actions))
    log = _run(env, row.seed, json.loads(row.options), lambda _, __: next(actions))
    return _row({name: getattr(row, name) for name in IDENTITY}, row.seed, env, log)


def differences(row: Row, again: Row) -> list[str]:
    """The exact fields in which two rows differ."""
    return [name for name in EXACT if getattr(row, name) != getattr(again, name)]


def _environment(task: str, arguments: dict[str, Any]) -> EsperEnv:
    env = gymnasium.make(task, **arguments).unwrapped
    assert isinstance(env, EsperEnv)
    return env


def _controller(job: Job, env: EsperEnv) -> tuple[Controller, dict[str, Any]]:
    """What decides, and its settings."""
    match job.kind:
        case "scripted":
            return make_controller(job.what, env, **({"seed": job.seed} if job.what == "random" else {})), {}
        case "schedule":
            schedule = Schedule(tuple(Planting(**p) for p in job.what))
            return make_controller("fixed_schedule", env, schedule=schedule), {"plantings": job.what}
        case "policy":
            policy = load_policy(job.what, env, seed=job.seed)
            return policy, {"temperature": policy.temperature}
        case "structure":
            return make_controller("wait", env), {}
    raise ValueError(f"unknown kind of controller {job.kind!r}")


def _run(
    env: EsperEnv,
    seed: int,
    options: dict[str, Any],
    decide: Callable[[Any, dict[str, Any]], int],
    told: Callable[[int | None, float, dict[str, Any]], None] = lambda action, reward, info: None,
) -> _Log:
    log, start, done = _Log(), time.perf_counter(), False
    observation, info = env.reset(seed=seed, options=options or None)
    told(None, 0.0, info)
    while not done:
        action = decide(observation, info)
        observation, reward, terminated, truncated, info = env.step(action)
        told(action, float(reward), info)
        log.actions.append(action)
        log.executed.append(Op.WAIT if info["invalid_action"] else env.action_table[action].op)
        log.rewards.append(float(reward))
        log.curve.append(float(info["val_accuracy"]))
        for name, series in log.rows.items():
            series.append(info[name].tolist())
        done = terminated or truncated
    log.info, log.seconds = info, time.perf_counter() - start
    return log


def _row(identity: dict[str, Any], seed: int, env: EsperEnv, log: _Log) -> Row:
    info, episode = log.info, env.episode
    fossils = [
        {"slot": s.name, "blueprint": s.blueprint, "style": str(s.style)}
        for s in episode.model.stream
        if s.stage is Stage.FOSSILIZED
    ]
    return Row(
        **identity,
        seed=seed,
        episode_return=_total(log.rewards),
        committed_accuracy=float(info["committed_accuracy"]),
        validation_accuracy=log.curve[-1],
        test_accuracy=float(info["test_accuracy"]),
        best_accuracy=max(log.curve),
        params=int(info["params"]),
        peak_params=int(info["peak_params"]),
        growth=float(info["growth"]),
        flops_training=int(info["flops_train"]),
        flops_shadow=int(info["flops_shadow"]),
        flops_evaluation=int(info["flops_eval"]),
        flops_total=int(info["flops_total"]),
        images=int(info["epoch"]) * episode.config.samples_per_epoch,
        seconds=round(log.seconds, 2),
        operations=json.dumps({op.name: log.executed.count(op) for op in Op}),
        germinated=int(info["germinated"]),
        fossilized=int(info["fossilized"]),
        pruned=int(info["pruned"]),
        invalid_actions=int(info["invalid_actions"]),
        rollbacks=int(info["rollbacks"]),
        error_code=int(info["error_code"]),
        stability=float(info["stability"]),
        structure=json.dumps(fossils),
        actions=json.dumps(log.actions),
        curve=json.dumps(log.curve),
        **{name: json.dumps(series) for name, series in log.rows.items()},
        provenance=json.dumps({k: v for k, v in env.provenance.items() if k != "source"}),
        versions=json.dumps(versions()),
        cpu=cpu(),
        threads=torch.get_num_threads(),
        commit=commit(),
    )


def _total(rewards: Sequence[float]) -> float:
    """Their sum in a fixed order."""
    total = 0.0
    for reward in rewards:
        total += reward
    return total
