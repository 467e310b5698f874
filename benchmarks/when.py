"""What it costs to grow late, and what it spares.

    python -m benchmarks.when run [--workers 2]
    python -m benchmarks.when report

`run` plays the pinned schedule of a task with other planting epochs, and the network that it makes trained from
scratch: for the whole episode, and for as many training FLOPs as each planting epoch took. It adds the rows that are
missing to ``benchmarks/results/when/rows.csv``; `report` writes the table in ``docs/benchmark.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks import rows as results
from benchmarks import statistics, suites
from benchmarks.episodes import Job, Row, read
from benchmarks.pages import fill, markdown
from benchmarks.play import ROWS, play_all
from benchmarks.suites import Task
from esper_agents.tamiyo import Schedule

FOLDER = Path(__file__).parent / "results" / "when"
PAGE = Path(__file__).parents[1] / "docs" / "benchmark.md"
TASKS = tuple(suites.tasks_of("core", ("CifarBaseline", "FashionBaseline")))
EPOCHS = (1, 20, 40, 60)
SEEDS = range(suites.REFERENCE_SEED, suites.REFERENCE_SEED + 6)
SCRATCH = "from scratch"
HEAD = (
    "task",
    "planted at epoch",
    "test accuracy, %",
    "against its network from scratch, points",
    "with, of its FLOPs",
    "against it with as many training FLOPs, points",
)


def planted(task: Task, epoch: int) -> Schedule:
    """The task's pinned schedule, with everything planted at `epoch`."""
    schedule = suites.found("fixed_schedule", task, FOLDER)
    return Schedule(tuple(replace(planting, epoch=epoch) for planting in schedule.plantings))


def grown(task: Task) -> Iterator[Job]:
    """The episodes that grow, and the whole ones that need not."""
    for seed in SEEDS:
        for epoch in EPOCHS:
            schedule = planted(task, epoch)
            what = [vars(planting) for planting in schedule.plantings]
            yield Job("when", task.id, task.arguments, f"planted at {epoch}", seed, "schedule", what, schedule.digest)
        yield Job("when", task.id, task.arguments, SCRATCH, seed, "structure", structure(task))


def structure(task: Task) -> list[dict[str, str]]:
    """What is planted, in the form that a reset takes."""
    return [
        {"slot": planting.slot, "blueprint": planting.blueprint, "style": str(planting.style)}
        for planting in planted(task, EPOCHS[0]).plantings
    ]


def matched(task: Task, rows: list[Row]) -> Iterator[Job]:
    """From scratch, with as many training FLOPs as each of the episodes that grew."""
    whole = {row.seed: row for row in rows if row.controller == SCRATCH}
    for row in rows:
        if row.controller != SCRATCH:
            arguments = task.arguments | {"episode_length": suites.equal_length(row, whole[row.seed])}
            name = f"{SCRATCH} as {row.controller}"
            yield Job("when", task.id, arguments, name, row.seed, "structure", structure(task))


def run(workers: int) -> None:
    """Play what has no row yet."""
    for task in TASKS:
        rows = play_all(list(grown(task)), FOLDER / ROWS, workers, task.name)
        play_all(list(matched(task, rows)), FOLDER / ROWS, workers, f"{task.name}, {SCRATCH}")


def lines(task: Task, rows: list[Row]) -> Iterator[list[str]]:
    """A task's lines of the table, paired by seed, with 95 % intervals.

    Raises:
        ValueError: rows are missing, or an episode did not keep all that was planted.
    """
    here = {(row.controller, row.seed): row for row in rows if row.task == task.id}
    planned = len(structure(task))
    names = [name for epoch in EPOCHS for name in (f"planted at {epoch}", f"{SCRATCH} as planted at {epoch}")]
    for key in ((name, seed) for name in (SCRATCH, *names) for seed in SEEDS):
        if key not in here:
            raise ValueError(f"no row of {task.name}, {key}: run `python -m benchmarks.when run` first")
        if here[key].fossilized != planned:
            raise ValueError(f"{task.name}, {key} kept {here[key].fossilized} seeds of {planned}")

    def scores(name: str) -> statistics.Scores:
        return statistics.as_scores([100 * here[name, seed].test_accuracy for seed in SEEDS])

    def flops(name: str) -> int:
        return sum(here[name, seed].flops_total for seed in SEEDS)

    def over(name: str, other: str) -> str:
        return str(statistics.estimate(statistics.mean_difference, scores(name), scores(other)))

    for epoch in EPOCHS:
        name = f"planted at {epoch}"
        share = f"{flops(name) / flops(SCRATCH):.0%}"
        accuracy = f"{scores(name).mean():.2f}"
        yield [task.name, str(epoch), accuracy, over(name, SCRATCH), share, over(name, f"{SCRATCH} as {name}")]


def report() -> None:
    """Write the table."""
    rows = read(FOLDER / ROWS)
    fill(PAGE, {"when": markdown(HEAD, [line for task in TASKS for line in lines(task, rows)])})


if __name__ == "__main__":
    sys.exit(results.command("benchmarks.when", __doc__, run, report))
