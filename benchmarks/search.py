"""Random search for an open-loop schedule by successive halving, with a budget of FLOPs.

All schedules are tried once, the top fifth on three more seeds, the top five on ten; the best mean wins. A schedule's
first try is on one of ten seeds, and it is ranked by how much better it is than the others on that seed: with one seed
for all, the search would be for a schedule that suits one instance, and without the comparison seeds would be ranked.
Seeds are training seeds. How many schedules the budget is enough for is estimated from the first ten; while some of it
is left, more are drawn.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.episodes import Job, Row
from benchmarks.play import play_all
from benchmarks.suites import Task
from esper_agents.tamiyo import Interface, Planting, Schedule
from esper_env.leyline import Op

FIRST = range(900_000, 900_010)
"""Seeds of first tries, one for each schedule."""
SECOND = range(FIRST.stop, FIRST.stop + 3)
"""Of the top fifth."""
THIRD = range(SECOND.stop, SECOND.stop + 10)
"""Of the top five."""
FIFTH, FIVE = 5, 5
MOST_PLANTINGS = 4
LATEST = 0.6
"""Share of the episode after which nothing is planted: a seed needs some twenty epochs to be fossilised."""

Play = Callable[[list[Job]], list[Row]]


@dataclass(frozen=True)
class Found:
    """What a search came to."""

    schedule: Schedule
    mean_return: float
    """Over the winner's episodes."""
    tried: int
    """Schedules."""
    flops: int
    """Of all episodes."""


def draw(rng: np.random.Generator, interface: Interface, epochs: int) -> Schedule:
    """A random schedule of one to four plantings."""
    germinations = [a for a in interface.actions if a.op is Op.GERMINATE]
    plantings = []
    for _ in range(int(rng.integers(1, MOST_PLANTINGS + 1))):
        action = germinations[int(rng.integers(len(germinations)))]
        assert action.slot is not None and action.blueprint is not None
        assert action.style is not None and action.tempo is not None
        epoch = int(rng.integers(1, max(2, int(LATEST * epochs) + 1)))
        plantings.append(Planting(action.slot, action.blueprint, epoch, str(action.style), action.tempo))
    return Schedule(tuple(sorted(plantings, key=lambda p: p.epoch)))


class Halving:
    """The schedules that are drawn, in order, and their episodes so far."""

    def __init__(self, task: Task, interface: Interface, epochs: int, seed: int, play: Play) -> None:
        self.task, self.interface, self.epochs = task, interface, epochs
        self.play = play
        self.schedules: dict[str, Schedule] = {}
        self.rows: dict[tuple[str, int], Row] = {}
        self._rng = np.random.default_rng(seed)

    @property
    def flops(self) -> int:
        """Spent so far."""
        return sum(row.flops_total for row in self.rows.values())

    @property
    def flops_per_episode(self) -> float:
        """Mean of the episodes so far."""
        return self.flops / len(self.rows)

    def draw(self, count: int) -> None:
        """Until there are so many different ones."""
        while len(self.schedules) < count:
            schedule = draw(self._rng, self.interface, self.epochs)
            self.schedules.setdefault(schedule.digest, schedule)

    def first_tries(self) -> dict[str, int]:
        """The seed of each schedule's first try, once it is played."""
        seeds = {digest: FIRST[i % len(FIRST)] for i, digest in enumerate(self.schedules)}
        self._play(list(seeds.items()))
        return seeds

    def best(self) -> Schedule:
        """Of those that are drawn, by successive halving."""
        first = self.first_tries()
        level = {s: np.mean([self.rows[d, s].episode_return for d in first if first[d] == s]) for s in FIRST}
        ranked = sorted(first, key=lambda d: level[first[d]] - self.rows[d, first[d]].episode_return)
        ranked = self._ranked(ranked[: max(FIVE, len(ranked) // FIFTH)], SECOND)[:FIVE]
        return self.schedules[self._ranked(ranked, range(SECOND.start, THIRD.stop))[0]]

    def mean_return(self, digest: str, seeds: range) -> float:
        return float(np.mean([self.rows[digest, s].episode_return for s in seeds]))

    def _ranked(self, digests: list[str], seeds: range) -> list[str]:
        self._play([(d, s) for d in digests for s in seeds])
        return sorted(digests, key=lambda d: -self.mean_return(d, seeds))

    def _play(self, tries: list[tuple[str, int]]) -> None:
        """Each schedule on the seed beside it."""
        jobs = []
        for digest, seed in tries:
            plantings = [asdict(p) for p in self.schedules[digest].plantings]
            what = (digest, seed, "schedule", plantings, digest)
            jobs.append(Job("search", self.task.id, self.task.arguments, *what))
        self.rows.update(zip(tries, self.play(jobs), strict=True))


def search(  # noqa: PLR0917
    task: Task, interface: Interface, epochs: int, budget: float, out: Path, workers: int, seed: int = 0
) -> Found:
    """Search; resumable, since every episode is a row.

    Args:
        task: the environment.
        interface: its actions.
        epochs: length of an episode.
        budget: FLOPs.
        out: folder of the rows and of the schedule that is found.
        workers: processes.
        seed: of the draws.
    """
    path = out / f"search-{task.name}.csv"
    halving = Halving(task, interface, epochs, seed, lambda jobs: play_all(jobs, path, workers, f"search {task.name}"))
    each = 1 + len(SECOND) / FIFTH  # episodes
    halving.draw(len(FIRST))
    halving.first_tries()
    halving.draw(int((budget / halving.flops_per_episode - FIVE * len(THIRD)) / each))
    winner = halving.best()
    while (left := budget - halving.flops) > 0:
        halving.draw(len(halving.schedules) + max(1, int(left / halving.flops_per_episode / each)))
        winner = halving.best()
    mean = halving.mean_return(winner.digest, range(SECOND.start, THIRD.stop))
    found = Found(winner, mean, len(halving.schedules), halving.flops)
    out.mkdir(parents=True, exist_ok=True)
    content = json.loads(winner.to_json()) | {"tried": found.tried, "flops": found.flops, "budget": budget}
    (out / f"random_search-{task.name}.json").write_text(json.dumps(content, indent=1) + "\n")
    return found
