"""The kernels that join a seed to the stream, as differentiable functions of float32 tensors on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from esper_env.kasmina.native.layout import Gradients, columns, empty_lanes, empty_like, lanes, vectors
from esper_env.kasmina.native.tape import call, empty


def scaled_sum(h: torch.Tensor, x: torch.Tensor, scale: torch.Tensor, alpha: float) -> torch.Tensor:
    """h + alpha scale x for h and x (N, C, H, W), scale (C,)."""
    x = lanes(x)
    n, channels, height, width = x.shape
    y = empty_like(x)
    call("scaled_add", lanes(h), x, scale, alpha, y, height * width, channels, n)
    return y


class ScaledAddFunction(torch.autograd.Function):
    """h + alpha scale x for h and x (N, C, H, W), scale (C,)."""

    @staticmethod
    def forward(ctx: Any, h: torch.Tensor, x: torch.Tensor, scale: torch.Tensor, alpha: float) -> torch.Tensor:
        x = lanes(x)
        ctx.save_for_backward(x, scale)
        ctx.alpha = alpha
        return scaled_sum(h, x, scale, alpha)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> Gradients:
        x, scale = ctx.saved_tensors
        n, channels, height, width = x.shape
        dy = lanes(dy)
        _, needs_x, needs_scale, _ = ctx.needs_input_grad
        dx = dscale = None
        if needs_x or needs_scale:
            dx = empty_like(x) if needs_x else None
            (dscale,) = vectors(1, channels)
            call("scaled_add_backward", dy, x, scale, ctx.alpha, dx, dscale, height * width, channels, n)
        return dy, dx, dscale, None


def scaled_product(h: torch.Tensor, x: torch.Tensor, scale: torch.Tensor, alpha: float) -> torch.Tensor:
    """h (1 + alpha tanh(scale x)) for h and x (N, C, H, W), scale (C,)."""
    x = lanes(x)
    n, channels, height, width = x.shape
    y = empty_like(x)
    call("scaled_multiply", lanes(h), x, scale, alpha, y, height * width, channels, n)
    return y


class ScaledMultiplyFunction(torch.autograd.Function):
    """h (1 + alpha tanh(scale x)) for h and x (N, C, H, W), scale (C,)."""

    @staticmethod
    def forward(ctx: Any, h: torch.Tensor, x: torch.Tensor, scale: torch.Tensor, alpha: float) -> torch.Tensor:
        h, x = lanes(h), lanes(x)
        ctx.save_for_backward(h, x, scale)
        ctx.alpha = alpha
        return scaled_product(h, x, scale, alpha)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> Gradients:
        h, x, scale = ctx.saved_tensors
        n, channels, height, width = x.shape
        dh, dx = (empty_like(x) if needed else None for needed in ctx.needs_input_grad[:2])
        (dscale,) = vectors(1, channels)
        tensors = (lanes(dy), h, x, scale, ctx.alpha, dh, dx, dscale)
        call("scaled_multiply_backward", *tensors, height * width, channels, n)
        return dh, dx, dscale, None


def gate(x: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x sigmoid(g) for x (N, C, H, W), g (N, 1, H, W); and the sigmoids."""
    x = lanes(x)
    n, channels, h, w = x.shape
    y, share = empty_like(x), empty_lanes(h, w, 1, n)
    call("gated", x, lanes(g), share, y, h * w, channels, n)
    return y, share


class GateFunction(torch.autograd.Function):
    """x sigmoid(g) for x (N, C, H, W), g (N, 1, H, W)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        x = lanes(x)
        y, share = gate(x, g)
        ctx.save_for_backward(x, share)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> Gradients:
        x, share = ctx.saved_tensors
        n, channels, h, w = x.shape
        dx, dgate = empty_like(x), empty_like(share)
        call("gated_backward", lanes(dy), x, share, dx, dgate, h * w, channels, n)
        return dx, dgate


def weigh(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x sigmoid(weight) for x (N, C, H, W), weight (N, C); and the sigmoids."""
    x, weight = lanes(x), columns(weight)
    n, channels, h, w = x.shape
    y, share = empty_like(x), empty((n, channels), (1, n))
    call("weighted", x, weight, share, y, h * w, channels * n)
    return y, share


class WeighFunction(torch.autograd.Function):
    """x sigmoid(weight) for x (N, C, H, W), weight (N, C)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        x = lanes(x)
        y, share = weigh(x, weight)
        ctx.save_for_backward(x, share)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> Gradients:
        x, share = ctx.saved_tensors
        n, channels, h, w = x.shape
        dx, dweight = empty_like(x) if ctx.needs_input_grad[0] else None, empty((n, channels), (1, n))
        call("weighted_backward", lanes(dy), x, share, dx, dweight, h * w, channels * n)
        return dx, dweight


def silu(x: torch.Tensor) -> torch.Tensor:
    """x sigmoid(x) for x (N, C)."""
    x = columns(x)
    y = empty(tuple(x.shape), x.stride())
    call("silu", x, y, x.numel())
    return y


class SiluFunction(torch.autograd.Function):
    """x sigmoid(x) for x (N, C)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        x = columns(x)
        ctx.save_for_backward(x)
        return silu(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        dx = empty(tuple(x.shape), x.stride())
        call("silu_backward", columns(dy), x, dx, x.numel())
        return dx


class ForkFunction(torch.autograd.Function):
    """(N, C, H, W) to the same twice; the gradients are added."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.view_as(x), x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        a, b = lanes(a), lanes(b)
        y = empty_like(a)
        call("sum", a, b, y, a.numel())
        return y
