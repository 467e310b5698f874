"""bfloat16 against float32: the time of a step, and whether an episode ends the same.

Every process has an episode seed of its own, and trains a bare host and one with a conv_heavy in its first slot to the
end in both precisions.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
from scipy import stats

import esper_env  # noqa: F401 -- registers the ids
from benchmarks.pages import markdown
from benchmarks.perf.measure import Report, Target, each, medians, spread

PRECISIONS = ("fp32", "bf16")
IDS = ("Esper/CifarBaseline-v0", "Esper/CifarScale-v0")
GROWN = [{"slot": "r0c0", "blueprint": "conv_heavy"}]
EPISODE: dict[str, Any] = {"dataset": "synthetic", "samples_per_epoch": 256, "val_samples": 256}


def final_accuracy(precision: str, structure: list[dict[str, str]], seed: int) -> float:
    """Test accuracy at the end of an episode of nothing but WAIT."""
    env = gymnasium.make(IDS[0], precision=precision, **EPISODE)
    env.reset(seed=seed, options={"structure": structure})
    done = False
    while not done:
        _, _, done, _, info = env.step(0)
    return float(info["test_accuracy"])


def measure(process: int) -> dict[str, Any]:
    """Seconds of a step by host, and final accuracies."""
    out: dict[str, Any] = {}
    for id in IDS:
        sides = {}
        for precision in PRECISIONS:
            env = gymnasium.make(id, dataset="synthetic", precision=precision)
            env.reset(seed=0)
            sides[precision] = partial(env.step, 0)
        out[id] = medians(sides, 5)
    for name, structure in {"bare": [], "grown": GROWN}.items():
        out[name] = {p: final_accuracy(p, structure, 1_900_000 + process) for p in PRECISIONS}
    return out


def report(rows: list[dict[str, Any]]) -> Report:
    """Ratios of time, and accuracies with the interval of their difference."""
    lines = [[f"`{id}`", spread(each(rows, id, "bf16") / each(rows, id, "fp32")), ""] for id in IDS]
    finals = {name: {p: 100 * each(rows, name, p) for p in PRECISIONS} for name in ("bare", "grown")}
    finals["gain of growing"] = {p: finals["grown"][p] - finals["bare"][p] for p in PRECISIONS}
    accuracy, within = [], True
    for name, by in finals.items():
        difference = by["bf16"] - by["fp32"]
        half = stats.sem(difference) * stats.t.ppf(0.975, len(difference) - 1)
        low, high = difference.mean() - half, difference.mean() + half
        within = within and bool(low <= 0.0 <= high)
        accuracy.append(
            [name, *(f"{by[p].mean():.2f}" for p in PRECISIONS), f"{difference.mean():+.2f} [{low:+.2f}, {high:+.2f}]"]
        )
    text = [
        markdown(["a step", "time of bf16 over fp32"], [line[:2] for line in lines]),
        "",
        markdown(["test accuracy at the end, %", *PRECISIONS, "difference, 95 % interval"], accuracy),
    ]
    said = "; ".join(f"{line[0]} {line[-1]}" for line in accuracy)
    target = Target("bf16 against fp32, points of final accuracy over 5 seeds", "within noise", said, within)
    return Report("\n".join(text), [target])
