"""Draws episodes: the accuracy curve, and below it the life of every slot."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from esper_agents.report import Span, spans
from esper_agents.runner import EpisodeRecord
from esper_env.leyline import Stage
from esper_env.leyline.lifecycle import OCCUPIED

# Okabe and Ito's palette, which colour-blind readers can tell apart
COLOURS = {
    "germinated": "#F0E442",
    "training": "#E69F00",
    "blending": "#56B4E9",
    "fading": "#CC79A7",
    "holding": "#0072B2",
    "fossilized": "#009E73",
    "at rest": "#BDBDBD",
}
LANE = 0.8
"""Height of a slot's lane at alpha 1, of the 1 between two lanes."""
LABEL_EPOCHS_PER_LETTER = 0.011
"""Share of the episode that one letter of a label takes."""


def draw_lives(records: Mapping[str, EpisodeRecord], path: Path, title: str) -> None:
    """Write a picture with one panel per record, named by its key, to `path`.

    Each panel shows the validation accuracy by epoch with the committed accuracy at the end, and a lane per
    slot: the colour is the stage, the height of the full colour is alpha.
    """
    columns = min(2, len(records))
    rows = -(-len(records) // columns)
    figure = Figure(figsize=(7.5 * columns, 4.2 * rows + 0.9), layout="constrained")
    figure.suptitle(title, fontsize=13)
    top = max(100 * float(record.val_accuracy.max()) for record in records.values()) * 1.12
    panels: Any = figure.subfigures(rows, columns, squeeze=False, wspace=0.03, hspace=0.03)
    for panel, (name, record) in zip(panels.flat, records.items(), strict=False):
        curve, lanes = panel.subplots(2, 1, sharex=True, height_ratios=(1.5, 1.0))
        _draw_curve(curve, name, record, top)
        _draw_lanes(lanes, record)
    handles = [Patch(color=colour, label=name) for name, colour in COLOURS.items()]
    figure.legend(
        handles=handles,
        title="stage of a slot (height of the full colour: alpha)",
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _draw_curve(axes: Any, name: str, record: EpisodeRecord, top: float) -> None:
    epochs = np.arange(1, len(record.actions) + 1)
    axes.plot(epochs, 100 * record.val_accuracy, color="#333333", linewidth=1.4)
    end = 100 * record.final["committed_accuracy" if record.settled else "val_accuracy"]
    axes.plot(epochs[-1], end, "o", color=COLOURS["fossilized"], clip_on=False, zorder=3)
    axes.annotate(
        f"{'committed' if record.settled else 'truncated'} {end:.1f} %",
        (epochs[-1], end),
        xytext=(-6, -28),  # below: curves rise, so there is room
        textcoords="offset points",
        ha="right",
        fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1.0},
    )
    axes.set_title(
        f"{name}: return {record.episode_return:+.3f}, {record.final['params']:,} parameters",
        fontsize=11,
        loc="left",
    )
    axes.set_ylim(0, top)
    axes.set_ylabel("validation\naccuracy, %")
    axes.grid(alpha=0.25)


def _draw_lanes(axes: Any, record: EpisodeRecord) -> None:
    length = len(record.actions)
    for i, name in enumerate(record.slots):
        base = len(record.slots) - 1 - i
        found = spans(record, i)
        for span in found:
            _draw_span(axes, record, i, span, base)
        for first, last in _occupancies(found):
            if (last - first + 1) / length > LABEL_EPOCHS_PER_LETTER * len(_blueprint(found, first)):
                axes.text(first - 0.2, base + LANE / 2, _blueprint(found, first), fontsize=8, va="center")
        axes.axhline(base, color="#999999", linewidth=0.6)
        axes.text(-0.012, base + LANE / 2, name, transform=axes.get_yaxis_transform(), ha="right", va="center")
    axes.set_ylim(-0.08, len(record.slots))
    axes.set_xlim(0, length)
    axes.set_yticks([])
    axes.set_xlabel("epoch")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _draw_span(axes: Any, record: EpisodeRecord, slot: int, span: Span, base: float) -> None:
    if span.stage is Stage.DORMANT:
        return
    colour = COLOURS["at rest" if span.stage not in OCCUPIED else span.name]
    alphas = record.alphas[span.first - 1 : span.last, slot]
    width = span.last - span.first + 1
    outside = span.stage in (Stage.GERMINATED, Stage.TRAINING)
    height = LANE / 8 if span.stage not in OCCUPIED else LANE
    axes.broken_barh([(span.first - 1, width)], (base, height), facecolor=colour, alpha=1.0 if outside else 0.25)
    if not outside:
        axes.bar(np.arange(span.first, span.last + 1) - 0.5, LANE * alphas, width=1.0, bottom=base, color=colour)


def _occupancies(found: list[Span]) -> list[tuple[int, int]]:
    """Return the first and the last epoch of each seed's life."""
    lives: list[tuple[int, int]] = []
    for before, span in pairwise([None, *found]):
        if span is None or span.stage not in OCCUPIED:
            continue
        if before is not None and before.stage in OCCUPIED:
            lives[-1] = (lives[-1][0], span.last)
        else:
            lives.append((span.first, span.last))
    return lives


def _blueprint(found: list[Span], epoch: int) -> str:
    return next(span.blueprint or "" for span in found if span.first <= epoch <= span.last)
