"""What accuracy finished episodes came to, and at what size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from esper_agents.karn.overwatch.charts import Point, Series, plot
from esper_agents.karn.overwatch.markup import Html, cell, join, note, table, tag
from esper_agents.karn.overwatch.words import compact
from esper_agents.karn.snapshot import Episode, Snapshot
from esper_agents.karn.trend import kept_accuracy, sound
from esper_agents.karn.words import seed_name
from esper_env.leyline.events import EpisodeEnd

COSTS: Final[dict[str, tuple[str, Callable[[EpisodeEnd], float]]]] = {
    "params": ("parameters", lambda end: float(end.params)),
    "flops": ("FLOPs of the episode", lambda end: float(end.flops_total)),
}
RECENT: Final = 20
"""Episodes that are told from those before."""
LISTED: Final = 8


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, gain) that no other beats in one without losing in the other, by rising cost.

    Of equal points the first counts.
    """
    front, best = [], -math.inf
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[i][1] > best:
            best = points[i][1]
            front.append(i)
    return front


def frontier(snapshot: Snapshot, by: str) -> Html:
    """The finished episodes by cost and committed accuracy, with the front that none beats."""
    episodes = sound(snapshot)
    if not episodes:
        return note("No episode has ended yet.")
    name, of = COSTS[by]
    points = [
        Point(
            cost := of(e.end),
            accuracy := 100 * kept_accuracy(e.end),
            f"{_named(e)} in environment {e.end.env}: {accuracy:.1f} % at {compact(cost)} {name}",
        )
        for e in episodes
    ]
    front = pareto_front([(p.x, p.y) for p in points])
    before = max(0, len(points) - RECENT)
    series = [
        Series("earlier", points[:before], "dots", 0),
        Series(f"the last {RECENT}", points[before:], "dots", 1),
        Series("Pareto front", [points[i] for i in front], "line", 2),
        Series("on the front", [points[i] for i in front], "dots", 2),
    ]
    chart = plot(series, label=f"accuracy over {name}", x_name=name, y_name="committed accuracy, %")
    rows = [
        tag(
            "tr",
            cell(f"{points[i].y:.1f} %", class_="number"),
            cell(f"{points[i].x:,.0f}", class_="number"),
            cell(f"{_named(episodes[i])}, {episodes[i].end.fossilized} seeds kept"),
        )
        for i in reversed(front[-LISTED:])
    ]
    return join(chart, table(("accuracy", name, "episode on the front"), rows, class_="slim"))


def _named(episode: Episode) -> str:
    return f"seed {seed_name(episode.end.episode_seed)}"
