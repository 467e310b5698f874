"""What the rows of a task say: groups of controllers, their figures, and the comparisons named beforehand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks import statistics, suites
from benchmarks.episodes import Row
from benchmarks.statistics import Estimate, Scores, estimate

LEARNED = "learned"
PRIMARY = ((LEARNED, "heuristic"), (LEARNED, "wait"), ("heuristic", "wait"))
"""Named before any run, on every task; `SEARCHED` on top, on CifarVaried."""
SEARCHED = (LEARNED, "random_search")
SECONDARY = ((LEARNED, "fixed_schedule"), SEARCHED)
"""Named later, where they are not primary: the schedules that know the task but do not look."""
ORDER = ("wait", "random", "periodic", "heuristic", "fixed_schedule", "random_search", LEARNED)
"""Of groups in tables and pictures; policies of other tasks come next, and twins last."""
FEWEST = 10
"""Seeds that settle something: with fewer a bootstrap is too sure."""
MARGIN = 1.0
"""Points of test accuracy that the learned controller may lose to the final structure trained from scratch."""
SHARE = 0.70
"""Of its FLOPs, at which that counts."""
RETURN, TEST = "episode_return", "test_accuracy"


def group(row: Row) -> str:
    """The controllers that are training runs of the same thing, by one name.

    A policy that was trained on another task, or with other arguments, is not "learned" but "learned on" that.
    """
    name, _, copied = row.controller.partition(":")
    static = suites.copies(row.controller) is not None
    if (copied if static else name).partition(":")[0] == LEARNED:
        own = row.trained_on == row.task
        learned = LEARNED if own else f"{LEARNED} on {row.trained_on.removeprefix('Esper/').replace('-v0', '', 1)}"
        return f"{name}:{learned}" if static else learned
    return row.controller


def rank(name: str) -> tuple[int, str]:
    """Orders groups as `ORDER` says."""
    return (ORDER.index(name), "") if name in ORDER else (len(ORDER) + (suites.copies(name) is not None), name)


def _world(row: Row) -> str:
    """The data and the arguments of an episode, but for its length: twins at equal FLOPs have another."""
    provenance, arguments = json.loads(row.provenance), json.loads(row.arguments)
    if row.controller.startswith(f"{suites.STATIC_FLOPS}:"):
        arguments.pop("episode_length", None)
    return f"{row.suite} {json.dumps(arguments, sort_keys=True)} on {provenance['dataset']} {provenance['digest'][:8]}"


@dataclass(frozen=True)
class Results:
    """The sound rows of one task, on the seeds that every controller has."""

    task: str
    seeds: tuple[int, ...]
    groups: dict[str, list[list[Row]]]
    """By group: a list for each of its training runs, in the order of `seeds`."""
    failed: list[Row]
    """Rows that ended with an error; their seeds are left out everywhere."""
    incomplete: dict[str, int]
    """How many of the seeds that some controller has another one lacks; they are left out everywhere."""

    @classmethod
    def of(cls, task: str, rows: Sequence[Row]) -> Results:
        """Sort the rows of a task.

        Raises:
            ValueError: they are of different data or arguments.
        """
        mine = [row for row in rows if row.task == task]
        if len(worlds := sorted({_world(row) for row in mine})) > 1:
            raise ValueError(
                f"the rows of {task} cannot be compared, they are of {' and of '.join(worlds)}: keep them in different "
                "folders"
            )
        failed = [row for row in mine if row.error_code]
        runs: dict[str, dict[int, Row]] = {}
        for row in mine:
            runs.setdefault(row.controller, {})[row.seed] = row
        every = {row.seed for row in mine}
        incomplete = {name: len(every) - len(by_seed) for name, by_seed in runs.items() if len(by_seed) < len(every)}
        common = set.intersection(*(set(by_seed) for by_seed in runs.values())) if runs else set()
        seeds = tuple(sorted(common - {row.seed for row in failed}))
        groups: dict[str, list[list[Row]]] = {}
        seen = set()
        for by_seed in runs.values() if seeds else ():
            rows_of = [by_seed[seed] for seed in seeds]
            name, policy = group(rows_of[0]), rows_of[0].controller_hash
            if rows_of[0].trained_on and (name, policy) in seen:
                continue  # one policy by two names is one run
            seen.add((name, policy))
            groups.setdefault(name, []).append(rows_of)
        return cls(task, seeds, dict(sorted(groups.items(), key=lambda item: rank(item[0]))), failed, incomplete)

    @property
    def name(self) -> str:
        """The task's, for files and tables."""
        return suites.short(self.task)

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
    """Probability of improvement."""
    runs: int
    p: float
    """Of the difference; of a primary comparison, corrected for how many there are on the task."""

    @property
    def settled(self) -> bool:
        """The p-value is below 5 %, on seeds enough."""
        return self.p < 0.05 and self.difference.seeds >= FEWEST

    def words(self) -> str:
        """What may be said."""
        who, chance = called(self.a, self.runs), self.improvement
        verb = "better than" if self.difference.value > 0 else "worse than"
        verdict = f"Settled: {who} is {verb}" if self.settled else f"Not settled: {who} against"
        return (
            f"{verdict} {self.b}, {self.difference} points of return ({_p(self.p)}); better on a seed with probability "
            f"{chance.value:.2f} [{chance.low:.2f}, {chance.high:.2f}]."
        )


def called(name: str, runs: int) -> str:
    """What a group may be called: fewer than three training runs speak for themselves only."""
    if not name.startswith(LEARNED) or runs >= 3:
        return name
    return f"this policy ({name})" if runs == 1 else f"these {runs} policies ({name})"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def comparisons(results: Results) -> list[Comparison]:
    """The primary comparisons that the rows allow."""
    pairs = [*PRIMARY, *([SEARCHED] if "Varied" in results.task else [])]
    there = [(a, b) for a, b in pairs if a in results.groups and b in results.groups]
    found = [compared(results, a, b) for a, b in there]
    corrected = statistics.holm({f"{c.a} - {c.b}": c.p for c in found})
    return [replace(c, p=corrected[f"{c.a} - {c.b}"]) for c in found]


def secondary(results: Results) -> list[Comparison]:
    """The learned policy against schedules, where that was not named beforehand; nothing is corrected."""
    named = {(c.a, c.b) for c in comparisons(results)}
    return [compared(results, a, b) for a, b in SECONDARY if {a, b} <= set(results.groups) and (a, b) not in named]


def transfers(results: Results) -> list[Comparison]:
    """Policies trained on other tasks against WAIT, and against those trained on this one; nothing is corrected."""
    others = [name for name in results.groups if name.startswith(f"{LEARNED} on ")]
    return [compared(results, a, b) for a in others for b in ("wait", LEARNED) if b in results.groups]


def compared(results: Results, a: str, b: str) -> Comparison:
    """Two groups, with an uncorrected p-value."""
    sides = results.scores(a, RETURN, 100.0), results.scores(b, RETURN, 100.0)
    difference = estimate(statistics.mean_difference, *sides)
    improvement = estimate(statistics.probability_of_improvement, *sides)
    return Comparison(a, b, difference, improvement, len(sides[0]), difference.p)


def matched(results: Results, static: str) -> Results:
    """The learned policy and its twins of one kind, run by run: those of its runs that have twins."""
    twins = {suites.copies(run[0].controller): run for run in results.groups[static]}
    mine = [run for run in results.groups[LEARNED] if run[0].controller in twins]
    return replace(results, groups={LEARNED: mine, static: [twins[run[0].controller] for run in mine]})


def non_inferior(results: Results) -> str | None:
    """Whether the learned policy loses at most `MARGIN` points of test accuracy to its final structure, at what cost.

    Of several training runs those count whose final structures were trained, each against its own.
    """
    static = f"{suites.STATIC}:{LEARNED}"
    if not {LEARNED, static} <= set(results.groups):
        return None
    results = matched(results, static)
    difference = estimate(statistics.mean, results.scores(LEARNED, TEST, 100.0) - results.scores(static, TEST, 100.0))
    share = results.mean(LEARNED, "flops_total") / results.mean(static, "flops_total")
    verdict = "is not" if difference.low > -MARGIN else "is" if difference.high < -MARGIN else "may be"
    cheap = "which is" if share <= SHARE else "which is not"
    return (
        f"{called(LEARNED, len(results.groups[LEARNED]))} {verdict} inferior to its final structure trained from "
        f"scratch: {difference} points of test accuracy on {len(results.seeds)} seeds (margin {MARGIN:g}) with "
        f"{share:.0%} of its FLOPs, {cheap} at most {SHARE:.0%}."
    )


def controls(results: Results) -> list[str]:
    """The groups that are no policies."""
    return [name for name in results.groups if not name.startswith(LEARNED)]


def place(results: Results, name: str) -> tuple[float, float, float]:
    """Quality, cost and stability of a group, more being better: test accuracy, - total FLOPs, stability."""
    return results.mean(name, TEST), -results.mean(name, "flops_total"), results.mean(name, "stability")


def dominated(results: Results) -> list[str]:
    """The controls that are on average at least as good as the learned policy in everything, and better in something.

    Twins are held against those runs whose twins they are.
    """
    if LEARNED not in results.groups:
        return []
    found = []
    for other in controls(results):
        pair = matched(results, other) if suites.copies(other) == LEARNED else results
        if statistics.dominates(place(pair, other), place(pair, LEARNED)):
            found.append(other)
    return found


def return_on_growth(results: Results, name: str) -> float | None:
    """Test accuracy over WAIT's, in points, for 1,000 added parameters; ``None`` where nothing grew."""
    if "wait" not in results.groups:
        return None
    host = results.mean("wait", "params")
    added = results.mean(name, "params") - host
    if added <= 0 or np.isclose(added, 0):
        return None
    return 1000.0 * 100.0 * (results.mean(name, TEST) - results.mean("wait", TEST)) / added
