"""Layers that compute with our own kernels on a CPU in float32, and with torch's everywhere else.

torch's convolutions waste most of their lanes on 3 to 32 channels. The C++ files here keep activations with the batch
innermost instead, (H, W, C, N) in memory, so that no channel count wastes any; to torch they are (N, C, H, W) tensors
with other strides, and every torch function takes them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from esper_env.kasmina.native import functions, joints
from esper_env.kasmina.native.functions import crops, sgd
from esper_env.kasmina.native.layout import lanes
from esper_env.kasmina.native.library import KernelsNotBuiltError, in_use, torch_kernels
from esper_env.kasmina.native.tape import Tape

__all__ = [
    "Conv2d",
    "GroupNorm",
    "KernelsNotBuiltError",
    "Linear",
    "Tape",
    "arrange",
    "conv2d",
    "conv_norm_pool_relu",
    "conv_pool_relu",
    "crops",
    "fork",
    "gated",
    "in_use",
    "lanes",
    "loss_gradient",
    "max_pool",
    "pixel_mean",
    "scaled_add",
    "scaled_multiply",
    "sgd",
    "silu",
    "torch_kernels",
    "weighted",
]


def arrange(module: nn.Module) -> None:
    """Lay the weights in memory as the layers want them, who otherwise copy them at every call."""
    if in_use() is None:
        module.to(memory_format=torch.channels_last)


def _native(x: torch.Tensor) -> bool:
    """Whether the kernels are in use and made for `x`."""
    made_for = x.dtype is torch.float32 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    return made_for and in_use() is not None


def conv2d(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Convolution of (N, C, H, W) with (O, C, k, k), k odd, stride 1, padded to the same size."""
    if not _native(x):
        return F.conv2d(x, weight, bias, padding=weight.shape[2] // 2)
    if not torch.is_grad_enabled():  # a function without a gradient to come costs half
        return functions.convolved(x, weight, bias, relu=False)
    out: torch.Tensor = functions.ConvolutionFunction.apply(x, weight, bias)
    return out


def max_pool(x: torch.Tensor) -> torch.Tensor:
    """2x2 max pooling of (N, C, H, W)."""
    if not _native(x):
        return F.max_pool2d(x, 2)
    if not torch.is_grad_enabled():
        return functions.affine(x, None, None, pool=True, relu=False)
    out: torch.Tensor = functions.MaxPoolFunction.apply(x)
    return out


def scaled_add(h: torch.Tensor, x: torch.Tensor, scale: torch.Tensor, alpha: float = 1.0) -> torch.Tensor:
    """h + alpha scale x for h and x of shape (N, C, H, W) and scale (C,)."""
    if not _native(h) or x.dtype is not h.dtype:
        return torch.addcmul(h, x, (alpha * scale)[:, None, None].to(x.dtype))
    if not torch.is_grad_enabled():
        return joints.scaled_sum(h, x, scale, alpha)
    out: torch.Tensor = joints.ScaledAddFunction.apply(h, x, scale, alpha)
    return out


def scaled_multiply(h: torch.Tensor, x: torch.Tensor, scale: torch.Tensor, alpha: float = 1.0) -> torch.Tensor:
    """h (1 + alpha tanh(scale x)) for h and x of shape (N, C, H, W) and scale (C,)."""
    if not _native(h) or x.dtype is not h.dtype:
        return h * (1.0 + alpha * torch.tanh(scale[:, None, None] * x))
    if not torch.is_grad_enabled():
        return joints.scaled_product(h, x, scale, alpha)
    out: torch.Tensor = joints.ScaledMultiplyFunction.apply(h, x, scale, alpha)
    return out


def gated(x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """x sigmoid(gate) for x (N, C, H, W) and gate (N, 1, H, W)."""
    if not _native(x) or gate.dtype is not x.dtype:
        return x * torch.sigmoid(gate)
    if not torch.is_grad_enabled():
        return joints.gate(x, gate)[0]
    out: torch.Tensor = joints.GateFunction.apply(x, gate)
    return out


def weighted(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x sigmoid(weight) for x (N, C, H, W) and weight (N, C)."""
    if not _native(x) or weight.dtype is not x.dtype:
        return x * torch.sigmoid(weight)[:, :, None, None]
    if not torch.is_grad_enabled():
        return joints.weigh(x, weight)[0]
    out: torch.Tensor = joints.WeighFunction.apply(x, weight)
    return out


def silu(x: torch.Tensor) -> torch.Tensor:
    """x sigmoid(x) for x (N, C)."""
    if not _native(x):
        return F.silu(x)
    if not torch.is_grad_enabled():
        return joints.silu(x)
    out: torch.Tensor = joints.SiluFunction.apply(x)
    return out


def fork(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, C, H, W) twice, for two uses whose gradients come together."""
    if not _native(x) or not x.requires_grad or not torch.is_grad_enabled():
        return x, x
    out: tuple[torch.Tensor, torch.Tensor] = joints.ForkFunction.apply(x)
    return out


@torch.no_grad()
def loss_gradient(
    logits: torch.Tensor, labels: torch.Tensor, loss: torch.Tensor | None = None, hits: torch.Tensor | None = None
) -> torch.Tensor:
    """The gradient of the mean cross entropy with respect to `logits`, (N, O).

    Args:
        logits: (N, O).
        labels: (N,) int64.
        loss: float64 (), to which the sum over the images is added, in nats.
        hits: int64 (), to which the number of right answers is added.
    """
    if _native(logits):
        return functions.cross_entropy_gradient(logits, labels, loss, hits)
    log_shares = F.log_softmax(logits.float(), 1)
    if loss is not None:
        loss += F.nll_loss(log_shares, labels, reduction="sum").double()
    if hits is not None:
        hits += (logits.argmax(1) == labels).sum()
    gradient = log_shares.exp().sub_(F.one_hot(labels, logits.shape[1])).div_(len(labels))
    return gradient.to(logits.dtype)


@torch.no_grad()
def conv_pool_relu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, pool: bool) -> torch.Tensor:
    """ReLU of the convolution, over 2x2 maxima if `pool`; without gradients."""
    if not _native(x):
        x = conv2d(x, weight, bias)
        return F.relu(F.max_pool2d(x, 2) if pool else x, inplace=True)
    x = functions.convolved(x, weight, bias, relu=not pool)
    return functions.affine(x, None, None, pool=True, relu=True) if pool else x


def conv_norm_pool_relu(x: torch.Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d, *, pool: bool) -> torch.Tensor:
    """ReLU of the batch norm of the convolution of (N, C, H, W), over 2x2 maxima if `pool`."""
    if not _native(x) or conv.bias is not None or not norm.training or x.shape[0] * x.shape[2] * x.shape[3] == 1:
        x = norm(conv(x))
        # max pooling commutes with ReLU, in values and gradients, and leaves it a quarter of the numbers
        return F.relu(max_pool(x) if pool else x, inplace=True)
    assert norm.momentum is not None
    running: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)
    if norm.track_running_stats:
        running = norm.running_mean, norm.running_var
    out: torch.Tensor = functions.ConvNormFunction.apply(
        x, conv.weight, norm.weight, norm.bias, running, norm.momentum, norm.eps, pool
    )
    return out


def pixel_mean(x: torch.Tensor) -> torch.Tensor:
    """(N, C), the mean over the pixels of (N, C, H, W)."""
    if not _native(x):
        return x.mean((2, 3))
    if not torch.is_grad_enabled():
        return functions.pixel_mean(x)
    out: torch.Tensor = functions.PixelMeanFunction.apply(x)
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
            return functions.depthwise(x, self.weight)
        out: torch.Tensor = functions.DepthwiseFunction.apply(x, self.weight)
        return out


class Linear(nn.Linear):
    """A linear layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C) to (N, O)."""
        if not _native(x) or self.bias is None:
            return super().forward(x)
        if not torch.is_grad_enabled():
            return functions.affine_map(x, self.weight, self.bias)
        out: torch.Tensor = functions.LinearFunction.apply(x, self.weight, self.bias)
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
            return functions.group_normed(*arguments)[0]
        normed: torch.Tensor = functions.GroupNormFunction.apply(*arguments)
        return normed
