"""How the benchmark's policies are trained: ``python -m benchmarks.training run --task TASK --seed SEED | report``.

A policy learns in two stages: on a *quarter* of its task, with all epochs but a quarter of the images each, where the
same structures are good and an episode takes a third of the time; and, from there, on the task itself. Both are plain
runs of ``python -m esper_agents.train ppo``; ``run``, in the repository, prints their commands. It skips what is
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
QUARTER = '{"samples_per_epoch": 256, "val_samples": 256}'
QUARTER_ROUNDS = 30
ROUNDS = {"cifar_baseline": 10, "cifar_varied": 20, "fashion_baseline": 10}
"""Rounds on the task itself."""
FULL_ENTROPY = "0.003"
"""Weight of the entropy bonus on the task itself, a third of the usual: what is worth nothing should not be done."""
FULL_SEED = 100
"""Added to the seed of a run for the task itself, so that the stages share no episode."""
STAGES = {"quarter": "a quarter of the images", "full": "the task itself"}


def name_of(stage: str, task: str, seed: int) -> str:
    """The folder of a stage's results."""
    return f"{stage}-{task}-{seed}"


def flags(stage: str, task: str, seed: int) -> list[str]:
    """The flags of ``train ppo``."""
    common = ["--preset", task, "--dataset", DATA[task], "--telemetry-dir", str(RUNS / name_of(stage, task, seed))]
    if stage == "quarter":
        return [*common, "--env-json", QUARTER, "--rounds", str(QUARTER_ROUNDS), "--seed", str(seed)]
    start = RESULTS / name_of("quarter", task, seed) / POLICY
    more = ["--start", str(start), "--ent-coef", FULL_ENTROPY, "--rounds", str(ROUNDS[task])]
    return [*common, *more, "--seed", str(seed + FULL_SEED)]


def run(task: str, seed: int) -> int:
    """Train one policy, or go on with it; return the exit status of the first stage that does not end well."""
    for stage in STAGES:
        kept = RESULTS / name_of(stage, task, seed)
        if (kept / POLICY).exists():
            continue
        words = ["ppo", *flags(stage, task, seed)]
        stopped = sorted((RUNS / kept.name).glob("*/checkpoints/*"))
        if stopped:
            words += ["--resume", str(stopped[-1].parents[1])]
        print(shlex.join(["python", "-m", "esper_agents.train", *words]), flush=True)
        if status := train.main(words):
            return status
        (folder,) = (RUNS / kept.name).iterdir()
        kept.mkdir(parents=True, exist_ok=True)
        for file in (LOG, POLICY):  # the policy last: it says that the stage is finished
            shutil.copy(folder / file, kept / file)
    return 0


def draw(path: Path) -> None:
    """Draw the mean return of every round of every run, a panel for each task and stage."""
    figure = Figure(figsize=(12, 3.2 * len(DATA)), layout="constrained")
    panels: Any = figure.subplots(len(DATA), len(STAGES), squeeze=False, sharex="col")
    for line, task in zip(panels, DATA, strict=True):
        for axes, (stage, label) in zip(line, STAGES.items(), strict=True):
            for folder in sorted(RESULTS.glob(name_of(stage, task, 0).removesuffix("0") + "*")):
                rounds = [json.loads(text) for text in (folder / LOG).read_text().splitlines()]
                returns = [row["round/return"] for row in rounds]
                axes.plot(range(1, len(returns) + 1), returns, label=f"seed {folder.name.rpartition('-')[2]}")
            axes.set(title=f"{task}: {label}", ylabel="mean return of 8 episodes")
            axes.grid(alpha=0.25)
            if axes.lines:
                axes.legend(frameon=False, fontsize=8, title="training run", title_fontsize=8)
    for axes in panels[-1]:
        axes.set_xlabel("round")
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
