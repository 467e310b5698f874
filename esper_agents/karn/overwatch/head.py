"""The run, whether it is alive, and its alarms."""

from __future__ import annotations

from typing import Final

from esper_agents.karn.overwatch.charts import bar
from esper_agents.karn.overwatch.feed import Feed
from esper_agents.karn.overwatch.markup import Html, figure, join, tag
from esper_agents.karn.overwatch.words import ago, counted, moment
from esper_agents.karn.snapshot import Snapshot
from esper_agents.karn.words import MISSING, duration

SIGNS: Final[dict[str, tuple[str, str]]] = {
    "reading": ("…", "info"),
    "waiting": ("…", "info"),
    "live": ("●", "good"),
    "slow": ("◐", "warn"),
    "stale": ("○", "warn"),
    "dead": ("✗", "bad"),
    "finished": ("✓", "good"),
    "interrupted": ("■", "warn"),
    "failed": ("✗", "bad"),
    "unreadable": ("✗", "bad"),
}
"""Symbol of a status, and the class of its colour; the word is always beside them."""
GOING: Final = ("live", "slow", "stale")


def status(feed: Feed, now: float) -> str:
    """How the run is, or why that cannot be said."""
    if feed.error is not None:
        return "unreadable"
    return "reading" if feed.behind else feed.snapshot.status(now, feed.being_written)


def badge(feed: Feed, now: float) -> Html:
    """The status as a symbol and a word."""
    word = status(feed, now)
    symbol, css = SIGNS[word]
    return tag("span", tag("span", symbol, aria_hidden="true"), " ", tag("span", word, data_field="status"), class_=css)


def title(feed: Feed) -> Html:
    """What is run."""
    header = feed.snapshot.header
    name = tag("span", feed.name, class_="quiet", data_field="run")
    if header is None:
        return name
    return join(tag("strong", f"{header.controller} on {header.task}"), f" · seed {header.seed} · ", name)


def meaning(feed: Feed, now: float) -> Html:
    """What the status means, and how old the last event is."""
    word, snap = status(feed, now), feed.snapshot
    _, css = SIGNS[word]
    texts = [tag("span", text) for text in _explained(feed, word, now)]
    if feed.log.damaged:
        texts.append(tag("span", f"{counted(feed.log.damaged, 'damaged line')} in the log", class_="warn"))
    if snap.end is not None and snap.end.dropped:
        lost = ", ".join(f"{name} {count:,}" for name, count in snap.end.dropped.items())
        texts.append(tag("span", f"lost: {lost}", class_="warn"))
    loud = css if word in ("stale", "dead", "failed", "unreadable") else ""
    return tag("p", texts, class_=f"sentence {loud}")


def _explained(feed: Feed, word: str, now: float) -> list[str]:
    snap = feed.snapshot
    if word == "unreadable":
        return [f"The log cannot be read: {feed.error}"]
    if word == "reading":
        return [f"Reading the log: {counted(feed.events, 'event')} so far."]
    if snap.last_s is None:
        dead = ["The run is dead: its log is empty, and no process writes it."]
        return dead if word == "dead" else ["There is no event in the log yet."]
    last = ago(snap.last_s, now)
    if snap.end is not None:
        told = [f"Ended {last}, after {duration(snap.end.seconds)}."]
        return [*told, snap.end.error] if snap.end.error else told
    usual = f"until now at most {duration(snap.longest_gap_s)} passed between two"
    return {
        "dead": [f"The run is dead: no process writes its log. Last event {last}."],
        "stale": [f"This is stale: the run writes nothing. Last event {last}; {usual}."],
        "slow": [f"Last event {last}; {usual}."],
    }.get(word, [f"Last event {last}."])


def pace(feed: Feed, now: float) -> Html:
    """How far the run is, how fast, and when it will be done."""
    snap, word = feed.snapshot, status(feed, now)
    if snap.header is None:
        return Html("")
    total = snap.header.total_steps
    share = snap.progress
    going = word in GOING
    progress = figure(None if share is None else 100 * share, ".1f", "%", field="progress")
    steps = tag("span", f"{snap.steps:,}", data_field="steps")
    pieces = [
        tag("span", bar(0, share or 0), progress, class_="progress"),
        tag("span", steps, f" of {MISSING if total is None else f'{total:,}'} steps"),
        tag("span", "" if going else "was ", figure(snap.steps_per_s, ".1f", "steps/s", field="rate")),
    ]
    left = snap.left_s if going else None
    if going:
        text = "time left not known" if left is None else f"{duration(left)} left, until {moment(now + left, now)}"
        pieces.append(tag("span", text, data_field="left"))
    if snap.started_s is not None:
        pieces.append(tag("span", f"started {ago(snap.started_s, now)}"))
    return tag("p", pieces, class_="sentence")


def alarms(feed: Feed, now: float) -> Html:
    """The alarms that are raised, the newest first."""
    snap = feed.snapshot
    if feed.behind:
        return tag("p", "Alarms: the log is being read.", class_="calm")
    before = f" Raised and over: {snap.alarms_raised - len(snap.alarms)}, see the log." if _over(snap) else ""
    if not snap.alarms:
        return tag("p", tag("strong", "✓ no alarm", class_="good", data_field="alarms"), ".", before, class_="calm")
    rows = []
    for time_s, alarm in sorted(snap.alarms.values(), key=lambda pair: pair[0], reverse=True):
        where = "the run" if alarm.env is None else f"environment {alarm.env}"
        what = tag("strong", f"▲ {alarm.detector}")
        rows.append(
            tag("li", what, f" in {where}, since {ago(time_s, now)}: {alarm.message}", data_alarm=alarm.detector)
        )
    count = tag("strong", f"▲ {counted(len(rows), 'alarm')}", data_field="alarms")
    return tag("div", tag("p", count, ".", before), tag("ul", rows), class_="alarmed")


def _over(snapshot: Snapshot) -> bool:
    return snapshot.alarms_raised > len(snapshot.alarms)
