"""Numbers and spans of time as text, for both screens. What was not measured is a dash, never a zero."""

from __future__ import annotations

import math
from typing import Final

MISSING: Final = "\N{EN DASH}"


def number(value: float | None, spec: str) -> str:
    """Format `value`, or say that it was not measured, is not a number or is infinite."""
    if value is None:
        return MISSING
    if math.isnan(value):
        return "NaN"
    return format(value, spec) if math.isfinite(value) else "∞" if value > 0 else "-∞"


def seed_name(seed: int | None) -> str:
    """An episode's seed, or that it is not known."""
    return MISSING if seed is None else str(seed)


def duration(seconds: float) -> str:
    """Say a time span in two units at most."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, below, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"
