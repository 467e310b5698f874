"""How the benchmark's policies are trained: ``python -m benchmarks.training run --task TASK --seed SEED | report``.

A policy learns in two stages: first on a *quarter* of its task, with all epochs but a quarter of the images each, where
an episode takes a third of the time and the same things are worth doing; from there, on the task itself. Both are
plain runs of ``python -m esper_agents.train ppo``, whose commands ``run``, in the repository, prints. It skips what is
finished, and a run that was stopped goes on. Policies and learning curves are kept in
``benchmarks/results/training/``; ``report`` draws the curves in ``docs/training.png``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from esper_agents import train
from esper_agents.simic.training import LOG, POLICY

RESULTS = Path("benchmarks") / "results" / "training"
RUNS = Path("runs") / "training"
PICTURE = Path("docs") / "training.png"

DATA = {"cifar_baseline": "synthetic", "cifar_varied": "synthetic", "fashion_baseline": "fashion_mnist"}
"""Data set of each task."""
QUARTER = {"samples_per_epoch": 256, "val_samples": 256}
"""What makes a quarter of a task."""
ROUNDS = {"cifar_baseline": (8, 12), "cifar_varied": (8, 24), "fashion_baseline": (8, 12)}
"""Of the quarter and of the task; CifarVaried has many instances to learn from, and a round shows two."""
DECLINE = 0.25
"""Share of the task's rounds in which the learning rate declines."""
FULL_SEED = 1000
"""Added to the seed of a run on the task itself, so that the stages share no episode."""


def folder_of(task: str, seed: int | str, quarter: bool) -> str:
    """The folder of a stage's results; a pattern of folders if the seed is one."""
    return f"{task}-{'quarter-' if quarter else ''}{seed}"


def flags(task: str, seed: int, quarter: bool) -> list[str]:
    """The flags of ``train ppo``."""
    common = ["--preset", task, "--dataset", DATA[task], "--telemetry-dir", str(RUNS / folder_of(task, seed, quarter))]
    first, second = ROUNDS[task]
    if quarter:
        return [*common, "--env-json", json.dumps(QUARTER), "--rounds", str(first), "--seed", str(seed)]
    start = RESULTS / folder_of(task, seed, True) / POLICY
    rounds = ["--rounds", str(second), "--learning-rate-decline", str(DECLINE)]
    return [*common, "--start", str(start), *rounds, "--seed", str(seed + FULL_SEED)]


def run(task: str, seed: int) -> int:
    """Train a policy, or go on with it; return the exit status of the first stage that does not end well."""
    for quarter in (True, False):
        kept = RESULTS / folder_of(task, seed, quarter)
        if (kept / POLICY).exists():
            continue
        words = ["ppo", *flags(task, seed, quarter)]
        stopped = sorted((RUNS / kept.name).glob("*/checkpoints/*"))
        if stopped:
            words += ["--resume", str(stopped[-1].parents[1])]
        print(shlex.join(["python", "-m", "esper_agents.train", *words]), flush=True)
        if status := train.main(words):
            return status
        folder = sorted((RUNS / kept.name).glob(f"*/{POLICY}"))[-1].parent
        kept.mkdir(parents=True, exist_ok=True)
        for file in (LOG, POLICY):  # the policy last: it says that the stage is finished
            shutil.copy(folder / file, kept / file)
    return 0


def draw(path: Path) -> None:
    """Draw the mean return of every round of every finished stage, a panel for each stage of each task with any."""
    tasks = [task for task in DATA if any(RESULTS.glob(folder_of(task, "[0-9]*", True)))]
    if not tasks:
        raise SystemExit(f"nothing in {RESULTS}: train a policy first (python -m benchmarks.training run --help)")
    figure = Figure(figsize=(5 * len(tasks), 6.4), layout="constrained")
    panels: Any = figure.subplots(2, len(tasks), squeeze=False)
    for line, quarter in zip(panels, (True, False), strict=True):
        for axes, task in zip(line, tasks, strict=True):
            for folder in sorted(RESULTS.glob(folder_of(task, "[0-9]*", quarter))):
                rounds = [json.loads(text) for text in (folder / LOG).read_text().splitlines()]
                returns = [row["round/return"] for row in rounds]
                axes.plot(range(1, len(returns) + 1), returns, label=folder.name.rpartition("-")[2])
            axes.set(title=f"{task}, a quarter" if quarter else task)
            axes.set(xlabel="round of 8 episodes", ylabel="mean return")
            axes.grid(alpha=0.25)
            if axes.lines:
                axes.legend(frameon=False, fontsize=8, title="training seed", title_fontsize=8)
            else:
                axes.set_visible(False)
    figure.savefig(path, dpi=90)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run", help="train a policy, or go on with it")
    one.add_argument("--task", choices=DATA, required=True)
    one.add_argument("--seed", type=int, required=True, help="of the first episode")
    commands.add_parser("report", help="draw the learning curves")
    given = parser.parse_args(arguments)
    if given.command == "run":
        return run(given.task, given.seed)
    draw(PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
