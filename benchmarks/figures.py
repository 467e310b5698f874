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
from benchmarks.compare import RETURN, TEST, Results, rank
from benchmarks.episodes import Row
from esper_agents.pictures import draw_lives
from esper_agents.runner import EpisodeRecord
from esper_env import EsperEnv

STYLES = {
    "wait": ("#7F7F7F", "o"),
    "random": ("#CC79A7", "v"),
    "periodic": ("#56B4E9", "^"),
    "heuristic": ("#E69F00", "s"),
    "fixed_schedule": ("#009E73", "D"),
    "random_search": ("#0072B2", "P"),
    "learned": ("#D55E00", "*"),
    "learned on CifarBaseline": ("#8B4513", "<"),
    "learned on CifarVaried": ("#B8860B", ">"),
    "learned on FashionBaseline": ("#7F3C8D", "X"),
    "static_final:learned": ("#000000", "d"),
    "static_flops:learned": ("#2F4F4F", "h"),
}
"""Colour and marker of the groups that are evaluated, the same in every picture; mostly Okabe and Ito's palette."""
SPARE = ("#1F77B4", "#E377C2", "#17BECF", "#8C564B", "#BCBD22")


def styles(results: Results) -> dict[str, tuple[str, str]]:
    """Colour and marker of each group."""
    others = [name for name in results.groups if name not in STYLES]
    return {name: STYLES.get(name) or (SPARE[others.index(name) % len(SPARE)], "p") for name in results.groups}


def frontier(results: Results, path: Path) -> None:
    """Quality against cost, twice: total FLOPs, and parameters."""
    figure = Figure(figsize=(12, 5.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    shown = quality_against(left, results, "flops_total", "total FLOPs of an episode")
    quality_against(right, results, "params", "parameters at the end")
    _finish(figure, shown, results.task, path)


def overview(tasks: Sequence[Results], path: Path) -> None:
    """Quality against FLOPs, a panel for each task."""
    figure = Figure(figsize=(max(8.0, 4.8 * len(tasks)), 5.2), layout="constrained")
    shown: dict[str, Any] = {}
    for axes, results in zip(figure.subplots(1, len(tasks), squeeze=False).flat, tasks, strict=True):
        shown |= quality_against(axes, results, "flops_total", "total FLOPs of an episode")
        axes.set_title(f"{results.name}, {len(results.seeds)} seeds")
    _finish(figure, {name: shown[name] for name in sorted(shown, key=rank)}, "Quality and cost", path)


def _finish(figure: Figure, shown: dict[str, Any], title: str, path: Path) -> None:
    figure.suptitle(f"{title}: means with 95 % intervals; grey line: the best accuracy for the cost", fontsize=11)
    columns = int(figure.get_figwidth() / 2)
    figure.legend([*shown.values()], [*shown], loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
    figure.savefig(path, dpi=90)


def quality_against(axes: Axes, results: Results, field: str, label: str) -> dict[str, Any]:
    """Draw every group's test accuracy over WAIT's of the same seed against a field; return what a legend shows."""
    base, told = (results.scores("wait", TEST, 100.0), " over WAIT's") if "wait" in results.groups else (0.0, "")
    points, shown = [], {}
    for name, (colour, marker) in styles(results).items():
        gain = statistics.estimate(statistics.mean, results.scores(name, TEST, 100.0) - base)
        x = results.mean(name, field)
        bars = [[gain.value - gain.low], [gain.high - gain.value]]
        size = 12 if marker == "*" else 7
        look: Any = {"color": colour, "ms": size, "mec": "white", "mew": 0.6, "capsize": 2, "elinewidth": 1}
        shown[name] = axes.errorbar(x, gain.value, yerr=bars, fmt=marker, **look)
        points.append((x, gain.value))
    points.sort()
    heights = np.maximum.accumulate([y for _, y in points])
    axes.step([x for x, _ in points], heights, where="post", color="#BBBBBB", lw=1, zorder=0)
    axes.set(xlabel=label, ylabel=f"test accuracy{told}, {'points' if told else '%'}")
    axes.grid(alpha=0.25)
    return shown


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
            colour, _ = styles(results)[name]
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
    for name, (colour, _) in styles(results).items():
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
    for axes, (name, (colour, _)) in zip(panels.flat, styles(results).items(), strict=False):
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
