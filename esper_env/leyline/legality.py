"""The one legality function: the mask, the execution check and the docs all come from `RULES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from esper_env.leyline.actions import Action, Op, Style
from esper_env.leyline.lifecycle import (
    EVIDENCE_WINDOW,
    MIN_HEALTH,
    PRUNE_AGE,
    STRICT_CONTRIBUTION,
    STRICT_SHADOW_GAIN,
    TRAINING_EPOCHS,
    UNCOMMITTED,
    Stage,
)


@dataclass(frozen=True)
class SlotFacts:
    """What legality may depend on. ``None`` means not measured, which never satisfies a gate."""

    stage: Stage
    epochs_in_stage: int
    age: int
    fading: bool
    alpha: float
    alpha_target: float | None
    at_target: bool
    style: Style | None
    sound: bool
    """G1: the module is finite and keeps the shape of its boundary."""
    health: float | None
    shadow_gain: float | None
    """Mean of the last `EVIDENCE_WINDOW` shadow gains (fraction of accuracy), ``None`` before there are as many."""
    contribution_measured: bool
    contribution: float | None
    """Mean of the last `EVIDENCE_WINDOW` contributions, ``None`` before there are as many."""


Check = Callable[[SlotFacts, Action, bool], bool]


@dataclass(frozen=True)
class Rule:
    """`op` is legal in `stages` when `check(facts, action, strict_gates)` holds."""

    op: Op
    stages: frozenset[Stage]
    condition: str
    check: Check


def _at_least(value: float | None, least: float) -> bool:
    return value is not None and value >= least


def _g2(facts: SlotFacts, _: Action, strict: bool) -> bool:
    ready = facts.epochs_in_stage >= TRAINING_EPOCHS and _at_least(facts.health, MIN_HEALTH)
    return ready and (not strict or _at_least(facts.shadow_gain, STRICT_SHADOW_GAIN))


def _fossilize(facts: SlotFacts, _: Action, strict: bool) -> bool:
    foldable = facts.style is not Style.MULTIPLY or facts.alpha == 1.0
    worth = not strict or _at_least(facts.contribution, STRICT_CONTRIBUTION)
    return facts.contribution_measured and foldable and worth


RULES: tuple[Rule, ...] = (
    Rule(Op.GERMINATE, frozenset({Stage.DORMANT}), "always", lambda f, a, s: True),
    Rule(
        Op.ADVANCE,
        frozenset({Stage.GERMINATED}),
        "G1: the module is finite and keeps its boundary's shape",
        lambda f, a, s: f.sound,
    ),
    Rule(
        Op.ADVANCE,
        frozenset({Stage.TRAINING}),
        f"G2: at least {TRAINING_EPOCHS} epochs in stage, health measured and >= {MIN_HEALTH:g}; "
        f"strict: mean shadow gain of the last {EVIDENCE_WINDOW} >= {100 * STRICT_SHADOW_GAIN:g} points",
        _g2,
    ),
    Rule(
        Op.ADVANCE,
        frozenset({Stage.BLENDING}),
        "G3: alpha rests at its target, not fading",
        lambda f, a, s: f.at_target and not f.fading,
    ),
    Rule(
        Op.SET_ALPHA_TARGET,
        frozenset({Stage.BLENDING, Stage.HOLDING}),
        "not fading, another target than the current one",
        lambda f, a, s: not f.fading and a.alpha_target != f.alpha_target,
    ),
    Rule(
        Op.FOSSILIZE,
        frozenset({Stage.HOLDING}),
        "contribution measured; style multiply only at alpha 1; "
        f"strict: mean contribution of the last {EVIDENCE_WINDOW} >= {100 * STRICT_CONTRIBUTION:g} point",
        _fossilize,
    ),
    Rule(
        Op.PRUNE,
        UNCOMMITTED,
        f"from age {PRUNE_AGE}, not fading",
        lambda f, a, s: f.age >= PRUNE_AGE and not f.fading,
    ),
)


def is_legal(action: Action, slots: Mapping[str, SlotFacts], *, strict_gates: bool = False) -> bool:
    """Say whether `action` may be executed now. WAIT always may."""
    if action.slot is None:
        return True
    facts = slots[action.slot]
    return any(
        rule.op is action.op and facts.stage in rule.stages and rule.check(facts, action, strict_gates)
        for rule in RULES
    )


def legal_mask(table: Sequence[Action], slots: Mapping[str, SlotFacts], *, strict_gates: bool = False) -> list[bool]:
    """Return `is_legal` for every action of the table, in index order."""
    return [is_legal(action, slots, strict_gates=strict_gates) for action in table]


def legality_table() -> str:
    """Return the rules as a Markdown table, for the docs."""
    lines = ["| operation | stage of its slot | condition |", "| --- | --- | --- |", "| WAIT | any | always |"]
    for rule in RULES:
        stages = ", ".join(stage.name for stage in sorted(rule.stages))
        lines.append(f"| {rule.op.name} | {stages} | {rule.condition} |")
    return "\n".join(lines)
