"""Layers that compute with our own kernels on a CPU in float32, and with torch's everywhere else.

torch's convolutions waste most of their lanes on 3 to 32 channels. The C++ files here keep activations with the batch
innermost instead, (H, W, C, N) in memory, so that no channel count wastes any; to torch they are (N, C, H, W) tensors
with other strides, and every torch function takes them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from esper_env.kasmina.native import functions
from esper_env.kasmina.native.functions import (
    ConvNormFunction,
    ConvolutionFunction,
    DepthwiseFunction,
    GroupNormFunction,
    MaxPoolFunction,
    PixelMeanFunction,
    ScaledAddFunction,
    affine,
    convolved,
    crops,
    depthwise,
    group_normed,
    lanes,
    scaled_sum,
    sgd,
)
from esper_env.kasmina.native.library import KernelsNotBuiltError, in_use, torch_kernels

__all__ = [
    "Conv2d",
    "GroupNorm",
    "KernelsNotBuiltError",
    "conv2d",
    "conv_norm_pool_relu",
    "conv_pool_relu",
    "crops",
    "in_use",
    "lanes",
    "max_pool",
    "pixel_mean",
    "scaled_add",
    "sgd",
    "torch_kernels",
]


def _native(x: torch.Tensor) -> bool:
    """Whether the kernels are in use and made for `x`."""
    made_for = x.dtype is torch.float32 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    return made_for and in_use() is not None


def conv2d(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Convolution of (N, C, H, W) with (O, C, k, k), k odd, stride 1, padded to the same size."""
    if not _native(x):
        return F.conv2d(x, weight, bias, padding=weight.shape[2] // 2)
    if not torch.is_grad_enabled():  # a function without a gradient to come costs half
        return convolved(x, weight, bias, relu=False)
    out: torch.Tensor = ConvolutionFunction.apply(x, weight, bias)
    return out


def max_pool(x: torch.Tensor) -> torch.Tensor:
    """2x2 max pooling of (N, C, H, W)."""
    if not _native(x):
        return F.max_pool2d(x, 2)
    if not torch.is_grad_enabled():
        return affine(x, None, None, pool=True, relu=False)
    out: torch.Tensor = MaxPoolFunction.apply(x)
    return out


def scaled_add(h: torch.Tensor, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """h + scale x for h and x of shape (N, C, H, W) and scale (C,)."""
    if not _native(h) or x.dtype is not h.dtype:
        return torch.addcmul(h, x, scale[:, None, None].to(x.dtype))
    if not torch.is_grad_enabled():
        return scaled_sum(h, x, scale)
    out: torch.Tensor = ScaledAddFunction.apply(h, x, scale)
    return out


@torch.no_grad()
def conv_pool_relu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, pool: bool) -> torch.Tensor:
    """ReLU of the convolution, over 2x2 maxima if `pool`; without gradients."""
    if not _native(x):
        x = conv2d(x, weight, bias)
        return F.relu(F.max_pool2d(x, 2) if pool else x, inplace=True)
    x = convolved(x, weight, bias, relu=not pool)
    return affine(x, None, None, pool=True, relu=True) if pool else x


def conv_norm_pool_relu(x: torch.Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d, *, pool: bool) -> torch.Tensor:
    """ReLU of the batch norm of the convolution of (N, C, H, W), over 2x2 maxima if `pool`."""
    if not _native(x) or conv.bias is not None or not norm.training or x.shape[0] * x.shape[2] * x.shape[3] == 1:
        x = norm(conv(x))
        # max pooling commutes with ReLU, in values and gradients, and leaves it a quarter of the numbers
        return F.relu(max_pool(x) if pool else x, inplace=True)
    assert norm.momentum is not None
    running: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)
    if norm.track_running_stats:
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
        running = norm.running_mean, norm.running_var
    out: torch.Tensor = ConvNormFunction.apply(
        x, conv.weight, norm.weight, norm.bias, running, norm.momentum, norm.eps, pool
    )
    return out


def pixel_mean(x: torch.Tensor) -> torch.Tensor:
    """(N, C), the mean over the pixels of (N, C, H, W)."""
    if not _native(x):
        return x.mean((2, 3))
    if not torch.is_grad_enabled():
        return functions.pixel_mean(x)
    out: torch.Tensor = PixelMeanFunction.apply(x)
    return out


class Conv2d(nn.Conv2d):
    """A convolution with stride 1 and padding to the same size, over all channels or each channel on its own."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, groups: int = 1, bias: bool = False) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        if self.groups == 1:
            return conv2d(x, self.weight, self.bias)
        if not _native(x) or self.bias is not None or self.weight.shape[:2] != (self.groups, 1):
            return super().forward(x)
        if not torch.is_grad_enabled():
            return depthwise(x, self.weight)
        out: torch.Tensor = DepthwiseFunction.apply(x, self.weight)
        return out


class GroupNorm(nn.GroupNorm):
    """Group norm, then ReLU if `relu`."""

    def __init__(self, groups: int, channels: int, *, relu: bool = False) -> None:
        super().__init__(groups, channels)
        self.relu = relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        if not _native(x):
            out = super().forward(x)
            return F.relu(out, inplace=True) if self.relu else out
        arguments = (x, self.num_groups, self.weight, self.bias, self.eps, self.relu)
        if not torch.is_grad_enabled():
            return group_normed(*arguments)[0]
        normed: torch.Tensor = GroupNormFunction.apply(*arguments)
        return normed
