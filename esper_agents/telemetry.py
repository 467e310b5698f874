"""The telemetry of a run: its event log, what is fed from it, its alarms and its flight recorder."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

from esper_agents.flight import FlightRecorder
from esper_agents.provenance import commit, versions
from esper_agents.recording import RecordedVectorEnv
from esper_agents.runner import VectorEnv
from esper_agents.tamiyo import Interface
from esper_env.leyline import Op
from esper_env.leyline.events import Anomaly, Event, Rollback, RunEnd, RunStart
from esper_env.nissa import Detectors, EventLog, JsonLinesSink, Sink

EVENTS = "events.jsonl"
"""A run's log, in its folder."""


class Telemetry:
    """Logs a run; a context manager around it.

    What the run raises is its last event. An alarm, a rollback or a crash makes the flight recorder keep what led to
    it. After the run `lost` says whether everything was logged.

    Args:
        folder: of the run.
        sinks: what takes the events beside ``events.jsonl``.

    Raises:
        BlockingIOError: another process logs to this folder.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, sinks: Sequence[Sink] = ()) -> None:
        self.folder = folder
        self._detectors, self._watching = Detectors(), Lock()
        self._flight = FlightRecorder(folder / "flight")
        self._log = EventLog([JsonLinesSink(folder / EVENTS), *sinks], tick=self._tick)
        self._started = time.monotonic()
        self._begun = False
        self._lost: Counter[str] = Counter()
        self._errors: dict[str, str] = {}

    def watch(self, env: RecordedVectorEnv) -> None:
        """Log every step of `env` from now on."""
        env.emit = self.emit
        self._flight.envs = env
        self._detectors.together = True

    def emit(self, event: Event) -> None:
        """Log an event, and what alarms it raises or clears."""
        now = time.time()
        self._begun = True
        for each in (event, *(alarms := self._alarms(lambda: self._detectors.see(event, now)))):
            self._log.emit(each)
            self._flight.keep(each, now)
        for each in (event, *alarms):
            if isinstance(each, Rollback):
                self._flight.dump(f"rollback of environment {each.env}")
            elif isinstance(each, Anomaly) and _between_steps(each):
                self._flight.dump(each.detector)

    def _tick(self, now: float) -> list[Anomaly]:
        """What the log's own thread asks while no event comes."""
        envs = self._flight.envs
        alarms = self._alarms(
            lambda: self._detectors.tick(now, () if envs is None else envs.unwrapped.running)  # type: ignore[attr-defined]
        )
        for alarm in alarms:
            self._flight.keep(alarm, now)
        return alarms

    def _alarms(self, ask: Callable[[], list[Anomaly]]) -> list[Anomaly]:
        try:
            with self._watching:
                return ask()
        except Exception as error:  # a detector that fails never stops training
            self._lose("detectors", error)
            return []

    @property
    def losses(self) -> dict[str, str]:
        """What lost how much and why, by sink or file; empty if nothing did."""
        counts = self._log.dropped + self._lost + self._flight.lost
        errors = {**self._log.errors, **self._flight.errors, **self._errors}
        return {
            name: f"{counts[name]} lost" + (f" ({errors[name]})" if name in errors else "")
            for name in sorted({*counts, *errors})
        }

    def failed_to_write(self, what: str, error: OSError) -> None:
        """Count a file beside the log that could not be written among the losses."""
        self._lose(what, error)

    def _lose(self, what: str, error: Exception) -> None:
        self._lost[what] += 1
        self._errors[what] = f"{type(error).__name__}: {error}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status, text = "finished", None
        if isinstance(error, KeyboardInterrupt):
            status = "interrupted"
        elif error is not None:
            status, text = "failed", f"{type(error).__name__}: {error}"
            if self._begun:
                self._flight.dump("crash")
        lost = {**self._lost, **self._flight.lost}
        end = RunEnd(status, text, time.monotonic() - self._started, lost)
        # of a run that ended well before it began nothing is logged
        self._log.end(end if self._begun or error is not None else None)


def _between_steps(alarm: Anomaly) -> bool:
    """Whether an alarm is to be recorded now: that of a stall when it is over, for in it a step is under way."""
    if alarm.detector == "stalled":
        return not alarm.raised and alarm.env is None
    return alarm.raised


def run_start(
    venv: VectorEnv,
    *,
    controller: str,
    command: str,
    config: dict[str, Any],
    seed: int,
    devices: Sequence[str],
    episode_epochs: int,
    total_steps: int | None,
    done_steps: int = 0,
) -> RunStart:
    """Return a run's header.

    Args:
        venv: an Esper vector environment that was reset.
        controller: who decides.
        command: the command line.
        config: JSON-able; what the run was configured with.
        seed: of the first episode.
        devices: of the environments.
        episode_epochs: length of an episode.
        total_steps: environment steps of the whole run, if it has an end.
        done_steps: those of them that an earlier part of the run has done.
    """
    interface = Interface.of(venv)
    (provenance, *_) = venv.unwrapped.get_attr("provenance")  # type: ignore[attr-defined]
    kept = ("task", "dataset", "source", "digest", "torch", "kernels")
    text = json.dumps(config, sort_keys=True)
    return RunStart(
        controller=controller,
        task=venv.spec.id if venv.spec is not None else provenance["task"],
        command=command,
        config=config,
        config_sha256=hashlib.sha256(text.encode()).hexdigest(),
        provenance={name: provenance[name] for name in kept},
        versions=versions(),
        commit=commit(),
        seed=seed,
        devices=tuple(devices),
        threads=int(venv.unwrapped.workers),  # type: ignore[attr-defined]
        process=os.getpid(),
        host=platform.node(),
        envs=venv.num_envs,
        episode_epochs=episode_epochs,
        total_steps=total_steps,
        done_steps=done_steps,
        slots=interface.layout.slots,
        blueprints=interface.blueprints,
        operations=tuple(op.name for op in Op),
    )
