"""The two floors of a step of CifarBaseline: its operations over the rate of matrix products, its bytes over bandwidth.

Operations are those of convolutions and matrix products, two a multiply-add; bytes are every tensor a kernel takes or
gives, counted once a call. One core.
"""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from benchmarks.pages import markdown
from benchmarks.perf.measure import Report, each, medians, seconds, spread
from benchmarks.perf.step import make
from esper_env.kasmina import GrowingModel, native
from esper_env.kasmina.native import functions, joints, layout, tape

CASES = {"bare host": None, "conv_light in every slot": "conv_light", "conv_heavy in every slot": "conv_heavy"}
MEGABYTE = 1 << 20


class Counted:
    """Counts what the kernels of a model's batches read and write while it is installed."""

    def __init__(self, model: GrowingModel) -> None:
        self.model = model
        self.bytes, self.operations = 0, 0
        self._patches: list[Any] = [patch.object(module, "call", self.call) for module in (functions, joints, layout)]
        self._patches.append(patch.object(native.Tape, "complete", False))  # so that every batch calls its kernels

    def __enter__(self) -> Counted:
        for one in self._patches:
            one.start()
        return self

    def __exit__(self, *_: Any) -> None:
        for one in self._patches:
            one.stop()
        self.model.repeatable.clear()

    def call(self, name: str, *arguments: Any) -> None:
        """Count a call and make it."""
        tape.call(name, *arguments)
        tensors = [a for a in arguments if isinstance(a, Tensor)]
        numbers = [a for a in arguments if isinstance(a, int)]
        # of the whole training set a crop reads as many bytes as it cuts pixels
        self.bytes += sum(t.numel() * t.element_size() for t in tensors[name == "crops" :])
        if name in ("convolution", "convolution_weight"):
            h, w, inputs, outputs, k, n = numbers[:6]
            self.operations += 2 * h * w * inputs * outputs * k * k * n
        elif name in ("depthwise", "depthwise_weight"):
            h, w, channels, k, n = numbers[:5]
            self.operations += 2 * h * w * channels * k * k * n


def rates() -> dict[str, float]:
    """Operations a second of float32 matrix products; bytes a second, read and written, in cache and in memory."""
    a, b = torch.randn(2, 768, 768)
    product = min(seconds(lambda: a @ b) for _ in range(20))
    out = {"operations": 2 * 768**3 / product}
    for name, size in {"cache": MEGABYTE // 2, "memory": 256 * MEGABYTE}.items():
        x = torch.ones(size // 4)
        y = torch.empty_like(x)
        repeats = max(1, 64 * MEGABYTE // size)
        copy = lambda x=x, y=y, n=repeats: [y.copy_(x) for _ in range(n)]  # noqa: E731
        out[name] = 2 * size * repeats / min(seconds(copy) for _ in range(5))
    return out


def measure(process: int) -> dict[str, Any]:
    """The machine's rates, and time, operations and bytes of a step by case."""
    out: dict[str, Any] = {"rates": rates()}
    for case, blueprint in CASES.items():
        env = make("Esper/CifarBaseline-v0", blueprint)
        env.step(0)
        with Counted(env.episode.model) as counted:
            env.step(0)
        took = medians({"step": partial(env.step, 0)}, 8)["step"]
        out[case] = {"seconds": took, "operations": counted.operations, "bytes": counted.bytes}
    return out


def report(rows: list[dict[str, Any]]) -> Report:
    """Floors and the gap to them."""
    lines = []
    for case in CASES:
        took, operations, moved = (each(rows, case, key) for key in ("seconds", "operations", "bytes"))
        arithmetic = operations / each(rows, "rates", "operations")
        cache, memory = moved / each(rows, "rates", "cache"), moved / each(rows, "rates", "memory")
        floor = np.maximum(arithmetic, cache)
        lines.append([case, *(spread(1e3 * x, ".0f") for x in (took, arithmetic, cache, memory)), spread(took / floor)])
    rate = [spread(each(rows, "rates", key) / 1e9, ".0f") for key in ("operations", "cache", "memory")]
    head = [
        "",
        "step, ms",
        "operations, ms",
        "bytes through the cache, ms",
        "through memory, ms",
        "step over the floor",
    ]
    return Report(
        f"One core multiplies matrices at {rate[0]} GFLOP/s and copies at {rate[1]} GB/s within its cache, {rate[2]} "
        f"GB/s beyond.\n\n{markdown(head, lines)}",
        [],
    )
