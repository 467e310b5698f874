"""Results as JSON lines that are made once: a run goes on where the last one stopped."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tqdm import tqdm

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """The rows that are there, in the order they were finished; a line that was cut off is none."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def end_with_parent() -> None:
    """Let this worker process end with the one that started it, even if that is killed: a pool does not see to it."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "not a worker process"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def make(path: Path, jobs: Sequence[tuple[Any, ...]], function: Callable[..., Row], workers: int) -> None:
    """Append ``function(*job)`` for every job, as each is done, from `workers` processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=end_with_parent) as pool:
        futures = [pool.submit(function, *job) for job in jobs]
        for future in tqdm(as_completed(futures), total=len(futures), unit="run"):
            with path.open("a") as file:
                file.write(json.dumps(future.result()) + "\n")


def command(module: str, description: str | None, run: Callable[[int], None], report: Callable[[], None]) -> int:
    """The command line ``python -m MODULE run [--workers N] | report``; returns the exit status."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--workers", type=int, default=2, help="processes; default 2")
    arguments = parser.parse_args()
    if arguments.what == "run":
        run(arguments.workers)
        return 0
    try:
        report()
    except ValueError as error:
        parser.error(str(error))
    return 0
