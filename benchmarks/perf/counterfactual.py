"""Evaluating all subsets of three live seeds over shared prefixes against evaluating each subset on its own."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.pages import markdown
from benchmarks.perf.measure import Report, Target, each, medians, spread
from benchmarks.perf.step import make
from esper_env.tolaria.evaluation import evaluate, present

GOAL = 0.9
BLUEPRINTS = ("conv_heavy", "conv_light", "conv_small")


def sides(blueprint: str) -> tuple[dict[str, Any], float]:
    """The sides, and how many times fewer operations the prefix tree has."""
    episode = make("Esper/CifarBaseline-v0", blueprint).episode
    model, data = episode.model, episode.validation
    everyone = present(model)
    names = list(everyone)
    subsets = [dict.fromkeys(c, 1.0) for n in range(len(names) + 1) for c in combinations(names, n)]
    _, tree = evaluate(model, data, subsets)
    alone = sum(evaluate(model, data, [subset])[1] for subset in subsets)

    @torch.inference_mode()
    def unfolded() -> None:
        """Every subset with the batch norms as they are."""
        model.train(False)
        for subset in subsets:
            for images, labels in zip(data.images, data.labels, strict=True):
                x, position = images, 0
                for slot in model.stream:
                    if slot.name in subset and slot.seed is not None:
                        x = model.host.run(x, position, slot.position)
                        x, position = slot.seed(x, x, 1.0), slot.position
                F.cross_entropy(model.host.run(x, position, model.end), labels, reduction="sum")

    return {
        "tree": lambda: evaluate(model, data, subsets),
        "alone": lambda: [evaluate(model, data, [subset]) for subset in subsets],
        "unfolded": unfolded,
    }, alone / tree


def measure(process: int) -> dict[str, Any]:
    """Seconds of each side and the bound, by blueprint."""
    out = {}
    for blueprint in BLUEPRINTS:
        calls, bound = sides(blueprint)
        out[blueprint] = medians(calls, 5) | {"bound": bound}
    return out


def report(rows: list[dict[str, Any]]) -> Report:
    """Ratios by blueprint."""
    lines, targets = [], []
    for blueprint in BLUEPRINTS:
        tree, alone, unfolded, bound = (each(rows, blueprint, k) for k in ("tree", "alone", "unfolded", "bound"))
        share = alone / tree / bound
        lines.append([blueprint, f"{bound[0]:.2f}", spread(alone / tree), spread(share), spread(unfolded / alone)])
        targets.append(
            Target(
                f"8 subsets of 3 {blueprint} seeds against 8 evaluations, of the bound by FLOPs ({bound[0]:.2f})",
                f">= {GOAL}",
                spread(share),
                bool(np.median(share) >= GOAL),
            )
        )
    head = ["seeds", "bound", "8 evaluations over the tree", "of the bound", "what folding batch norms gives beside"]
    return Report(markdown(head, lines), targets)
