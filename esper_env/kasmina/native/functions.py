"""The kernels of layers, loss and optimiser, as functions of tensors. Every tensor is float32 on the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from esper_env.kasmina.native.layout import (
    Gradients,
    columns,
    empty_lanes,
    empty_like,
    lanes,
    vectors,
    weight_like,
)
from esper_env.kasmina.native.tape import call, empty


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
    y = empty_lanes(*size, channels, len(rows))
    call("crops", images, height, width, rows, *corners, flips, mean, gain, y, *size, channels, len(rows))
    return y


def convolved(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, relu: bool) -> torch.Tensor:
    """[ReLU of] the convolution of (N, C, H, W) with (O, C, k, k)."""
    x, weight = lanes(x), weight.contiguous()
    n, inputs, h, w = x.shape
    outputs, _, k, _ = weight.shape
    y = empty_lanes(h, w, outputs, n)
    call("convolution", x, weight, bias, y, h, w, inputs, outputs, k, n, relu, False)
    return y


def affine(
    x: torch.Tensor, scale: torch.Tensor | None, shift: torch.Tensor | None, *, pool: bool, relu: bool
) -> torch.Tensor:
    """[ReLU of] [the 2x2 maxima of] scale x + shift for x (N, C, H, W), scale and shift (C,) or None."""
    x = lanes(x)
    n, channels, h, w = x.shape
    y = empty_lanes(h // 2, w // 2, channels, n) if pool else empty_like(x)
    call("affine", x, scale, shift, y, h, w, channels, n, pool, relu)
    return y


def sgd(  # noqa: PLR0917
    values: Sequence[torch.Tensor],
    gradients: Sequence[torch.Tensor | None],
    momenta: Sequence[torch.Tensor],
    decays: Sequence[float],
    rate: torch.Tensor,
    momentum: float,
    clip: float,
    norms: torch.Tensor,
) -> None:
    """Clip the gradients together and make one step of SGD with Nesterov momentum.

    `rate` holds one number; `norms` gets each gradient's norm before.
    """
    n = len(values)
    # the kernel walks memory, so a gradient must lie in it as its tensor does
    laid = [
        g if g is None or g.stride() == v.stride() else torch.empty_like(v).copy_(g)
        for g, v in zip(gradients, values, strict=True)
    ]
    pointers = ctypes.c_void_p * n
    call(
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


def convolution_gradients(
    x: torch.Tensor, weight: torch.Tensor, dy: torch.Tensor, needed: Sequence[bool]
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The gradients of input and weight of a convolution, those that are needed."""
    n, inputs, h, w = x.shape
    outputs, _, k, _ = weight.shape
    dx = dweight = None
    if needed[0]:
        dx = empty_like(x)
        call("convolution", dy, weight, None, dx, h, w, outputs, inputs, k, n, False, True)
    if needed[1]:
        dweight = weight_like(weight)
        call("convolution_weight", x, dy, dweight, h, w, inputs, outputs, k, n)
    return dx, dweight


def _channel_sums(x: torch.Tensor) -> torch.Tensor:
    n, channels, h, w = x.shape
    (y,) = vectors(1, channels)
    call("channel_sums", x, y, h * w, channels, n)
    return y


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
        dy = lanes(dy)
        dx, dweight = convolution_gradients(x, weight, dy, ctx.needs_input_grad)
        return dx, dweight, _channel_sums(dy) if ctx.needs_input_grad[2] else None


def depthwise(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Each channel of (N, C, H, W) convolved with its own of (C, 1, k, k)."""
    x, weight = lanes(x), weight.contiguous()
    n, channels, h, w = x.shape
    y = empty_like(x)
    call("depthwise", x, weight, y, h, w, channels, weight.shape[2], n, False)
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
            dx = empty_like(x)
            call("depthwise", dy, weight, dx, h, w, channels, k, n, True)
        if ctx.needs_input_grad[1]:
            dweight = weight_like(weight)
            call("depthwise_weight", x, dy, dweight, h, w, channels, k, n)
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
        y = empty_lanes(h // 2, w // 2, channels, n) if pool else empty_like(z)
        mean, rstd = vectors(2, channels)
        call("batch_norm", z, gain, bias, mean, rstd, *running, momentum, eps, y, h, w, channels, n, pool)
        ctx.save_for_backward(x, weight, z, gain, bias, mean, rstd)
        ctx.pool = pool
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> Gradients:
        x, weight, *norm = ctx.saved_tensors
        z = norm[0]
        n, channels, h, w = z.shape
        dz = empty_like(z)
        dgain, dbias = vectors(2, channels)
        call("batch_norm_backward", lanes(dy), *norm, dz, dgain, dbias, h, w, channels, n, ctx.pool)
        dx, dweight = convolution_gradients(x, weight, dz, ctx.needs_input_grad)
        return dx, dweight, dgain, dbias, None, None, None, None


def group_normed(  # noqa: PLR0917
    x: torch.Tensor, groups: int, weight: torch.Tensor, bias: torch.Tensor, eps: float, relu: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[ReLU of] the group norm of (N, C, H, W), and each group's mean and 1/deviation, (groups * N,)."""
    x = lanes(x)
    n, channels, h, w = x.shape
    y = empty_like(x)
    mean, rstd = vectors(2, groups * n)
    call("group_norm", x, weight, bias, mean, rstd, eps, y, h, w, channels, groups, n, relu)
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
        dx = empty_like(x) if ctx.needs_input_grad[0] else None
        dweight, dbias = vectors(2, channels)
        tensors = (lanes(dy), x, weight, bias, mean, rstd, dx, dweight, dbias)
        call("group_norm_backward", *tensors, h, w, channels, *ctx.options)
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
        dx = empty_like(x)
        call("max_pool_backward", lanes(dy), x, dx, h, w, channels, n)
        return dx


def pixel_mean(x: torch.Tensor) -> torch.Tensor:
    """(N, C), the mean over the pixels of (N, C, H, W)."""
    x = lanes(x)
    n, channels, h, w = x.shape
    y = empty((n, channels), (1, n))
    call("mean_pixels", x, y, h * w, channels * n)
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
        dx = empty_lanes(h, w, channels, n)
        call("mean_pixels_backward", dy.t().contiguous(), dx, h * w, channels * n)
        return dx


def affine_map(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """x W^T + b for x (N, C), weight (O, C), bias (O,)."""
    y = empty((len(x), len(weight)), (1, len(x)))
    call(
        "convolution",
        columns(x)[:, :, None, None],
        weight,
        bias,
        y,
        1,
        1,
        x.shape[1],
        len(weight),
        1,
        len(x),
        False,
        False,
    )
    return y


class LinearFunction(torch.autograd.Function):
    """x (N, C), weight (O, C), bias (O,) to (N, O)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return affine_map(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> Gradients:
        x, weight = ctx.saved_tensors
        dy = columns(dy)[:, :, None, None]
        dx, dweight = convolution_gradients(
            columns(x)[:, :, None, None], weight[:, :, None, None], dy, ctx.needs_input_grad
        )
        dbias = _channel_sums(dy) if ctx.needs_input_grad[2] else None
        return None if dx is None else dx[:, :, 0, 0], None if dweight is None else dweight[:, :, 0, 0], dbias


def cross_entropy_gradient(
    logits: torch.Tensor, labels: torch.Tensor, loss: torch.Tensor | None, hits: torch.Tensor | None
) -> torch.Tensor:
    """The gradient of the mean cross entropy of `logits`, (N, O); adds to the sums `loss` and `hits`."""
    n, classes = logits.shape
    gradient = empty((n, classes), (1, n))
    call("cross_entropy", columns(logits), labels, gradient, loss, hits, classes, n)
    return gradient
