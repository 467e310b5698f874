"""The flight recorder: what led to an alarm, and every environment's state, to be opened and continued later."""

from __future__ import annotations

import json
import shutil
from collections import Counter, deque
from pathlib import Path
from typing import Any

import gymnasium

from esper_env import EsperEnv, StateError
from esper_env.leyline.events import Event
from esper_env.nissa import record

EVENTS_KEPT = 200
DUMPS_KEPT = 20
"""Recordings of a run that stay; older ones are deleted."""


class FlightRecorder:
    """Keeps the last events; `dump` writes them down with the state of every environment.

    It never raises: what went wrong is counted in `lost`, and the run goes on.

    Args:
        folder: where recordings go, a folder each.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.envs: gymnasium.vector.VectorEnv[Any, Any, Any] | None = None
        """Whose states are kept."""
        self.lost: Counter[str] = Counter()
        """Recordings that could not be written, under "flight"."""
        self.errors: dict[str, str] = {}
        """Why not."""
        self._events: deque[tuple[Event, float]] = deque(maxlen=EVENTS_KEPT)
        self._number = 1 + max((int(p.name.partition("-")[0]) for p in _recordings(folder)), default=0)

    def keep(self, event: Event, time_s: float) -> None:
        """Remember an event."""
        self._events.append((event, time_s))

    def dump(self, reason: str) -> None:
        """Write a recording."""
        try:
            self._write(reason)
        except Exception as error:  # telemetry never stops training
            self.lost["flight"] += 1
            self.errors["flight"] = f"{type(error).__name__}: {error}"

    def _write(self, reason: str) -> None:
        name = "".join(c if c.isalnum() else "-" for c in reason.lower())
        part = self.folder / f".{self._number:04d}"
        part.mkdir(parents=True, exist_ok=True)
        events = self._events.copy()  # another thread may add to them
        lines = (json.dumps(record(event, time_s)) for event, time_s in events)
        (part / "events.jsonl").write_text("".join(f"{line}\n" for line in lines))
        states: tuple[bytes, ...] = ()
        arguments: list[dict[str, Any]] = []
        if self.envs is not None:
            try:
                states = self.envs.unwrapped.get_attr("get_state")  # type: ignore[attr-defined]
                arguments = list(self.envs.unwrapped.get_attr("arguments"))  # type: ignore[attr-defined]
            except RuntimeError:  # no episode has begun
                pass
        for i, state in enumerate(states):
            (part / f"env-{i}.state").write_bytes(state)
        (part / "recording.json").write_text(json.dumps({"reason": reason, "environments": arguments}, indent=2) + "\n")
        part.rename(self.folder / f"{self._number:04d}-{name}")
        self._number += 1
        for old in _recordings(self.folder)[:-DUMPS_KEPT]:
            shutil.rmtree(old)


def _recordings(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*-*") if p.is_dir() and p.name.partition("-")[0].isdigit())


class RecordingError(ValueError):
    """A folder that is no recording, or a damaged one."""


class Recording:
    """A recording that was opened.

    Args:
        folder: of the recording, ``RUN/flight/NUMBER-REASON``.

    Raises:
        RecordingError: it is none, or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            header = json.loads((folder / "recording.json").read_text())
            self.events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
            self.reason: str = header["reason"]
            self._arguments: list[dict[str, Any]] = header["environments"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            others = ", ".join(p.name for p in _recordings(folder)) or ", ".join(
                f"flight/{p.name}" for p in _recordings(folder / "flight")
            )
            hint = f"; choose one of {others}" if others else ""
            raise RecordingError(f"{folder} is no recording of a flight, or a damaged one{hint}") from error

    @property
    def num_envs(self) -> int:
        """Environments whose states were kept."""
        return len(self._arguments)

    def open(self, i: int) -> EsperEnv:
        """Return environment `i` as it was.

        Raises:
            RecordingError: there is no such environment, or its state is damaged.
            DataNotFoundError: its data set is not on disk.
        """
        if self.num_envs == 0:
            raise RecordingError(f"{self.folder} holds no environment, only events, as of a benchmark")
        if not 0 <= i < self.num_envs:
            raise RecordingError(f"{self.folder} holds the environments 0 to {self.num_envs - 1}, not {i}")
        try:
            env = EsperEnv(**self._arguments[i] | {"render_mode": "ansi"})
        except ValueError as error:  # as of a device that this machine does not have
            raise RecordingError(f"{self.folder}: environment {i}: {error}") from error
        try:
            env.set_state((self.folder / f"env-{i}.state").read_bytes())
        except (OSError, StateError) as error:
            raise RecordingError(f"{self.folder}: environment {i}: {error}") from error
        return env
