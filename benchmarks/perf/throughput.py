"""Environment steps a second with 1,024 training and 256 validation images, four environments of three slots."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

import esper_env  # noqa: F401 -- registers the ids
from benchmarks.pages import markdown
from benchmarks.perf.measure import Report, Target, each, in_turn, spread

COMPARABLE = 7.6
"""Steps a second of the comparable implementation that ``docs/performance.md`` speaks of."""
GOAL = 3.0
CASES = {"bare hosts": None, "conv_light in every slot": "conv_light"}
DRAWN = "actions drawn at random"


def measure(process: int) -> dict[str, Any]:
    """Steps a second, by what the networks hold."""
    sides: dict[str, Any] = {}
    for case, blueprint in {**CASES, DRAWN: None}.items():
        env = gymnasium.make_vec(
            "Esper/CifarBaseline-v0",
            num_envs=4,
            workers=2,
            dataset="synthetic",
            samples_per_epoch=1024,
            val_samples=256,
        )
        slots = env.unwrapped.get_attr("settings")[0].slots  # type: ignore[attr-defined]
        structure = [{"slot": slot, "blueprint": blueprint} for slot in slots] if blueprint else []
        env.reset(seed=0, options={"structure": structure})
        rng = np.random.default_rng(0)

        def step(env: Any = env, rng: Any = rng, draw: bool = case == DRAWN) -> None:
            masks = env.unwrapped.action_masks()
            env.step(np.array([rng.choice(np.flatnonzero(m)) if draw else 0 for m in masks]))

        sides[case] = step
    times = in_turn(sides, 20, 2)
    return {case: 4 / float(np.mean(t)) for case, t in times.items()}


def report(rows: list[dict[str, Any]]) -> Report:
    """Rates and ratios."""
    lines, targets = [], []
    for case in (*CASES, DRAWN):
        rate = each(rows, case)
        lines.append([case, spread(rate, ".1f"), spread(rate / COMPARABLE)])
        met = bool(np.median(rate) >= GOAL * COMPARABLE)
        targets.append(
            Target(f"steps/s, 1,024/256 images, 4 environments ({case}), over 7.6", f">= {GOAL:g}", lines[-1][2], met)
        )
    return Report(markdown(["", "steps a second", "over 7.6"], lines), targets)
