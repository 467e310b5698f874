"""Amounts and moments as text."""

from __future__ import annotations

import time
from typing import Final

from esper_agents.karn.words import duration

UNITS: Final = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
"""Sizes that have a letter."""


def compact(value: float) -> str:
    """A large number in few characters, as there is little room for."""
    for size, unit in UNITS:
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


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
