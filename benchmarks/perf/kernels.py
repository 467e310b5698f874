"""A step of an environment with Esper's kernels against one with torch's: ``python -m benchmarks.perf.kernels``.

Each measurement is a process of its own, the two sides in turn; a ratio is that of two neighbours. One thread. The
table in ``docs/performance.md`` is written by ``--write``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import torch

import esper_env  # noqa: F401 -- registers the ids
from benchmarks.pages import fill, markdown

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
CASES = {
    "CifarBaseline, bare host": ("Esper/CifarBaseline-v0", None),
    "CifarBaseline, conv_light in every slot": ("Esper/CifarBaseline-v0", "conv_light"),
    "CifarBaseline, conv_heavy in every slot": ("Esper/CifarBaseline-v0", "conv_heavy"),
    "CifarScale, bare host": ("Esper/CifarScale-v0", None),
    "Tiny, bare host": ("Esper/Tiny-v0", None),
}


def seconds(case: str, steps: int) -> float:
    """Median time of a step in this process."""
    torch.set_num_threads(1)
    id, blueprint = CASES[case]
    env = gymnasium.make(id, dataset="synthetic")
    slots = env.unwrapped.settings.slots  # type: ignore[attr-defined]
    structure = [{"slot": slot, "blueprint": blueprint} for slot in slots] if blueprint else []
    env.reset(seed=0, options={"structure": structure})
    times = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        env.step(0)
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:]))


def compare(case: str, repeats: int, steps: int) -> list[str]:
    """One row: the median step with each, and the ratio with its spread."""
    times: dict[str, list[float]] = {"native": [], "torch": []}
    for _ in range(repeats):
        for kernels, mine in times.items():
            command = [sys.executable, "-m", "benchmarks.perf.kernels", "--one", case, "--steps", str(steps)]
            environment = os.environ | {"ESPER_KERNELS": kernels, "OMP_NUM_THREADS": "1"}
            mine.append(float(subprocess.run(command, check=True, capture_output=True, env=environment).stdout))
    ratios = np.array(times["torch"]) / np.array(times["native"])
    spread = f"{np.median(ratios):.2f} [{ratios.min():.2f}, {ratios.max():.2f}]"
    return [case, *(f"{1e3 * np.median(mine):.0f}" for mine in times.values()), spread]


def main() -> int:
    """Measure every case."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.perf.kernels", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="pairs of processes a case")
    parser.add_argument("--steps", type=int, default=8, help="steps of a process")
    parser.add_argument("--write", action="store_true", help="write the table into docs/performance.md")
    parser.add_argument("--one", metavar="CASE", choices=CASES, help="time this case here and print seconds")
    arguments = parser.parse_args()
    if arguments.one:
        print(seconds(arguments.one, arguments.steps))
        return 0
    rows = [compare(case, arguments.repeats, arguments.steps) for case in CASES]
    table = markdown(["", "ours, ms a step", "torch's, ms a step", "ratio [lowest, highest]"], rows)
    print(table)
    if arguments.write:
        fill(PAGE, {"kernels": table})
    return 0


if __name__ == "__main__":
    sys.exit(main())
