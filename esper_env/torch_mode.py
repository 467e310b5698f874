"""torch's modes: an environment has its own, whatever the caller's are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


@contextmanager
def own_torch_mode() -> Iterator[None]:
    """One intra-op thread, autograd on, autocast off, float32 on the CPU; the caller's settings afterwards."""
    threads = torch.get_num_threads()
    if threads != 1:
        torch.set_num_threads(1)
    on_cpu = torch.empty(0).is_cpu  # `get_default_device` takes ten times as long
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast("cpu", enabled=False),
            nullcontext() if on_cpu else torch.device("cpu"),
            _float32,
        ):
            yield
    finally:
        if threads != 1:
            torch.set_num_threads(threads)


class _Float32:
    """float32 as default dtype. The process has only one: the first thread in sets it, the last one out resets it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._callers = torch.float32

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._callers = torch.get_default_dtype()
                self._set(torch.float32)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._set(self._callers)

    def _set(self, dtype: torch.dtype) -> None:
        if self._callers is not torch.float32:
            torch.set_default_dtype(dtype)


_float32 = _Float32()
