"""The one reducer: events in, a snapshot of the run out. Both screens draw nothing else."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import singledispatchmethod
from typing import Final, Literal

from esper_agents.karn.words import number, seed_name
from esper_env.leyline.events import (
    Anomaly,
    Checkpoint,
    Counterfactual,
    Decision,
    EpisodeEnd,
    Event,
    Gate,
    Lifecycle,
    Rollback,
    RunEnd,
    RunStart,
    Step,
    Update,
)

LINES: Final = 500
"""Lines of the event log that are kept."""
DECISIONS: Final = 50
RATE_WINDOW_S: Final = 60.0
"""Over which steps per second are counted."""
SHORTEST_GAP_S: Final = 2.0
"""A silence that is usual in any run."""
SLOW: Final = 1.5
STALE: Final = 5.0
"""Times the longest silence so far, after which a run is slow or stale; one silence counts as no longer than that."""

Status = Literal["waiting", "live", "slow", "stale", "dead", "finished", "interrupted", "failed"]


@dataclass(frozen=True)
class Line:
    """A line of the event log, for people."""

    time_s: float
    kind: str
    text: str


@dataclass(frozen=True)
class Stretch:
    """A stretch of a slot's life in one stage."""

    first_epoch: int
    last_epoch: int
    stage: str
    blueprint: str | None
    alpha: float
    """At its end."""


@dataclass
class EnvironmentState:
    """An environment in its running, or last, episode. Lists have an entry for each epoch."""

    env: int
    episodes: int = 0
    """Finished."""
    step: Step | None = None
    total_return: float = 0.0
    accuracy: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    rents: list[float] = field(default_factory=list)
    lanes: dict[str, list[Stretch]] = field(default_factory=dict)
    """By slot."""
    contributions: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)
    """By slot: contribution and Shapley value of its seed, points of accuracy; measured at `measured_epoch`."""
    measured_epoch: int | None = None
    gates: set[tuple[str, str]] = field(default_factory=set)
    """Slot and operation of the gates that are open."""
    rollbacks: list[int] = field(default_factory=list)
    """Epochs."""

    def begin(self) -> None:
        """Forget the episode before."""
        fresh = EnvironmentState(self.env)
        kept = ("env", "episodes", "gates")
        vars(self).update({k: v for k, v in vars(fresh).items() if k not in kept})


@dataclass(frozen=True)
class Episode:
    """A finished episode, and when it ended."""

    time_s: float
    steps: int
    """Environment steps of the run until then."""
    end: EpisodeEnd


@dataclass
class Snapshot:
    """A run as far as its log tells. `None` means not measured, or not yet."""

    header: RunStart | None = None
    started_s: float | None = None
    """Unix time of the last run_start: a resumed run has several."""
    last_s: float | None = None
    """Unix time of the last event that was no alarm."""
    steps: int = 0
    """Environment steps of the whole run."""
    envs: dict[int, EnvironmentState] = field(default_factory=dict)
    episodes: list[Episode] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)
    decisions: deque[Decision] = field(default_factory=lambda: deque(maxlen=DECISIONS))
    alarms: dict[tuple[str, int | None], tuple[float, Anomaly]] = field(default_factory=dict)
    """Those that are raised now, and since when."""
    alarms_raised: int = 0
    """In the whole run."""
    checkpoint: tuple[float, Checkpoint] | None = None
    lines: deque[Line] = field(default_factory=lambda: deque(maxlen=LINES))
    end: RunEnd | None = None
    longest_gap_s: float = 0.0
    """Between two events of this part of the run, alarms apart."""
    _pace: deque[tuple[float, int]] = field(default_factory=deque)
    _done_before: int = 0

    # -- what is asked of it -------------------------------------------------------------------------

    def status(self, now: float, being_written: bool) -> Status:
        """Say how the run is: `being_written` tells whether a process holds its log."""
        if self.end is not None:
            return self.end.status  # type: ignore[return-value]
        if not being_written:
            return "dead"  # also where nothing was ever written: nobody will
        age = self.age_s(now)
        if age is None:
            return "waiting"
        usual = max(self.longest_gap_s, SHORTEST_GAP_S)
        return "live" if age <= SLOW * usual else "slow" if age <= STALE * usual else "stale"

    def age_s(self, now: float) -> float | None:
        """Seconds since the last event that was no alarm."""
        return None if self.last_s is None else max(0.0, now - self.last_s)

    @property
    def steps_per_s(self) -> float | None:
        """Over the last minute of the log."""
        if len(self._pace) < 2:
            return None
        (first_s, first), (last_s, last) = self._pace[0], self._pace[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else None

    @property
    def progress(self) -> float | None:
        """Share of the run that is done, 0..1."""
        total = None if self.header is None else self.header.total_steps
        return None if not total else min(1.0, self.steps / total)

    @property
    def left_s(self) -> float | None:
        """Seconds until the end, at the mean pace of this part of the run."""
        if self.header is None or self.header.total_steps is None or self.started_s is None or self.last_s is None:
            return None
        done, spent = self.steps - self._done_before, self.last_s - self.started_s
        return (self.header.total_steps - self.steps) * spent / done if done > 0 and spent > 0 else None

    # -- the events ----------------------------------------------------------------------------------

    def fold(self, time_s: float, event: Event) -> None:
        """Take an event in."""
        if not isinstance(event, Anomaly):  # an alarm about silence does not end it
            if self.last_s is not None and not isinstance(event, RunStart):
                gap = min(time_s - self.last_s, STALE * max(self.longest_gap_s, SHORTEST_GAP_S))  # it may have slept
                self.longest_gap_s = max(self.longest_gap_s, gap)
            self.last_s = time_s if self.last_s is None else max(self.last_s, time_s)
        self._take(event, time_s)

    def _say(self, time_s: float, kind: str, text: str) -> None:
        self.lines.append(Line(time_s, kind, text))

    def _env(self, env: int) -> EnvironmentState:
        return self.envs.setdefault(env, EnvironmentState(env))

    @singledispatchmethod
    def _take(self, event: Event, time_s: float) -> None:
        raise TypeError(f"no event: {event!r}")

    @_take.register
    def _(self, event: RunStart, time_s: float) -> None:
        resumed = self.header is not None
        self.header, self.started_s, self.end = event, time_s, None
        self.steps = self._done_before = event.done_steps
        self.updates = [u for u in self.updates if u.done_steps <= event.done_steps]  # the rest is run again
        self.episodes = [e for e in self.episodes if e.steps <= event.done_steps]
        self.envs, self.alarms = {i: EnvironmentState(i) for i in range(event.envs)}, {}
        self.longest_gap_s = 0.0
        self._pace.clear()
        self._say(time_s, "run", f"{'resumed' if resumed else 'started'}: {event.command or event.controller}")

    @_take.register
    def _(self, event: Step, time_s: float) -> None:
        env = self._env(event.env)
        if env.step is not None and event.epoch <= env.step.epoch:
            env.begin()
        env.step = event
        env.total_return += event.reward
        env.accuracy.append(event.val_accuracy)
        env.rewards.append(event.reward)
        env.rents.append(event.rent)
        for slot, stage, blueprint, alpha in zip(
            self.header.slots if self.header else (), event.stages, event.blueprints, event.alphas, strict=False
        ):
            lane = env.lanes.setdefault(slot, [])
            first = event.epoch
            if lane and (lane[-1].stage, lane[-1].blueprint) == (stage, blueprint):
                first = lane.pop().first_epoch
            lane.append(Stretch(first, event.epoch, stage, blueprint, alpha))
        self.steps += 1
        self._pace.append((time_s, self.steps))
        while self._pace[0][0] < time_s - RATE_WINDOW_S:
            self._pace.popleft()
        if not event.executed:
            self._say(time_s, "step", f"env {event.env} epoch {event.epoch}: {event.action} was not legal, so WAIT")

    @_take.register
    def _(self, event: Decision, time_s: float) -> None:
        self.decisions.append(event)

    @_take.register
    def _(self, event: Lifecycle, time_s: float) -> None:
        what = f"{event.slot} {event.blueprint or ''}".strip()
        self._say(time_s, "seed", f"env {event.env} epoch {event.epoch}: {what} {event.before} to {event.after}")

    @_take.register
    def _(self, event: Gate, time_s: float) -> None:
        gates, gate = self._env(event.env).gates, (event.slot, event.operation)
        gates.add(gate) if event.open else gates.discard(gate)
        state = "opened" if event.open else "closed"
        self._say(time_s, "gate", f"env {event.env} epoch {event.epoch}: {event.operation} of {event.slot} {state}")

    @_take.register
    def _(self, event: Counterfactual, time_s: float) -> None:
        env = self._env(event.env)
        slots = self.header.slots if self.header else ()
        pairs = zip(event.contribution_points, event.shapley_points, strict=True)
        env.contributions, env.measured_epoch = dict(zip(slots, pairs, strict=False)), event.epoch

    @_take.register
    def _(self, event: Update, time_s: float) -> None:
        self.updates.append(event)
        measures = f"KL {event.approx_kl_nats:.4f}, entropy {event.entropy_nats:.2f} nats"
        self._say(time_s, "update", f"round {event.round}: {measures}")

    @_take.register
    def _(self, event: EpisodeEnd, time_s: float) -> None:
        env = self._env(event.env)
        env.episodes += 1
        env.gates.clear()
        self.steps += bool(event.error_code)  # a step that failed has no event of its own
        self.episodes.append(Episode(time_s, self.steps, event))
        who = f"env {event.env} seed {seed_name(event.episode_seed)}, {event.controller}"
        if event.error_code:
            self._say(time_s, "episode", f"{who}: failed: {event.error or f'error {event.error_code}'}")
            return
        told = [f"return {event.total_return:+.4f}", f"accuracy {number(event.committed_accuracy, '.1%')}"]
        told.append(f"{event.fossilized} of {event.germinated} seeds kept, {event.pruned} pruned")
        told += [f"{event.rollbacks} rollbacks"] if event.rollbacks else []
        told += [f"{event.invalid_actions} actions not legal"] if event.invalid_actions else []
        self._say(time_s, "episode", f"{who}: {', '.join(told)}")

    @_take.register
    def _(self, event: Anomaly, time_s: float) -> None:
        key = (event.detector, event.env)
        if event.raised:
            self.alarms[key] = (time_s, event)
            self.alarms_raised += 1
        else:
            self.alarms.pop(key, None)
        numbers = ""
        if event.value is not None and event.threshold is not None:
            numbers = f" ({event.value:.3g}, threshold {event.threshold:.3g})"
        self._say(time_s, "alarm" if event.raised else "clear", f"{event.detector}: {event.message}{numbers}")

    @_take.register
    def _(self, event: Rollback, time_s: float) -> None:
        self._env(event.env).rollbacks.append(event.epoch)
        self._say(time_s, "rollback", f"env {event.env} epoch {event.epoch}: back to the last healthy state")

    @_take.register
    def _(self, event: Checkpoint, time_s: float) -> None:
        self.checkpoint = (time_s, event)
        size = f"{event.size_bytes / 1e6:.1f} MB in {event.seconds:.2f} s"
        self._say(time_s, "checkpoint", f"round {event.round}: {size}")

    @_take.register
    def _(self, event: RunEnd, time_s: float) -> None:
        self.end = event
        error = f": {event.error}" if event.error else ""
        lost = ", ".join(f"{name} lost {n}" for name, n in event.dropped.items())
        self._say(time_s, "run", f"{event.status} after {event.seconds:.0f} s{error}{'; ' + lost if lost else ''}")
