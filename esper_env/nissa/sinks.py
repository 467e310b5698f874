"""Where records go: a file of JSON lines, and the console."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TextIO

from esper_env.nissa.records import Record

LOCK_ATTEMPTS, LOCK_PAUSE_S = 50, 0.01
"""How often a writer asks for its file before it takes another process for its writer, and seconds between."""


class JsonLinesSink:
    """Appends records to a file, one JSON object a line; a line is whole or it is the last.

    The file is locked for as long as it is written, so that `is_being_written` can tell a run that goes on from one
    that was killed.

    Raises:
        BlockingIOError: another process writes this file.
    """

    name = "jsonl"

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        try:
            _lock(self._file)
        except BlockingIOError as error:
            self._file.close()
            raise BlockingIOError(error.errno, f"another process writes {path}") from error
        self._size = self._file.seek(0, os.SEEK_END)
        if self._size:
            self._file.seek(self._size - 1)
            if self._file.read(1) != b"\n":  # a line that was cut off must not swallow the next one
                self._append(b"\n")

    def write(self, records: Sequence[Record]) -> None:
        """Append, and hand to the operating system."""
        self._append("".join(json.dumps(r, allow_nan=False) + "\n" for r in records).encode())

    def _append(self, data: bytes) -> None:
        """All of `data` or, where that fails, nothing of it."""
        self._file.seek(self._size)
        try:
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            self._file.truncate(self._size)
            raise
        self._size += len(data)

    def close(self) -> None:
        """Hand to the disk."""
        try:
            os.fsync(self._file.fileno())
        finally:
            self._file.close()


def _lock(file: IO[bytes]) -> None:
    """Take the lock of a log; `is_being_written` may hold it for an instant, a writer holds it for long."""
    for _ in range(LOCK_ATTEMPTS):
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(LOCK_PAUSE_S)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_being_written(path: Path) -> bool:
    """Return whether a process holds the log at `path` open for writing; it need not be on this process's user."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


class ConsoleSink:
    """Prints the events that an operator should not miss: anomalies, rollbacks, and how the run ended."""

    name = "console"
    KINDS = frozenset({"anomaly", "rollback", "run_end"})

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream

    def write(self, records: Sequence[Record]) -> None:
        """Print a line for each event of `KINDS`."""
        for r in records:
            if r["kind"] == "anomaly":
                state = "ALARM" if r["raised"] else "over"
                print(f"{state}: {r['detector']}: {r['message']}", file=self._stream)
            elif r["kind"] == "rollback":
                print(f"rollback of environment {r['env']} at epoch {r['epoch']}", file=self._stream)
            elif r["kind"] == "run_end" and r["error"] is not None:
                print(f"run {r['status']}: {r['error']}", file=self._stream)

    def close(self) -> None:
        """Nothing is held."""
