"""The benchmark's pictures of one task."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import statistics
from benchmarks.compare import RETURN, TEST, Results, place
from benchmarks.episodes import Row
from esper_agents.pictures import draw_lives
from esper_agents.runner import EpisodeRecord
from esper_env import EsperEnv

CYCLE = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
    *("#999999", "#F0E442", "#7F3C8D", "#8B4513", "#2F4F4F", "#B8E186"),
)
"""Okabe and Ito's palette and some more."""
FRONT = "means with 95 % intervals; circles: nothing else is better in accuracy, FLOPs and stability"


def colours(results: Results) -> dict[str, str]:
    """A colour for each group, the same in every picture of a task."""
    return {name: CYCLE[i % len(CYCLE)] for i, name in enumerate(results.groups)}


def frontier(results: Results, path: Path) -> None:
    """Quality against cost, twice: total FLOPs, and parameters."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    quality_against(left, results, "flops_total", "total FLOPs of an episode")
    quality_against(right, results, "params", "parameters at the end")
    figure.suptitle(f"{results.task}: {FRONT}")
    figure.savefig(path, dpi=90)


def overview(tasks: Sequence[Results], path: Path) -> None:
    """Quality against FLOPs, a panel for each task."""
    figure = Figure(figsize=(max(8.0, 5.5 * len(tasks)), 5), layout="constrained")
    for axes, results in zip(figure.subplots(1, len(tasks), squeeze=False).flat, tasks, strict=True):
        quality_against(axes, results, "flops_total", "total FLOPs of an episode")
        axes.set_title(f"{results.task}, {len(results.seeds)} seeds")
    figure.suptitle(FRONT)
    figure.savefig(path, dpi=90)


def quality_against(axes: Axes, results: Results, field: str, label: str) -> None:
    """Draw every group's test accuracy against a field."""
    front = statistics.front({name: place(results, name) for name in results.groups})
    places = {name: results.mean(name, field) for name in results.groups}
    far = min(places.values()) + 0.8 * np.ptp([*places.values()])
    for name, colour in colours(results).items():
        quality, x = results.points(name, TEST), places[name]
        bars = [[quality.value - quality.low], [quality.high - quality.value]]
        axes.errorbar(x, quality.value, yerr=bars, fmt="o" if name in front else "x", color=colour, capsize=3)
        side, shift = ("right", -5) if x > far else ("left", 5)  # the text stays within the axes
        where: Any = {"xytext": (shift, 4), "textcoords": "offset points", "ha": side}
        axes.annotate(name, (x, quality.value), fontsize=8, color=colour, **where)
    axes.set(xlabel=label, ylabel="test accuracy, %")
    axes.grid(alpha=0.25)
    axes.margins(x=0.2)


def intervals(results: Results, path: Path) -> None:
    """Every episode less WAIT's of the same seed, in return and in test accuracy, and the means with intervals."""
    base = "wait" if "wait" in results.groups else next(iter(results.groups))
    names = [name for name in results.groups if name != base]
    figure = Figure(figsize=(13, 1.2 + 0.55 * len(names)), layout="constrained")
    for axes, (field, label) in zip(
        figure.subplots(1, 2, sharey=True), ((RETURN, "return"), (TEST, "test accuracy")), strict=True
    ):
        below = results.scores(base, field, 100.0)
        for y, name in enumerate(names):
            mine = results.scores(name, field, 100.0)
            colour = colours(results)[name]
            for i, run in enumerate(mine):
                height = y + (i + 1) * 0.5 / (len(mine) + 1) - 0.1
                axes.plot(
                    run - below.mean(0),
                    np.full(len(run), height),
                    "|",
                    color=colour,
                    alpha=0.45,
                    ms=15 / (len(mine) + 1),
                )
            found = statistics.estimate(statistics.mean_difference, mine, below)
            bars = [[found.value - found.low], [found.high - found.value]]
            axes.errorbar(found.value, y - 0.22, xerr=bars, fmt="o", color=colour, capsize=3)
        axes.axvline(0.0, color="black", lw=0.8)
        axes.set(xlabel=f"{label} over {base} on the same seed, points", yticks=range(len(names)), yticklabels=names)
        axes.grid(axis="x", alpha=0.25)
    axes.invert_yaxis()  # of both, which share it
    figure.suptitle(f"{results.task}: every episode a stroke, a line for each training run; means with 95 % intervals")
    figure.savefig(path, dpi=90)


def profiles(results: Results, path: Path) -> None:
    """The share of episodes whose return exceeds a threshold."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    scores = {name: results.scores(name, "episode_return", 100.0) for name in results.groups}
    every = np.concatenate([s.ravel() for s in scores.values()])
    thresholds = np.linspace(every.min() - 0.5, every.max() + 0.5, 200)
    for name, colour in colours(results).items():
        axes.plot(thresholds, statistics.profile(scores[name], thresholds.tolist()), color=colour, label=name)
    axes.set(xlabel="return, points", ylabel="share of episodes above", title=f"{results.task}: performance profiles")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=90)


def curves(results: Results, path: Path) -> None:
    """Validation accuracy by epoch: every seed thin, the mean thick."""
    names = list(results.groups)
    columns = min(4, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(4 * columns, 3 * lines), layout="constrained")
    panels: Any = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for axes, (name, colour) in zip(panels.flat, colours(results).items(), strict=False):
        drawn = [100 * np.array(json.loads(row.curve)) for run in results.groups[name] for row in run]
        for curve in drawn:
            axes.plot(np.arange(1, len(curve) + 1), curve, color=colour, alpha=0.2, lw=0.6)
        if len({len(curve) for curve in drawn}) == 1:
            axes.plot(np.arange(1, len(drawn[0]) + 1), np.mean(drawn, 0), color=colour, lw=2)
        axes.set_title(name, fontsize=9)
        axes.grid(alpha=0.25)
    for axes in panels.flat[len(names) :]:
        axes.set_axis_off()
    figure.supxlabel("epoch")
    figure.supylabel("validation accuracy, %")
    figure.suptitle(f"{results.task}: every episode")
    figure.savefig(path, dpi=90)


def timelines(results: Results, path: Path) -> None:
    """The slots' lives of each group's first run on the first seed."""
    shown = {name: record(runs[0][0]) for name, runs in results.groups.items() if not name.startswith("static_")}
    draw_lives(shown, path, f"{results.task}, seed {results.seeds[0]}")


def record(row: Row) -> EpisodeRecord:
    """The episode of a row."""
    env = gymnasium.make(row.task, **json.loads(row.arguments)).unwrapped
    assert isinstance(env, EsperEnv)
    series = {name: np.array(json.loads(getattr(row, name))) for name in ("stages", "blueprints", "alphas")}
    return EpisodeRecord(
        seed=row.seed,
        slots=env.layout.slots,
        blueprint_names=env.settings.blueprints,
        actions=tuple(env.action_table[action] for action in json.loads(row.actions)),
        rewards=np.array([row.episode_return]),
        val_accuracy=np.array(json.loads(row.curve)),
        final={"committed_accuracy": row.committed_accuracy, "params": row.params},
        **series,
    )


PICTURES: dict[str, Callable[[Results, Path], None]] = {
    "frontier": frontier,
    "intervals": intervals,
    "profiles": profiles,
    "curves": curves,
    "timelines": timelines,
}
"""Every picture of a task by name."""
