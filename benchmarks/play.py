"""Plays the episodes of a suite that have no row yet, in several processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from benchmarks import episodes, suites
from benchmarks.episodes import Job, Row
from benchmarks.live import Live
from benchmarks.suites import Task

ROWS = "rows.csv"


def play_all(jobs: Sequence[Job], path: Path, workers: int, title: str) -> list[Row]:
    """Play those of `jobs` that `path` has no row of; a row is kept as soon as its episode ends.

    The episodes are logged in the folder of `path`, where Karn's screens show them while they run.

    Returns:
        The rows of all of `jobs`, in their order.

    Raises:
        ValueError: a row is of another suite, or of another policy, schedule or structure with the same name. Nothing
            has been run then.
        ExceptionGroup: what the episodes that could not be played raised; all others have been played.
    """
    rows = {row.key: row for row in episodes.read(path)}
    for job in jobs:
        if others := {row.suite for row in rows.values()} - {job.suite}:
            raise ValueError(f"{path} has rows of suite {', '.join(sorted(others))}; choose another folder with --out")
        row = rows.get(job.key)
        if row is not None and (row.controller_hash, row.options) != (job.hash, json.dumps(job.options)):
            raise ValueError(
                f"{path} has a row of {job.controller} on {job.task}, seed {job.seed}, that is of another policy, "
                "schedule or structure; choose another folder with --out, or delete its rows"
            )
    missing = [job for job in jobs if job.key not in rows]
    by_task: dict[str, list[Job]] = {}
    for job in missing:
        by_task.setdefault(job.task, []).append(job)
    if missing:
        with Live(path.parent, workers) as live, tqdm(total=len(missing), unit="episode", desc=title) as bar:
            for group in by_task.values():  # a header says which slots its events are about
                live.announce(group, title)
                for row in live.play(group):
                    episodes.append(path, row)
                    rows[row.key] = row
                    bar.update()
    return [rows[job.key] for job in jobs]


def run(  # noqa: PLR0917
    suite: str, tasks: Sequence[Task], controllers: Sequence[str], seeds: Iterable[int], out: Path, workers: int
) -> list[Row]:
    """Play every controller on every task and seed; those that copy others come after them.

    Raises:
        ValueError: a controller does not exist, or has no schedule for a task. Nothing has been run then.
    """
    suites.check(controllers)
    path, seeds = out / ROWS, list(seeds)
    own = [c for c in controllers if suites.copies(c) is None]
    rows = play_all(
        [suites.job(suite, t, c, seed, out) for t in tasks for seed in seeds for c in own], path, workers, suite
    )
    for name in (suites.STATIC, suites.STATIC_FLOPS):
        copying = [c for c in controllers if suites.copies(c) is not None and c.startswith(f"{name}:")]
        jobs = [job for task in tasks for c in copying for job in suites.twin(suite, task, c, rows)]
        rows += play_all(jobs, path, workers, name)
    return rows


def verify(path: Path, number: int, report: Callable[[str], None] = print) -> bool:
    """Play the episode of a row, counted from 0, again from its seed and actions, and compare bit for bit.

    Raises:
        ValueError: there is no such row.
    """
    rows = episodes.read(path)
    if not 0 <= number < len(rows):
        raise ValueError(f"{path} has {len(rows)} rows; choose one from 0 to {len(rows) - 1}")
    row = rows[number]
    again = episodes.replay(row)
    for name in (wrong := episodes.differences(row, again)):
        report(f"{name}: {getattr(row, name)} in the row, {getattr(again, name)} now")
    if wrong:
        for name in ("versions", "cpu", "commit", "provenance"):
            if getattr(row, name) != getattr(again, name):
                report(f"(made with {name} {getattr(row, name)}, played again with {getattr(again, name)})")
    report(f"row {number}, {row.controller} on {row.task} with seed {row.seed}: {'DIFFERS' if wrong else 'the same'}")
    return not wrong
