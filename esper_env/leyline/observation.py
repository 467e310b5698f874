"""The observation layout: one table that the builder, the policies and the docs all read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from esper_env.leyline.actions import Op
from esper_env.leyline.lifecycle import Stage

HISTORY = 5
"""Past losses and accuracies in the observation."""

MAX_BLUEPRINTS = 16
BLUEPRINT_BITS = 4


@dataclass(frozen=True)
class Feature:
    """`size` consecutive numbers of an observation, each in ``[low, high]``."""

    name: str
    index: int
    size: int
    low: float
    high: float
    meaning: str

    @property
    def where(self) -> slice:
        """The slice of the observation, or of the slot's block, that holds this feature."""
        return slice(self.index, self.index + self.size)


def _table(*rows: tuple[str, int, float, float, str]) -> tuple[Feature, ...]:
    features, index = [], 0
    for name, size, low, high, meaning in rows:
        features.append(Feature(name, index, size, low, high, meaning))
        index += size
    return tuple(features)


BASE_FEATURES = _table(
    ("progress", 1, 0, 1, "epochs done / episode length"),
    ("val_loss", 1, 0, 1, "validation loss / (2 ln C)"),
    ("val_accuracy", 1, 0, 1, "validation accuracy"),
    ("loss_history", HISTORY, -1, 1, "last five losses, oldest first, (past - present) x 2; 0 where none yet"),
    ("accuracy_history", HISTORY, -1, 1, "last five accuracies, oldest first, (past - present) x 10"),
    ("generalisation_gap", 1, -1, 1, "training accuracy - validation accuracy"),
    ("price", 1, 0, 1, "rent in points for adding the reference size / 20"),
    ("growth", 1, 0, 1, "symlog(added parameters / host parameters) / 7"),
    ("last_action_executed", 1, 0, 1, "the last action was executed as asked"),
    ("last_op", len(Op), 0, 1, "last operation, one-hot: " + " ".join(op.name for op in Op)),
)

SLOT_FEATURES = _table(
    ("stage", len(Stage), 0, 1, "stage, one-hot: " + " ".join(stage.name for stage in Stage)),
    ("seed_params", 1, 0, 1, "symlog(seed parameters / host parameters) / 7"),
    ("alpha", 1, 0, 1, "alpha"),
    ("alpha_target", 1, 0, 1, "target of alpha"),
    ("alpha_rising", 1, 0, 1, "alpha is rising"),
    ("alpha_falling", 1, 0, 1, "alpha is falling"),
    ("ramp_done", 1, 0, 1, "share of the ramp that is done"),
    ("ramp_left", 1, 0, 1, "epochs left of the ramp / 10"),
    ("alpha_velocity", 1, -1, 1, "change of alpha in the last epoch"),
    ("tempo", 1, 0, 1, "epochs of a ramp / 10"),
    ("style", 1, 0, 1, "add 1/3, gate 2/3, multiply 1, none 0"),
    ("effect_measured", 1, 0, 1, "the seed's effect was ever measured"),
    ("effect", 1, -1, 1, "shadow gain while TRAINING, then contribution; points / 10"),
    ("effect_trend", 1, -1, 1, "smoothed change of the effect, points / 10"),
    ("effect_freshness", 1, 0, 1, "0.8 ^ epochs since the effect was measured"),
    ("interaction", 1, -1, 1, "interaction with the other slots' seeds, points / 10"),
    ("seed_rent", 1, 0, 1, "rent of this seed at full weight, points / 10"),
    ("gradient_norm", 1, 0, 1, "symlog(gradient norm of the seed) / 7"),
    ("health", 1, 0, 1, "gradient health; 0 where not measured"),
    ("health_change", 1, -1, 1, "change of health since the last measurement"),
    ("gradient_fault", 1, -1, 1, "-1 a gradient vanishes, +1 one explodes"),
    ("epochs_in_stage", 1, 0, 1, "epochs in stage / episode length"),
    ("age", 1, 0, 1, "epochs since germination / episode length"),
)

BASE_SIZE = sum(feature.size for feature in BASE_FEATURES)
SLOT_SIZE = sum(feature.size for feature in SLOT_FEATURES)
BASE_WHERE = {feature.name: feature.where for feature in BASE_FEATURES}
SLOT_WHERE = {feature.name: feature.where for feature in SLOT_FEATURES}


@dataclass(frozen=True)
class ObservationLayout:
    """Names and places of all ``23 + 35 * S`` numbers of an observation."""

    slots: tuple[str, ...]

    @property
    def size(self) -> int:
        """Length of the observation."""
        return BASE_SIZE + (SLOT_SIZE + BLUEPRINT_BITS) * len(self.slots)

    def slot(self, index: int) -> slice:
        """The block of `SLOT_FEATURES` of the slot with this index."""
        start = BASE_SIZE + SLOT_SIZE * index
        return slice(start, start + SLOT_SIZE)

    def blueprint(self, index: int) -> slice:
        """The blueprint code of the slot with this index: four bits as -1/+1, zeros without a seed."""
        start = BASE_SIZE + SLOT_SIZE * len(self.slots) + BLUEPRINT_BITS * index
        return slice(start, start + BLUEPRINT_BITS)

    def features(self) -> tuple[Feature, ...]:
        """Every feature with its absolute index; slot features are named ``slot.feature``."""
        rows = list(BASE_FEATURES)
        for i, slot in enumerate(self.slots):
            start = self.slot(i).start
            rows += [
                Feature(f"{slot}.{f.name}", start + f.index, f.size, f.low, f.high, f.meaning) for f in SLOT_FEATURES
            ]
        for i, slot in enumerate(self.slots):
            start = self.blueprint(i).start
            meaning = "index in `blueprints` as bits -1/+1, lowest first; zeros without a seed"
            rows.append(Feature(f"{slot}.blueprint", start, BLUEPRINT_BITS, -1, 1, meaning))
        return tuple(rows)


@lru_cache(maxsize=64)
def blueprint_code(index: int) -> tuple[int, ...]:
    """Return the bits of a blueprint's index as -1/+1, lowest first."""
    return tuple(1 if index >> bit & 1 else -1 for bit in range(BLUEPRINT_BITS))


def observation_table() -> str:
    """Return the layout as two Markdown tables, for the docs."""

    def rows(features: tuple[Feature, ...], offset: str) -> list[str]:
        head = [f"| {offset} | name | min | max | meaning |", "| --- | --- | --- | --- | --- |"]
        for f in features:
            place = f"{f.index}" if f.size == 1 else f"{f.index}-{f.index + f.size - 1}"
            head.append(f"| {place} | {f.name} | {f.low:g} | {f.high:g} | {f.meaning} |")
        return head

    slot_head = f"+k from {BASE_SIZE} + {SLOT_SIZE}*slot"
    return "\n".join([*rows(BASE_FEATURES, "index"), "", *rows(SLOT_FEATURES, slot_head)])
