"""One epoch of training: the host's step, the shadow passes of TRAINING seeds, the optimisers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from esper_env.kasmina import GrowingModel
from esper_env.leyline import Stage
from esper_env.tolaria.batches import BatchSource

WARM_UP_EPOCHS = 2.0
DECAY_FROM, DECAY_TO = 0.4, 0.8
FINAL_SHARE = 0.025


def lr_factor(epochs: float, episode_length: int) -> float:
    """Return the host's learning rate over its maximum after so many epochs of an episode.

    Linear warm-up over `WARM_UP_EPOCHS`, constant, linear decay to `FINAL_SHARE` between the shares
    `DECAY_FROM` and `DECAY_TO` of the episode, then constant again: an episode ends on a plateau, not on a
    slope, so its last accuracies say what the network is worth.
    """
    warm = min(1.0, 0.1 + 0.9 * epochs / WARM_UP_EPOCHS)
    decayed = (epochs / episode_length - DECAY_FROM) / (DECAY_TO - DECAY_FROM)
    return warm * (1.0 - (1.0 - FINAL_SHARE) * min(1.0, max(0.0, decayed)))


@dataclass(frozen=True)
class TrainingReport:
    """Means over the epoch's training images, as they were met; FLOPs of the whole epoch."""

    loss: float
    accuracy: float
    flops: int
    shadow_flops: int


@contextmanager
def frozen_statistics(host: nn.Module) -> Iterator[None]:
    """Let batch norms use batch statistics without touching their running buffers."""
    norms = [m for m in host.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@contextmanager
def bystanders(model: GrowingModel) -> Iterator[None]:
    """Let host and live seeds take part in shadow passes and keep nothing of them.

    Their weights need no gradient meanwhile: a custom function's backward would compute it, though nobody asks for it.
    """
    assert isinstance(model.host, nn.Module)
    modules = [model.host, *(slot.seed for slot in model.stream if slot.seed is not None and slot.live)]
    weights = [p for module in modules for p in module.parameters() if p.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        with frozen_statistics(model.host):
            yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


def train_epoch(
    model: GrowingModel,
    source: BatchSource,
    *,
    host_lr: float,
    epoch: int,
    episode_length: int,
    bf16: bool = False,
) -> TrainingReport:
    """Train host and seeds for one epoch.

    Args:
        model: what learns.
        source: the images.
        host_lr: the host's maximum learning rate.
        epoch: epochs done before this one.
        episode_length: the span of the learning-rate schedule.
        bf16: run forward passes under bfloat16 autocast.
    """
    model.train()
    assert isinstance(model.host, nn.Module)
    losses = torch.zeros((), dtype=torch.float64, device=source.device)
    hits = torch.zeros((), dtype=torch.int64, device=source.device)
    batches = -(-source.samples // source.batch_size)
    # no cache: autocast empties it only where the outermost autocast ends, and cast weights would outlive their batch
    precision = partial(torch.autocast, source.device.type, torch.bfloat16, enabled=bf16, cache_enabled=False)
    for i, (images, labels) in enumerate(source.epoch()):
        model.set_lrs(host_lr * lr_factor(epoch + i / batches, episode_length))
        with precision():
            logits, taps = model.forward(images)
            loss = F.cross_entropy(logits.float(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        if taps:
            with bystanders(model), precision():
                for name, tap in taps.items():
                    _shadow_backward(model, name, tap, labels)
        _step(model)
        losses += loss.detach().double() * len(labels)
        hits += (logits.detach().argmax(1) == labels).sum()
    for slot in model.stream:
        slot.evidence.judge_gradients()
    flops, shadow_flops = _epoch_flops(model)
    n = source.samples
    return TrainingReport(float(losses) / n, float(hits) / n, flops * n, shadow_flops * n)


def _shadow_backward(model: GrowingModel, name: str, tap: torch.Tensor, labels: torch.Tensor) -> None:
    """Give the TRAINING seed of slot `name` the gradient of its shadow loss; nobody else gets any."""
    seed = model.slots[name].seed
    assert seed is not None
    loss = F.cross_entropy(model.shadow(name, tap).float(), labels)
    parameters = list(seed.parameters())
    for p, grad in zip(parameters, torch.autograd.grad(loss, parameters, materialize_grads=True), strict=True):
        p.grad = grad


def _step(model: GrowingModel) -> None:
    """Clip and step every module on its own."""
    model.host_optimizer.clipped_step()
    for slot in model.stream:
        if slot.seed is None or slot.optimizer is None or slot.fading or slot.stage is Stage.GERMINATED:
            continue
        slot.evidence.norms.append(slot.optimizer.clipped_step())


def _epoch_flops(model: GrowingModel) -> tuple[int, int]:
    """FLOPs of training on one image, of which the second number is the shadow passes' own.

    A training pass costs three forward passes: forward, gradient of the activations, gradient of the weights.
    The shadow pass of a seed needs no weight gradients downstream of it. Optimiser steps are not counted.
    """
    flops = 3 * model.flops_between(0, model.end)
    for slot in model.stream:
        if slot.live:
            flops += model.seed_flops[slot.name] * (1 if slot.fading else 3)
    shadow = 0
    for slot in model.in_stages({Stage.TRAINING}):
        downstream = model.flops_between(slot.position, model.end)
        downstream += sum(
            model.seed_flops[other.name] for other in model.stream if other.position > slot.position and other.live
        )
        shadow += 3 * model.seed_flops[slot.name] + 2 * downstream
    return flops, shadow
