"""Builds the info dictionary: numbers and fixed-shape arrays, freshly allocated, never NaN."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from esper_env.accounting import Rent, added_params
from esper_env.kasmina import GrowingModel
from esper_env.leyline import Op, Stage
from esper_env.tolaria.episode import Episode, EpochReport, Settlement

STABILITY_EPOCHS = 30
"""Validation accuracies, counted from the end, that `Tally.stability` looks at."""


@dataclass
class Tally:
    """What is counted over an episode."""

    germinated: int = 0
    pruned: int = 0
    fossilized: int = 0
    invalid_actions: int = 0
    peak_params: int = 0
    accuracies: list[float] = field(default_factory=list)
    """Every validation accuracy of the episode, one an epoch."""

    def record(self, op: Op, legal: bool, params: int, accuracy: float) -> None:
        """Count one step: `op` is what was executed, `legal` whether that is what was asked for."""
        self.germinated += op is Op.GERMINATE
        self.pruned += op is Op.PRUNE
        self.fossilized += op is Op.FOSSILIZE
        self.invalid_actions += not legal
        self.peak_params = max(self.peak_params, params)
        self.accuracies.append(accuracy)

    @property
    def stability(self) -> float:
        """1 - standard deviation of the last validation accuracies over their mean."""
        last = self.accuracies[-STABILITY_EPOCHS:]
        mean = float(np.mean(last)) if last else 0.0
        return 1.0 - float(np.std(last)) / mean if mean > 0 else 0.0


NOT_FINITE: Final = float(np.finfo(np.float64).max)
"""Stands for a loss that is not finite: info must compare equal to itself."""


def _finite(value: float) -> float:
    return value if math.isfinite(value) else NOT_FINITE


def total_params(model: GrowingModel) -> int:
    """Parameters that exist now: the host's and every seed's."""
    return model.host_size + sum(model.sizes.values())


def build_info(
    episode: Episode,
    blueprints: tuple[str, ...],
    slots: tuple[str, ...],
    rent: Rent,
    mask: NDArray[np.int8],
    *,
    report: EpochReport | None,
    value: float,
    legal: bool,
) -> dict[str, Any]:
    """Return the info of one step, or of a reset (`report` is ``None``)."""
    model = episode.model
    evaluation = None if report is None else report.evaluation
    contributions = {} if evaluation is None else evaluation.contributions
    shapley = {} if evaluation is None else evaluation.shapley
    states = [model.slots[name] for name in slots]
    return {
        "action_mask": mask,
        "invalid_action": not legal,
        "epoch": episode.epoch,
        "train_loss": 0.0 if report is None else _finite(report.training.loss),
        "train_accuracy": 0.0 if report is None else report.training.accuracy,
        "val_loss": 0.0 if evaluation is None else _finite(evaluation.score.loss),
        "val_accuracy": 0.0 if evaluation is None else evaluation.score.accuracy,
        "params": total_params(model),
        "host_params": model.host_size,
        "growth": added_params(model) / model.host_size,
        "rent": rent.total(model),
        "flops_train": episode.flops.training,
        "flops_shadow": episode.flops.shadow,
        "flops_eval": episode.flops.evaluation,
        "stages": np.array([slot.stage for slot in states], np.int64),
        "blueprints": np.array(
            [-1 if slot.blueprint is None else blueprints.index(slot.blueprint) for slot in states], np.int64
        ),
        "alphas": np.array([slot.alpha.value for slot in states], np.float64),
        "contributions": np.array([contributions.get(name, 0.0) for name in slots], np.float64),
        "contributions_measured": np.array([name in contributions for name in slots], np.bool_),
        "shapley": np.array([shapley.get(name, 0.0) for name in slots], np.float64),
        "shapley_measured": np.array([name in shapley for name in slots], np.bool_),
        "rollback": report is not None and report.panic is not None,
        "value": value,
        "error_code": 0,
    }


def final_info(episode: Episode, settlement: Settlement, tally: Tally) -> dict[str, Any]:
    """Return what the last step of an episode adds."""
    fossils = len(episode.model.in_stages({Stage.FOSSILIZED}))
    return {
        "committed_accuracy": settlement.validation.accuracy,
        "test_accuracy": settlement.test.accuracy,
        "test_loss": _finite(settlement.test.loss),
        "fossilized": fossils,
        "pruned": tally.pruned,
        "germinated": tally.germinated,
        "invalid_actions": tally.invalid_actions,
        "peak_params": tally.peak_params,
        "flops_total": episode.flops.total,
        "rollbacks": episode.rollbacks,
        "stability": tally.stability,
    }
