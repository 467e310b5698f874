"""What the agent learns here, and what each of its settings is worth: ``python -m benchmarks.learning run|report``.

``run`` trains the agent with three seeds on a small `Esper/CifarBaseline-v0` and, with one setting changed at a time,
on `Esper/Tiny-v0`, and judges every policy on the same held-out seeds as WAIT, random and heuristic. It adds the rows
that are missing to ``benchmarks/results/learning.jsonl``. ``report`` writes the tables in ``docs/agent.md`` and the
picture ``docs/learning.png``.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks import rows
from benchmarks.pages import fill, markdown
from benchmarks.rows import Row
from benchmarks.statistics import estimate, mean
from esper_agents import load_policy
from esper_agents.ppo_config import PRESETS, PPOConfig
from esper_agents.runner import EpisodeRecord, run_episodes
from esper_agents.simic.training import LOG, POLICY, Trainer
from esper_agents.tamiyo import make_controller
from esper_env.leyline import Op

RESULTS = Path(__file__).parent / "results" / "learning.jsonl"
DOCS = Path(__file__).parents[1] / "docs"
SEEDS = range(3)
TRAINING_SEEDS_APART = 10_000
EVALUATION_SEED, EVALUATION_EPISODES = 2_000_000, 32

USUAL, INDEPENDENT, FEWER = "the preset", "independent seeds", "independent seeds, 24 rounds"
TASKS: dict[str, dict[str, Any]] = {
    "Esper/CifarBaseline-v0": PRESETS["cifar_baseline"]
    | {
        "dataset": "synthetic",
        "env_json": {"samples_per_epoch": 256, "val_samples": 256},
        "episode_length": 60,
        "rounds": 40,
    },
    "Esper/Tiny-v0": PRESETS["tiny"] | {"rounds": 40},
}
"""What is trained, by environment id."""
CHANGES: dict[str, dict[str, Any]] = {
    "1 pass": {"ppo_epochs": 1},
    "4 passes": {"ppo_epochs": 4},
    "V(s)": {"critic": "v"},
    "shaped": {"reward": "shaped"},
    "escrow": {"reward": "escrow"},
    "LSTM 512": {"memory_size": 512},
    "lambda 0.95": {"gae_lambda": 0.95},
    "uniform start": {"start": "uniform"},
    "no critic warm-up": {"critic_warmup": 0},
    "no memory": {"memory": "none"},
    "separate critic memory": {"critic_memory": True},
}
"""Changes to the preset with independent seeds, tried on Tiny."""
FORMER = "the preset, critic alone"
"""Rows of the preset before advantages were taken within groups (commit 45280fd); that can no longer be run."""
APART: dict[str, Any] = {"group_size": 1, "critic_warmup": 3, "ent_coef": 0.01}
"""Every episode has a seed of its own; what the rows of these settings were made with."""
SETTINGS: dict[str, dict[str, Any]] = {
    USUAL: {},
    INDEPENDENT: APART,
    FEWER: APART | {"rounds": 24},
    **{name: APART | change for name, change in CHANGES.items()},
}
SCRIPTED = ("wait", "random", "heuristic")
CIFAR, TINY = TASKS
CURVES = ("return", "fossilized_share", "fossilized", *(f"operation_share/{op.name}" for op in Op))


def jobs() -> list[tuple[str, str, int]]:
    """Task, setting and training seed of every row, the most telling first."""
    scripted = [(task, name, 0) for task in TASKS for name in SCRIPTED]
    usual = [(task, USUAL, seed) for seed in SEEDS for task in TASKS]
    changed = [(TINY, name, seed) for name in (INDEPENDENT, *CHANGES) for seed in SEEDS]
    return [*usual, *scripted, *changed, *[(CIFAR, FEWER, seed) for seed in SEEDS]]


def config_of(task: str, setting: str, seed: int) -> PPOConfig:
    """The configuration of a training run; runs of different seeds meet different episodes."""
    return PPOConfig(
        **TASKS[task] | {"seed": seed * TRAINING_SEEDS_APART, "num_workers": 1} | SETTINGS.get(setting, {})
    )


def row_of(records: list[EpisodeRecord]) -> Row:
    """What the evaluation episodes came to."""
    return {
        "returns": [round(r.episode_return, 6) for r in records],
        **{key: float(np.mean([r.final[key] for r in records])) for key in ("germinated", "fossilized", "growth")},
        "rollbacks": int(sum(r.final["rollbacks"] for r in records)),
        "failures": int(sum(r.final["error_code"] != 0 for r in records)),
    }


def judge(controller: Any, config: PPOConfig) -> Row:
    """Run a controller on the evaluation seeds."""
    venv = config.make(config.envs)
    try:
        return row_of(run_episodes(controller(venv), venv, EVALUATION_EPISODES, seed=EVALUATION_SEED))
    finally:
        venv.close()


def run_one(task: str, setting: str, seed: int) -> Row:
    """Train with a setting, or take a scripted controller, and judge it."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    config = config_of(task, setting, seed)
    row: Row = {"task": task, "setting": setting, "seed": seed}
    if setting in SCRIPTED:
        row |= judge(lambda venv: make_controller(setting, venv), config)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            trainer = Trainer(config, Path(scratch))
            trainer.run(progress=False, report=lambda _: None)
            trainer.env.close()
            rounds = [json.loads(line) for line in (Path(scratch) / LOG).read_text().splitlines()]
            policy = Path(scratch) / POLICY
            row |= judge(lambda venv: load_policy(policy, venv, temperature=1.0), config)
            row["likeliest"] = judge(lambda venv: load_policy(policy, venv, temperature=0.0), config)["returns"]
        row["curves"] = {key: [r.get(f"round/{key}") for r in rounds] for key in CURVES}
        row["curves"] |= {key: [r[f"train/{key}"] for r in rounds] for key in ("approx_kl", "clip_fraction")}
        row["config"] = json.loads(config.model_dump_json())
    return row | {"seconds": round(time.perf_counter() - start, 1)}


def run(workers: int) -> None:
    """Run what has no row yet."""
    done = {(row["task"], row["setting"], row["seed"]) for row in rows.read(RESULTS)}
    rows.make(RESULTS, [job for job in jobs() if job not in done], run_one, workers)


def gains(mine: list[Row], wait: Row) -> NDArray[np.float64]:
    """Points over WAIT on the same seed: (training runs, evaluation episodes)."""
    points: NDArray[np.float64] = 100.0 * (np.array([r["returns"] for r in mine]) - np.array(wait["returns"]))
    return points


def found(task: str) -> dict[str, list[Row]]:
    """The rows of a task by setting, in the order of the seeds."""
    mine = sorted((r for r in rows.read(RESULTS) if r["task"] == task), key=lambda r: int(r["seed"]))
    return {
        name: [r for r in mine if r["setting"] == name] for name in dict.fromkeys((*SCRIPTED, USUAL, FORMER, *SETTINGS))
    }


def table(task: str) -> str:
    """Held-out return of every controller, and what it does."""
    head = ["", "mean return", "points over WAIT", "by training seed", "likeliest", "germinated", "kept", "growth"]
    lines = []
    here = found(task)
    for name, mine in here.items():
        if mine and here["wait"]:
            gain = gains(mine, here["wait"][0])
            over = "" if name == "wait" else str(estimate(mean, gain))
            by_seed = " ".join(f"{g:+.1f}" for g in gain.mean(1)) if len(mine) > 1 else ""
            likeliest = ""
            if "likeliest" in mine[0]:
                likeliest = f"{(gains([{'returns': r['likeliest']} for r in mine], here['wait'][0])).mean():+.2f}"
            does = [f"{np.mean([r[key] for r in mine]):.2f}" for key in ("germinated", "fossilized", "growth")]
            average = f"{np.mean([r['returns'] for r in mine]):.4f}"
            lines.append([name, average, over, by_seed, likeliest, *does])
    return markdown(head, lines)


def draw(path: Path) -> None:
    """Draw every run with the preset: its returns, its operations, and the share of seeds it keeps, by round."""
    figure = Figure(figsize=(15, 4.2 * len(TASKS)), layout="constrained")
    axes: Any = figure.subplots(len(TASKS), 3, squeeze=False)
    for line, task in zip(axes, TASKS, strict=True):
        here = found(task)
        curves = [r["curves"] for r in here[USUAL]]
        left, middle, right = line
        for i, curve in enumerate(curves):
            left.plot(range(1, 1 + len(curve["return"])), curve["return"], label=f"training seed {i}")
            right.plot(range(1, 1 + len(curve["return"])), np.array(curve["fossilized_share"], float))
        for name, style in (("wait", "--"), ("random", ":")):
            for r in here[name]:
                left.axhline(np.mean(r["returns"]), color="black", ls=style, lw=1, label=f"{name}, held-out mean")
        left.set(title=f"{task}: return", xlabel="round of 8 episodes", ylabel="mean return of the round")
        if curves:
            left.legend(frameon=False, fontsize=8)
            ops = [op for op in Op if op is not Op.WAIT]
            shares = [np.mean([c[f"operation_share/{op.name}"] for c in curves], 0) for op in ops]
            for op, share in zip(ops, shares, strict=True):
                middle.plot(range(1, 1 + len(share)), 100 * share, label=op.name)
            middle.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        middle.set(
            title="operations other than WAIT, mean of the runs", xlabel="round", ylabel="% of all steps", ylim=0
        )
        right.set(
            title="germinated seeds that were fossilised", xlabel="round", ylabel="share of the round's", ylim=(0, 1)
        )
    figure.savefig(path, dpi=90)


def report() -> None:
    """Write tables and picture."""
    fill(DOCS / "agent.md", {"learning cifar": table(CIFAR), "learning tiny": table(TINY)})
    if any(found(task)[USUAL] for task in TASKS):
        draw(DOCS / "learning.png")
    else:
        print(f"there are no runs of {USUAL!r}: docs/learning.png stays what it was")


if __name__ == "__main__":
    sys.exit(rows.command("benchmarks.learning", __doc__, run, report))
