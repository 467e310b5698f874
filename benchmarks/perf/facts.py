"""What an environment says of itself after an epoch, with a live seed in each slot: observation, mask and info."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.perf.measure import Report, Target, each, medians, spread
from benchmarks.perf.step import make

GOAL = 0.3
PARTS = ("observation", "mask", "info")


def measure(process: int) -> dict[str, Any]:
    """Milliseconds of each part."""
    env = make("Esper/CifarBaseline-v0", "conv_light")
    env.step(0)
    sides = {"observation": env._observe, "mask": env.action_masks, "info": lambda: env._info(legal=True)}
    times = medians(sides, 300, 20)
    return {"facts": {name: 1e3 * took for name, took in times.items()}}


def report(rows: list[dict[str, Any]]) -> Report:
    """The parts and their sum. The info has a mask of its own in it."""
    parts = {name: each(rows, "facts", name) for name in PARTS}
    total = np.sum(list(parts.values()), 0)
    text = "; ".join(f"{name} {spread(values, '.3f')} ms" for name, values in parts.items())
    target = Target(
        "observation, mask and info", f"<= {GOAL} ms", f"{spread(total, '.2f')} ms", bool(total.mean() <= GOAL)
    )
    return Report(f"Observation, mask and info of one environment: {spread(total, '.2f')} ms ({text}).", [target])
