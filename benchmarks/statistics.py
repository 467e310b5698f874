"""Statistics of paired episodes: differences, probabilities of improvement, profiles, frontiers.

Scores are arrays (runs, seeds): a line for each training run of a controller, one line for a controller that is not
trained. Comparisons are paired by seed. Intervals are percentile bootstraps over seeds, drawn jointly for both sides,
and over the training runs of each side. Everything random is seeded.

The interquartile mean, the performance profile and the probability of improvement are those of Agarwal et al., "Deep
Reinforcement Learning at the Edge of the Statistical Precipice", 2021, https://arxiv.org/abs/2108.13264.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
RESAMPLES = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A statistic with its 95 % interval, and the two-sided bootstrap p-value of its being 0."""

    value: float
    low: float
    high: float
    p: float
    seeds: int

    def __str__(self) -> str:
        return f"{self.value:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def as_scores(values: Sequence[float] | Sequence[Sequence[float]] | Scores) -> Scores:
    """(runs, seeds) from one line of scores, or from several.

    Raises:
        ValueError: a score is not a number, or there is none.
    """
    scores = np.atleast_2d(np.asarray(values, np.float64))
    if scores.ndim != 2 or scores.size == 0:
        raise ValueError(f"scores are (runs, seeds), with at least one of each; got the shape {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("a score is not a number: list failed episodes, and leave them out on both sides")
    return scores


def estimate(statistic: Callable[..., Scores], *sides: Scores) -> Estimate:
    """A statistic of one or several sides with the same seeds.

    Args:
        statistic: of as many arrays (..., runs, seeds) as there are sides, for each of what comes before.
        sides: what was measured.

    Raises:
        ValueError: the sides have different numbers of seeds.
    """
    seeds = {side.shape[1] for side in sides}
    if len(seeds) != 1:
        raise ValueError(f"the sides are no pairs: they have {sorted(seeds)} seeds")
    (count,) = seeds
    rng = np.random.default_rng(0)
    columns = rng.integers(count, size=(RESAMPLES, 1, count))
    drawn = statistic(*(side[rng.integers(len(side), size=(RESAMPLES, len(side), 1)), columns] for side in sides))
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    below, above = np.sum(drawn <= 0.0), np.sum(drawn >= 0.0)
    p = min(1.0, 2.0 * (1.0 + min(below, above)) / (1.0 + RESAMPLES))
    return Estimate(float(statistic(*sides)), float(low), float(high), float(p), count)


def mean(scores: Scores) -> Scores:
    """The mean of all runs and seeds, (...)."""
    return np.asarray(scores.mean((-2, -1)))


def mean_difference(a: Scores, b: Scores) -> Scores:
    """The mean of a - b, (...)."""
    return mean(a) - mean(b)


def paired(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """The mean of a - b, one score of either a seed."""
    return estimate(mean_difference, as_scores(a), as_scores(b))


def probability_of_improvement(a: Scores, b: Scores) -> Scores:
    """P(A > B) + P(A = B) / 2 on the same seed, over all pairs of their runs, (...)."""
    difference = a[..., :, None, :] - b[..., None, :, :]
    return np.asarray(((difference > 0) + 0.5 * (difference == 0)).mean((-3, -2, -1)))


def interquartile_mean(scores: Scores) -> Scores:
    """The mean of the middle half of all runs and seeds, (...)."""
    ordered = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    size = ordered.shape[-1]
    cut = int(0.25 * size)
    return np.asarray(ordered[..., cut : size - cut].mean(-1))


def profile(scores: Scores, thresholds: Sequence[float]) -> Scores:
    """The share of all scores above each threshold, (len(thresholds),)."""
    shares: Scores = (scores.reshape(-1, 1) > np.asarray(thresholds)).mean(0)
    return shares


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p-values corrected for their number: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979."""
    corrected, largest = {}, 0.0
    for i, name in enumerate(sorted(p, key=lambda name: p[name])):
        largest = max(largest, min(1.0, (len(p) - i) * p[name]))
        corrected[name] = largest
    return {name: corrected[name] for name in p}


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether point `a` is at least as high as `b` in everything and higher in something."""
    return all(x >= y for x, y in zip(a, b, strict=True)) and any(x > y for x, y in zip(a, b, strict=True))


def front(points: Mapping[str, Sequence[float]]) -> list[str]:
    """The names of the points that no other dominates; more is better in every coordinate."""
    return [name for name, p in points.items() if not any(dominates(q, p) for q in points.values())]


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """The volume of what some point dominates above `reference`; more is better in every coordinate."""
    inside = sorted({tuple(p) for p in points if all(x > r for x, r in zip(p, reference, strict=True))})
    if not inside:
        return 0.0
    if len(reference) == 1:
        return inside[-1][0] - reference[0]
    volume, bottom = 0.0, reference[0]
    for i, point in enumerate(inside):  # slice by slice along the first coordinate
        volume += (point[0] - bottom) * hypervolume([p[1:] for p in inside[i:]], reference[1:])
        bottom = point[0]
    return volume
