"""The kernels as differentiable functions of tensors. Every tensor is float32 on the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from esper_env.kasmina.native.library import loaded

Gradients = tuple[torch.Tensor | None, ...]


@cache
def _kernel(name: str) -> Any:
    return getattr(loaded(), name)


def _call(name: str, *arguments: Any) -> None:
    """Call a kernel. The arguments hold the tensors until it returns."""
    _kernel(name)(*[a.data_ptr() if isinstance(a, torch.Tensor) else a for a in arguments])


def _strides(w: int, channels: int, n: int) -> tuple[int, int, int, int]:
    """Of a tensor (n, channels, h, w) with the batch innermost in memory."""
    return 1, n, w * channels * n, channels * n


def _empty(h: int, w: int, channels: int, n: int) -> torch.Tensor:
    """(n, channels, h, w) with the batch innermost in memory."""
    return torch.empty_strided((n, channels, h, w), _strides(w, channels, n))


def _empty_like(x: torch.Tensor) -> torch.Tensor:
    n, channels, h, w = x.shape
    return _empty(h, w, channels, n)


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
    out = _empty_like(x)
    _call("to_lanes", rows, out, len(x), x[0].numel())
    return out


def crops(  # noqa: PLR0917
    images: torch.Tensor,
    rows: torch.Tensor,
    corners: tuple[torch.Tensor, torch.Tensor],
    flips: torch.Tensor,
    mean: torch.Tensor,
    gain: torch.Tensor,
    size: tuple[int, int],
) -> torch.Tensor:
    """Cut a normalised batch, (B, C, *size), out of bytes.

    Args:
        images: (N, H, W, C) uint8.
        rows: (B,) int64, the images.
        corners: (B,) int64 each, the top and left of each crop.
        flips: (B,) bool, whether the crop is mirrored.
        mean: as many numbers as there are channels, taken from each byte.
        gain: as many, the factors of what is left.
        size: height and width of the crops.
    """
    _, height, width, channels = images.shape
    y = _empty(*size, channels, len(rows))
    _call("crops", images, height, width, rows, *corners, flips, mean, gain, y, *size, channels, len(rows))
    return y


def convolved(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, relu: bool) -> torch.Tensor:
    """[ReLU of] the convolution of (N, C, H, W) with (O, C, k, k)."""
    x, weight = lanes(x), weight.contiguous()
    n, inputs, h, w = x.shape
    outputs, _, k, _ = weight.shape
    y = _empty(h, w, outputs, n)
    _call("convolution", x, weight, bias, y, h, w, inputs, outputs, k, n, relu, False)
    return y


def affine(
    x: torch.Tensor, scale: torch.Tensor | None, shift: torch.Tensor | None, *, pool: bool, relu: bool
) -> torch.Tensor:
    """[ReLU of] [the 2x2 maxima of] scale x + shift for x (N, C, H, W), scale and shift (C,) or None."""
    x = lanes(x)
    n, channels, h, w = x.shape
    y = _empty(h // 2, w // 2, channels, n) if pool else _empty_like(x)
    _call("affine", x, scale, shift, y, h, w, channels, n, pool, relu)
    return y


def sgd(  # noqa: PLR0917
    values: Sequence[torch.Tensor],
    gradients: Sequence[torch.Tensor | None],
    momenta: Sequence[torch.Tensor],
    decays: Sequence[float],
    rate: float,
    momentum: float,
    clip: float,
) -> torch.Tensor:
    """Clip the gradients together and make one step of SGD with Nesterov momentum; return each one's norm before."""
    n = len(values)
    # the kernel walks memory, so a gradient must lie in it as its tensor does
    laid = [
        g if g is None or g.stride() == v.stride() else torch.empty_like(v).copy_(g)
        for g, v in zip(gradients, values, strict=True)
    ]
    norms = torch.empty(n)
    pointers = ctypes.c_void_p * n
    _call(
        "sgd",
        n,
        pointers(*[v.data_ptr() for v in values]),
        pointers(*[None if g is None else g.data_ptr() for g in laid]),
        pointers(*[m.data_ptr() for m in momenta]),
        (ctypes.c_int64 * n)(*[v.numel() for v in values]),
        (ctypes.c_float * n)(*decays),
        rate,
        momentum,
        clip,
        norms,
    )
    return norms


def convolution_gradients(
    x: torch.Tensor, weight: torch.Tensor, dy: torch.Tensor, needed: Sequence[bool]
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The gradients of input and weight of a convolution, those that are needed."""
    n, inputs, h, w = x.shape
    outputs, _, k, _ = weight.shape
    dx = dweight = None
    if needed[0]:
        dx = _empty_like(x)
        _call("convolution", dy, weight, None, dx, h, w, outputs, inputs, k, n, False, True)
    if needed[1]:
        dweight = torch.empty_like(weight)
        _call("convolution_weight", x, dy, dweight, h, w, inputs, outputs, k, n)
    return dx, dweight


class ConvolutionFunction(torch.autograd.Function):
    """x (N, C, H, W), weight (O, C, k, k), bias (O,) or None to (N, O, H, W)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        x, weight = lanes(x), weight.contiguous()
        ctx.save_for_backward(x, weight)
        return convolved(x, weight, bias, relu=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> Gradients:
        x, weight = ctx.saved_tensors
        dx, dweight = convolution_gradients(x, weight, lanes(dy), ctx.needs_input_grad)
        return dx, dweight, dy.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None


def depthwise(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Each channel of (N, C, H, W) convolved with its own of (C, 1, k, k)."""
    x, weight = lanes(x), weight.contiguous()
    n, channels, h, w = x.shape
    y = _empty_like(x)
    _call("depthwise", x, weight, y, h, w, channels, weight.shape[2], n, False)
    return y


class DepthwiseFunction(torch.autograd.Function):
    """x (N, C, H, W), weight (C, 1, k, k) to (N, C, H, W)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        x, weight = lanes(x), weight.contiguous()
        ctx.save_for_backward(x, weight)
        return depthwise(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> Gradients:
        x, weight = ctx.saved_tensors
        dy = lanes(dy)
        n, channels, h, w = x.shape
        k = weight.shape[2]
        dx = dweight = None
        if ctx.needs_input_grad[0]:
            dx = _empty_like(x)
            _call("depthwise", dy, weight, dx, h, w, channels, k, n, True)
        if ctx.needs_input_grad[1]:
            dweight = torch.empty_like(weight)
            _call("depthwise_weight", x, dy, dweight, h, w, channels, k, n)
        return dx, dweight


class ConvNormFunction(torch.autograd.Function):
    """ReLU of the batch norm of a convolution of (N, C, H, W), over 2x2 maxima if `pool`.

    Updates `running` mean and variance.
    """

    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        gain: torch.Tensor,
        bias: torch.Tensor,
        running: tuple[torch.Tensor | None, torch.Tensor | None],
        momentum: float,
        eps: float,
        pool: bool,
    ) -> torch.Tensor:
        x, weight = lanes(x), weight.contiguous()
        z = convolved(x, weight, None, relu=False)
        n, channels, h, w = z.shape
        y = _empty(h // 2, w // 2, channels, n) if pool else _empty_like(z)
        mean, rstd = z.new_empty(2, channels)
        _call("batch_norm", z, gain, bias, mean, rstd, *running, momentum, eps, y, h, w, channels, n, pool)
        ctx.save_for_backward(x, weight, z, gain, bias, mean, rstd)
        ctx.pool = pool
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> Gradients:
        x, weight, *norm = ctx.saved_tensors
        z, gain = norm[:2]
        n, channels, h, w = z.shape
        dz = _empty_like(z)
        dgain, dbias = gain.new_empty(2, channels)
        _call("batch_norm_backward", lanes(dy), *norm, dz, dgain, dbias, h, w, channels, n, ctx.pool)
        dx, dweight = convolution_gradients(x, weight, dz, ctx.needs_input_grad)
        return dx, dweight, dgain, dbias, None, None, None, None


def group_normed(  # noqa: PLR0917
    x: torch.Tensor, groups: int, weight: torch.Tensor, bias: torch.Tensor, eps: float, relu: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[ReLU of] the group norm of (N, C, H, W), and each group's mean and 1/deviation, (groups, N)."""
    x = lanes(x)
    n, channels, h, w = x.shape
    y = _empty_like(x)
    mean, rstd = x.new_empty(2, groups, n)
    _call("group_norm", x, weight, bias, mean, rstd, eps, y, h, w, channels, groups, n, relu)
    return y, mean, rstd


class GroupNormFunction(torch.autograd.Function):
    """[ReLU of] the group norm of (N, C, H, W)."""

    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any, x: torch.Tensor, groups: int, weight: torch.Tensor, bias: torch.Tensor, eps: float, relu: bool
    ) -> torch.Tensor:
        x = lanes(x)
        y, mean, rstd = group_normed(x, groups, weight, bias, eps, relu)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.options = groups, len(x), relu
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> Gradients:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        _, channels, h, w = x.shape
        dx = _empty_like(x) if ctx.needs_input_grad[0] else None
        dweight, dbias = weight.new_empty(2, channels)
        tensors = (lanes(dy), x, weight, bias, mean, rstd, dx, dweight, dbias)
        _call("group_norm_backward", *tensors, h, w, channels, *ctx.options)
        return dx, None, dweight, dbias, None, None


class MaxPoolFunction(torch.autograd.Function):
    """2x2 maxima of (N, C, H, W)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        x = lanes(x)
        ctx.save_for_backward(x)
        return affine(x, None, None, pool=True, relu=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        n, channels, h, w = x.shape
        dx = _empty_like(x)
        _call("max_pool_backward", lanes(dy), x, dx, h, w, channels, n)
        return dx


def pixel_mean(x: torch.Tensor) -> torch.Tensor:
    """(N, C), the mean over the pixels of (N, C, H, W)."""
    x = lanes(x)
    n, channels, h, w = x.shape
    y = torch.empty_strided((n, channels), (1, n))
    _call("mean_pixels", x, y, h * w, channels * n)
    return y


class PixelMeanFunction(torch.autograd.Function):
    """(N, C, H, W) to (N, C)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.shape = x.shape
        return pixel_mean(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> torch.Tensor:
        n, channels, h, w = ctx.shape
        dx = _empty(h, w, channels, n)
        _call("mean_pixels_backward", dy.t().contiguous(), dx, h * w, channels * n)
        return dx


def scaled_sum(h: torch.Tensor, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """h + scale x for h and x (N, C, H, W), scale (C,)."""
    x = lanes(x)
    n, channels, height, width = x.shape
    y = _empty_like(x)
    _call("scaled_add", lanes(h), x, scale, y, height * width, channels, n)
    return y


class ScaledAddFunction(torch.autograd.Function):
    """h + scale x for h and x (N, C, H, W), scale (C,)."""

    @staticmethod
    def forward(ctx: Any, h: torch.Tensor, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        x = lanes(x)
        ctx.save_for_backward(x, scale)
        return scaled_sum(h, x, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> Gradients:
        x, scale = ctx.saved_tensors
        n, channels, height, width = x.shape
        dy, dx, dscale = lanes(dy), _empty_like(x), torch.empty_like(scale)
        _call("scaled_add_backward", dy, x, scale, dx, dscale, height * width, channels, n)
        return dy, dx, dscale
