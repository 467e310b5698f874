"""Alpha: how much of a seed is in the stream, and the ramps that move it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from esper_env.leyline import AlphaCurve

_STEEPNESS = 8.0


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def curve_value(curve: AlphaCurve, share: float) -> float:
    """Return the height of a ramp, 0 to 1, when `share` of it is done. Monotone; exact at both ends."""
    if share <= 0.0:
        return 0.0
    if share >= 1.0:
        return 1.0
    match curve:
        case AlphaCurve.LINEAR:
            return share
        case AlphaCurve.COSINE:
            return 0.5 * (1.0 - math.cos(math.pi * share))
        case AlphaCurve.SIGMOID:
            low, high = _sigmoid(-_STEEPNESS / 2), _sigmoid(_STEEPNESS / 2)
            return (_sigmoid(_STEEPNESS * (share - 0.5)) - low) / (high - low)


@dataclass(frozen=True)
class Alpha:
    """One alpha and its ramp. A value: `ramp_to` and `tick` return the next one."""

    value: float = 0.0
    start: float = 0.0
    target: float | None = None
    length: int = 0
    """Epochs the ramp takes."""
    done: int = 0
    """Epochs of it that have passed."""
    velocity: float = 0.0
    """Change in the last epoch."""
    curve: AlphaCurve = AlphaCurve.SIGMOID

    @property
    def at_target(self) -> bool:
        """The ramp is over and alpha rests at its target."""
        return self.target is not None and self.done >= self.length

    def ramp_to(self, target: float, length: int) -> Alpha:
        """Return this alpha at the start of a ramp of `length` epochs to `target`."""
        return replace(self, start=self.value, target=target, length=length, done=0)

    def tick(self) -> Alpha:
        """Return this alpha one epoch later."""
        if self.target is None or self.at_target:
            return replace(self, velocity=0.0)
        done = self.done + 1
        if done == self.length:
            value = self.target
        else:
            height = curve_value(self.curve, done / self.length)
            value = self.start + (self.target - self.start) * height
        return replace(self, value=value, done=done, velocity=value - self.value)
