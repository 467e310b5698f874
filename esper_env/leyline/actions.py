"""Operations and the flat action table: what each index of the discrete action space means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from esper_env.leyline.lifecycle import ALPHA_TARGETS


class Op(IntEnum):
    """The kinds of action. The order is that of the observation's one-hot."""

    WAIT = 0
    GERMINATE = 1
    ADVANCE = 2
    SET_ALPHA_TARGET = 3
    FOSSILIZE = 4
    PRUNE = 5


class Style(StrEnum):
    """How a seed's output d joins the host's activation h at weight alpha."""

    ADD = "add"
    GATE = "gate"
    MULTIPLY = "multiply"


class AlphaCurve(StrEnum):
    """The shape of an alpha ramp."""

    LINEAR = "linear"
    COSINE = "cosine"
    SIGMOID = "sigmoid"


@dataclass(frozen=True)
class Action:
    """One entry of the action table. Fields an operation does not use are ``None``."""

    op: Op
    slot: str | None = None
    blueprint: str | None = None
    style: Style | None = None
    tempo: int | None = None
    alpha_target: float | None = None

    def __str__(self) -> str:
        match self.op:
            case Op.WAIT:
                return "WAIT"
            case Op.GERMINATE:
                return f"GERMINATE {self.blueprint} in {self.slot} ({self.style}, tempo {self.tempo})"
            case Op.SET_ALPHA_TARGET:
                return f"SET_ALPHA_TARGET {self.alpha_target:g} in {self.slot}"
            case _:
                return f"{self.op.name} {self.slot}"


WAIT = Action(Op.WAIT)


def action_table(
    slots: Sequence[str], blueprints: Sequence[str], styles: Sequence[str], tempos: Sequence[int]
) -> tuple[Action, ...]:
    """Return the actions in index order: ``1 + S * (B * len(styles) * len(tempos) + 6)`` of them."""
    table = [WAIT]
    for slot in slots:
        table += [
            Action(Op.GERMINATE, slot, blueprint, Style(style), tempo)
            for blueprint in blueprints
            for style in styles
            for tempo in tempos
        ]
        table.append(Action(Op.ADVANCE, slot))
        table += [Action(Op.SET_ALPHA_TARGET, slot, alpha_target=target) for target in ALPHA_TARGETS]
        table += [Action(Op.FOSSILIZE, slot), Action(Op.PRUNE, slot)]
    return tuple(table)
