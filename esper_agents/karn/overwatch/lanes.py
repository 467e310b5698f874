"""Every slot's life in the running episode, or the last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from esper_agents.karn.overwatch.environments import stage_chip
from esper_agents.karn.overwatch.markup import Html, join, note, tag
from esper_agents.karn.snapshot import EnvironmentState, Snapshot, Stretch
from esper_env.leyline import Stage

BLENDED: Final = ("BLENDING", "HOLDING")
LETTERED: Final = 0.02
NAMED: Final = 0.12
"""Shares of an episode from which on a stretch has room for its stage's letter, and for its blueprint."""


def lanes(snapshot: Snapshot) -> Html:
    """A lane for each slot: epochs to the right, colours and letters by stage, alpha as the height."""
    header = snapshot.header
    if header is None or not any(env.step for env in snapshot.envs.values()):
        return note("No environment has stepped yet.")
    length = header.episode_epochs
    blocks = [_block(env, header.slots, length) for env in snapshot.envs.values() if env.step is not None]
    legend = tag("p", [stage_chip(stage.name) for stage in Stage], class_="legend")
    axis = tag(
        "div", tag("span"), tag("span", tag("span", "epoch 1"), tag("span", f"epoch {length}")), class_="lane axis"
    )
    return join(blocks, axis, legend, note("The height of the full colour is alpha, drawn straight between stages."))


def _block(env: EnvironmentState, slots: Sequence[str], length: int) -> Html:
    assert env.step is not None
    marks = [
        tag(
            "span",
            "↺",
            style=f"left:{100 * (epoch - 0.5) / length:.2f}%",
            class_="rollback",
            title=f"rolled back at epoch {epoch}",
        )
        for epoch in env.rollbacks
    ]
    rows = []
    for slot in slots:
        lane = env.lanes.get(slot, [])
        starts = [0.0, *(stretch.alpha for stretch in lane)]
        stretches = [_stretch(s, start, length) for s, start in zip(lane, starts, strict=False)]
        track = tag("div", stretches, marks, class_="life")
        rows.append(tag("div", tag("span", slot), track, class_="lane", data_slot=slot))
    name = f"environment {env.env}, epoch {env.step.epoch}"
    return tag("div", tag("h3", name), rows, class_="lanes", data_env=str(env.env))


def _stretch(stretch: Stretch, start: float, length: int) -> Html:
    first, last = stretch.first_epoch, stretch.last_epoch
    place = f"left:{100 * (first - 1) / length:.2f}%;width:{100 * (last - first + 1) / length:.2f}%"
    blended = stretch.stage in BLENDED
    heights = (1 - start, 1 - stretch.alpha) if blended else (0.0, 0.0)
    shape = f"clip-path:polygon(0 100%,0 {100 * heights[0]:.0f}%,100% {100 * heights[1]:.0f}%,100% 100%)"
    alpha = f", alpha {stretch.alpha:.2f} at its end" if blended else ""
    title = f"{stretch.stage} {stretch.blueprint or ''}".strip() + f", epochs {first} to {last}{alpha}"
    share = (last - first + 1) / length
    text = stretch.stage[0] if share >= LETTERED else ""
    if share >= NAMED and stretch.blueprint is not None:
        text += f" {stretch.blueprint}"
    fill = tag("i", class_=f"stage-{stretch.stage}", style=shape)
    return tag("span", fill, tag("b", text), style=place, title=title, data_stage=stretch.stage)
