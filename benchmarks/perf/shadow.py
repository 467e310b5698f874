"""The shadow pass of a TRAINING seed against what its operations say, and what its operations and bytes say.

Norms and sums have bytes to move and hardly any operations.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from benchmarks.pages import markdown
from benchmarks.perf.floors import Counted, rates
from benchmarks.perf.measure import Report, Target, each, medians, spread
from benchmarks.perf.step import make
from esper_env.leyline import Style
from esper_env.tolaria.training import train_epoch

LEVELS = ("cache", "memory")
BLUEPRINTS = ("conv_small", "conv_light", "conv_heavy")


def measure(process: int) -> dict[str, Any]:
    """Seconds of an epoch of training with and without a TRAINING seed in the first slot, and their FLOPs."""
    out: dict[str, Any] = {}
    known = rates()
    for blueprint in BLUEPRINTS:
        sides, flops, floors = {}, {}, {}
        for name in ("bare", "training"):
            env = make("Esper/CifarBaseline-v0", None)
            episode = env.episode
            if name == "training":
                slot = next(iter(episode.model.stream))
                episode.model.germinate(slot, blueprint, Style.ADD, 5)
                episode.model.advance(slot)
            schedule: dict[str, Any] = {"host_lr": episode.config.host_lr, "epoch": 10, "episode_length": 150}
            run = partial(train_epoch, episode.model, episode.source, **schedule)
            with Counted(episode.model) as counted:
                first = run()
            sides[name], flops[name] = run, first.flops + first.shadow_flops
            arithmetic = counted.operations / known["operations"]
            floors[name] = {where: arithmetic + counted.bytes / known[where] for where in LEVELS}
        out[blueprint] = {"seconds": medians(sides, 5), "flops": flops, "floors": floors}
    return out


def report(rows: list[dict[str, Any]]) -> Report:
    """How much longer an epoch takes, over how many more operations it has."""
    lines, targets = [], []
    for blueprint in BLUEPRINTS:
        bare, training = (each(rows, blueprint, "seconds", name) for name in ("bare", "training"))
        operations = each(rows, blueprint, "flops", "training") / each(rows, blueprint, "flops", "bare")
        share = training / bare / operations
        cells = [spread(training / bare), f"{operations[0]:.2f}", spread(share)]
        for where in LEVELS:
            both = each(rows, blueprint, "floors", "training", where) / each(rows, blueprint, "floors", "bare", where)
            cells.append(spread(training / bare / both))
        lines.append([blueprint, *cells])
        met = bool(np.median(share) <= 1.0)
        targets.append(Target(f"an epoch with a {blueprint} in training, time over FLOPs", "<= 1", spread(share), met))
    head = [
        "seed in training",
        "times as long",
        "times the FLOPs",
        "ratio",
        "to operations and bytes from the cache",
        "and bytes from memory",
    ]
    return Report(markdown(head, lines), targets)
