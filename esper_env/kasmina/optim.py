"""The optimiser of hosts and seeds."""

from __future__ import annotations

from collections.abc import Sequence

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
        self._rate = torch.full((1,), lr)
        self._decays = [WEIGHT_DECAY if p.ndim >= 2 else 0.0 for p in self.parameters]

    def set_lr(self, lr: float) -> None:
        """Set the learning rate."""
        self._rate.fill_(lr)
        for group in self.param_groups:
            group["lr"] = lr

    @torch.no_grad()
    def clipped_step(
        self,
        gradients: Sequence[torch.Tensor | None],
        *,
        rate: torch.Tensor | None = None,
        norms: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Clip the gradients together and step.

        Args:
            gradients: in the order of `parameters`; one without, ``None``, stays as it is.
            rate: the learning rate of this step, (1,) float32 on the CPU; ``None`` takes the present one.
            norms: (P,) float32 that gets the norm of each gradient before clipping; 0 for none.

        Returns:
            `norms`, new if it was not given.
        """
        parameters = self.parameters
        if norms is None:
            norms = torch.empty(len(parameters), device=parameters[0].device)
        if self._native:
            rate = self._rate if rate is None else rate
            native.sgd(parameters, gradients, self.momenta, self._decays, rate, MOMENTUM, CLIP_NORM, norms)
            return norms
        if rate is not None:
            self.set_lr(float(rate))
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient
        known = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        norms.copy_(torch.stack(torch._foreach_norm(known)))
        nn.utils.clip_grads_with_norm_(parameters, CLIP_NORM, torch.linalg.vector_norm(norms), foreach=True)
        self.step()
        for p in parameters:
            p.grad = None
        return norms

    def clear_momentum(self) -> None:
        """Forget what is remembered of past gradients."""
        for momentum in self.momenta:
            momentum.zero_()
