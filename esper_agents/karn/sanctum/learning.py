"""Whether the policy learns: how episodes ended at either end of the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from rich.text import Text

from esper_agents.karn.sanctum.figures import BAD, FAINT, GOOD, NOTE, WARN, curve, flow, mean, row, tall_curve
from esper_agents.karn.sanctum.view import View
from esper_agents.karn.snapshot import Episode, Snapshot
from esper_agents.karn.trend import Change, ends, is_trained, kept_accuracy, learned, sound
from esper_agents.karn.words import number
from esper_env.leyline.events import EpisodeEnd

STYLES: Final = {"good": f"bold {GOOD}", "bad": f"bold {BAD}", "warn": WARN, "": FAINT}
"""Of verdicts."""
FIGURES: Final[tuple[tuple[str, str, Callable[[EpisodeEnd], float]], ...]] = (
    ("return", "+.4f", lambda end: end.total_return),
    ("accuracy", ".1%", kept_accuracy),
    ("growth", "+.1%", lambda end: end.growth),
    ("seeds kept", ".2f", lambda end: float(end.fossilized)),
)
"""What is told of finished episodes: name, format, value."""
NONE: Final = "no episode has ended yet"


def round_means(snapshot: Snapshot) -> list[float]:
    """The mean return of each round's sound episodes; without a policy that is trained, the return of each."""
    episodes = sound(snapshot)
    if not snapshot.updates:
        return [e.end.total_return for e in episodes]
    means, i = [], 0
    for update in snapshot.updates:
        first = i
        while i < len(episodes) and episodes[i].steps <= update.done_steps:
            i += 1
        means += [] if i == first else [sum(e.end.total_return for e in episodes[first:i]) / (i - first)]
    return means


def _compared(change: Change) -> tuple[str, Text]:
    """Say how much the mean changed, and whether that is more than chance."""
    words, css = change.verdict
    error = "" if change.error is None else f" ± {number(change.error, '.4f')}"
    return f"{number(change.mean, '+.4f')}{error}", Text(words, style=STYLES[css])


def _left_out(snapshot: Snapshot) -> list[Text]:
    failed = len(snapshot.episodes) - len(sound(snapshot))
    return [Text(f"{failed} ended in an error: left out", style=WARN)] if failed else []


def learning(view: View) -> list[Text]:
    """The returns of the last episodes against those of the first, and their curve; a line, or two if it must."""
    snap = view.snapshot
    label, left_out = Text("return", style="bold"), _left_out(snap)
    episodes, change = sound(snap), learned(snap)
    if not episodes:
        return flow([label, NONE, *left_out], view.width)
    if not is_trained(snap):
        text = f"mean of {len(episodes)} episodes: {number(_mean_return(episodes), '+.4f')}"
        pieces: list[Text | str] = [text, Text("nothing is trained here", style=FAINT)]
    elif change is None:
        text = f"of the first episode {number(episodes[0].end.total_return, '+.4f')}"
        pieces = [text, Text("too few episodes to tell", style=FAINT)]
    else:
        (first, last), (told, verdict) = ends(snap), _compared(change)
        pieces = [
            f"first {len(first)}: {number(_mean_return(first), '+.4f')}",
            f"last {len(last)}: {number(_mean_return(last), '+.4f')}",
        ]
        pieces += [verdict, *([told] if view.width >= 100 else [])]
    pieces += left_out
    means, kind = round_means(snap), "by round" if snap.updates else "by episode"
    room = view.width - row([label, *pieces, kind], "  ").cell_len - 3
    return flow([label, *pieces, Text.assemble((curve(means, min(40, max(4, room))), NOTE), f" {kind}")], view.width)


def _mean_return(episodes: Sequence[Episode]) -> float | None:
    return mean([e.end.total_return for e in episodes])


def learning_panel(view: View) -> Text:
    """The same as a table, with what else the episodes ended with, and the curve of the return."""
    snap = view.snapshot
    (first, last), change = ends(snap), learned(snap)
    if not last:
        return Text("\n").join([Text(NONE, style=FAINT), *_left_out(snap)])
    titles = (f"first {len(first)}" if first else "", f"last {len(last)}" if first else f"all {len(last)}")
    left_out = row(["", *_left_out(snap)], "   ")
    lines = [Text.assemble(Text.assemble(f"{'episodes:':<12}", *(f"{t:>10}" for t in titles), style=FAINT), left_out)]
    for name, spec, each in FIGURES:
        before, after = ([each(e.end) for e in end] for end in (first, last))
        told = "".join(f"{number(mean(end), spec) if end else '':>10}" for end in (before, after))
        compared = row(reversed(_compared(change)), "  ") if change is not None and name == "return" else Text()
        if change is None and name == "return" and is_trained(snap):
            compared = Text("too few episodes to tell", style=FAINT)
        lines.append(Text.assemble((f"{name:<12}", "" if name == "return" else FAINT), told, "   ", compared))
    means = round_means(snap)
    finite = [m for m in means if math.isfinite(m)] or [math.nan]
    labels = [number(max(finite), "+.4f"), "by round" if snap.updates else "by episode", number(min(finite), "+.4f")]
    curves = tall_curve(means, view.width - 12, len(labels))
    lines += [Text.assemble((f"{label:<12}", FAINT), (line, NOTE)) for label, line in zip(labels, curves, strict=True)]
    return Text("\n").join(lines)
