"""The run, its status and its alarms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rich.style import Style
from rich.text import Text

from esper_agents.karn.sanctum.figures import BAD, FAINT, GOOD, NOTE, WARN, bar, fit, flow, moment, row
from esper_agents.karn.sanctum.view import ALARM, View
from esper_agents.karn.snapshot import Status
from esper_agents.karn.words import MISSING, duration, number

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
        first.append(Text(f"lost: {lost}", style=WARN))
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
        return ["the log is empty", "no process writes it"] if status == "dead" else ["no event yet"]
    if status == "dead" and snap.last_s is not None:
        return [f"last event {duration(age)} ago, {moment(snap.last_s, view.now)}", "no process writes its log"]
    pieces = [f"last event {duration(age)} ago"]
    if status in ("slow", "stale"):
        pieces.append(f"never over {duration(snap.longest_gap_s)} before")
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
    if snap.updates and view.width >= 120:
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
