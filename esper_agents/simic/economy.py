"""The accounting of growth: what seeds promise, earn, cost and undo. Rewards and reports price with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from esper_env.leyline import Stage

POTENTIAL = 0.01
"""Accuracy (0..1) that the potential of a seed reaches at most: one point."""

PROGRESS: Mapping[Stage, float] = {
    Stage.GERMINATED: 0.25,
    Stage.TRAINING: 0.5,
    Stage.BLENDING: 0.75,
    Stage.HOLDING: 1.0,
    Stage.FOSSILIZED: 1.0,
}
"""How far along its life a seed is; stages that are not named hold nothing."""

SUSTAINED = 3
"""Measurements that a gain has to hold for."""


def progress(info: Mapping[str, Any]) -> float:
    """Sum over all slots of how far along their seeds are, times `POTENTIAL`."""
    return POTENTIAL * sum(PROGRESS.get(Stage(int(stage)), 0.0) for stage in info["stages"])


class SustainedShapley:
    """Sum over all slots of what their seeds have shown they are worth, from one info after another.

    A slot counts the least of its last three Shapley values, if positive. It keeps the last count once its seed
    is FOSSILIZED, and loses it with the seed.
    """

    def __init__(self, info: Mapping[str, Any]) -> None:
        self.worth = np.zeros(len(info["stages"]))
        self._recent: list[list[float]] = [[] for _ in self.worth]

    def update(self, info: Mapping[str, Any]) -> float:
        """Take in the info of a step; return the sum."""
        for i, stage in enumerate(info["stages"]):
            if stage == Stage.FOSSILIZED:
                continue
            if stage not in (Stage.BLENDING, Stage.HOLDING):
                self._recent[i], self.worth[i] = [], 0.0
            elif info["shapley_measured"][i]:
                self._recent[i] = [*self._recent[i], float(info["shapley"][i])][-SUSTAINED:]
                whole = len(self._recent[i]) == SUSTAINED
                self.worth[i] = max(0.0, min(self._recent[i])) if whole else 0.0
        return float(self.worth.sum())


@dataclass(frozen=True)
class Churn:
    """What an episode started and undid."""

    germinated: int
    fossilized: int

    @classmethod
    def of(cls, final: Mapping[str, Any]) -> Churn:
        """Read it from the info of an episode's last step."""
        return cls(int(final["germinated"]), int(final["fossilized"]))

    @property
    def reversals(self) -> int:
        """Seeds that were germinated for nothing."""
        return self.germinated - self.fossilized


def rent_points(info: Mapping[str, Any]) -> float:
    """Rent due now, in points of accuracy."""
    return 100.0 * float(info["rent"])
