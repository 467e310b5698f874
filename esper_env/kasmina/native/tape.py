"""Calls the kernels, and records what a stretch of code calls so that it can run again without Python.

What CUDA graphs are on a GPU: an epoch records its first batch and replays the others in one call, which computes the
same bits and holds the interpreter's lock for none of it.
"""

from __future__ import annotations

import ctypes
import math
import struct
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from esper_env.kasmina.native.library import SIGNATURES, loaded

_ACTIVE = threading.local()


@cache
def _kernel(name: str) -> Any:
    return getattr(loaded(), name)


@cache
def _runner(name: str) -> int:
    """Address of what runs the kernel on recorded arguments."""
    address = ctypes.cast(getattr(loaded(), f"{name}_recorded"), ctypes.c_void_p).value
    assert address is not None
    return address


def call(name: str, *arguments: Any) -> None:
    """Call a kernel with tensors, numbers, ctypes arrays and ``None``. `arguments` live until it returns."""
    _kernel(name)(*[a.data_ptr() if isinstance(a, torch.Tensor) else a for a in arguments])
    tape = getattr(_ACTIVE, "tape", None)
    if tape is not None:
        tape.add(name, arguments)


def empty(shape: tuple[int, ...], strides: tuple[int, ...]) -> torch.Tensor:
    """A float32 tensor for a kernel to fill: dense, the strides in any order."""
    tape = getattr(_ACTIVE, "tape", None)
    if tape is None:
        return torch.empty_strided(shape, strides)
    flat: torch.Tensor = torch.from_numpy(tape.arena.take(math.prod(shape)))
    return flat.as_strided(shape, strides)


class _Lease(np.ndarray[Any, Any]):
    """A block of memory on loan: it goes back when the last tensor on it is gone."""

    arena: _Arena

    def __del__(self) -> None:
        if self.base is not None and hasattr(self, "arena"):
            self.arena.free[self.size].append(self.base)


class _Arena:
    """Memory of the tensors between the recorded kernels. Used again as it was in the recording, as in every replay."""

    def __init__(self) -> None:
        self.free: dict[int, list[Any]] = defaultdict(list)
        self.blocks: list[torch.Tensor] = []
        self.addresses: set[int] = set()

    def take(self, size: int) -> _Lease:
        """A block of `size` numbers."""
        if self.free[size]:
            block = self.free[size].pop()
        else:
            self.blocks.append(torch.empty(size))
            self.addresses.add(self.blocks[-1].data_ptr())
            block = self.blocks[-1].numpy()
        lease: _Lease = block.view(_Lease)
        lease.arena = self
        return lease


class _Watch(TorchDispatchMode):
    """Notices every operation of torch that a replay would leave out."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tape = tape

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if not func.is_view and not func.__name__.startswith(("empty", "new_empty")):
            self.tape.foreign.add(func.__name__)
        return func(*args, **(kwargs or {}))


class Tape:
    """A recording of kernels.

    Args:
        moving: tensors of which every run takes the next part, with the size of a part in bytes; the recording must
            take the first.
    """

    def __init__(self, moving: Sequence[tuple[torch.Tensor, int]] = ()) -> None:
        self.arena = _Arena()
        self.foreign: set[str] = set()
        """Names of the operations that are no kernels. With any, the recording is of no use."""
        self._moving = [(tensor, tensor.data_ptr(), size) for tensor, size in moving]
        self._steps: list[tuple[int, int]] = []  # runner, index of its first argument
        self._values: list[int] = []
        self._moves: list[tuple[int, int]] = []  # index of an argument, bytes
        self._held: list[Any] = []

    @contextmanager
    def recording(self, *, watch: bool = True) -> Iterator[None]:
        """Record the kernels that this thread calls.

        Args:
            watch: notice what else it does, which takes as long again.
        """
        assert getattr(_ACTIVE, "tape", None) is None, "a recording within a recording"
        _ACTIVE.tape = self
        try:
            with _Watch(self) if watch else nullcontext():
                yield
        finally:
            _ACTIVE.tape = None

    @property
    def complete(self) -> bool:
        """Whether a replay does all that the recorded code did."""
        return not self.foreign

    def add(self, name: str, arguments: Sequence[Any]) -> None:
        """Note a call."""
        self._steps.append((_runner(name), len(self._values)))
        for kind, argument in zip(SIGNATURES[name], arguments, strict=True):
            if kind == "F":
                self._values.append(int.from_bytes(struct.pack("<f", argument), "little"))
            elif kind == "I":
                self._values.append(int(argument) & 0xFFFFFFFF)
            else:
                self._values.append(self._address(argument))

    def _address(self, argument: Any) -> int:
        if argument is None:
            return 0
        if not isinstance(argument, torch.Tensor):
            self._held.append(argument)
            return ctypes.addressof(argument)
        address = argument.data_ptr()
        for _, start, size in self._moving:
            if start <= address < start + size:
                self._moves.append((len(self._values), size))
        if address not in self.arena.addresses:
            self._held.append(argument)
        return address

    def replay(self, times: int) -> None:
        """Run what was recorded `times` times more, each with the next parts of the moving tensors."""
        assert self.complete
        steps, moves = (np.array(pairs, np.int64).reshape(-1, 2) for pairs in (self._steps, self._moves))
        values = np.array(self._values, np.uint64)
        pointers = (a.ctypes.data for a in (steps, values, moves))
        loaded().replay(next(pointers), len(steps), next(pointers), next(pointers), len(moves), times)
