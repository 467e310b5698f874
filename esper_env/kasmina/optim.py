"""Optimisers of hosts and seeds, made and dropped by the lifecycle."""

from __future__ import annotations

import torch
from torch import nn

MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
CLIP_NORM = 1.0


def make_optimizer(module: nn.Module, lr: float) -> torch.optim.SGD:
    """SGD with Nesterov momentum; weight decay on tensors of two or more dims only."""
    parameters = list(module.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.SGD(groups, lr=lr, momentum=MOMENTUM, nesterov=True, foreach=True)


def set_lr(optimizer: torch.optim.SGD, lr: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def clear_momentum(optimizer: torch.optim.SGD) -> None:
    """Forget what the optimiser remembers of past gradients."""
    optimizer.state.clear()
