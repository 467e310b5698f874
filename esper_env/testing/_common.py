"""What the checks of hosts, blueprints and tasks share."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

ALPHAS = (0.0, 0.3, 0.5, 0.7, 1.0)
BATCH = 6


class ConformanceError(AssertionError):
    """A part breaks a rule that Esper's promises rest on; the message says which, where and how to mend it."""


def require(holds: bool, message: str) -> None:
    if not holds:
        raise ConformanceError(message)


def numbers(shape: Sequence[int], seed: int = 0) -> torch.Tensor:
    """Standard normal numbers from a generator of their own."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@contextmanager
def no_global_draw(what: str) -> Iterator[None]:
    def states() -> tuple[bytes, str, str]:
        return torch.get_rng_state().numpy().tobytes(), repr(np.random.get_state()), repr(random.getstate())  # noqa: NPY002

    before = states()
    yield
    for name, old, new in zip(("torch's", "NumPy's", "Python's"), before, states(), strict=True):
        require(
            old == new,
            f"{what} draws from {name} global generator, so results would depend on what else the process does. "
            "Leave randomness (dropout, noise) out of forward, or compute it from the input",
        )


def call(what: str, function: Callable[..., Any], *args: Any) -> torch.Tensor:
    """Call, and name the culprit if it raises or returns no floating-point tensor."""
    try:
        out = function(*args)
    except Exception as error:
        raise ConformanceError(f"{what} raised {type(error).__name__}: {error}") from error
    require(
        isinstance(out, torch.Tensor) and out.is_floating_point(),
        f"{what} must return one floating-point tensor, got {type(out).__name__}",
    )
    assert isinstance(out, torch.Tensor)
    require(bool(torch.isfinite(out).all()), f"{what} returned numbers that are not finite")
    return out


def check_moves(what: str, module: nn.Module, loss: Callable[[], torch.Tensor]) -> None:
    """Every parameter tensor moves within two plain SGD steps."""
    born = {name: p.detach().clone() for name, p in module.named_parameters()}
    if not born:
        return
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)  # no weight decay, no momentum
    for _ in range(2):
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    stuck = [name for name, p in module.named_parameters() if torch.equal(p, born[name])]
    require(
        not stuck,
        f"{what}: after two optimiser steps these parameters have not moved: {stuck}. Either forward does not use "
        "them, or something upstream is zero at birth (a zero weight, a norm's zero gain) or cut off (detach, a "
        "dead ReLU); a seed's output scale is zero at birth already, so nothing inside a blueprint may be",
    )
    ill = [name for name, p in module.named_parameters() if not bool(torch.isfinite(p).all())]
    require(not ill, f"{what}: after two optimiser steps these parameters are not finite: {ill}")


def same_tensors(message: str, a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    require(a.keys() == b.keys(), message.format(sorted(a.keys() ^ b.keys())))
    for name, tensor in a.items():
        require(torch.equal(tensor, b[name]), message.format(repr(name)))
