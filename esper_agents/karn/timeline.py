"""A picture of every slot's life in the episodes that just ended, quick to draw."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw

from esper_agents.karn.snapshot import Snapshot
from esper_env.leyline import Stage
from esper_env.rendering import STAGE_COLOURS

ROW, GAP, LEFT, TOP = 14, 8, 90, 22
"""Pixels: height of a slot, space between environments, room for names and for the legend."""
WIDTH = 900


def timeline(snapshot: Snapshot) -> NDArray[np.uint8]:
    """Draw the lives of all slots, (H, W, 3): a row a slot, epochs to the right, colours by stage.

    While a seed is blended, the height of the full colour is its alpha.
    """
    header = snapshot.header
    slots = () if header is None else header.slots
    length = 1 if header is None else header.episode_epochs
    height = TOP + len(snapshot.envs) * (len(slots) * ROW + GAP)
    image = Image.new("RGB", (LEFT + WIDTH + 10, height), "white")
    draw = ImageDraw.Draw(image)
    x = LEFT
    for stage in Stage:
        draw.rectangle((x, 5, x + 10, 15), fill=STAGE_COLOURS[stage])
        draw.text((x + 14, 4), stage.name.lower(), fill="black")
        x += 22 + 7 * len(stage.name)
    y = TOP
    for env in snapshot.envs.values():
        for slot in slots:
            draw.text((4, y), f"env {env.env} {slot}", fill="black")
            for s in env.lanes.get(slot, ()):
                left = LEFT + WIDTH * (s.first_epoch - 1) / length
                right = LEFT + WIDTH * s.last_epoch / length
                colour = STAGE_COLOURS[Stage[s.stage]]
                if s.stage in ("BLENDING", "HOLDING"):
                    draw.rectangle((left, y, right, y + ROW - 2), fill=_pale(colour))
                    draw.rectangle((left, y + (ROW - 2) * (1 - s.alpha), right, y + ROW - 2), fill=colour)
                else:
                    draw.rectangle((left, y, right, y + ROW - 2), fill=colour)
            y += ROW
        y += GAP
    return np.asarray(image)


def _pale(colour: str) -> tuple[int, ...]:
    return tuple((value + 2 * 255) // 3 for value in ImageColor.getrgb(colour))
