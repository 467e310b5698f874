"""Draws an environment's present state, as text or as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from esper_env.accounting import added_params
from esper_env.info import total_params
from esper_env.kasmina import Slot
from esper_env.leyline import Stage
from esper_env.leyline.lifecycle import UNCOMMITTED

if TYPE_CHECKING:
    from esper_env.env import EsperEnv

WIDTH, HEIGHT = 960, 540
"""Pixels of a picture."""

BAR = 10
"""Characters of an alpha bar."""

STAGE_COLOURS = {
    Stage.DORMANT: "#e6e6e6",
    Stage.GERMINATED: "#f0e442",
    Stage.TRAINING: "#e69f00",
    Stage.BLENDING: "#56b4e9",
    Stage.HOLDING: "#0072b2",
    Stage.FOSSILIZED: "#009e73",
    Stage.PRUNED: "#d55e00",
    Stage.EMBARGOED: "#b0a8a0",
    Stage.RESETTING: "#cfc9c3",
}
"""Colours that stay apart for colour-blind readers (Okabe and Ito, https://jfly.uni-koeln.de/color/)."""

_DARK, _GREY, _FAINT = "#222222", "#777777", "#bbbbbb"
_STREAM, _BOX = 0.22, 0.34  # heights of the stream and of the lower edge of a slot's box


@dataclass(frozen=True)
class SlotView:
    """What is drawn of one slot."""

    name: str
    position: int
    shape: tuple[int, int, int]
    stage: Stage
    seed: str
    """Blueprint and style, or the empty string."""
    params: int
    alpha: float
    target: float | None
    note: str
    """How long it has been in its stage, and what is known of its effect."""


@dataclass(frozen=True)
class View:
    """What both forms of rendering draw."""

    title: str
    shape: tuple[int, int, int]
    boundaries: tuple[str, ...]
    slots: tuple[SlotView, ...]
    epoch: int
    episode_length: int
    classes: int
    accuracies: tuple[float, ...]
    figures: tuple[tuple[str, str], ...]
    """Labels and values, in the order of reading."""
    error: str | None


def render(env: EsperEnv) -> str | NDArray[np.uint8]:
    """Draw the present state as `env.render_mode` says: text, or RGB uint8 (540, 960, 3).

    Raises:
        RuntimeError: no episode has begun.
    """
    view = look(env)
    return text(view) if env.render_mode == "ansi" else picture(view)


def look(env: EsperEnv) -> View:
    """Collect what is drawn of `env`. What was not measured is said to be so."""
    episode, model, provenance = env.episode, env.episode.model, env.provenance
    accuracy = env.history.accuracies[-1] if env.history.accuracies else None
    figures = (
        ("validation loss", f"{env.history.losses[-1]:.4f}" if env.history.losses else "not measured"),
        ("validation accuracy", "not measured" if accuracy is None else _percent(accuracy)),
        ("training accuracy", "not measured" if accuracy is None else _percent(accuracy + env.history.gap)),
        ("value", _percent(env.value)),
        ("rent due", f"{100 * env.rent.total(model):.2f} points"),
        ("parameters", f"{total_params(model):,}"),
        ("host parameters", f"{model.host_size:,}"),
        ("growth", f"{100 * added_params(model) / model.host_size:+.1f} %"),
        ("rollbacks", str(episode.rollbacks)),
    )
    return View(
        title=f"{env.settings.task.name} on {provenance['dataset']}",
        shape=env.data.shape,
        boundaries=model.host.boundaries,
        slots=tuple(_slot_view(slot, model.shapes[slot.position]) for slot in model.stream),
        epoch=episode.epoch,
        episode_length=env.settings.episode_length,
        classes=env.data.num_classes,
        accuracies=tuple(env.tally.accuracies),
        figures=figures,
        error=provenance["error"],
    )


def _slot_view(slot: Slot, shape: tuple[int, int, int]) -> SlotView:
    seed = "" if slot.blueprint is None else f"{slot.blueprint} ({slot.style})"
    notes = []
    if slot.stage is not Stage.DORMANT:
        notes.append("1 epoch" if slot.epochs_in_stage == 1 else f"{slot.epochs_in_stage} epochs")
    if slot.fading:
        notes.append("fading")
    elif slot.stage in UNCOMMITTED and slot.evidence.effect is not None:
        notes.append(f"effect {100 * slot.evidence.effect:+.1f} pt")
    return SlotView(
        name=slot.name,
        position=slot.position,
        shape=shape,
        stage=slot.stage,
        seed=seed,
        params=0 if slot.seed is None else slot.seed.size,
        alpha=slot.alpha.value,
        target=slot.alpha.target,
        note=", ".join(notes),
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _size(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape))


# -- text ----------------------------------------------------------------------------------------------


def text(view: View) -> str:
    """Draw `view` as lines of text: the host from its input down to its logits, then the numbers."""
    by_position = {slot.position: slot for slot in view.slots}
    lines = [
        f"{view.title}, epoch {view.epoch}/{view.episode_length}",
        "",
        f"  images {_size(view.shape)}",
    ]
    for position, name in enumerate(view.boundaries, start=1):
        slot = by_position.get(position)
        lines.append(f"  │   {name}" if slot is None else f"  ├── {_slot_line(slot)}".rstrip())
    lines += [f"  logits {view.classes}", ""]
    lines += [f"  {label:<20} {value:>14}" for label, value in view.figures]
    if view.error is not None:
        lines += ["", f"  the episode failed: {view.error}"]
    return "\n".join(lines)


def _slot_line(slot: SlotView) -> str:
    head = f"{slot.name:<5} {_size(slot.shape):<9} {slot.stage.name:<10}"
    if not slot.seed:
        return f"{head} {slot.note}"
    filled = round(BAR * slot.alpha)
    bar = "█" * filled + "░" * (BAR - filled)
    return f"{head} {slot.seed:<21} alpha {bar} {slot.alpha:.2f}{_target(slot):<8} {slot.note}"


def _target(slot: SlotView) -> str:
    return "" if slot.target is None or slot.target == slot.alpha else f" to {slot.target:.2f}"


# -- picture -------------------------------------------------------------------------------------------


def picture(view: View) -> NDArray[np.uint8]:
    """Draw `view` as RGB uint8 (540, 960, 3); equal views give equal pixels."""
    import matplotlib  # noqa: PLC0415 - slow to import, and needed here only
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the caller has set must not change the picture
        figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100, facecolor="white")
        canvas = FigureCanvasAgg(figure)
        _draw_title(figure, view)
        _draw_host(figure.add_axes((0.02, 0.53, 0.96, 0.345)), view)
        _draw_curve(figure.add_axes((0.065, 0.1, 0.6, 0.36)), view)
        _draw_figures(figure, view)
        canvas.draw()
        return np.array(canvas.buffer_rgba(), np.uint8)[:, :, :3].copy()


def _draw_title(figure: Any, view: View) -> None:
    figure.text(0.02, 0.935, view.title, fontsize=14, weight="bold", color=_DARK)
    figure.text(0.98, 0.935, f"epoch {view.epoch} of {view.episode_length}", fontsize=12, ha="right", color=_DARK)
    bar = figure.add_axes((0.02, 0.905, 0.96, 0.012))
    bar.set(xlim=(0, view.episode_length), ylim=(0, 1))
    bar.barh(0.5, view.episode_length, 1, color="#e6e6e6")
    bar.barh(0.5, view.epoch, 1, color="#555555")
    bar.axis("off")


def _draw_host(axes: Any, view: View) -> None:
    """The stream from left to right, a tick at each boundary, a box above each slot."""
    end = len(view.boundaries) + 1
    axes.set(xlim=(-0.45, end + 0.45), ylim=(0, 1))
    axes.axis("off")
    axes.annotate("", (end, _STREAM), (0, _STREAM), arrowprops={"arrowstyle": "-|>", "color": _GREY, "lw": 2})
    labels = {0: f"images\n{_size(view.shape)}", end: f"logits\n{view.classes}"}
    colours = {0: _DARK, end: _DARK}
    width = _box_width(view)
    for slot in view.slots:
        labels[slot.position] = f"{slot.name}\n{_size(slot.shape)}"
        colours[slot.position] = _DARK
        axes.plot([slot.position] * 2, [_STREAM, _BOX], color=_GREY, lw=1.2, zorder=0)
        _draw_slot(axes, slot, width, narrow=width / (end + 0.9) < 0.15)
    for position, name in enumerate(["", *view.boundaries, ""]):
        colour = colours.get(position, _FAINT)
        label = labels.get(position, name)
        axes.text(position, _STREAM - 0.06, label, ha="center", va="top", fontsize=8, color=colour)
        if 0 < position < end:
            axes.plot([position], [_STREAM], "o", color=colour, markersize=6)


def _box_width(view: View) -> float:
    """Width of a slot's box, in positions: as wide as the nearest neighbours allow, within limits."""
    positions = [slot.position for slot in view.slots]
    nearest = min((b - a for a, b in pairwise(positions)), default=2)
    return min(0.94 * nearest, 0.2 * (len(view.boundaries) + 2))


def _draw_slot(axes: Any, slot: SlotView, width: float, narrow: bool) -> None:
    x, left = slot.position, slot.position - width / 2
    axes.barh((_BOX + 1) / 2, width, 1 - _BOX, left=left, color="white", edgecolor=_FAINT)
    axes.barh(0.92, width, 0.16, left=left, color=STAGE_COLOURS[slot.stage])
    plain = {"ha": "center", "va": "center", "fontsize": 7 if narrow else 9}
    on_dark = slot.stage in (Stage.HOLDING, Stage.FOSSILIZED, Stage.PRUNED)
    axes.text(x, 0.915, slot.stage.name, weight="bold", color="white" if on_dark else _DARK, **plain)
    note = slot.note.replace(", ", "\n") if narrow else slot.note
    if not slot.seed:
        axes.text(x, 0.6, note or "empty", color=_GREY, **plain)
        return
    axes.text(x, 0.765, slot.seed.replace(" ", "\n") if narrow else slot.seed, color=_DARK, **plain)
    inner = 0.86 * width
    axes.barh(0.645, inner, 0.06, left=x - inner / 2, color="#e6e6e6")
    axes.barh(0.645, inner * slot.alpha, 0.06, left=x - inner / 2, color=STAGE_COLOURS[slot.stage])
    axes.text(x, 0.555, f"{'' if narrow else 'alpha '}{slot.alpha:.2f}{_target(slot)}", color=_DARK, **plain)
    axes.text(x, 0.43, note, color=_GREY, **{**plain, "fontsize": 7 if narrow else 7.5})


def _draw_curve(axes: Any, view: View) -> None:
    percent = [100 * accuracy for accuracy in view.accuracies]
    chance = 100 / view.classes
    axes.axhline(chance, color=_FAINT, lw=1, ls="--")
    axes.text(view.episode_length, chance, "chance", fontsize=8, color=_GREY, ha="right", va="bottom")
    if percent:
        epochs = range(1, len(percent) + 1)
        axes.plot(epochs, percent, color="#0072b2", lw=1.8)
        axes.plot(len(percent), percent[-1], "o", color="#0072b2", markersize=5, clip_on=False)
    top = max([*percent, 2 * chance])
    axes.set(xlim=(0, view.episode_length), ylim=(0, min(100.0, 10 * (top // 10 + 1))))
    axes.set_xlabel("epoch", fontsize=9)
    axes.set_ylabel("validation accuracy (%)", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _draw_figures(figure: Any, view: View) -> None:
    for row, (label, value) in enumerate(view.figures):
        y = 0.45 - 0.042 * row
        figure.text(0.715, y, label, fontsize=10, color=_GREY)
        figure.text(0.98, y, value, fontsize=10, color=_DARK, ha="right")
    if view.error is not None:
        figure.text(0.715, 0.03, f"the episode failed: {view.error}"[:48], fontsize=9, color="#d55e00")
