"""Evaluation of many variants of one growing model over shared prefixes, and what follows from the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import factorial

import torch

from esper_env.kasmina import GrowingModel, native
from esper_env.leyline import Stage
from esper_env.leyline.lifecycle import BLENDED
from esper_env.tolaria.batches import EvaluationSet
from esper_env.tolaria.repetition import run_batches

Variant = Mapping[str, float]
"""Alpha of each seed that takes part, by slot; a seed that is not named is absent."""

EXHAUSTIVE = 3
"""Up to this many blended seeds every subset is evaluated; beyond, only leave-one-out and all-off."""


@dataclass(frozen=True)
class Score:
    """Mean loss in nats and accuracy in 0..1."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class Counterfactual:
    """What one evaluation says of the network and of each seed. All gains are fractions of accuracy."""

    score: Score
    contributions: Mapping[str, float]
    """Ablation: score of all minus score without the seed."""
    shapley: Mapping[str, float]
    """Exact Shapley values; empty when not every subset was evaluated."""
    interactions: Mapping[str, float]
    """Sum of a seed's pair interactions in the presence of all others; empty like `shapley`."""
    shadow_gains: Mapping[str, float]
    """Gain of each TRAINING seed at alpha 1, the other TRAINING seeds absent."""
    flops: int


@torch.inference_mode()
def evaluate(model: GrowingModel, data: EvaluationSet, variants: Sequence[Variant]) -> tuple[list[Score], int]:
    """Score every variant of `model` on `data`, computing each shared prefix once.

    Returns:
        The scores in order, and the FLOPs spent.
    """
    model.train(False)
    walk = _Walk(model, variants, data)
    kind = tuple(frozenset(name for name, alpha in variant.items() if alpha > 0.0) for variant in variants)
    run_batches(model, walk.chunk, len(data.labels), kind=kind, alike=data.whole, moving=data.moving)
    losses, hits = walk.losses.tolist(), walk.hits.tolist()
    scores = [Score(loss / data.size, right / data.size) for loss, right in zip(losses, hits, strict=True)]
    return scores, walk.flops * data.size


class _Walk:
    """The prefix tree of the variants, walked depth first with each chunk of images."""

    def __init__(self, model: GrowingModel, variants: Sequence[Variant], data: EvaluationSet) -> None:
        self.model, self.runner, self.variants, self.data = model, model.inference(), variants, data
        device = data.labels[0].device
        self.losses = torch.zeros(len(variants), dtype=torch.float64, device=device)
        self.hits = torch.zeros(len(variants), dtype=torch.int64, device=device)
        self.flops = 0
        """Of one image."""

    def chunk(self, i: int) -> None:
        """Score all variants on chunk i."""
        self.flops = 0
        self(self.data.images[i], self.data.labels[i], 0, 0, range(len(self.variants)))

    def __call__(self, x: torch.Tensor, labels: torch.Tensor, position: int, depth: int, group: Sequence[int]) -> None:
        """Go on from activation `x` at `position`, shared by the variants of `group`, at slot `depth`."""
        stream = self.model.stream
        while depth < len(stream):
            slot = stream[depth]
            alphas = sorted({self.variants[i].get(slot.name, 0.0) for i in group})
            depth += 1
            if alphas == [0.0]:
                continue
            assert slot.seed is not None
            x, position = self._run(x, position, slot.position), slot.position
            for alpha in alphas:
                part = [i for i in group if self.variants[i].get(slot.name, 0.0) == alpha]
                if alpha == 0.0:
                    self(x, labels, position, depth, part)
                else:
                    self.flops += self.model.seed_flops[slot.name]
                    self(slot.seed(x, x, alpha), labels, position, depth, part)
            return
        logits = self._run(x, position, self.model.end)
        for i in group:
            native.loss_gradient(logits, labels, self.losses[i], self.hits[i])

    def _run(self, x: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        self.flops += self.model.flops_between(start, stop)
        return self.runner.run(x, start, stop)


def present(model: GrowingModel) -> dict[str, float]:
    """The variant that is the model as it stands."""
    return {slot.name: slot.alpha.value for slot in model.stream if slot.live}


def counterfactual(model: GrowingModel, data: EvaluationSet) -> Counterfactual:
    """Evaluate the model and, from the same pass, the effect of each uncommitted seed."""
    now = present(model)
    blended = [slot.name for slot in model.in_stages(BLENDED) if slot.live]
    training = [slot.name for slot in model.in_stages({Stage.TRAINING})]
    everyone = frozenset(blended)
    exhaustive = len(blended) <= EXHAUSTIVE
    if exhaustive:
        subsets = [frozenset(c) for n in range(len(blended) + 1) for c in combinations(blended, n)]
    else:
        subsets = [everyone, *(everyone - {name} for name in blended), frozenset()]
    variants: list[Variant] = [
        {name: alpha for name, alpha in now.items() if name not in everyone or name in subset} for subset in subsets
    ]
    variants += [now | {name: 1.0} for name in training]
    scores, flops = evaluate(model, data, variants)
    worth = {subset: score.accuracy for subset, score in zip(subsets, scores, strict=False)}
    score = scores[subsets.index(everyone)]
    return Counterfactual(
        score=score,
        contributions={name: worth[everyone] - worth[everyone - {name}] for name in blended},
        shapley=shapley_values(worth, blended) if exhaustive else {},
        interactions=_interactions(worth, blended) if exhaustive else {},
        shadow_gains={
            name: s.accuracy - score.accuracy for name, s in zip(training, scores[len(subsets) :], strict=True)
        },
        flops=flops,
    )


def shapley_values(worth: Mapping[frozenset[str], float], players: Sequence[str]) -> dict[str, float]:
    """Return the exact Shapley value of every player from the worth of every coalition."""
    n = len(players)
    values = dict.fromkeys(players, 0.0)
    for player in players:
        others = [p for p in players if p != player]
        for size in range(n):
            weight = factorial(size) * factorial(n - size - 1) / factorial(n)
            for coalition in map(frozenset, combinations(others, size)):
                values[player] += weight * (worth[coalition | {player}] - worth[coalition])
    return values


def _interactions(worth: Mapping[frozenset[str], float], players: Sequence[str]) -> dict[str, float]:
    everyone = frozenset(players)
    total = dict.fromkeys(players, 0.0)
    for a, b in combinations(players, 2):
        pair = worth[everyone] - worth[everyone - {a}] - worth[everyone - {b}] + worth[everyone - {a, b}]
        total[a] += pair
        total[b] += pair
    return total
