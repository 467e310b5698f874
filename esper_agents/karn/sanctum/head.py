"""What an operator must know at once: is it alive, what is wrong, does it learn, where does the time go."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import variance
from typing import Final

from rich.style import Style
from rich.text import Text

from esper_agents.karn.sanctum.figures import (
    BAD,
    FAINT,
    GOOD,
    MISSING,
    NOTE,
    WARN,
    bar,
    curve,
    duration,
    fit,
    flow,
    mean,
    moment,
    number,
    row,
    tall_curve,
)
from esper_agents.karn.snapshot import Episode, Snapshot, Status
from esper_env.leyline.events import EpisodeEnd

SIGNS: Final[dict[str, tuple[str, str]]] = {
    "reading": ("…", NOTE),
    "waiting": ("…", NOTE),
    "live": ("●", GOOD),
    "slow": ("◐", WARN),
    "stale": ("○", WARN),
    "dead": ("✗", BAD),
    "finished": ("✓", GOOD),
    "interrupted": ("■", WARN),
    "failed": ("✗", BAD),
    "unreadable": ("✗", BAD),
}
"""Symbol and colour of a status; the word is always beside them."""
ALARM: Final = "▲"
COMPARED: Final = 20
"""Episodes at either end of the run, at most, whose returns are compared."""
FIGURES: Final[tuple[tuple[str, str, Callable[[EpisodeEnd], float]], ...]] = (
    ("return", "+.4f", lambda end: end.total_return),
    ("accuracy", ".1%", lambda end: end.committed_accuracy),
    ("growth", "+.1%", lambda end: end.growth),
    ("seeds kept", ".2f", lambda end: float(end.fossilized)),
)
"""What is told of finished episodes: name, format, value."""
PARTS: Final = ("train", "evaluate", "observe", "policy", "update", "telemetry", "checkpoint")


@dataclass(frozen=True)
class View:
    """A snapshot, and the place to draw it in."""

    snapshot: Snapshot
    now: float
    """Unix time."""
    width: int
    """Characters."""
    height: int
    """Lines."""
    detail: bool = False
    """There is room to say more."""


@dataclass(frozen=True)
class Reading:
    """How the reading of the log goes."""

    name: str
    """Of the run."""
    status: Status
    events: int
    """Read so far."""
    damaged: int
    """Lines that could not be read."""
    behind: bool = False
    """There is more in the log than was read yet."""
    error: str | None = None
    frozen_s: float | None = None
    """Unix time since which the panels stand still."""


def head(view: View, reading: Reading) -> Text:
    """The run and its status, progress and pace."""
    snap = view.snapshot
    status = "unreadable" if reading.error else "reading" if reading.behind else reading.status
    symbol, colour = SIGNS[status]
    first: list[Text | str] = [
        Text(f" {symbol} {status.upper()} ", style=Style(color="#000000", bgcolor=colour, bold=True))
    ]
    if snap.header is not None:
        h = snap.header
        first += [Text(f"{h.controller} on {h.task}", style="bold"), f"seed {h.seed}", f"commit {h.commit}"]
    first.append(Text(reading.name, style=FAINT))
    first += [Text(piece, style=colour) for piece in _explained(view, reading, status)]
    if reading.damaged:
        first.append(Text(f"{reading.damaged} damaged {_plural('line', reading.damaged)} in the log", style=WARN))
    if snap.end is not None and snap.end.dropped:
        lost = ", ".join(f"{name} {count}" for name, count in snap.end.dropped.items())
        first.append(Text(f"events lost: {lost}", style=WARN))
    if reading.frozen_s is not None:
        text = f" FROZEN at {moment(reading.frozen_s, view.now)}: f follows again "
        first.append(Text(text, style=Style(color="#000000", bgcolor=NOTE)))
    lines = flow(first, view.width)
    if snap.header is not None:
        lines += flow(_pace(view, reading.status), view.width)
    return Text("\n").join(lines)


def _explained(view: View, reading: Reading, status: str) -> list[str]:
    """Say what the status means, and how old the last event is."""
    snap = view.snapshot
    if reading.error:
        return [reading.error]
    if reading.behind:
        return [f"{reading.events:,} events so far"]
    if snap.end is not None:
        ended = snap.last_s if snap.last_s is not None else view.now
        ago = f"{duration(max(0.0, view.now - ended))} ago, {moment(ended, view.now)}"
        return [ago, *([snap.end.error] if snap.end.error else [])]
    age = snap.age_s(view.now)
    if age is None:
        return ["no event yet"]
    if status == "dead" and snap.last_s is not None:
        return [f"last event {duration(age)} ago, {moment(snap.last_s, view.now)}", "no process writes its log"]
    pieces = [f"last event {duration(age)} ago"]
    if status in ("slow", "stale"):
        pieces.append(f"never waited more than {duration(snap.longest_gap_s)} before")
    return pieces


def _pace(view: View, status: Status) -> list[Text | str]:
    snap = view.snapshot
    total = None if snap.header is None else snap.header.total_steps
    pieces: list[Text | str] = [
        row([bar(snap.progress, 10 if view.width < 120 else 40, NOTE), number(snap.progress, ".1%")]),
        f"{snap.steps:,} of {MISSING if total is None else f'{total:,}'} steps",
    ]
    going = status in ("live", "slow", "stale")
    pieces.append(f"{'' if status == 'live' else 'was '}{number(snap.steps_per_s, '.1f')} steps/s")
    if snap.end is not None:
        pieces.append(f"took {duration(snap.end.seconds)}")
    else:
        left = snap.left_s if going else None
        pieces.append(f"{MISSING if left is None else duration(left)} left")
    if snap.started_s is not None and view.width >= 120:
        pieces.append(Text(f"started {moment(snap.started_s, view.now)}", style=FAINT))
    if snap.updates:
        pieces.append(f"round {snap.updates[-1].round}")
    return pieces


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def alarms(view: View, behind: bool, lines: int) -> Text:
    """The alarms that are raised, the newest first, on about `lines` lines at most."""
    snap = view.snapshot
    if behind:
        return Text("alarms: reading the log", style=NOTE)
    before = f" now; {snap.alarms_raised} raised before, see the log" if snap.alarms_raised else ""
    if not snap.alarms:
        return Text(f"✓ no alarms{before}", style=GOOD)
    newest = sorted(snap.alarms.values(), key=lambda pair: pair[0], reverse=True)
    told = []
    for time_s, anomaly in newest:
        where = "run" if anomaly.env is None else f"env {anomaly.env}"
        age = duration(max(0.0, view.now - time_s))
        text = f"{anomaly.detector}, {where}, since {moment(time_s, view.now)} ({age}): {anomaly.message}"
        told.append(Text.assemble((f"{ALARM} ALARM ", f"bold {BAD}"), (text, BAD)))
    if sum(-(-text.cell_len // view.width) for text in told) > lines:
        told = [fit(text, view.width) for text in told]
    if len(told) > lines:
        told[lines - 1 :] = [Text(f"{ALARM} and {len(told) - lines + 1} more", style=f"bold {BAD}")]
    return Text("\n").join(told)


# -- does it learn -----------------------------------------------------------------------------------


def round_means(snapshot: Snapshot) -> list[float]:
    """The mean return of each round's episodes; without a policy that is trained, the return of each episode."""
    episodes = snapshot.episodes
    if not snapshot.updates:
        return [e.end.total_return for e in episodes]
    means, i = [], 0
    for update in snapshot.updates:
        first = i
        while i < len(episodes) and episodes[i].steps <= update.done_steps:
            i += 1
        means += [] if i == first else [sum(e.end.total_return for e in episodes[first:i]) / (i - first)]
    return means


def _compared(first: Sequence[float], last: Sequence[float]) -> tuple[str, Text]:
    """Say how much the mean changed, and whether that is more than chance."""
    change = sum(last) / len(last) - sum(first) / len(first)
    if len(first) < 2 or not math.isfinite(change):
        return number(change, "+.4f"), Text("too few episodes to tell", style=FAINT)
    error = math.sqrt((variance(first) + variance(last)) / len(first))
    if abs(change) <= 2 * error:
        verdict = Text("≈ no clear change", style=WARN)
    else:
        verdict = Text("↑ better", style=f"bold {GOOD}") if change > 0 else Text("↓ worse", style=f"bold {BAD}")
    return f"{change:+.4f} ± {error:.4f}", verdict


def _ends(episodes: Sequence[Episode]) -> tuple[Sequence[Episode], Sequence[Episode]]:
    count = min(COMPARED, len(episodes) // 2)
    return episodes[:count], episodes[len(episodes) - count :]


def _is_trained(snapshot: Snapshot) -> bool:
    return bool(snapshot.updates) or (snapshot.header is not None and snapshot.header.controller == "ppo")


def learning(view: View) -> list[Text]:
    """The returns of the last episodes against those of the first, and their curve; a line, or two if it must."""
    snap = view.snapshot
    label = Text("return", style="bold")
    if not snap.episodes:
        return [row([label, "no episode has ended yet"], "  ")]
    returns = [e.end.total_return for e in snap.episodes]
    first, last = ([e.end.total_return for e in end] for end in _ends(snap.episodes))
    if not _is_trained(snap):
        text = f"mean of {len(returns)} episodes: {number(mean(returns), '+.4f')}"
        pieces: list[Text | str] = [text, Text("nothing is trained here", style=FAINT)]
    elif not first:
        pieces = [f"of the first episode {number(returns[0], '+.4f')}", Text("too few episodes to tell", style=FAINT)]
    else:
        change, verdict = _compared(first, last)
        pieces = [
            f"first {len(first)}: {number(mean(first), '+.4f')}",
            f"last {len(last)}: {number(mean(last), '+.4f')}",
        ]
        pieces += [verdict, *([change] if view.width >= 100 else [])]
    means, kind = round_means(snap), "by round" if snap.updates else "by episode"
    room = view.width - row([label, *pieces, kind], "  ").cell_len - 3
    return flow([label, *pieces, Text.assemble((curve(means, min(40, max(4, room))), NOTE), f" {kind}")], view.width)


def learning_panel(view: View) -> Text:
    """The same as a table, with what else the episodes ended with, and the curve of the return."""
    snap = view.snapshot
    if not snap.episodes:
        return Text("no episode has ended yet", style=FAINT)
    first, last = _ends(snap.episodes)
    if not _is_trained(snap):
        first, last = (), snap.episodes
    titles = (f"first {len(first)}" if first else "", f"last {len(last)}" if first else f"all {len(last)}")
    if not last:
        titles, last = ("", "the first"), snap.episodes
    lines = [Text.assemble(f"{'episodes:':<12}", *(f"{t:>10}" for t in titles), style=FAINT)]
    for name, spec, each in FIGURES:
        before, after = ([each(e.end) for e in end] for end in (first, last))
        told = "".join(f"{number(mean(end), spec) if end else '':>10}" for end in (before, after))
        change = row(reversed(_compared(before, after)), "  ") if name == "return" and before else Text()
        lines.append(Text.assemble((f"{name:<12}", "" if name == "return" else FAINT), told, "   ", change))
    means = round_means(snap)
    finite = [m for m in means if math.isfinite(m)] or [math.nan]
    labels = [number(max(finite), "+.4f"), "by round" if snap.updates else "by episode", number(min(finite), "+.4f")]
    curves = tall_curve(means, view.width - 12, len(labels))
    lines += [Text.assemble((f"{label:<12}", FAINT), (line, NOTE)) for label, line in zip(labels, curves, strict=True)]
    return Text("\n").join(lines)


# -- where the time goes -----------------------------------------------------------------------------


def spent(snapshot: Snapshot) -> tuple[str, dict[str, float]]:
    """Seconds by part of the last round, or else of the environments' last steps; and of what they are."""
    if snapshot.updates:
        update = snapshot.updates[-1]
        return f"round {update.round}", _ordered(update.time_s_by_part)
    steps = [env.step for env in snapshot.envs.values() if env.step is not None]
    return "the last steps", {part: sum(getattr(step, f"{part}_s") for step in steps) for part in PARTS[:3]}


def _ordered(parts: Mapping[str, float]) -> dict[str, float]:
    names = [*(p for p in PARTS if p in parts), *(p for p in parts if p not in PARTS)]
    return {name: parts[name] for name in names}


def time_line(view: View) -> list[Text]:
    """The parts that take the most time; a line, or two if it must."""
    what, parts = spent(view.snapshot)
    total = sum(parts.values())
    if not total:
        return [row([Text("time", style="bold"), "not measured yet"], "  ")]
    pieces: list[Text | str] = [Text.assemble(("time", "bold"), f" of {what}")]
    greatest = sorted(parts.items(), key=lambda pair: -pair[1])[:3]
    for i, (name, seconds) in enumerate(greatest):
        text = f"{name} {seconds / total:.0%}"
        pieces.append(row([text, bar(seconds / total, 6, NOTE)]) if i < 2 else text)
    rest = total - sum(seconds for _, seconds in greatest)
    return flow([*pieces, *([f"rest {rest / total:.0%}"] if len(greatest) < len(parts) else [])], view.width)


def time_panel(view: View) -> Text:
    """A bar for each part, with its share and its seconds."""
    what, parts = spent(view.snapshot)
    total = sum(parts.values())
    if not total:
        return Text("not measured yet", style=FAINT)
    history = view.snapshot.updates
    wide = view.width >= 70
    lines = []
    for name, seconds in parts.items():
        share = seconds / total
        cells: list[Text | str] = [fit(name, 10), bar(share, max(4, view.width - (48 if wide else 31)), NOTE)]
        cells += [f"{share:>6.1%}", f"{seconds:>9.3f} s"]
        if wide:
            cells.append(Text(curve([u.time_s_by_part.get(name, math.nan) for u in history], 16), style=FAINT))
        lines.append(row(cells))
    source = "wall clock" if history else "the environments' threads"
    lines.append(Text(f"of {what}: {duration(total)}, {source}", style=FAINT))
    return Text("\n").join(lines)
