"""What the benchmark plays: the suites' tasks, and the controllers by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.episodes import Job, Row
from esper_agents import load_policy
from esper_agents.config import environment_ids
from esper_agents.tamiyo import CONTROLLERS, Schedule
from esper_agents.tamiyo.policy_files import policy_path
from esper_env.tasks import BUILT_IN

EVALUATION_SEED, REFERENCE_SEED = 2_000_000, 1_000_000
SYNTHETIC = {"dataset": "synthetic"}


@dataclass(frozen=True)
class Task:
    """An environment of a suite."""

    id: str
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For files and tables."""
        return short(self.id)


def short(id: str) -> str:
    """The name in an environment's id."""
    return id.removeprefix("Esper/").removesuffix("-v0")


SUITES: dict[str, tuple[Task, ...]] = {
    "smoke": (Task("Esper/Tiny-v0", {"episode_length": 60}),),
    "core": (
        Task("Esper/CifarBaseline-v0", SYNTHETIC),
        Task("Esper/CifarVaried-v0", SYNTHETIC),
        Task("Esper/FashionBaseline-v0", {"dataset": "fashion_mnist"}),
    ),
    "full": tuple(Task(id) for id in BUILT_IN),
}
"""The tasks of each suite; `full` takes the real data where they are on disk."""

SCHEDULES = Path(__file__).parent / "schedules"
REFERENCES = Path(__file__).parent / "references.json"
"""Mean test accuracies that normalised scores are measured by."""
STATIC, STATIC_FLOPS = "static_final", "static_flops"
NAMES = (*CONTROLLERS, "random_search", "learned", STATIC, STATIC_FLOPS)
HELP = (
    "comma-separated: wait, random, periodic, heuristic; fixed_schedule and random_search (what is pinned or was found "
    "for the task); learned or learned:NAME_OR_FILE; static_final:OTHER and static_flops:OTHER, the final structure of "
    "OTHER's episode trained from scratch for as many epochs, or for as many training FLOPs"
)


def tasks_of(suite: str, only: Sequence[str] = ()) -> list[Task]:
    """The tasks of a suite, or those of them that are named.

    Raises:
        ValueError: a name that the suite does not have.
    """
    tasks = {task.name: task for task in SUITES[suite]}
    if unknown := sorted(set(only) - set(tasks)):
        raise ValueError(f"suite {suite} has no task {', '.join(unknown)}; choose from {', '.join(tasks)}")
    return [task for name, task in tasks.items() if not only or name in only]


def copies(controller: str) -> str | None:
    """The controller whose structures another one copies."""
    name, _, other = controller.partition(":")
    return other if name in (STATIC, STATIC_FLOPS) else None


def check(controllers: Sequence[str]) -> None:
    """Refuse controllers that do not exist, before anything is run.

    Raises:
        ValueError: with the choices.
    """
    for controller in controllers:
        name, _, argument = controller.partition(":")
        if name not in NAMES:
            raise ValueError(f"unknown controller {controller!r}; choose from {', '.join(NAMES)}")
        if (name in (STATIC, STATIC_FLOPS)) != bool(argument) and name != "learned":
            raise ValueError(
                f"{controller!r}: write {name}:CONTROLLER" if not argument else f"{name} takes no argument"
            )
        other = copies(controller)
        needed = [other, *([f"{STATIC}:{other}"] if name == STATIC_FLOPS else [])] if other is not None else []
        if absent := [c for c in needed if c not in controllers]:
            raise ValueError(f"{controller!r} needs {' and '.join(absent)}: name that controller too")
        if name == "learned":
            policy_path(argument or "cifar_baseline")


def job(suite: str, task: Task, controller: str, seed: int, out: Path) -> Job:
    """The episode of a controller that copies no other.

    Raises:
        ValueError: there is no schedule for the task.
    """
    name, _, argument = controller.partition(":")
    kind, what, digest, trained_on = "scripted", name, hashlib.sha256(name.encode()).hexdigest(), ""
    if name in ("fixed_schedule", "random_search"):
        schedule = found(name, task, out)
        kind, what, digest = "schedule", json.loads(schedule.to_json())["plantings"], schedule.digest
    elif name == "learned":
        kind, what = "policy", str(policy_path(argument or "cifar_baseline"))
        digest, trained_on = _origin(what)
    return Job(suite, task.id, task.arguments, controller, seed, kind, what, digest, trained_on)


@cache
def _origin(path: str) -> tuple[str, str]:
    """Digest of a policy's file, and what it was trained on: the environment's id, and its arguments if it has any."""
    config = load_policy(path).description["origin"]["config"]
    trained_on = environment_ids().get(config["task"], config["task"])
    if config["env_json"]:
        trained_on += f" {json.dumps(config['env_json'], sort_keys=True)}"
    return hashlib.sha256(Path(path).read_bytes()).hexdigest(), trained_on


def found(name: str, task: Task, out: Path) -> Schedule:
    """The schedule of a task: found by the search in `out`, or pinned with the benchmark.

    Raises:
        ValueError: there is none.
    """
    for path in (out / f"{name}-{task.name}.json", SCHEDULES / f"{name}-{task.name}.json"):
        if path.exists():
            return Schedule.from_json(path.read_text())
    hint = (
        f"run `python -m benchmarks search --suite SUITE --tasks {task.name} --like POLICY --out {out}` first"
        if name == "random_search"
        else "leave it out"
    )
    raise ValueError(f"there is no {name} for {task.name}: {hint}")


def twin(suite: str, task: Task, controller: str, rows: Sequence[Row]) -> list[Job]:
    """The episodes of a controller that copies another one's final structures, for all of its sound rows.

    Twins have the seed of what they copy. For equal FLOPs the episode's length, and with it the schedule of the
    learning rate, is scaled so that the bigger network spends as many on training.
    """
    name, _, other = controller.partition(":")
    here = [row for row in rows if row.task == task.id and row.suite == suite]
    static = {row.seed: row for row in here if row.controller == f"{STATIC}:{other}"}
    jobs = []
    for row in (r for r in here if r.controller == other and not r.error_code):
        arguments, structure = task.arguments, json.loads(row.structure)
        if name == STATIC_FLOPS:
            like = static[row.seed]
            if like.error_code:
                continue
            arguments = {**arguments, "episode_length": equal_length(row, like)}
        copied = (row.controller_hash, row.trained_on)
        jobs.append(Job(suite, task.id, arguments, controller, row.seed, "structure", structure, *copied))
    return jobs


def equal_length(row: Row, static: Row) -> int:
    """How many epochs of `static`, an episode from scratch, take the FLOPs of `row`'s training and shadow passes."""
    epochs = len(json.loads(static.curve))
    return max(1, round(epochs * (row.flops_training + row.flops_shadow) / static.flops_training))
