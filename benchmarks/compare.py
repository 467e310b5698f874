"""What the rows of a task say: groups of controllers, their figures, and the comparisons named beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from benchmarks import statistics, suites
from benchmarks.episodes import Row
from benchmarks.statistics import Estimate, Scores, estimate

LEARNED = "learned"
PRIMARY = ((LEARNED, "heuristic"), (LEARNED, "wait"), ("heuristic", "wait"))
"""Named before any run, on every task; `SEARCHED` on top, on CifarVaried."""
SEARCHED = (LEARNED, "random_search")
MARGIN = 1.0
"""Points of test accuracy that the learned controller may lose to the final structure trained from scratch."""
SHARE = 0.70
"""Of its FLOPs, at which that counts."""
RETURN, TEST = "episode_return", "test_accuracy"


def group(row: Row) -> str:
    """The controllers that are training runs of the same thing, by one name."""
    name, _, copied = row.controller.partition(":")
    static = suites.copies(row.controller) is not None
    if (copied if static else name).partition(":")[0] == LEARNED:
        own = row.trained_on == row.task
        learned = LEARNED if own else f"{LEARNED} on {row.trained_on.removeprefix('Esper/').removesuffix('-v0')}"
        return f"{name}:{learned}" if static else learned
    return row.controller


@dataclass(frozen=True)
class Results:
    """The sound rows of one task, on the seeds that every controller has."""

    task: str
    seeds: tuple[int, ...]
    groups: dict[str, list[list[Row]]]
    """By group: a list for each of its training runs, in the order of `seeds`."""
    failed: list[Row]
    """Rows that ended with an error; their seeds are left out everywhere."""

    @classmethod
    def of(cls, task: str, rows: Sequence[Row]) -> Results:
        """Sort the rows of a task."""
        mine = [row for row in rows if row.task == task]
        failed = [row for row in mine if row.error_code]
        runs: dict[str, dict[int, Row]] = {}
        for row in mine:
            runs.setdefault(row.controller, {})[row.seed] = row
        common = set.intersection(*(set(by_seed) for by_seed in runs.values())) if runs else set()
        seeds = tuple(sorted(common - {row.seed for row in failed}))
        groups: dict[str, list[list[Row]]] = {}
        for by_seed in runs.values():
            if seeds:
                groups.setdefault(group(by_seed[seeds[0]]), []).append([by_seed[seed] for seed in seeds])
        return cls(task, seeds, groups, failed)

    def scores(self, name: str, field: str, scale: float = 1.0) -> Scores:
        """(runs, seeds) of a field."""
        return statistics.as_scores([[scale * float(getattr(row, field)) for row in run] for run in self.groups[name]])

    def mean(self, name: str, field: str) -> float:
        """The mean of a field over runs and seeds."""
        return float(self.scores(name, field).mean())

    def points(self, name: str, field: str) -> Estimate:
        """The mean of a field in points, with its interval."""
        return estimate(statistics.mean, self.scores(name, field, 100.0))


@dataclass(frozen=True)
class Comparison:
    """Two groups, paired by seed, in points of return."""

    a: str
    b: str
    difference: Estimate
    improvement: Estimate
    """Probability of improvement; its p-value is against 1/2."""
    runs: int
    p: float
    """Of the difference, corrected for the number of primary comparisons on the task."""

    @property
    def settled(self) -> bool:
        """The corrected p-value is below 5 %."""
        return self.p < 0.05

    def words(self) -> str:
        """What may be said."""
        who = f"these {self.runs} {self.a} policies" if self.a == LEARNED and self.runs < 3 else self.a
        who = f"this {self.a} policy" if self.a == LEARNED and self.runs == 1 else who
        if not self.settled:
            return f"Not settled: {who} against {self.b} ({self.difference} points of return, {_p(self.p)})."
        verb = "is better than" if self.difference.value > 0 else "is worse than"
        chance = self.improvement
        return (
            f"Settled: {who} {verb} {self.b}, by {self.difference} points of return ({_p(self.p)}); better on a "
            f"seed with probability {chance.value:.2f} [{chance.low:.2f}, {chance.high:.2f}]."
        )


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def comparisons(results: Results) -> list[Comparison]:
    """The primary comparisons that the rows allow."""
    pairs = [*PRIMARY, *([SEARCHED] if "Varied" in results.task else [])]
    there = [(a, b) for a, b in pairs if a in results.groups and b in results.groups]
    found = {}
    for a, b in there:
        sides = results.scores(a, RETURN, 100.0), results.scores(b, RETURN, 100.0)
        difference = estimate(statistics.mean_difference, *sides)
        found[a, b] = (
            difference,
            estimate(partial(statistics.probability_of_improvement), *sides, null=0.5),
            len(sides[0]),
        )
    corrected = statistics.holm({f"{a} - {b}": difference.p for (a, b), (difference, _, _) in found.items()})
    return [Comparison(a, b, d, i, runs, corrected[f"{a} - {b}"]) for (a, b), (d, i, runs) in found.items()]


def non_inferior(results: Results, name: str = LEARNED) -> str | None:
    """Whether a controller loses at most `MARGIN` points of test accuracy to its final structure, at what cost.

    Of several training runs those count whose final structures were trained.
    """
    static = f"{suites.STATIC}:{name}"
    if name not in results.groups or static not in results.groups:
        return None
    copied = {suites.copies(run[0].controller) for run in results.groups[static]}
    mine = [run for run in results.groups[name] if run[0].controller in copied]
    results = replace(results, groups={name: mine, static: results.groups[static]})
    sides = results.scores(name, TEST, 100.0), results.scores(static, TEST, 100.0)
    difference = estimate(statistics.mean_difference, *sides)
    share = results.mean(name, "flops_total") / results.mean(static, "flops_total")
    verdict = "is not inferior" if difference.low > -MARGIN else "may be inferior"
    cheap = "which is" if share <= SHARE else "which is not"
    return (
        f"{name} {verdict} to its final structure trained from scratch: {difference} points of test accuracy (margin "
        f"{MARGIN:g}) with {share:.0%} of its FLOPs, {cheap} at most {SHARE:.0%}."
    )


def place(results: Results, name: str) -> tuple[float, float, float]:
    """Quality, cost and stability of a group, more being better: test accuracy, - total FLOPs, stability."""
    return results.mean(name, TEST), -results.mean(name, "flops_total"), results.mean(name, "stability")


def dominated(results: Results, name: str = LEARNED) -> list[str]:
    """The groups that are at least as good as `name` in quality, cost and stability, and better in one."""
    if name not in results.groups:
        return []
    mine = place(results, name)
    return [other for other in results.groups if statistics.dominates(place(results, other), mine)]


def return_on_growth(results: Results, name: str) -> float | None:
    """Test accuracy over WAIT's, in points, for 1,000 added parameters; ``None`` where nothing grew."""
    if "wait" not in results.groups:
        return None
    host = results.mean("wait", "params")
    added = results.mean(name, "params") - host
    if added <= 0 or np.isclose(added, 0):
        return None
    return 1000.0 * 100.0 * (results.mean(name, TEST) - results.mean("wait", TEST)) / added
