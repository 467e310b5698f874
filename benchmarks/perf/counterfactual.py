"""Evaluating all subsets of three live seeds over shared prefixes against evaluating each subset on its own.

The bound by operations supposes that all parts of the network run at one rate. Norms and sums have bytes to move and
hardly any operations, so there is a second bound: what the parts, timed one by one, allow.
"""

from __future__ import annotations

from functools import partial
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


@torch.inference_mode()
def bound_by_parts(blueprint: str) -> float:
    """How many times faster the tree can be, given the seconds of each stretch of the host and of each seed."""
    episode = make("Esper/CifarBaseline-v0", blueprint).episode
    model = episode.model
    model.train(False)
    runner, x, position = model.inference(), episode.validation.images[0], 0
    hosts, seeds = [], []
    for slot in model.stream:
        seed = slot.seed
        assert seed is not None
        hosts.append(medians({"": partial(runner.run, x, position, slot.position)}, 30)[""])
        x, position = runner.run(x, position, slot.position), slot.position
        seeds.append(medians({"": partial(seed, x, x, 1.0)}, 30)[""])
    hosts.append(medians({"": partial(runner.run, x, position, model.end)}, 30)[""])
    branches = 2.0 ** np.arange(len(seeds))
    tree = np.dot(branches, hosts[:-1]) + np.dot(branches, seeds) + 2.0 ** len(seeds) * hosts[-1]
    return float(2.0 ** len(seeds) * (sum(hosts) + sum(seeds) / 2) / tree)


def measure(process: int) -> dict[str, Any]:
    """Seconds of each side and the bounds, by blueprint."""
    out = {}
    for blueprint in BLUEPRINTS:
        calls, bound = sides(blueprint)
        out[blueprint] = medians(calls, 5) | {"bound": bound, "by_parts": bound_by_parts(blueprint)}
    return out


def report(rows: list[dict[str, Any]]) -> Report:
    """Ratios by blueprint."""
    lines, targets = [], []
    for blueprint in BLUEPRINTS:
        tree, alone, unfolded, bound = (each(rows, blueprint, k) for k in ("tree", "alone", "unfolded", "bound"))
        share, by_parts = alone / tree / bound, each(rows, blueprint, "by_parts")
        ratios = (by_parts, alone / tree, share, alone / tree / by_parts, unfolded / alone)
        lines.append([blueprint, f"{bound[0]:.2f}", *map(spread, ratios)])
        targets.append(
            Target(
                f"8 subsets of 3 {blueprint} seeds against 8 evaluations, of the bound by FLOPs ({bound[0]:.2f})",
                f">= {GOAL}",
                spread(share),
                bool(np.median(share) >= GOAL),
            )
        )
    head = [
        "seeds",
        "bound by operations",
        "by the parts' times",
        "8 evaluations over the tree",
        "of the bound by operations",
        "of that by the parts' times",
        "what folding batch norms gives beside",
    ]
    return Report(markdown(head, lines), targets)
