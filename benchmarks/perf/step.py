"""A step of the environment against the bare loop that trains and evaluates the same network on the same images.

The loop has the same layers, optimiser steps and folded batch norms, and cuts the same batches; it has no slots, masks,
observations, governor or snapshots.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.pages import markdown
from benchmarks.perf.measure import Report, Target, each, medians, spread
from esper_env import EsperEnv
from esper_env.kasmina import GrowingModel
from esper_env.tolaria.batches import BatchSource, EvaluationSet

GOAL = 1.05
STEPS = 12
CASES = {
    "CifarBaseline, bare host": ("Esper/CifarBaseline-v0", None),
    "CifarBaseline, conv_light in every slot": ("Esper/CifarBaseline-v0", "conv_light"),
    "CifarBaseline, conv_heavy in every slot": ("Esper/CifarBaseline-v0", "conv_heavy"),
    "Tiny, bare host": ("Esper/Tiny-v0", None),
    "Tiny, conv_heavy in every slot": ("Esper/Tiny-v0", "conv_heavy"),
}
"""Environment and the blueprint that is fossilised in each slot."""


def make(id: str, blueprint: str | None) -> EsperEnv:
    """An environment at the start of an episode, with a structure."""
    settings: dict[str, Any] = {} if "Tiny" in id else {"dataset": "synthetic"}
    env = gymnasium.make(id, **settings).unwrapped
    assert isinstance(env, EsperEnv)
    structure = [{"slot": slot, "blueprint": blueprint} for slot in env.settings.slots] if blueprint else []
    env.reset(seed=0, options={"structure": structure})
    return env


class Bare:
    """The plain loop over one network."""

    def __init__(self, model: GrowingModel, source: BatchSource, validation: EvaluationSet) -> None:
        assert isinstance(model.host, nn.Module)
        self.model, self.source, self.validation = model, source, validation
        self.joints = [(slot.position, slot.seed) for slot in model.stream if slot.seed is not None]
        self.learners = [model.host_optimizer, *(s.optimizer for s in model.stream if s.optimizer)]

    def forward(self, run: Any, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        start = 0
        for position, seed in self.joints:
            x = run(x, start, position)
            x, start = seed(x, x, 1.0), position
        logits: torch.Tensor = run(x, start, self.model.end)
        return logits

    def epoch(self) -> tuple[float, float]:
        """Train and evaluate; the validation loss and accuracy."""
        self.model.train()
        for images, labels in self.source.epoch():
            loss = F.cross_entropy(self.forward(self.model.host.run, images), labels)
            gradients = iter(torch.autograd.grad(loss, [p for o in self.learners for p in o.parameters]))
            for optimizer in self.learners:
                optimizer.clipped_step([next(gradients) for _ in optimizer.parameters])
        self.model.train(False)
        total, hits = 0.0, 0
        with torch.inference_mode():
            run = self.model.inference().run
            for images, labels in zip(self.validation.images, self.validation.labels, strict=True):
                logits = self.forward(run, images)
                total += float(F.cross_entropy(logits, labels, reduction="sum"))
                hits += int((logits.argmax(1) == labels).sum())
        return total / self.validation.size, hits / self.validation.size


def measure(process: int) -> dict[str, Any]:
    """Median seconds of each side, by case."""
    out = {}
    for case, (id, blueprint) in CASES.items():
        env = make(id, blueprint)
        twin = env.fork().episode
        bare = Bare(twin.model, twin.source, twin.validation)
        repeats = STEPS * (8 if "Tiny" in id else 1)
        out[case] = medians({"environment": partial(env.step, 0), "loop": bare.epoch}, repeats, 2)
    return out


def report(rows: list[dict[str, Any]]) -> Report:
    """Ratios by case."""
    lines, targets = [], []
    for case in CASES:
        ours, loop = each(rows, case, "environment"), each(rows, case, "loop")
        ratio = spread(ours / loop, ".3f")
        lines.append([case, *(spread(1e3 * x, ".1f") for x in (ours, loop)), ratio])
        if case.startswith("Cifar"):
            met = bool((ours / loop).mean() <= GOAL)
            targets.append(Target(f"environment step against the bare loop ({case})", f"<= {GOAL}", ratio, met))
    return Report(markdown(["", "environment, ms", "bare loop, ms", "ratio"], lines), targets)
