"""Blueprints: the kinds of module a seed can be.

A blueprint is a factory ``channels -> nn.Module`` whose module maps (N, C, H, W) to (N, C, H, W). `Seed` adds
the learned output scale that makes every seed the identity at birth, so a blueprint need not be zero at
birth and should not be: each of its parameters must receive a gradient once the scale has moved.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from esper_env.kasmina import native
from esper_env.kasmina.definition import as_defined
from esper_env.kasmina.native import Conv2d, GroupNorm

BlueprintFactory = Callable[[int], nn.Module]


def group_norm(channels: int, *, relu: bool = False) -> GroupNorm:
    """Group norm with at least four channels a group where the channels allow it."""
    groups = max(g for g in range(1, max(1, channels // 4) + 1) if channels % g == 0)
    return GroupNorm(groups, channels, relu=relu)


class SqueezeExcite(nn.Module):
    """Channel attention, x * sigmoid(W2 silu(W1 mean(x))) (Hu et al., 2018, https://arxiv.org/abs/1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(4, channels // 4)
        self.squeeze = native.Linear(channels, hidden)
        self.excite = native.Linear(hidden, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        x, looked_at = native.fork(x)
        weight = self.excite(native.silu(self.squeeze(native.pixel_mean(looked_at))))  # (N, C)
        return native.weighted(x, weight)


def _activated(channels: int) -> nn.Module:
    norm = group_norm(channels, relu=True)
    if channels == 1:
        # the next group norm undoes a lone gain, which then has no gradient unless the bias is not 0
        nn.init.constant_(norm.bias, 0.3)
    return norm


def _conv_small(channels: int) -> nn.Module:
    return nn.Sequential(_activated(channels), Conv2d(channels, channels, 1))


def _depthwise(channels: int) -> nn.Module:
    depthwise, pointwise = Conv2d(channels, channels, 3, groups=channels), Conv2d(channels, channels, 1)
    return nn.Sequential(_activated(channels), depthwise, pointwise)


def _conv_light(channels: int) -> nn.Module:
    return nn.Sequential(_activated(channels), Conv2d(channels, channels, 3))


def _bottleneck(channels: int) -> nn.Module:
    hidden = max(4, channels // 2)
    return nn.Sequential(
        _activated(channels),
        Conv2d(channels, hidden, 1),
        _activated(hidden),
        Conv2d(hidden, hidden, 3),
        _activated(hidden),
        Conv2d(hidden, channels, 1),
    )


def _conv_heavy(channels: int) -> nn.Module:
    return nn.Sequential(
        _activated(channels),
        Conv2d(channels, channels, 3),
        _activated(channels),
        Conv2d(channels, channels, 3),
    )


BLUEPRINTS: dict[str, BlueprintFactory] = {
    "norm": group_norm,
    "attention": SqueezeExcite,
    "conv_small": _conv_small,
    "depthwise": _depthwise,
    "conv_light": _conv_light,
    "bottleneck": _bottleneck,
    "conv_heavy": _conv_heavy,
}
"""The registry. `register_blueprint` adds to it."""

DEFAULT_BLUEPRINTS = tuple(BLUEPRINTS)


def register_blueprint(name: str, factory: BlueprintFactory) -> None:
    """Make `factory` available as blueprint `name`.

    Check it first with `esper_env.testing.check_blueprint`.

    Raises:
        ValueError: the name is taken by another factory, or is not an identifier.
    """
    if not name.isidentifier():
        raise ValueError(f"a blueprint's name must be an identifier, got {name!r}")
    if as_defined(BLUEPRINTS.get(name, factory)) != as_defined(factory):
        raise ValueError(f"blueprint {name!r} is registered already; choose another name")
    BLUEPRINTS[name] = factory
