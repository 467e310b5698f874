"""The optimiser of hosts and seeds."""

from __future__ import annotations

import torch
from torch import nn

from esper_env.kasmina import native

MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
CLIP_NORM = 1.0


class ClippedSGD(torch.optim.SGD):
    """SGD with Nesterov momentum that clips all gradients of one module together, to `CLIP_NORM`.

    Weight decay is on tensors of two or more dimensions only. Momenta are there from the start, as zeros.

    Args:
        module: what learns.
        lr: learning rate.
    """

    def __init__(self, module: nn.Module, lr: float) -> None:
        self.parameters = list(module.parameters())
        groups = [
            {"params": [p for p in self.parameters if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in self.parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        super().__init__(groups, lr=lr, momentum=MOMENTUM, nesterov=True, foreach=True)
        self.momenta = [torch.zeros_like(p) for p in self.parameters]
        """In the order of `parameters`, with their strides: the kernel walks memory."""
        for p, momentum in zip(self.parameters, self.momenta, strict=True):
            self.state[p]["momentum_buffer"] = momentum
        self._native = native.in_use() is not None and all(
            p.dtype is torch.float32 and p.device.type == "cpu" for p in self.parameters
        )
        self._decays = [WEIGHT_DECAY if p.ndim >= 2 else 0.0 for p in self.parameters]

    def set_lr(self, lr: float) -> None:
        """Set the learning rate."""
        for group in self.param_groups:
            group["lr"] = lr

    @torch.no_grad()
    def clipped_step(self) -> torch.Tensor:
        """Clip, step, and drop the gradients.

        Returns:
            The norm of each parameter's gradient before clipping, (P,) in the order of `parameters`; 0 for none.
        """
        parameters = self.parameters
        if self._native:
            rate = self.param_groups[0]["lr"]
            given = [p.grad for p in parameters]
            norms = native.sgd(parameters, given, self.momenta, self._decays, rate, MOMENTUM, CLIP_NORM)
        else:
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            norms = torch.stack(torch._foreach_norm(grads))
            nn.utils.clip_grads_with_norm_(parameters, CLIP_NORM, torch.linalg.vector_norm(norms), foreach=True)
            self.step()
        for p in parameters:
            p.grad = None
        return norms

    def clear_momentum(self) -> None:
        """Forget what is remembered of past gradients."""
        for momentum in self.momenta:
            momentum.zero_()
