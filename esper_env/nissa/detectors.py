"""Alarms: what an operator wants to be told of, and when it is over."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from statistics import median
from typing import Final

from esper_env.leyline.events import Anomaly, EpisodeEnd, Event, RunStart, Step, Update

KL: Final = (0.1, 0.05)
"""Nats of KL divergence at which the alarm is raised, and below which it is over."""
CLIPPED: Final = (0.5, 0.35)
"""Share of transitions whose ratio left the clip range."""
RATIO_ERROR: Final = (1e-3, 5e-4)
ENTROPY_NATS: Final = (1e-3, 3e-3)
"""Of choosing an operation or not where it is legal: raised below the first, over above the second."""
ALIVE_NATS: Final = 2e-2
"""An operation whose entropy was never above it cannot lose it: a policy may begin with one it hardly ever takes."""
VALUE_LOSS: Final = (10.0, 5.0)
"""Times the median of the rounds before."""
DEGRADED: Final = (0.5, 0.75)
"""Of the episode's best validation accuracy: raised below the first, over above the second."""
PATIENCE_EPOCHS: Final = 5
"""Epochs in a row that an environment must be below."""
STALLED_S: Final = 60.0
"""What has not stepped for this long, and five times as long as ever before, is stalled."""


class _Silence:
    """How long it was silent, and how long is too long."""

    def __init__(self) -> None:
        self._longest_s = 0.0

    @property
    def limit_s(self) -> float:
        return max(STALLED_S, 5 * self._longest_s)

    def ended(self, waited_s: float) -> None:
        """Learn from a silence; from a stall only that one may be as long as the limit."""
        self._longest_s = max(self._longest_s, min(waited_s, self.limit_s))


class Detectors:
    """Watches the events of a run, and answers with the alarms that they raise or clear.

    Alarms have two thresholds, so that a value at the edge does not ring at every event.
    """

    def __init__(self) -> None:
        self.together = False
        """Whether environments wait for each other, as in a vector environment: one alone is never late then."""
        self._forget()

    def _forget(self) -> None:
        self._raised: set[tuple[str, int | None]] = set()
        self._alive: set[str] = set()
        """Operations whose entropy may collapse."""
        self._value_losses: deque[float] = deque(maxlen=20)
        self._best: dict[int, float] = {}
        self._below: dict[int, int] = {}
        self._last_step_s: float | None = None
        self._silence = _Silence()
        self._stepped_s: dict[int, float] = {}
        """When environments in the middle of an episode stepped last, the longest silent first."""
        self._silence_of_one = _Silence()

    def see(self, event: Event, now: float) -> list[Anomaly]:
        """Return the alarms that `event`, emitted at Unix time `now`, raises or clears."""
        if isinstance(event, RunStart):  # another part of the run: nothing is raised in it yet
            self._forget()
        if isinstance(event, Step):
            return [*self._stepped(event.env, now), *self._broken(event), *self._degraded(event)]
        if isinstance(event, EpisodeEnd):
            self._stepped_s.pop(event.env, None)
            failed = event.error_code != 0
            how = f"in an error: {event.error or 'not known'}" if failed else "well"
            what = f"an episode of environment {event.env} ended {how}"
            return [
                *self._switch("failed", what, bad=failed, good=not failed, env=event.env),
                *self._awake(event.env),
            ]
        if isinstance(event, Update):
            return list(self._updated(event))
        return []

    def tick(self, now: float, stepping: Iterable[int] = ()) -> list[Anomaly]:
        """Return the alarms of a run in which nothing has happened for too long; called while no event comes.

        Args:
            now: Unix time.
            stepping: environments that are in the middle of a step.
        """
        if self._last_step_s is None:
            return []
        waited, limit = now - self._last_step_s, self._silence.limit_s
        if waited <= limit:
            return list(self._late(now))
        what = f"no environment stepped for {waited:.0f} s"
        alarms = list(self._switch("stalled", what, bad=True, good=False, value=waited, threshold=limit))
        for env in stepping:
            alarms += self._asleep(env, waited, limit)
        return alarms

    def _switch(
        self,
        detector: str,
        message: str,
        *,
        bad: bool,
        good: bool,
        value: float | None = None,
        threshold: float | None = None,
        env: int | None = None,
    ) -> Iterator[Anomaly]:
        """Raise the alarm if things are `bad`, clear it if they are `good`, keep it where they are neither."""
        raised = (detector, env) in self._raised
        if bad and not raised:
            self._raised.add((detector, env))
            yield Anomaly(detector, True, env, value, threshold, message)
        elif good and raised:
            self._raised.remove((detector, env))
            yield Anomaly(detector, False, env, value, threshold, message)

    def _above(self, detector: str, message: str, value: float, limits: tuple[float, float]) -> Iterator[Anomaly]:
        bad, good = value > limits[0], value <= limits[1]
        yield from self._switch(detector, message, bad=bad, good=good, value=value, threshold=limits[0])

    # -- environments --------------------------------------------------------------------------------

    def _stepped(self, env: int, now: float) -> Iterator[Anomaly]:
        if self._last_step_s is not None:
            waited = now - self._last_step_s
            if waited > self._silence.limit_s:  # all were silent: none of them is to blame
                self._stepped_s = dict.fromkeys(self._stepped_s, now)
            self._silence.ended(waited)
            yield from self._switch(
                "stalled", f"stepping again after {waited:.0f} s", bad=False, good=True, value=waited
            )
        self._last_step_s = now
        before = self._stepped_s.pop(env, None)
        if before is not None:
            self._silence_of_one.ended(now - before)
        self._stepped_s[env] = now
        yield from self._awake(env)
        yield from self._late(now)

    def _late(self, now: float) -> Iterator[Anomaly]:
        """Raise the alarms of environments that are silent while others may step, as in a benchmark's processes."""
        if self.together:
            return
        limit = self._silence_of_one.limit_s
        for env, before in self._stepped_s.items():
            if now - before <= limit:
                break
            yield from self._asleep(env, now - before, limit)

    def _asleep(self, env: int, waited: float, limit: float) -> Iterator[Anomaly]:
        what = f"environment {env} has not come back from a step for {waited:.0f} s"
        yield from self._switch("stalled", what, bad=True, good=False, value=waited, threshold=limit, env=env)

    def _awake(self, env: int) -> Iterator[Anomaly]:
        yield from self._switch("stalled", f"environment {env} is stepping again", bad=False, good=True, env=env)

    def _broken(self, step: Step) -> Iterator[Anomaly]:
        yield from self._not_finite(step, f"step {step.epoch} of environment {step.env}", step.env)

    def _degraded(self, step: Step) -> Iterator[Anomaly]:
        if step.epoch == 1:  # the episode before may have been truncated, without an end
            self._best.pop(step.env, None)
            self._below.pop(step.env, None)
        best = self._best[step.env] = max(self._best.get(step.env, 0.0), step.val_accuracy)
        raise_at, clear_at = (share * best for share in DEGRADED)
        below = self._below[step.env] = self._below.get(step.env, 0) + 1 if step.val_accuracy < raise_at else 0
        yield from self._switch(
            "degraded",
            f"environment {step.env} is at {step.val_accuracy:.1%}, its best was {best:.1%}",
            bad=below >= PATIENCE_EPOCHS,
            good=step.val_accuracy >= clear_at,
            value=step.val_accuracy,
            threshold=raise_at,
            env=step.env,
        )

    def _not_finite(self, event: Event, what: str, env: int | None = None) -> Iterator[Anomaly]:
        """Raise the alarm if a figure of the event is not finite, clear it if all are."""
        broken = [k for k, v in _figures(event).items() if isinstance(v, float) and not math.isfinite(v)]
        message = f"{', '.join(broken)} of {what} not finite" if broken else f"all figures of {what} finite"
        yield from self._switch("non_finite", message, bad=bool(broken), good=not broken, env=env)

    # -- the policy ----------------------------------------------------------------------------------

    def _updated(self, update: Update) -> Iterator[Anomaly]:
        yield from self._not_finite(update, f"the update of round {update.round}")
        if ("non_finite", None) in self._raised:
            return
        kl = update.approx_kl_nats
        yield from self._above("kl", f"an update moved the policy by {kl:.3f} nats", kl, KL)
        clipped = update.clip_share
        yield from self._above("clipped", f"{clipped:.0%} of the ratios were clipped", clipped, CLIPPED)
        if update.ratio_error is not None:
            text = f"rollout and update disagree about probabilities by {update.ratio_error:.2g}"
            yield from self._above("ratio", text, update.ratio_error, RATIO_ERROR)
        for op, entropy in update.entropy_by_operation_nats.items():
            if entropy is not None:
                low, high = ENTROPY_NATS
                self._alive |= {op} if entropy > ALIVE_NATS else set()
                text = f"{op} is chosen always or never: {entropy:.2g} nats of entropy"
                bad, good = entropy < low and op in self._alive, entropy > high
                yield from self._switch(f"entropy {op}", text, bad=bad, good=good, value=entropy, threshold=low)
        before = median(self._value_losses) if len(self._value_losses) >= 5 else None
        self._value_losses.append(update.value_loss)
        if before is not None and before > 0:
            text = f"value loss {update.value_loss:.3g}, usually {before:.3g}"
            limits = (VALUE_LOSS[0] * before, VALUE_LOSS[1] * before)
            yield from self._above("value_loss", text, update.value_loss, limits)


def _figures(event: Event) -> dict[str, object]:
    """The fields of an event, and what is in those that are maps or tuples, by name."""
    figures: dict[str, object] = dict(vars(event))
    for name, value in vars(event).items():
        if isinstance(value, Mapping):
            figures |= {f"{name} {key}": each for key, each in value.items()}
        elif isinstance(value, tuple):
            figures |= {f"{name} {i}": each for i, each in enumerate(value)}
    return figures
