"""Hosts: the backbone networks that train and grow.

A host is any ``nn.Module`` with an ordered tuple of named `boundaries` and a method ``run(x, start, stop)``.
Position 0 is the input, position i (from 1) the i-th boundary, and ``len(boundaries) + 1`` the logits; `run`
carries an activation from one position to a later one. Slots are set at boundaries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from esper_env.kasmina.native import Conv2d, Linear, arrange, conv_norm_pool_relu, conv_pool_relu, max_pool, pixel_mean

BN_MOMENTUM = 0.5
"""Weight of the newest batch in the running statistics. An epoch is only 16 batches, and at torch's default of
0.1 the statistics lag behind the weights: validation accuracy then swings by up to ten points."""


@runtime_checkable
class Host(Protocol):
    """What Kasmina needs of a host, besides being an ``nn.Module``."""

    boundaries: tuple[str, ...]

    def run(self, x: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Carry the activation `x` at position `start` to position `stop` > `start`."""
        ...


class Runner(Protocol):
    """Something that runs like a host: the host itself, or its faster form for inference."""

    def run(self, x: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Carry the activation `x` at position `start` to position `stop`."""
        ...


class ConvHost(nn.Module):
    """Blocks of convolution (no bias), batch norm, ReLU and, unless `pool` is false, 2x2 max pooling; then
    global average pooling and a linear layer.

    Boundary ``r0c{i}`` is after block i before its pool, ``r1c{i}`` after its pool.

    Args:
        inputs: channels of the images.
        channels: output channels of each block.
        kernels: side of each block's kernels, odd.
        pool: whether blocks pool.
        classes: number of logits.
    """

    def __init__(
        self,
        inputs: int,
        channels: Sequence[int],
        kernels: Sequence[int],
        pool: bool = True,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.pool = pool
        sizes = [inputs, *channels]
        self.convs = nn.ModuleList(Conv2d(a, b, k) for a, b, k in zip(sizes, sizes[1:], kernels, strict=False))
        self.norms = nn.ModuleList(nn.BatchNorm2d(c, momentum=BN_MOMENTUM) for c in channels)
        self.head = Linear(sizes[-1], classes)
        rows = (0, 1) if pool else (0,)
        self.boundaries = tuple(f"r{row}c{i}" for i in range(len(channels)) for row in rows)
        arrange(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes) for images (N, inputs, H, W)."""
        return self.run(x, 0, len(self.boundaries) + 1)

    def run(self, x: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Carry the activation `x` at position `start` to position `stop`; see the module's docstring."""
        return _run_blocks(self, self._block, x, start, stop)

    def _block(self, i: int, x: torch.Tensor, pool: bool) -> torch.Tensor:
        conv, norm = self.convs[i], self.norms[i]
        assert isinstance(conv, Conv2d) and isinstance(norm, nn.BatchNorm2d)
        return conv_norm_pool_relu(x, conv, norm, pool=pool)

    def inference(self) -> Runner:
        """Return this host with its batch norms folded into its convolutions, as it is now."""
        return _FoldedConvHost(self)


class _FoldedConvHost:
    """A `ConvHost` in evaluation mode at half the passes over memory."""

    def __init__(self, host: ConvHost) -> None:
        self.pool, self.head, self.boundaries = host.pool, host.head, host.boundaries
        self._folded = []
        for conv, norm in zip(host.convs, host.norms, strict=True):
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            assert norm.running_var is not None and norm.running_mean is not None
            gain = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            self._folded.append((conv.weight * gain[:, None, None, None], norm.bias - norm.running_mean * gain))

    def run(self, x: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        return _run_blocks(self, self._block, x, start, stop)

    def _block(self, i: int, x: torch.Tensor, pool: bool) -> torch.Tensor:
        return conv_pool_relu(x, *self._folded[i], pool=pool)


def _run_blocks(
    host: ConvHost | _FoldedConvHost,
    block: Callable[[int, torch.Tensor, bool], torch.Tensor],
    x: torch.Tensor,
    start: int,
    stop: int,
) -> torch.Tensor:
    """Walk from position to position; a block and its pool are one where nothing looks between the two."""
    rows = 2 if host.pool else 1
    position = start
    while position < stop:
        i, row = divmod(position, rows)
        if position == len(host.boundaries):
            x = host.head(pixel_mean(x))
            position += 1
        elif row == 1:
            x = max_pool(x)
            position += 1
        else:
            pool = host.pool and position + 1 < stop
            x = block(i, x, pool)
            position += 1 + pool
    return x
