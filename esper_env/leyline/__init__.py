"""Leyline: the contracts every part of Esper shares. Values and rules only; imports nothing of ours."""

from esper_env.leyline.actions import WAIT, Action, AlphaCurve, Op, Style, action_table
from esper_env.leyline.legality import RULES, Rule, SlotFacts, is_legal, legal_mask, legality_table
from esper_env.leyline.lifecycle import TRANSITIONS, Stage
from esper_env.leyline.observation import (
    BASE_FEATURES,
    SLOT_FEATURES,
    Feature,
    ObservationLayout,
    observation_table,
)

__all__ = [
    "BASE_FEATURES",
    "RULES",
    "SLOT_FEATURES",
    "TRANSITIONS",
    "WAIT",
    "Action",
    "AlphaCurve",
    "Feature",
    "ObservationLayout",
    "Op",
    "Rule",
    "SlotFacts",
    "Stage",
    "Style",
    "action_table",
    "is_legal",
    "legal_mask",
    "legality_table",
    "observation_table",
]
