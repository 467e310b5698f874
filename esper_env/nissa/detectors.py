"""Alarms: what an operator wants to be told of, and when it is over."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import fields
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
VALUE_LOSS: Final = (10.0, 5.0)
"""Times the median of the rounds before."""
DEGRADED: Final = (0.5, 0.75)
"""Of the episode's best validation accuracy: raised below the first, over above the second."""
PATIENCE_EPOCHS: Final = 5
"""Epochs in a row that an environment must be below."""
STALLED_S: Final = 60.0
"""An environment that has not stepped for this long, and five times as long as ever before, is stalled."""


class Detectors:
    """Watches the events of a run, and answers with the alarms that they raise or clear.

    Alarms have two thresholds, so that a value at the edge does not ring at every event.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._raised: set[tuple[str, int | None]] = set()
        self._value_losses: deque[float] = deque(maxlen=20)
        self._best: dict[int, float] = {}
        self._below: dict[int, int] = {}
        self._last_step_s: float | None = None
        self._longest_s = 0.0

    def see(self, event: Event, now: float) -> list[Anomaly]:
        """Return the alarms that `event`, emitted at Unix time `now`, raises or clears."""
        if isinstance(event, RunStart):  # another part of the run: nothing is raised in it yet
            self._forget()
        if isinstance(event, Step):
            return [*self._stepped(now), *self._degraded(event)]
        if isinstance(event, EpisodeEnd):
            self._best.pop(event.env, None)
            self._below.pop(event.env, None)
            failed = event.error_code != 0
            what = f"an episode of environment {event.env} ended " + ("in an error" if failed else "well")
            return list(self._switch("failed", what, bad=failed, good=not failed, env=event.env))
        if isinstance(event, Update):
            return list(self._updated(event))
        return []

    def tick(self, now: float) -> list[Anomaly]:
        """Return the alarm of a run in which nothing has happened for too long; called while no event comes."""
        if self._last_step_s is None:
            return []
        waited, limit = now - self._last_step_s, max(STALLED_S, 5 * self._longest_s)
        what = f"no environment stepped for {waited:.0f} s"
        return list(self._switch("stalled", what, bad=waited > limit, good=False, value=waited, threshold=limit))

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

    def _stepped(self, now: float) -> Iterator[Anomaly]:
        if self._last_step_s is not None:
            waited = now - self._last_step_s
            self._longest_s = max(self._longest_s, min(waited, max(STALLED_S, 5 * self._longest_s)))
            yield from self._switch(
                "stalled", f"stepping again after {waited:.0f} s", bad=False, good=True, value=waited
            )
        self._last_step_s = now

    def _degraded(self, step: Step) -> Iterator[Anomaly]:
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

    # -- the policy ----------------------------------------------------------------------------------

    def _updated(self, update: Update) -> Iterator[Anomaly]:
        figures = {f.name: getattr(update, f.name) for f in fields(update)}
        maps = [(name, value) for name, value in figures.items() if isinstance(value, Mapping)]
        figures |= {f"{name} {key}": value for name, each in maps for key, value in each.items()}
        broken = [k for k, v in figures.items() if isinstance(v, float) and not math.isfinite(v)]
        message = f"{', '.join(broken)} of the update not finite" if broken else "all figures of the update finite"
        yield from self._switch("non_finite", message, bad=bool(broken), good=not broken)
        if broken:
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
                text = f"{op} is chosen always or never: {entropy:.2g} nats of entropy"
                bad, good = entropy < low, entropy > high
                yield from self._switch(f"entropy {op}", text, bad=bad, good=good, value=entropy, threshold=low)
        before = median(self._value_losses) if len(self._value_losses) >= 5 else None
        self._value_losses.append(update.value_loss)
        if before is not None and before > 0:
            text = f"value loss {update.value_loss:.3g}, usually {before:.3g}"
            limits = (VALUE_LOSS[0] * before, VALUE_LOSS[1] * before)
            yield from self._above("value_loss", text, update.value_loss, limits)
