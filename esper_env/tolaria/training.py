"""One epoch of training: the host's step, the shadow passes of TRAINING seeds, the optimisers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from esper_env.kasmina import GrowingModel, native
from esper_env.leyline import Stage
from esper_env.tolaria.batches import Batches, BatchSource
from esper_env.tolaria.repetition import Moving, run_batches

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
    batches = source.epoch()
    rates = [host_lr * lr_factor(epoch + i / len(batches), episode_length) for i in range(len(batches))]
    run = _Epoch(model, batches, rates, bf16)
    alike = source.samples // source.batch_size
    run_batches(model, run.batch, len(batches), kind="training", alike=alike, moving=run.moving)
    model.set_lrs(rates[-1])
    for name, norms in run.norms.items():
        if name != HOST:
            evidence = model.slots[name].evidence
            evidence.norms.extend(norms)
            evidence.judge_gradients()
    flops, shadow_flops = _epoch_flops(model)
    n = source.samples
    return TrainingReport(float(run.loss) / n, float(run.hits) / n, flops * n, shadow_flops * n)


HOST = "host"


class _Epoch:
    """The batches of an epoch, each of which is the same computation on the next images."""

    def __init__(self, model: GrowingModel, batches: Batches, rates: Sequence[float], bf16: bool) -> None:
        model.train()
        self.model, self.batches, self.device = model, batches, batches.labels.device
        # no cache: autocast empties it only where the outermost autocast ends, and cast weights would outlive their
        # batch
        self.precision = partial(torch.autocast, self.device.type, torch.bfloat16, enabled=bf16, cache_enabled=False)
        self.rates = torch.tensor(rates)
        self.loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self.hits = torch.zeros((), dtype=torch.int64, device=self.device)
        self.optimizers = {HOST: model.host_optimizer}
        for slot in model.stream:
            if slot.optimizer is not None and (slot.stage is Stage.TRAINING or (slot.live and not slot.fading)):
                self.optimizers[slot.name] = slot.optimizer
        self.norms = {
            name: torch.zeros(len(batches), len(o.parameters), device=self.device)
            for name, o in self.optimizers.items()
        }
        """Gradient norm of each parameter tensor in each batch."""

    @property
    def moving(self) -> Moving:
        """What every batch takes its own part of."""
        return [*self.batches.moving, (self.rates, 4), *((n, n[0].numel() * 4) for n in self.norms.values())]

    def batch(self, i: int) -> None:
        """Train on batch i."""
        images, labels = self.batches[i]
        with self.precision():
            logits, taps = self.model.forward(images)
        gradient = native.loss_gradient(logits.detach(), labels, self.loss, self.hits)
        self._step(i, logits, gradient, [name for name in self.optimizers if name not in taps])
        if taps:
            with bystanders(self.model):
                for name, tap in taps.items():
                    with self.precision():
                        logits = self.model.shadow(name, tap)
                    self._step(i, logits, native.loss_gradient(logits.detach(), labels), [name])

    def _step(self, i: int, logits: torch.Tensor, gradient: torch.Tensor, names: Sequence[str]) -> None:
        """Clip and step each of the modules `names` on its own."""
        parameters = [p for name in names for p in self.optimizers[name].parameters]
        gradients = iter(torch.autograd.grad(logits, parameters, gradient, allow_unused=True))
        for name in names:
            optimizer = self.optimizers[name]
            follows = name == HOST or self.model.slots[name].stage is Stage.FOSSILIZED
            rate = self.rates[i : i + 1] if follows else None
            optimizer.clipped_step(
                [next(gradients) for _ in optimizer.parameters], rate=rate, norms=self.norms[name][i]
            )


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
