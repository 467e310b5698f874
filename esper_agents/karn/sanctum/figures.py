"""Bars, curves and rows as text."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

from rich.style import Style
from rich.text import Text

from esper_agents.karn.words import number

GOOD, WARN, BAD, NOTE, FAINT = "#4cc38a", "#f0c040", "#ff7b72", "#56b4e9", "#9a9a9a"
TRACK: Final = "#3a3a3a"
"""Behind a bar."""
HEIGHTS: Final = "▁▂▃▄▅▆▇█"
WIDTHS: Final = " ▏▎▍▌▋▊▉"


def moment(time_s: float, now: float) -> str:
    """Say a Unix time in this machine's time zone, with the date unless it is today's."""
    then = time.localtime(time_s)
    today = then[:3] == time.localtime(now)[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M", then)


def mean(values: Sequence[float]) -> float | None:
    """The mean, NaN if a value is; ``None`` of nothing."""
    return sum(values) / len(values) if values else None


def height(share: float) -> str:
    """A bar of one character that grows upwards; `share` is 0..1."""
    return HEIGHTS[min(7, max(0, int(share * 8)))] if math.isfinite(share) else "?"


def bar(share: float | None, width: int, colour: str) -> Text:
    """A bar that grows to the right; `share` is 0..1."""
    if share is None or not math.isfinite(share):
        return Text(number(share, "").ljust(width)[:width], style=FAINT)
    full, eighths = divmod(round(min(1.0, max(0.0, share)) * width * 8), 8)
    drawn = "█" * full + (WIDTHS[eighths] if full < width else "")
    return Text(drawn.ljust(width), style=Style(color=colour, bgcolor=TRACK))


def curve(values: Sequence[float], width: int) -> str:
    """A sparkline, `width` characters at most: from the least value to the greatest, the means of neighbours."""
    return "".join(height(share) for share in _shares(values, width))


def tall_curve(values: Sequence[float], width: int, lines: int) -> list[str]:
    """The same, `lines` lines high."""
    drawn = []
    for floor in reversed(range(lines)):
        parts = [share * lines - floor for share in _shares(values, width)]
        drawn.append("".join(" " if part < 0 and floor else height(part) for part in parts))
    return drawn


def _shares(values: Sequence[float], width: int) -> list[float]:
    if not values or width < 1:
        return []
    count = min(width, len(values))
    edges = [i * len(values) // count for i in range(count + 1)]
    bins = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    finite = [v for v in bins if math.isfinite(v)]
    low, span = min(finite, default=0.0), max(finite, default=0.0) - min(finite, default=0.0)
    return [(v - low) / span if span else 0.5 + 0.0 * v for v in bins]


def fit(text: Text | str, width: int, right: bool = False) -> Text:
    """Make `text` exactly `width` characters wide; what does not fit is cut, and an ellipsis tells."""
    cell = Text(text) if isinstance(text, str) else text.copy()
    cell.truncate(width, overflow="ellipsis")
    if right:
        cell.pad_left(max(0, width - cell.cell_len))
    cell.align("left", width)
    return cell


def flow(pieces: Iterable[Text | str], width: int, indent: int = 0) -> list[Text]:
    """Set pieces side by side, on as many lines as they need; `indent` is of all but the first."""
    lines: list[Text] = []
    for piece in pieces:
        text = Text(piece) if isinstance(piece, str) else piece
        if lines and lines[-1].cell_len + 2 + text.cell_len <= width:
            lines[-1] = Text.assemble(lines[-1], "  ", text)
        else:
            lines.append(Text.assemble(" " * indent if lines else "", text))
    return lines


def row(cells: Iterable[Text | str], gap: str = " ") -> Text:
    """Join the cells of a table's row."""
    return Text(gap).join(Text(c) if isinstance(c, str) else c for c in cells)


def beside(left: Sequence[Text], right: Sequence[Text], width: int, gap: int = 2) -> list[Text]:
    """Set two blocks of lines side by side; the left one is `width` wide."""
    count = max(len(left), len(right))
    empty = Text()
    columns = ([*block, *[empty] * (count - len(block))] for block in (left, right))
    return [Text.assemble(fit(a, width), " " * gap, b) for a, b in zip(*columns, strict=True)]
