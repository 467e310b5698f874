"""The life of a seed: stages, legal transitions and the constants that time them."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Stage(IntEnum):
    """Where a slot stands. The order is that of the observation's one-hot."""

    DORMANT = 0
    GERMINATED = 1
    TRAINING = 2
    BLENDING = 3
    HOLDING = 4
    FOSSILIZED = 5
    PRUNED = 6
    EMBARGOED = 7
    RESETTING = 8


TRANSITIONS: Final[dict[Stage, frozenset[Stage]]] = {
    Stage.DORMANT: frozenset({Stage.GERMINATED}),
    Stage.GERMINATED: frozenset({Stage.TRAINING, Stage.PRUNED}),
    Stage.TRAINING: frozenset({Stage.BLENDING, Stage.PRUNED}),
    Stage.BLENDING: frozenset({Stage.HOLDING, Stage.PRUNED}),
    Stage.HOLDING: frozenset({Stage.BLENDING, Stage.FOSSILIZED, Stage.PRUNED}),
    Stage.FOSSILIZED: frozenset(),
    Stage.PRUNED: frozenset({Stage.EMBARGOED}),
    Stage.EMBARGOED: frozenset({Stage.RESETTING}),
    Stage.RESETTING: frozenset({Stage.DORMANT}),
}
"""Every transition a slot may make. FOSSILIZED is for good."""

COOLDOWN_EPOCHS: Final[dict[Stage, int]] = {Stage.PRUNED: 1, Stage.EMBARGOED: 5, Stage.RESETTING: 1}
"""Epochs a slot rests in each stage between two seeds."""

UNCOMMITTED: Final = frozenset({Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING})
"""Stages in which a seed lives but has not been kept."""

BLENDED: Final = frozenset({Stage.BLENDING, Stage.HOLDING})
"""Stages in which an uncommitted seed is in the host's forward pass, weighted by alpha."""

OCCUPIED: Final = UNCOMMITTED | {Stage.FOSSILIZED}
"""Stages in which the slot holds a module."""

TRAINING_EPOCHS: Final = 5
"""G2: epochs a seed must have trained behind the host before it may blend."""

PRUNE_AGE: Final = 5
"""Epochs a seed lives before it may be pruned."""

FADE_EPOCHS: Final = 3
"""Epochs over which a blended seed fades out."""

MIN_HEALTH: Final = 0.7
"""G2: least gradient health."""

ALPHA_TARGETS: Final = (0.5, 0.7, 1.0)
"""Where SET_ALPHA_TARGET can send alpha."""

STRICT_SHADOW_GAIN: Final = 0.005
"""G2 with strict gates: least mean shadow gain of the last measurements (fraction of accuracy)."""

STRICT_CONTRIBUTION: Final = 0.01
"""FOSSILIZE with strict gates: least mean contribution of the last measurements (fraction of accuracy)."""

EVIDENCE_WINDOW: Final = 3
"""Measurements a strict gate averages."""
