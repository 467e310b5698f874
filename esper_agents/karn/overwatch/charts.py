"""Curves, points and bars. They stretch to the room there is; their texts do not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from esper_agents.karn.overwatch.markup import Html, join, tag
from esper_agents.karn.overwatch.words import UNITS

POINTS: Final = 400
"""Points of a curve that are drawn, at most."""
SPARKS: Final = 80
"""The same of a small curve."""
STYLES: Final = 8
"""Colours and dashes that tell curves apart."""


class Point(NamedTuple):
    """A point of a chart."""

    x: float
    y: float
    title: str = ""
    """What is told of it to who points at it."""


@dataclass(frozen=True)
class Series:
    """Points of a chart that belong together. Those that are not finite are left out."""

    name: str
    points: Sequence[Point]
    kind: Literal["line", "dots"]
    style: int = 0
    """Which colour, dash and symbol."""


def thinned(count: int, limit: int) -> list[int]:
    """At most `limit` of `count` indices, evenly spread, with the first and the last."""
    if count <= limit:
        return list(range(count))
    return [round(i * (count - 1) / (limit - 1)) for i in range(limit)]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(s * size for s in (1, 2, 2.5, 5, 10) if s * size >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def axis_texts(values: Sequence[float], sign: bool = False) -> list[str]:
    """Texts for the numbers of an axis, in one unit and with as many digits as they need."""
    greatest = max(map(abs, values))
    size, unit = next(((s, u) for s, u in UNITS if greatest >= s), (1.0, ""))
    scaled = [v / size for v in values]
    digits = next(
        (d for d in range(9) if all(abs(round(v, d) - v) < 1e-9 * max(1.0, greatest / size) for v in scaled)), 9
    )
    return [f"{v + 0.0:{'+' if sign else ''}.{digits}f}{unit}" for v in scaled]


def sparkline(values: Sequence[float | None], label: str) -> Html:
    """A curve the size of a word; what was not measured or is not finite leaves a gap."""
    kept = [values[i] for i in thinned(len(values), SPARKS)]
    finite = [v for v in kept if v is not None and math.isfinite(v)]
    if len(finite) < 2:
        return Html("")
    low, span = min(finite), max(finite) - min(finite)
    pieces: list[str] = []
    pen = "M"
    for i, value in enumerate(kept):
        if value is None or not math.isfinite(value):
            pen = "M"
            continue
        y = 18 - 16 * ((value - low) / span if span else 0.5)
        pieces.append(f"{pen}{100 * i / max(1, len(kept) - 1):.1f} {y:.1f}")
        pen = "L"
    line = tag("path", d=" ".join(pieces), class_="curve")
    return tag(
        "svg", line, class_="spark", viewBox="0 0 100 20", preserveAspectRatio="none", role="img", aria_label=label
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def plot(
    series: Sequence[Series],
    *,
    label: str,
    x_name: str,
    y_name: str,
    y_sign: bool = False,
    x_zero: bool = False,
) -> Html:
    """A chart with two axes and a legend; nothing, if no point is finite.

    Args:
        series: what is drawn.
        label: what the chart shows, for those who do not see it.
        x_name: what is to the right, and its unit.
        y_name: what is upwards, and its unit.
        y_sign: numbers of the upward axis have a sign.
        x_zero: the axis to the right begins at 0.
    """
    drawn = [[p for p in s.points if math.isfinite(p.x) and math.isfinite(p.y)] for s in series]
    every = [point for points in drawn for point in points]
    if not every:
        return Html("")
    x, y = _range([*(p.x for p in every), *([0.0] if x_zero else [])]), _range([p.y for p in every])
    if x_zero:
        x = (0.0, x[1])

    def at(point: Point) -> str:
        return f"{1000 * (point.x - x[0]) / (x[1] - x[0]):.1f} {1000 * (y[1] - point.y) / (y[1] - y[0]):.1f}"

    x_ticks, y_ticks = ticks(*x), ticks(*y)
    lines = [tag("path", d=f"M0 {at(Point(x[0], v)).split()[1]} H1000", class_="gridline") for v in y_ticks]
    shapes = [_shape(s, points, at) for s, points in zip(series, drawn, strict=True)]
    picture = tag(
        "svg", lines, shapes, viewBox="0 0 1000 1000", preserveAspectRatio="none", role="img", aria_label=label
    )
    y_shares = [100 * (v - y[0]) / (y[1] - y[0]) for v in y_ticks]
    y_texts = axis_texts(y_ticks, y_sign)
    y_labels = [tag("span", t, style=f"bottom:{share:.1f}%") for t, share in zip(y_texts, y_shares, strict=True)]
    x_shares = [100 * (v - x[0]) / (x[1] - x[0]) for v in x_ticks]
    x_labels = [
        tag("span", text, style=f"left:{share:.1f}%;--share:{-share:.0f}%")
        for text, share in zip(axis_texts(x_ticks), x_shares, strict=True)
    ]
    return tag(
        "figure",
        tag("div", y_name, class_="y-name"),
        tag("div", y_labels, class_="y-labels", aria_hidden="true"),
        tag("div", picture, class_="drawing"),
        tag("div", x_labels, class_="x-labels", aria_hidden="true"),
        tag("div", x_name, class_="x-name"),
        tag("figcaption", [_key(s) for s in series if s.points]),
        class_="plot",
    )


def _shape(series: Series, points: Sequence[Point], at: Callable[[Point], str]) -> Html:
    chosen = [points[i] for i in thinned(len(points), POINTS)]
    css = f"{series.kind if len(chosen) > 1 else 'dots'} style-{series.style % STYLES}"
    if series.kind == "line" and len(chosen) > 1:
        return tag("path", d="M" + " L".join(map(at, chosen)), class_=css)
    if not any(point.title for point in chosen):
        return tag("path", d=" ".join(f"M{at(point)} h0.01" for point in chosen), class_=css)
    return join([tag("path", tag("title", p.title), d=f"M{at(p)} h0.01", class_=css) for p in chosen])


def _key(series: Series) -> Html:
    d = "M2 6 H22" if series.kind == "line" else "M12 6 h0.01"
    mark = tag("path", d=d, class_=f"{series.kind} style-{series.style % STYLES}")
    swatch = tag("svg", mark, viewBox="0 0 24 12", class_="swatch", aria_hidden="true")
    return tag("span", swatch, series.name, class_="key")


def bar(start: float, end: float, css: str = "plain") -> Html:
    """A bar from `start` to `end` on a track, both shares of its width, 0..1."""
    left, width = min(start, end), abs(end - start)
    style = f"left:{100 * left:.2f}%;width:{100 * width:.2f}%"
    return tag("span", tag("i", style=style, class_=css), class_="track", aria_hidden="true")
