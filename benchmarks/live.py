"""Episodes in several processes, told to one event log."""

from __future__ import annotations

import multiprocessing
import shlex
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Self

import gymnasium

from benchmarks import episodes
from benchmarks.episodes import Job, Row
from benchmarks.rows import end_with_parent
from esper_agents.karn.sinks import TensorBoardSink
from esper_agents.telemetry import EVENTS, Telemetry, run_start
from esper_env.leyline.events import Event
from esper_env.nissa import ConsoleSink

_queue: Any = None
_number = 0


def _join(queue: Any, counter: Any) -> None:
    """Begin a worker process: it is one environment of the log."""
    global _queue, _number  # noqa: PLW0603 - what a process of a pool knows, it knows so
    end_with_parent()
    _queue = queue
    with counter.get_lock():
        _number = counter.value
        counter.value += 1


def _steps(log: Path) -> int:
    """How many steps a log has."""
    if not log.exists():
        return 0
    with log.open("rb") as file:
        return sum(line.startswith(b'{"kind": "step"') for line in file)


def _play(job: Job) -> Row:
    return episodes.play(job, _queue.put, _number)


class Live:
    """A pool of processes that play episodes, and the log of what they do; a context manager.

    Args:
        folder: of the log.
        workers: processes.
    """

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder, self.workers = folder, workers
        self._steps = _steps(folder / EVENTS)
        """So far, of earlier parts of the benchmark too."""

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        self._events: Any = context.SimpleQueue()  # puts in order: what an episode told comes before its row
        start = (self._events, context.Value("i", 0))
        self._pool = ProcessPoolExecutor(self.workers, context, initializer=_join, initargs=start)
        self._telemetry = Telemetry(self.folder, [TensorBoardSink(self.folder), ConsoleSink()])
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        # what runs when this is interrupted is lost, but heard to its end: a process that nobody hears never ends
        self._pool.shutdown(cancel_futures=True)
        self._events.put(None)
        self._thread.join()
        self._telemetry.__exit__(*error)
        for sink, loss in self._telemetry.losses.items():
            print(f"telemetry: {sink}: {loss}", file=sys.stderr)

    def _drain(self) -> None:
        while (event := self._events.get()) is not None:
            self._telemetry.emit(event)

    def announce(self, jobs: Sequence[Job], title: str) -> None:
        """Say what is played next: `jobs` have one task, and may have episodes of several lengths."""
        first = jobs[0]
        venv = gymnasium.make_vec(first.task, num_envs=self.workers, **first.arguments)
        venv.reset(seed=first.seed)  # the data's digest is known only then
        length = venv.unwrapped.get_attr("settings")[0].episode_length  # type: ignore[attr-defined]
        lengths = [job.arguments.get("episode_length", length) for job in jobs]
        header: Event = run_start(
            venv,
            controller=title,
            command=shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
            config={"task": first.task, "controllers": sorted({job.controller for job in jobs}), **first.arguments},
            seed=first.seed,
            devices=("cpu",),
            episode_epochs=max(lengths),
            total_steps=self._steps + sum(lengths),
            done_steps=self._steps,
        )
        venv.close()
        self._steps += sum(lengths)
        self._events.put(header)

    def play(self, jobs: Sequence[Job]) -> Iterator[Row]:
        """Yield rows in the order in which their episodes end.

        Raises:
            ExceptionGroup: what those raised that could not be played, after all others.
        """
        futures = {self._pool.submit(_play, job): job for job in jobs}
        failures: list[Exception] = []
        for future in as_completed(futures):
            error, job = future.exception(), futures[future]
            if error is None:
                yield future.result()
            elif isinstance(error, Exception):
                error.add_note(f"This was {job.controller} on {job.task} with seed {job.seed}.")
                failures.append(error)
            else:
                raise error
        if failures:
            raise ExceptionGroup("episodes could not be played; the same command tries them again", failures)
