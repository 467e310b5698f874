"""Builds observations by the layout table of `esper_env.leyline.observation`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esper_env.accounting import Rent, added_params
from esper_env.kasmina import GrowingModel, Slot
from esper_env.leyline import ObservationLayout, Op, Stage, Style
from esper_env.leyline.observation import BASE_WHERE, HISTORY, SLOT_WHERE, blueprint_code
from esper_env.tolaria.episode import EpochReport

_STYLE_CODE = {None: 0.0, Style.ADD: 1 / 3, Style.GATE: 2 / 3, Style.MULTIPLY: 1.0}


def symlog(x: float) -> float:
    """sign(x) ln(1 + |x|)."""
    return math.copysign(math.log1p(abs(x)), x)


@dataclass
class History:
    """What the observation remembers of past steps."""

    losses: list[float] = field(default_factory=list)
    """The last validation losses, oldest first, the present one last."""
    accuracies: list[float] = field(default_factory=list)
    gap: float = 0.0
    """Training accuracy minus validation accuracy."""
    op: Op = Op.WAIT
    executed: bool = False
    interactions: dict[str, float] = field(default_factory=dict)

    def record(self, report: EpochReport, op: Op, executed: bool) -> None:
        """Note the results of one step."""
        score = report.evaluation.score
        self.losses = [*self.losses, score.loss][-HISTORY - 1 :]
        self.accuracies = [*self.accuracies, score.accuracy][-HISTORY - 1 :]
        self.gap = report.training.accuracy - score.accuracy
        self.op, self.executed = op, executed
        self.interactions = dict(report.evaluation.interactions)

    def state(self) -> dict[str, Any]:
        """JSON-able copy of the fields."""
        return {**vars(self), "op": int(self.op)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> History:
        """The history that `state` was taken from."""
        return cls(**{**state, "op": Op(state["op"])})


def build_observation(
    layout: ObservationLayout,
    model: GrowingModel,
    history: History,
    rent: Rent,
    *,
    epoch: int,
    episode_length: int,
    classes: int,
    blueprints: tuple[str, ...],
) -> NDArray[np.float32]:
    """Return the observation of the present state: float32 (23 + 35 S,), each number in [-1, 1]."""
    out = np.zeros(layout.size, np.float64)
    values: dict[str, Any] = {
        "progress": epoch / episode_length,
        "generalisation_gap": history.gap,
        "price": rent.price * 100 / 20,
        "growth": symlog(added_params(model) / model.host_size) / 7,
        "last_action_executed": float(history.executed),
        "last_op": [float(history.op is op and epoch > 0) for op in Op],
    }
    if history.losses:
        values |= {
            "val_loss": history.losses[-1] / (2 * math.log(classes)),
            "val_accuracy": history.accuracies[-1],
            "loss_history": _differences(history.losses, 2.0),
            "accuracy_history": _differences(history.accuracies, 10.0),
        }
    for name, value in values.items():
        out[BASE_WHERE[name]] = value
    for i, name in enumerate(layout.slots):
        slot = model.slots[name]
        block = out[layout.slot(i)]
        block[SLOT_WHERE["stage"].start + slot.stage] = 1.0
        block[SLOT_WHERE["epochs_in_stage"]] = slot.epochs_in_stage / episode_length
        if slot.seed is not None and slot.blueprint is not None:
            for feature, value in _seed_features(model, slot, history, rent, episode_length).items():
                block[SLOT_WHERE[feature]] = value
            out[layout.blueprint(i)] = blueprint_code(blueprints.index(slot.blueprint))
    return np.clip(np.nan_to_num(out, nan=0.0, posinf=1.0, neginf=-1.0), -1.0, 1.0).astype(np.float32)


def _differences(values: list[float], gain: float) -> list[float]:
    past = [gain * (value - values[-1]) for value in values[:-1]]
    return [0.0] * (HISTORY - len(past)) + past


def _seed_features(
    model: GrowingModel, slot: Slot, history: History, rent: Rent, episode_length: int
) -> dict[str, float]:
    assert slot.seed is not None
    alpha, evidence = slot.alpha, slot.evidence
    features = {
        "seed_params": symlog(slot.seed.size / model.host_size) / 7,
        "alpha": alpha.value,
        "tempo": slot.tempo / 10,
        "style": _STYLE_CODE[slot.style],
        "seed_rent": rent.seed(model, slot) * 100 / 10,
        "age": slot.age / episode_length,
    }
    if alpha.target is not None:
        ramping = not alpha.at_target
        features |= {
            "alpha_target": alpha.target,
            "alpha_rising": float(ramping and alpha.target > alpha.value),
            "alpha_falling": float(ramping and alpha.target < alpha.value),
            "alpha_velocity": alpha.velocity,
        }
        if slot.stage is not Stage.FOSSILIZED and alpha.length:
            features |= {"ramp_done": alpha.done / alpha.length, "ramp_left": (alpha.length - alpha.done) / 10}
    if evidence.effect is not None:
        features |= {
            "effect_measured": 1.0,
            "effect": evidence.effect * 100 / 10,
            "effect_trend": evidence.effect_trend * 100 / 10,
            "effect_freshness": 0.8**evidence.effect_age,
            "interaction": history.interactions.get(slot.name, 0.0) * 100 / 10,
        }
    if evidence.health is not None and evidence.gradient_norm is not None:
        previous = evidence.health if evidence.previous_health is None else evidence.previous_health
        features |= {
            "gradient_norm": symlog(evidence.gradient_norm) / 7,
            "health": evidence.health,
            "health_change": evidence.health - previous,
            "gradient_fault": 1.0 if evidence.exploding else -1.0 if evidence.vanishing else 0.0,
        }
    return features
