"""A step of an environment with Esper's kernels against one with torch's layers, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch

from benchmarks.pages import markdown
from benchmarks.perf.measure import Report, each, spread
from benchmarks.perf.step import make

CASES = {
    "CifarBaseline, bare host": ("Esper/CifarBaseline-v0", None),
    "CifarBaseline, conv_light in every slot": ("Esper/CifarBaseline-v0", "conv_light"),
    "CifarBaseline, conv_heavy in every slot": ("Esper/CifarBaseline-v0", "conv_heavy"),
    "CifarScale, bare host": ("Esper/CifarScale-v0", None),
    "Tiny, bare host": ("Esper/Tiny-v0", None),
}
KERNELS = ("native", "torch")
STEPS = 8


def seconds(case: str) -> float:
    """Median time of a step in this process."""
    torch.set_num_threads(1)
    env = make(*CASES[case])
    times = []
    for _ in range(STEPS + 2):
        start = time.perf_counter()
        env.step(0)
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:]))


def measure(process: int) -> dict[str, Any]:
    """Seconds of a step by case, with each."""
    code = "import sys; from benchmarks.perf.kernels import seconds; print(seconds(sys.argv[1]))"
    out: dict[str, Any] = {}
    for case in CASES:
        out[case] = {}
        for kernels in KERNELS:
            command = [sys.executable, "-c", code, case]
            environment = os.environ | {"ESPER_KERNELS": kernels}
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
            out[case][kernels] = float(done.stdout)
    return out


def report(rows: list[dict[str, Any]]) -> Report:
    """Ratios by case."""
    lines = []
    for case in CASES:
        ours, theirs = (each(rows, case, kernels) for kernels in KERNELS)
        lines.append([case, *(spread(1e3 * x, ".1f") for x in (ours, theirs)), spread(theirs / ours)])
    return Report(markdown(["", "ours, ms a step", "torch's, ms a step", "ratio"], lines), [])
