"""Reads a run's event log, also while it grows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from esper_agents.telemetry import EVENTS
from esper_env.leyline import events
from esper_env.leyline.events import SCHEMA_VERSION, Event
from esper_env.nissa import Record, is_being_written

ADAPTERS: dict[str, TypeAdapter[Event]] = {kind: TypeAdapter(event) for kind, event in events.EVENTS.items()}
READ = (1, SCHEMA_VERSION)
"""Schema versions that are read. In the first, a failed episode's accuracy was 0 and an unknown seed -1."""
START = b'{"kind": "'
"""What every line begins with."""
CHUNK = 1 << 22
"""Bytes that are read at once."""


class RunError(ValueError):
    """A folder that holds no run, or a log that this version cannot read."""


class RunLog:
    """Follows a run's ``events.jsonl``, and never writes.

    Args:
        run: the run's folder, or the log itself.

    Raises:
        RunError: there is no log, it cannot be read, or it is of something else.
    """

    def __init__(self, run: Path) -> None:
        self.damaged = 0
        """Lines so far that could not be read: cut off when a run was killed, or written over."""
        self._offset = 0
        self._rest = b""
        try:
            self.path = run / EVENTS if run.is_dir() else run
            if not self.path.is_file():
                raise RunError(f"{run} holds no run: there is no {EVENTS}{_hint(run)}")
            record = first_record(self.path)
        except OSError as error:
            raise RunError(f"{error.filename or run} cannot be read: {error.strerror or error}") from error
        self.run = self.path.parent
        if record is not None:
            self._check(record)

    def _check(self, record: Record) -> None:
        if record.get("kind") not in ADAPTERS:
            raise RunError(f"{self.path} is no event log of Esper: its first line is none of its events")
        # a header that a full disk did not take is missing, and what there is can be read
        version = record.get("schema_version")
        if record["kind"] == "run_start" and version not in READ:
            known = " and ".join(map(str, READ))
            raise RunError(f"{self.path} has schema version {version}; this version of Esper reads {known}")

    def poll(self) -> Iterator[tuple[float, Event]]:
        """Yield what was added since the last call: Unix times and events. A last line that is not whole waits."""
        with self.path.open("rb") as file:
            if file.seek(0, 2) < self._offset:
                raise RunError(f"{self.path} has become shorter: it is not the log that was opened")
            file.seek(self._offset)
            while data := file.read(CHUNK):
                self._offset += len(data)
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in lines:
                    if line:
                        yield from self._read(line)

    def _read(self, line: bytes) -> Iterator[tuple[float, Event]]:
        record = _object(line)
        if record is not None:
            try:
                yield parse(record)
                return
            except (KeyError, TypeError, ValueError):  # pydantic's errors are ValueErrors
                pass
        self.damaged += 1

    @property
    def is_being_written(self) -> bool:
        """Whether the process that writes this log is alive, as far as this machine can tell."""
        return is_being_written(self.path)


def parse(record: Record) -> tuple[float, Event]:
    """Return the Unix time and the event of a record.

    Raises:
        ValueError: a field is missing or of another type.
        KeyError: there is no such event.
    """
    return float(record["time_s"]), ADAPTERS[record["kind"]].validate_python(record)


def first_record(path: Path) -> Record | None:
    """The first whole line of a log; an empty record if that is none, ``None`` if there is no whole line yet.

    A first line that was cut off, as by a full disk, is passed over once another writer has gone on behind it.

    Raises:
        OSError: the log cannot be read.
    """
    with path.open("rb") as file:
        line = file.readline()
        record = _object(line)
        if record is None and line.startswith(START[: len(line) - 1]) and line.endswith(b"\n"):
            line = file.readline()
            record = _object(line)
    return (record or {}) if line.endswith(b"\n") else None


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _hint(run: Path) -> str:
    found = sorted(p.parent for p in run.glob(f"*/{EVENTS}")) if run.is_dir() else []
    return f"; there is one in {', '.join(str(p) for p in found[-3:])}" if found else ""
