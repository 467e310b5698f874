"""A seed: a blueprint's module, its output scale, and how the two join the host's stream."""

from __future__ import annotations

import torch
from torch import nn

from esper_env.kasmina import native
from esper_env.kasmina.blueprints import BLUEPRINTS
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
        self.gate = native.Conv2d(channels, 1, 1, bias=True) if style is Style.GATE else None
        native.arrange(self)
        self.size = sum(p.numel() for p in self.parameters())
        """Number of parameters."""

    def forward(self, h: torch.Tensor, x: torch.Tensor, alpha: float) -> torch.Tensor:
        """Join the seed to the host's activation.

        Args:
            h: the host's activation at the slot, (N, C, H, W).
            x: what the seed sees: `h`, or `h` detached while the seed is uncommitted.
            alpha: weight of the seed, 0 to 1.
        """
        if h is x:
            h, x = native.fork(h)
        if self.gate is None:
            body = self.body(x)
        else:
            for_body, for_gate = native.fork(x)
            body = native.gated(self.body(for_body), self.gate(for_gate))
        join = native.scaled_multiply if self.style is Style.MULTIPLY else native.scaled_add
        return join(h, body, self.scale, alpha)
