"""A seed: a blueprint's module, its output scale, and how the two join the host's stream."""

from __future__ import annotations

import torch
from torch import nn

from esper_env.kasmina.blueprints import BLUEPRINTS
from esper_env.kasmina.native import Conv2d, scaled_add
from esper_env.leyline import Style


class Seed(nn.Module):
    """A residual module that is the identity at birth, at every alpha and in every style.

    With d(x) = scale * body(x), where the per-channel scale starts at 0:

    ========  ==========================
    add       y = h + a * d(x)
    gate      y = h + a * g(x) * d(x)
    multiply  y = h * (1 + a * tanh d(x))
    ========  ==========================

    With add and gate the host keeps its whole gradient at every alpha; a cross-fade (1 - a) h + a s(x) would
    stop everything upstream of a fully blended seed from learning.
    """

    def __init__(self, blueprint: str, channels: int, style: Style) -> None:
        super().__init__()
        self.style = style
        self.body = BLUEPRINTS[blueprint](channels)
        self.scale = nn.Parameter(torch.zeros(channels))
        self.gate = Conv2d(channels, 1, 1, bias=True) if style is Style.GATE else None
        # the layout of the host's activations; a strided copy of every weight at every call otherwise
        self.to(memory_format=torch.channels_last)
        self.size = sum(p.numel() for p in self.parameters())
        """Number of parameters."""

    def forward(self, h: torch.Tensor, x: torch.Tensor, alpha: float) -> torch.Tensor:
        """Join the seed to the host's activation.

        Args:
            h: the host's activation at the slot, (N, C, H, W).
            x: what the seed sees: `h`, or `h` detached while the seed is uncommitted.
            alpha: weight of the seed, 0 to 1.
        """
        body = self.body(x)
        if self.style is Style.MULTIPLY:
            return h * (1.0 + alpha * torch.tanh(self.scale[:, None, None] * body))
        if self.gate is not None:
            body = body * torch.sigmoid(self.gate(x))
        scale = self.scale if alpha == 1.0 else alpha * self.scale
        return scaled_add(h, body, scale)
