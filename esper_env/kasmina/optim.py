"""Optimisers of hosts and seeds, made and dropped by the lifecycle."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from esper_env.kasmina import native

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


@torch.no_grad()
def clipped_step(optimizer: torch.optim.SGD, parameters: Sequence[nn.Parameter]) -> torch.Tensor:
    """Clip the gradients together to `CLIP_NORM`, step, and drop them.

    Args:
        optimizer: one that `make_optimizer` made.
        parameters: all it has.

    Returns:
        The norm of each parameter's gradient before clipping, (P,) in the order of `parameters`; 0 for none.
    """
    if native.in_use() is None or any(p.dtype is not torch.float32 or p.device.type != "cpu" for p in parameters):
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        norms = torch.stack(torch._foreach_norm(grads))
        nn.utils.clip_grads_with_norm_(parameters, CLIP_NORM, torch.linalg.vector_norm(norms), foreach=True)
        optimizer.step()
    else:
        decays = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        rate = optimizer.param_groups[0]["lr"]
        momenta = [_momentum(optimizer, p) for p in parameters]
        given = [p.grad for p in parameters]
        norms = native.sgd(parameters, given, momenta, [decays[p] for p in parameters], rate, MOMENTUM, CLIP_NORM)
    for p in parameters:
        p.grad = None
    return norms


def _momentum(optimizer: torch.optim.SGD, p: nn.Parameter) -> torch.Tensor:
    """The momentum of a parameter, zero at first, with the parameter's strides: the kernel walks memory."""
    state = optimizer.state[p]
    momentum = state.get("momentum_buffer")
    if momentum is None:
        state["momentum_buffer"] = torch.zeros_like(p)
    elif momentum.stride() != p.stride():  # it was loaded
        state["momentum_buffer"] = torch.empty_like(p).copy_(momentum)
    out: torch.Tensor = state["momentum_buffer"]
    return out


def clear_momentum(optimizer: torch.optim.SGD) -> None:
    """Forget what the optimiser remembers of past gradients."""
    optimizer.state.clear()
