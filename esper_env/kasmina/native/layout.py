"""Where the numbers of a tensor lie in memory: activations with the batch innermost, (H, W, C, N)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from esper_env.kasmina.native.tape import call, empty

Gradients = tuple[torch.Tensor | None, ...]


def _strides(w: int, channels: int, n: int) -> tuple[int, int, int, int]:
    """Of a tensor (n, channels, h, w) with the batch innermost in memory."""
    return 1, n, w * channels * n, channels * n


def empty_lanes(h: int, w: int, channels: int, n: int) -> torch.Tensor:
    """(n, channels, h, w) with the batch innermost in memory."""
    return empty((n, channels, h, w), _strides(w, channels, n))


def empty_like(x: torch.Tensor) -> torch.Tensor:
    """Of the shape of `x`, (N, C, H, W), with the batch innermost in memory."""
    n, channels, h, w = x.shape
    return empty_lanes(h, w, channels, n)


def vectors(count: int, size: int) -> Sequence[torch.Tensor]:
    """`count` tensors (size,) in one piece of memory."""
    return empty((count, size), (size, 1)).unbind()


def weight_like(weight: torch.Tensor) -> torch.Tensor:
    """Dense, of the shape of a kernel (O, C, k, k)."""
    outputs, inputs, k, _ = weight.shape
    return empty((outputs, inputs, k, k), (inputs * k * k, k * k, k, 1))


def lanes(x: torch.Tensor) -> torch.Tensor:
    """`x`, (N, C, H, W), with the batch innermost in memory."""
    n, channels, _, w = x.shape
    if x.stride() == _strides(w, channels, n):
        return x
    view = x.permute(2, 3, 1, 0)
    if view.is_contiguous():  # where a side is 1, its stride says nothing
        return x
    rows = x.permute(0, 2, 3, 1)
    if not rows.is_contiguous():
        return view.contiguous().permute(3, 2, 0, 1)
    out = empty_like(x)
    call("to_lanes", rows, out, len(x), x[0].numel())
    return out


def columns(x: torch.Tensor) -> torch.Tensor:
    """`x`, (N, C), with the batch innermost in memory."""
    return x if x.t().is_contiguous() else x.t().contiguous().t()
