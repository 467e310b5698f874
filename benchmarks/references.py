"""The two numbers that normalised scores are measured by: ``python -m benchmarks references``.

For each task the mean test accuracy of WAIT and of conv_light in every slot from the start, over twenty reference
seeds, in ``benchmarks/references.json``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import gymnasium

from benchmarks import statistics, suites
from benchmarks.compare import TEST, Results
from benchmarks.episodes import Job
from benchmarks.play import play_all
from benchmarks.suites import Task
from esper_env import EsperEnv

SEEDS = 20
ROWS = "references.csv"
STATIC = "conv_light everywhere"


def jobs(task: Task) -> list[Job]:
    """Both on every reference seed."""
    env = gymnasium.make(task.id, **task.arguments).unwrapped
    assert isinstance(env, EsperEnv)
    structure = [{"slot": slot, "blueprint": "conv_light", "style": "add"} for slot in env.settings.slots]
    found = []
    for seed in range(suites.REFERENCE_SEED, suites.REFERENCE_SEED + SEEDS):
        found.append(Job("references", task.id, task.arguments, "wait", seed, "scripted", "wait"))
        found.append(Job("references", task.id, task.arguments, STATIC, seed, "structure", structure))
    return found


def references(
    tasks: Sequence[Task], out: Path, workers: int, file: Path = suites.REFERENCES
) -> dict[str, dict[str, float]]:
    """Play what has no row in `out`, and write `file`; return what it says of `tasks`, in points."""
    known = json.loads(file.read_text()) if file.exists() else {}
    new = {}
    for task in tasks:
        results = Results.of(task.id, play_all(jobs(task), out / ROWS, workers, f"references {task.name}"))
        sides = results.scores(STATIC, TEST, 100.0), results.scores("wait", TEST, 100.0)
        gain = statistics.estimate(statistics.mean_difference, *sides)
        means = {"wait": float(sides[1].mean()), "static": float(sides[0].mean())}
        arguments = json.dumps(task.arguments, sort_keys=True)
        new[f"{task.id} {arguments}"] = means | {"low": gain.low, "high": gain.high}
    file.write_text(json.dumps(known | new, indent=1, sort_keys=True) + "\n")
    return new
