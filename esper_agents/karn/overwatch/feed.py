"""Follows the logs of runs, and keeps a snapshot of each: one for all who look."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

from nicegui import app

from esper_agents.karn.reading import RunLog, first_record, parse
from esper_agents.karn.snapshot import Snapshot
from esper_agents.telemetry import EVENTS
from esper_env.leyline.events import RunStart

POLL_S: Final = 0.1
SLICE_S: Final = 0.03
"""How long events are taken in before the server answers again."""
OTHERS: Final = 200
"""Runs that are offered for comparison, at most: the newest."""


class Feed:
    """A run, as far as its log was read."""

    def __init__(self, log: RunLog) -> None:
        self.log = log
        self.name = log.run.resolve().name
        self.snapshot = Snapshot()
        self.events = 0
        """Read so far."""
        self.behind = True
        """There is more in the log than was read yet."""
        self.being_written = False
        self.error: str | None = None
        """Why the log cannot be read."""
        self._broken = False

    def start(self) -> None:
        """Read on from now on, ten times a second."""
        app.timer(POLL_S, self.read)

    async def read(self) -> None:
        """Take in what was added to the log, and give way to others while that is much."""
        if self._broken:
            return
        until = time.monotonic() + SLICE_S
        try:
            for time_s, event in self.log.poll():
                self.snapshot.fold(time_s, event)
                self.events += 1
                if time.monotonic() >= until:
                    self.behind = True
                    await asyncio.sleep(0.001)
                    until = time.monotonic() + SLICE_S
            self.being_written = self.snapshot.end is None and self.log.is_being_written
            self.error = None
        except OSError as error:  # it may come back, as on a network disk
            self.error = str(error)
        except ValueError as error:  # RunError, or events that contradict each other
            self.error, self._broken = str(error), True
        self.behind = False

    @property
    def state(self) -> tuple[object, ...]:
        """Changes whenever there is something new to see."""
        return self.events, self.behind, self.error, self.log.damaged


class Runs:
    """The run that is shown, and those beside it that it may be compared with."""

    def __init__(self, log: RunLog) -> None:
        self.shown = Feed(log)
        self._others: dict[str, Feed] = {}

    def others(self) -> dict[str, str]:
        """The newest other runs in the same folder, by name, and what each is."""
        own = self.shown.log.path.resolve()
        logs = [path for path in own.parent.parent.glob(f"*/{EVENTS}") if path.resolve() != own]
        logs.sort(key=_written, reverse=True)
        headers = {path.parent.name: _header(path) for path in logs[:OTHERS]}
        return {name: f"{name}: {h.controller} on {h.task}" for name, h in headers.items() if h is not None}

    def other(self, name: str) -> Feed:
        """One of `others`; it is followed from now on."""
        if name not in self._others:
            feed = Feed(RunLog(self.shown.log.path.resolve().parent.parent / name))
            feed.start()
            self._others[name] = feed
        return self._others[name]


def _written(path: Path) -> float:
    """When a log was last written to."""
    try:
        return path.stat().st_mtime
    except OSError:  # it went away just now
        return 0.0


def _header(path: Path) -> RunStart | None:
    """The header of a log, where there is one that this version reads."""
    try:
        _, event = parse(first_record(path) or {})
    except (OSError, KeyError, TypeError, ValueError):
        return None
    return event if isinstance(event, RunStart) else None
