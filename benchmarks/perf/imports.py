"""What ``import esper_env`` takes beyond torch, Gymnasium and safetensors."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np

from benchmarks.perf.measure import Report, Target, each, spread

GOAL = 50.0
CODE = """
import time
import numpy, torch, gymnasium, gymnasium.vector, safetensors.torch
start = time.perf_counter()
import esper_env
print(1e3 * (time.perf_counter() - start))
"""


def measure(process: int) -> dict[str, Any]:
    """Milliseconds, in processes of their own; the first may have to read files from the disk."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", CODE]
    runs = [float(subprocess.run(command, check=True, capture_output=True, env=environment).stdout) for _ in range(4)]
    return {"ms": float(np.median(runs[1:]))}


def report(rows: list[dict[str, Any]]) -> Report:
    """The time."""
    ms = each(rows, "ms")
    text = f"`import esper_env` takes {spread(ms, '.0f')} ms beyond torch, gymnasium and safetensors."
    what = "`import esper_env` beyond torch, gymnasium and safetensors"
    return Report(text, [Target(what, f"<= {GOAL:.0f} ms", f"{spread(ms, '.0f')} ms", bool(np.median(ms) <= GOAL))])
