"""Floating-point operations of a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from esper_env.kasmina.native import torch_kernels


class _Counter(TorchDispatchMode):
    """Counts 2 per multiply-add of convolutions and matrix products, 1 per output number of anything else.

    torch's own `FlopCounterMode` hooks every module of the process, so it cannot run beside other threads.
    """

    def __init__(self, registry: Mapping[Any, Callable[..., Any]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.registry = registry
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        count = self.registry.get(func._overloadpacket)
        if count is not None:
            self.total += int(count(*args, **(kwargs or {}), out_val=out))
        elif not func.is_view:
            self.total += sum(t.numel() for t in (out if isinstance(out, tuple) else (out,))[:1])
        return out


def forward_flops(run: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, int]:
    """Return what `run` computes with torch, and the FLOPs it took."""
    from torch.utils.flop_counter import flop_registry  # noqa: PLC0415 - it imports triton

    counter = _Counter(flop_registry)
    with torch.no_grad(), torch_kernels(), counter:
        out = run()
    return out, counter.total
