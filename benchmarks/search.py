"""Random search for an open-loop schedule by successive halving, with a budget of FLOPs.

All schedules are tried once, the top fifth on three more seeds, the top five on ten; the best mean wins. A schedule's
first try is on one of ten seeds, and it is ranked by how much better it is than the others on that seed: with one seed
for all, the search would be for a schedule that suits one instance, and without the comparison seeds would be ranked.
Seeds are training seeds.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.episodes import Job, Row
from benchmarks.play import play_all
from benchmarks.suites import Task
from esper_agents.tamiyo import Interface, Planting, Schedule
from esper_env.leyline import Op

FIRST_SEED = 900_000
FIRST_TRIES, MORE, MOST = 10, 3, 10
FIFTH, FIVE = 5, 5
MOST_PLANTINGS = 4
LATEST = 0.6
"""Share of the episode after which nothing is planted: a seed needs some twenty epochs to be fossilised."""


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


def schedules_for(budget: float, episode: float) -> int:
    """How many schedules a budget is enough for, at least five, if an episode costs so much."""
    each = 1.0 + MORE / FIFTH
    return max(FIVE, int((budget / episode - FIVE * MOST) / each))


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
    rng = np.random.default_rng(seed)
    by_digest: dict[str, Schedule] = {}
    path = out / f"search-{task.name}.csv"

    def fresh() -> Schedule:
        """A schedule that was not drawn before."""
        while (schedule := draw(rng, interface, epochs)).digest in by_digest:
            pass
        by_digest[schedule.digest] = schedule
        return schedule

    def tried(pairs: list[tuple[Schedule, int]]) -> None:
        """Play each schedule on the seed beside it, and note the row."""
        jobs = []
        for schedule, episode_seed in pairs:
            plantings = [asdict(p) for p in schedule.plantings]
            what = (schedule.digest, episode_seed, "schedule", plantings, schedule.digest)
            jobs.append(Job("search", task.id, task.arguments, *what))
        for (schedule, _), row in zip(pairs, play_all(jobs, path, workers, f"search {task.name}"), strict=True):
            rows.setdefault(schedule.digest, []).append(row)

    rows: dict[str, list[Row]] = {}
    probes = [(fresh(), FIRST_SEED + i) for i in range(FIRST_TRIES)]
    tried(probes)
    episode = float(np.mean([r.flops_total for rs in rows.values() for r in rs]))
    others = range(FIRST_TRIES, schedules_for(budget, episode))
    first = probes + [(fresh(), FIRST_SEED + i % FIRST_TRIES) for i in others]
    tried(first[FIRST_TRIES:])
    place = {schedule.digest: seed for schedule, seed in first}
    level = {s: np.mean([rows[d][0].episode_return for d in place if place[d] == s]) for s in set(place.values())}
    ranked = sorted(by_digest, key=lambda d: level[place[d]] - rows[d][0].episode_return)
    ranked = ranked[: max(FIVE, len(ranked) // FIFTH)]
    next_seed = FIRST_SEED + FIRST_TRIES
    for best, count in ((len(ranked), MORE), (FIVE, MOST)):
        ranked = ranked[:best]
        tried([(by_digest[d], next_seed + i) for d in ranked for i in range(count)])
        next_seed += count
        ranked.sort(key=lambda d: -np.mean([r.episode_return for r in rows[d][1:]]))  # on the seeds all have met
    winner = by_digest[ranked[0]]
    found = Found(
        winner,
        float(np.mean([r.episode_return for r in rows[winner.digest][1:]])),
        len(by_digest),
        sum(r.flops_total for rs in rows.values() for r in rs),
    )
    out.mkdir(parents=True, exist_ok=True)
    content = json.loads(winner.to_json()) | {"tried": found.tried, "flops": found.flops, "budget": budget}
    (out / f"random_search-{task.name}.json").write_text(json.dumps(content, indent=1) + "\n")
    return found
