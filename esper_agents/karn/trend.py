"""Whether the policy learns: how the last episodes of a run differ from the first, for both screens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Final

from esper_agents.karn.snapshot import Episode, Snapshot
from esper_env.leyline.events import EpisodeEnd

COMPARED: Final = 20
"""Episodes at either end of the run, at most, whose returns are compared."""


@dataclass(frozen=True)
class Change:
    """How the mean return of the last episodes differs from that of the first."""

    mean: float
    error: float | None
    """Standard error; ``None`` where there are too few."""

    @property
    def verdict(self) -> tuple[str, str]:
        """In words, with a symbol; and "good", "warn" or nothing. A change within two standard errors may be chance."""
        if self.error is None or not math.isfinite(self.mean):
            return "too few episodes to tell", ""
        if abs(self.mean) <= 2 * self.error:
            return "≈ no clear change", "warn"
        return ("↑ better", "good") if self.mean > 0 else ("↓ worse", "bad")


def change(first: Sequence[float], last: Sequence[float]) -> Change:
    """Compare as many returns from either end of a run."""
    error = math.sqrt((variance(first) + variance(last)) / len(first)) if len(first) > 1 else None
    return Change(fmean(last) - fmean(first), error)


def sound(snapshot: Snapshot) -> list[Episode]:
    """The episodes that did not end in an error: the others' figures stand for nothing."""
    return [e for e in snapshot.episodes if not e.end.error_code]


def is_trained(snapshot: Snapshot) -> bool:
    """Whether the run trains a policy."""
    return bool(snapshot.updates) or (snapshot.header is not None and snapshot.header.controller == "ppo")


def kept_accuracy(end: EpisodeEnd) -> float:
    """The accuracy of a sound episode's settlement."""
    return math.nan if end.committed_accuracy is None else end.committed_accuracy


def ends(snapshot: Snapshot) -> tuple[list[Episode], list[Episode]]:
    """The first and the last sound episodes; none and all of them where no policy is trained or there is but one."""
    episodes = sound(snapshot)
    count = min(COMPARED, len(episodes) // 2) if is_trained(snapshot) else 0
    return episodes[:count], episodes[len(episodes) - count :] if count else episodes


def learned(snapshot: Snapshot) -> Change | None:
    """How the returns changed; ``None`` where there is nothing to compare."""
    first, last = ([e.end.total_return for e in end] for end in ends(snapshot))
    return change(first, last) if first else None
