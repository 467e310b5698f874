"""What the measurements of speed share: sides timed in turn, ratios with their spread, targets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Target(NamedTuple):
    """A line of the table of targets."""

    what: str
    goal: str
    measured: str
    met: bool | None
    """``None``: measured, but not what the goal speaks of."""


class Report(NamedTuple):
    """What a measurement says: a Markdown text, and the targets it is about."""

    text: str
    targets: list[Target]


def seconds(call: Callable[[], Any]) -> float:
    """Time one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_turn(sides: Mapping[str, Callable[[], Any]], repeats: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of every side, called one after the other `repeats` times, after `warm_up` calls that do not count."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(warm_up + repeats):
        for name, call in sides.items():
            took = seconds(call)
            if i >= warm_up:
                times[name].append(took)
    return times


def medians(sides: Mapping[str, Callable[[], Any]], repeats: int, warm_up: int = 1) -> dict[str, float]:
    """The median of `in_turn` for every side."""
    return {name: float(np.median(times)) for name, times in in_turn(sides, repeats, warm_up).items()}


def spread(values: ArrayLike, form: str = ".2f") -> str:
    """Median, lowest and highest: of processes, whatever the values are."""
    array = np.asarray(values, float)
    return f"{np.median(array):{form}} [{array.min():{form}}, {array.max():{form}}]"


def each(rows: Iterable[Mapping[str, Any]], *keys: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """One number of every row, by the path of its keys."""
    out = []
    for row in rows:
        value: Any = row
        for key in keys:
            value = value[key]
        out.append(float(value))
    return np.array(out)
