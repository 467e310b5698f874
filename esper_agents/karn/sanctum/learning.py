"""Whether the policy learns: how episodes ended at either end of the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import variance
from typing import Final

from rich.text import Text

from esper_agents.karn.sanctum.figures import BAD, FAINT, GOOD, NOTE, WARN, curve, flow, mean, row, tall_curve
from esper_agents.karn.sanctum.view import View
from esper_agents.karn.snapshot import Episode, Snapshot
from esper_agents.karn.words import number
from esper_env.leyline.events import EpisodeEnd

COMPARED: Final = 20
"""Episodes at either end of the run, at most, whose returns are compared."""
FIGURES: Final[tuple[tuple[str, str, Callable[[EpisodeEnd], float]], ...]] = (
    ("return", "+.4f", lambda end: end.total_return),
    ("accuracy", ".1%", lambda end: end.committed_accuracy),
    ("growth", "+.1%", lambda end: end.growth),
    ("seeds kept", ".2f", lambda end: float(end.fossilized)),
)
"""What is told of finished episodes: name, format, value."""


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
