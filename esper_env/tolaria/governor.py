"""The governor: decides when training has gone wrong. It only judges; the episode acts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum


class Panic(StrEnum):
    """Why the governor calls for a rollback."""

    NON_FINITE = "a loss or parameter is not finite"
    COLLAPSE = "accuracy fell to chance for two epochs running"
    DIVERGENCE = "the loss diverged for two epochs running"


COLLAPSE_MARGIN = 0.02
LEARNED_MARGIN = 0.10
PATIENCE = 2
"""Epochs running that it takes to be sure: one alone may be noise of a small validation subset."""
MAX_ROLLBACKS = 3


@dataclass(frozen=True)
class Governor:
    """A value: `judge` returns the verdict on an epoch and the governor for the next one."""

    classes: int
    best_loss: float = math.inf
    learned: int = 0
    """Epochs running with an accuracy clearly above chance; at `PATIENCE` it stays: the network has learned."""
    collapsed: int = 0
    """Epochs running at chance."""
    diverged: int = 0
    """Epochs running above the divergence bound."""

    @property
    def pending(self) -> bool:
        """A panic may be coming: this is no state to keep as healthy."""
        return self.collapsed > 0 or self.diverged > 0

    def judge(self, loss: float, accuracy: float, finite: bool) -> tuple[Panic | None, Governor]:
        """Judge one epoch by its validation loss and accuracy and whether all losses and parameters are finite."""
        if not finite or not math.isfinite(loss):
            return Panic.NON_FINITE, self.calm()
        chance = 1.0 / self.classes
        bound = max(2.0 * self.best_loss, math.log(self.classes) + 1.0)
        sure = self.learned == PATIENCE
        collapsed = self.collapsed + 1 if sure and accuracy <= chance + COLLAPSE_MARGIN else 0
        diverged = self.diverged + 1 if math.isfinite(self.best_loss) and loss > bound else 0
        if collapsed >= PATIENCE:
            return Panic.COLLAPSE, self.calm()
        if diverged >= PATIENCE:
            return Panic.DIVERGENCE, self.calm()
        return None, replace(
            self,
            best_loss=min(self.best_loss, loss),
            learned=PATIENCE if sure else (self.learned + 1 if accuracy >= chance + LEARNED_MARGIN else 0),
            collapsed=collapsed,
            diverged=diverged,
        )

    def calm(self) -> Governor:
        """The governor after a rollback: nothing is pending."""
        return replace(self, collapsed=0, diverged=0)
