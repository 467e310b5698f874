"""Whether the policy learns: the returns of finished episodes, of this run and of others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Final

from esper_agents.karn.overwatch.charts import POINTS, Point, Series, plot
from esper_agents.karn.overwatch.feed import Feed
from esper_agents.karn.overwatch.markup import Html, cell, figure, join, note, table, tag
from esper_agents.karn.overwatch.words import counted
from esper_agents.karn.snapshot import Episode, Snapshot
from esper_agents.karn.trend import ends, is_trained, kept_accuracy, learned, sound
from esper_agents.karn.words import number
from esper_env.leyline.events import EpisodeEnd

WINDOW: Final = 20
"""Episodes of a moving mean."""
FIGURES: Final[tuple[tuple[str, str, str, str, Callable[[EpisodeEnd], float]], ...]] = (
    ("return", "return", "+.4f", "", lambda end: end.total_return),
    ("committed accuracy", "committed_accuracy", ".1f", "%", lambda end: 100 * kept_accuracy(end)),
    ("growth", "growth", "+.1f", "%", lambda end: 100 * end.growth),
    ("seeds kept", "fossilized", ".2f", "", lambda end: float(end.fossilized)),
)
"""What is told of finished episodes: name, field, format, unit, value."""


def moving_mean(values: Sequence[float], window: int = WINDOW) -> list[float]:
    """The mean of each value and those before it, `window` at most. One that is not finite spoils only its own."""
    means, finite = [], [v if math.isfinite(v) else 0.0 for v in values]
    total, count = 0.0, 0
    for i, value in enumerate(values):
        total += finite[i]
        count += math.isfinite(value)
        if i >= window:
            total -= finite[i - window]
            count -= math.isfinite(values[i - window])
        means.append(total / count if count else math.nan)
    return means


def mean_curve(snapshot: Snapshot) -> list[Point]:
    """The moving mean of the returns over the run's steps, a point for episodes that end together."""
    episodes = sound(snapshot)
    means = moving_mean([e.end.total_return for e in episodes])
    points = [Point(e.steps, mean) for e, mean in zip(episodes, means, strict=True)]
    apart = len(snapshot.envs)
    return [p for p, after in pairwise(points) if after.x - p.x >= apart] + points[-1:]


def learning(snapshot: Snapshot) -> Html:
    """The verdict, the returns over the run's steps, and how the first and the last episodes ended."""
    episodes = sound(snapshot)
    failed = len(snapshot.episodes) - len(episodes)
    left_out = note(f"{counted(failed, 'episode')} ended in an error, and left out here.") if failed else None
    if not episodes:
        return join(note("No episode has ended yet."), left_out)
    points = [Point(e.steps, e.end.total_return) for e in episodes]
    thinned = f", {POINTS} of them" if len(points) > POINTS else ""
    series = [
        Series(f"an episode{thinned}", points, "dots", 0),
        Series(f"mean of the last {WINDOW}", mean_curve(snapshot), "line", 1),
    ]
    chart = plot(
        series,
        label="returns of the finished episodes over steps",
        x_name="environment steps",
        y_name="return",
        y_sign=True,
        x_zero=True,
    )
    told = tag("div", chart, tag("div", _table(snapshot), left_out), class_="beside")
    return join(_verdict(snapshot, episodes), told)


def _verdict(snapshot: Snapshot, episodes: Sequence[Episode]) -> Html:
    if not is_trained(snapshot):
        controller = snapshot.header.controller if snapshot.header is not None else "?"
        words, css, detail = "nothing is trained here", "", f"the controller is {controller}"
    else:
        found = learned(snapshot)
        if found is not None:
            words, css = found.verdict
            error = "" if found.error is None else f" ± {number(found.error, '.4f')}"
            compared = counted(len(ends(snapshot)[0]), "episode")
            detail = f"return {number(found.mean, '+.4f')}{error} from the first to the last {compared}"
        else:
            words, css, detail = "too few episodes to tell", "", counted(len(episodes), "episode") + " ended"
    verdict = tag("strong", words, class_=f"verdict {css}", data_field="verdict")
    return tag("p", verdict, " ", tag("span", detail, data_field="change"))


def _table(snapshot: Snapshot) -> Html:
    first, last = ends(snapshot)
    columns = [("first", first), ("last", last)] if first else [("all", last)]
    heads = ["mean of", *(f"{name} {len(end)}" for name, end in columns)]
    rows = []
    for title, field, spec, unit, value in FIGURES:
        cells = [figure(fmean(value(e.end) for e in end), spec, unit, field=f"{name}-{field}") for name, end in columns]
        rows.append(tag("tr", tag("th", title, scope="row"), [cell(c, class_="number") for c in cells]))
    return table(heads, rows, class_="slim")


def comparison(shown: Feed, others: Mapping[str, Feed]) -> Html:
    """The moving mean returns of this run and of others, over their steps."""
    series, problems = [], []
    for i, (name, feed) in enumerate({f"{shown.name} (this run)": shown, **others}.items()):
        points = mean_curve(feed.snapshot)
        series.append(Series(name, points, "line", i + 1))
        header = feed.snapshot.header
        if feed.error is not None:
            problems.append(f"{name} cannot be read: {feed.error}")
        elif feed.behind:
            problems.append(f"{name}: reading its log, {counted(feed.events, 'event')} so far")
        elif not points:
            problems.append(f"{name}: no episode has ended")
        if header is not None and shown.snapshot.header is not None and header.task != shown.snapshot.header.task:
            problems.append(f"{name} is of another task, {header.task}: its returns are not comparable")
    chart = plot(
        series,
        label="mean returns of runs over steps",
        x_name="environment steps",
        y_name=f"mean return of {WINDOW} episodes",
        y_sign=True,
        x_zero=True,
    )
    return join(chart, [note(problem) for problem in problems])
