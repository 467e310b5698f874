"""How the benchmark's policies are trained: ``python -m benchmarks.training run --task TASK --seed SEED | report``.

``run``, in the repository, is a plain run of ``python -m esper_agents.train ppo``, whose command it prints. It does
nothing where a policy is finished, and a run that was stopped goes on. Policies and learning curves are kept in
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
ROUNDS = {"cifar_baseline": 30, "cifar_varied": 60, "fashion_baseline": 30}
"""Of each task; on CifarVaried every seed is another instance, so there is more to learn."""


def flags(task: str, seed: int) -> list[str]:
    """The flags of ``train ppo``."""
    run = ["--preset", task, "--dataset", DATA[task], "--rounds", str(ROUNDS[task]), "--seed", str(seed)]
    return [*run, "--telemetry-dir", str(RUNS / f"{task}-{seed}")]


def run(task: str, seed: int) -> int:
    """Train a policy, or go on with it; return the exit status."""
    kept = RESULTS / f"{task}-{seed}"
    if (kept / POLICY).exists():
        return 0
    words = ["ppo", *flags(task, seed)]
    stopped = sorted((RUNS / kept.name).glob("*/checkpoints/*"))
    if stopped:
        words += ["--resume", str(stopped[-1].parents[1])]
    print(shlex.join(["python", "-m", "esper_agents.train", *words]), flush=True)
    if status := train.main(words):
        return status
    folder = sorted((RUNS / kept.name).glob(f"*/{POLICY}"))[-1].parent
    kept.mkdir(parents=True, exist_ok=True)
    for file in (LOG, POLICY):  # the policy last: it says that the run is finished
        shutil.copy(folder / file, kept / file)
    return 0


def draw(path: Path) -> None:
    """Draw the mean return of every round of every run, a panel for each task."""
    figure = Figure(figsize=(5 * len(DATA), 3.6), layout="constrained")
    panels: Any = figure.subplots(1, len(DATA), squeeze=False)
    for axes, task in zip(panels.flat, DATA, strict=True):
        for folder in sorted(RESULTS.glob(f"{task}-*")):
            rounds = [json.loads(text) for text in (folder / LOG).read_text().splitlines()]
            returns = [row["round/return"] for row in rounds]
            axes.plot(range(1, len(returns) + 1), returns, label=folder.name.rpartition("-")[2])
        axes.set(title=task, xlabel="round of 8 episodes", ylabel="mean return")
        axes.grid(alpha=0.25)
        if axes.lines:
            axes.legend(frameon=False, fontsize=8, title="training seed", title_fontsize=8)
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
