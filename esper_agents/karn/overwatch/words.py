"""Numbers and times as text. What was not measured is a dash, never a zero."""

from __future__ import annotations

import math
import time
from typing import Final

MISSING: Final = "\N{EN DASH}"
UNITS: Final = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
"""Sizes that have a letter."""


def number(value: float | None, spec: str) -> str:
    """Format `value`, or say that it was not measured, is not a number or is infinite."""
    if value is None:
        return MISSING
    if math.isnan(value):
        return "NaN"
    return format(value, spec) if math.isfinite(value) else "∞" if value > 0 else "-∞"


def compact(value: float) -> str:
    """A large number in few characters, as there is little room for."""
    for size, unit in UNITS:
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


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


def moment(time_s: float, now: float) -> str:
    """Say a Unix time in UTC, with the date unless it is today's."""
    then, today = time.gmtime(time_s), time.gmtime(now)
    return time.strftime("%H:%M:%S UTC" if then[:3] == today[:3] else "%Y-%m-%d %H:%M:%S UTC", then)


def ago(time_s: float, now: float) -> str:
    """Say how long ago a Unix time was, and when that was."""
    return f"{duration(max(0.0, now - time_s))} ago ({moment(time_s, now)})"


def counted(count: int, word: str) -> str:
    """A number of things."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"
