"""Where records go: a file of JSON lines, and the console."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from esper_env.nissa.records import Record


class JsonLinesSink:
    """Appends records to a file, one JSON object a line; a line is whole or it is the last."""

    name = "jsonl"

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        size = self._file.tell()
        if size:  # a line that was cut off must not swallow the next one
            with path.open("rb") as before:
                before.seek(size - 1)
                if before.read(1) != b"\n":
                    self._file.write(b"\n")

    def write(self, records: Sequence[Record]) -> None:
        """Append and hand to the operating system."""
        self._file.write("".join(json.dumps(r, allow_nan=False) + "\n" for r in records).encode())
        self._file.flush()

    def close(self) -> None:
        """Hand to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


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
