"""Runs the episodes of an experiment and keeps one row for each."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import torch

import esper_env
from benchmarks import rows
from benchmarks.calibration.plan import REFERENCE_SEEDS, Job, describe
from benchmarks.rows import Row
from esper_agents.tamiyo import make_controller


def read_rows(folder: Path, experiment: str) -> list[Row]:
    """The rows of an experiment that are there."""
    return rows.read(_path(folder, experiment))


def _path(folder: Path, experiment: str) -> Path:
    return folder / f"{experiment}.jsonl"


def run_jobs(jobs: list[Job], folder: Path, workers: int) -> None:
    """Run the jobs that have no row yet, in `workers` processes; a row is appended when its episode ends.

    A twin waits for the episode whose structure it copies.
    """
    for stage in ([j for j in jobs if j.twin_of is None], [j for j in jobs if j.twin_of is not None]):
        for experiment in dict.fromkeys(job.experiment for job in stage):
            done = {row["key"] for row in read_rows(folder, experiment)}
            mine = [job for job in stage if job.experiment == experiment and job.key not in done]
            rows.make(_path(folder, experiment), [_with_structure(job, folder) for job in mine], run_job, workers)


def _with_structure(job: Job, folder: Path) -> tuple[Job, str]:
    """The job with the reset option of the episode it copies, and its key as planned."""
    if job.twin_of is None:
        return job, job.key
    there = read_rows(folder, job.experiment)
    original = next(r for r in there if r["seed"] == job.seed and r["schedule"] == job.twin_of and not r["twin_of"])
    return replace(job, options={**job.options, "structure": original["structure"]}), job.key


def run_job(job: Job, key: str) -> Row:
    """Run one episode."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    env = gymnasium.make(job.id, **job.arguments)
    base = env.unwrapped
    assert isinstance(base, esper_env.EsperEnv)
    controller = make_controller(job.controller, base, **({"schedule": job.plantings} if job.schedule else {}))
    seed = REFERENCE_SEEDS + job.seed
    observation, info = env.reset(seed=seed, options=job.options)
    state, total, curve, done = None, 0.0, [], False
    while not done:
        batched = {k: np.asarray(v)[None] for k, v in info.items()}
        actions, state = controller(observation[None], info["action_mask"][None], batched, state)
        observation, reward, terminated, truncated, info = env.step(int(actions[0]))
        total += float(reward)
        curve.append(round(info["val_accuracy"], 4))
        done = terminated or truncated
    model = base.episode.model
    return {
        "key": key,
        "experiment": job.experiment,
        "id": job.id,
        "seed": job.seed,
        "schedule": job.schedule or job.controller,
        "plantings": describe(job.plantings),
        "twin_of": job.twin_of,
        "provenance": {k: v for k, v in base.provenance.items() if k != "source"},
        "structure": [
            {"slot": s.name, "blueprint": s.blueprint, "style": str(s.style)} for s in model.stream if s.seed
        ],
        "arguments": {**job.arguments, "host_lr": base.settings.host_lr, "seed_lr": base.settings.seed_lr},
        "rent": base.rent.price,
        "reference_params": base.settings.task.reference_params,
        "return": total,
        "committed_accuracy": info["committed_accuracy"],
        "test_accuracy": info["test_accuracy"],
        "host_params": info["host_params"],
        "added_params": info["params"] - info["host_params"],
        "flops_total": info["flops_total"],
        "rollbacks": info["rollbacks"],
        "error_code": info["error_code"],
        "curve": curve,
        "seconds": round(time.perf_counter() - start, 1),
    }
