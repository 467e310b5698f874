"""Actions in little room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

SHORT_NAMES: Final = {"GERMINATE": "GERM", "ADVANCE": "ADV", "SET_ALPHA_TARGET": "ALPHA", "FOSSILIZE": "FOSS"}
"""Operations where there is little room."""


def short_action(action: str, slots: Sequence[str], width: int) -> str:
    """An action in `width` characters: as it is, or with less and less of what it says."""
    if len(action) <= width:
        return action
    operation, *words = action.partition(" (")[0].split()
    short = SHORT_NAMES.get(operation, operation)
    whole = " ".join([short, *(word for word in words if word != "in")])
    return whole if len(whole) <= width else " ".join([short, *(word for word in words if word in slots)])
