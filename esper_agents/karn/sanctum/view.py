"""What a panel is drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from esper_agents.karn.snapshot import Snapshot

ALARM: Final = "▲"


@dataclass(frozen=True)
class View:
    """A snapshot, and the place to draw it in."""

    snapshot: Snapshot
    now: float
    """Unix time."""
    width: int
    """Characters."""
    detail: bool = False
    """There is room to say more."""
