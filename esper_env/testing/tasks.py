"""The check of a task."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np

from esper_env.env import EsperEnv
from esper_env.kasmina import Host
from esper_env.tasks import TASKS, Instance, Task
from esper_env.testing._common import ConformanceError, no_global_draw, require
from esper_env.testing.hosts import check_host

_STEPS = 14
"""Steps of an episode that `check_task` runs: enough for a seed to be blended."""


def check_task(task: Task, *, instances: int = 3, **arguments: Any) -> None:
    """Certify a task, registered or not: its host, its distribution of instances and short episodes of it.

    Args:
        task: what would be handed to `esper_env.register_task`.
        instances: how many instances are drawn.
        arguments: arguments of `EsperEnv` for the episodes. By default they run on a few synthetic images of
            the task's shape.

    Raises:
        ConformanceError: `check_host` fails for one of its instances, or one of these does not hold: the
            defaults are JSON-able; instances follow from the generator handed to `draw` alone; all instances
            have the same boundaries; the slots are among them; two episodes of one seed are equal in every
            bit, and so is the continuation of one from its saved state.
    """
    try:
        json.dumps(dict(task.defaults))
    except TypeError as error:
        raise ConformanceError(f"task {task.name!r}: defaults must be JSON-able: {error}") from error
    drawn = [_draw(task, seed) for seed in range(instances)]
    boundaries: set[tuple[str, ...]] = set()
    for instance in dict.fromkeys([Instance(), *drawn]):
        shape = (task.channels, task.size, task.size)
        try:
            check_host(lambda instance=instance: task.host(instance), shape)  # type: ignore[misc]
        except ConformanceError as error:
            raise ConformanceError(f"task {task.name!r}, the host of {instance}: {error}") from error
        host = task.host(instance)
        assert isinstance(host, Host)
        boundaries.add(host.boundaries)
    require(len(boundaries) == 1, f"task {task.name!r}: its instances differ in their boundaries, {boundaries}")
    missing = sorted(set(task.slots) - set(*boundaries))
    require(not missing, f"task {task.name!r}: slots {missing} are not among its boundaries {set(*boundaries)}")
    require(
        min(task.reference_params, task.reference_flops) > 0,
        f"task {task.name!r}: reference_params and reference_flops must be positive",
    )
    _check_episodes(task, arguments)


def _draw(task: Task, seed: int) -> Instance:
    with no_global_draw(f"task {task.name!r}: draw"):
        first, second = (task.draw(np.random.default_rng(seed)) for _ in range(2))
    require(
        isinstance(first, Instance) and first == second,
        f"task {task.name!r}: draw must return an Instance that follows from the generator it is given alone",
    )
    return first


def _check_episodes(task: Task, arguments: dict[str, Any]) -> None:
    small = {
        "dataset": "synthetic",
        "samples_per_epoch": 32,
        "val_samples": 32,
        "batch_size": 16,
        "episode_length": _STEPS,
    }
    stand_in = replace(task, name=f"{task.name} (under test)", synthetic_sizes=(64, 32, 32))
    TASKS[stand_in.name] = stand_in
    try:
        a, b = (EsperEnv(stand_in.name, **{**task.defaults, **small, **arguments}) for _ in range(2))
        _same(task, "reset", a.reset(seed=0), b.reset(seed=0))
        rng = np.random.default_rng(0)
        for step in range(_STEPS):
            if step == _STEPS // 2:
                b = a.fork()
            action = int(rng.choice(np.flatnonzero(a.action_masks())))
            result = a.step(action)
            require(
                result[4]["error_code"] == 0,
                f"task {task.name!r}: step {step} ({a.action_table[action]}) failed: {a.provenance['error']}",
            )
            _same(task, f"step {step} ({a.action_table[action]})", result, b.step(action))
    finally:
        del TASKS[stand_in.name]


def _same(task: Task, what: str, a: Any, b: Any) -> None:
    require(
        repr(_plain(a)) == repr(_plain(b)),
        f"task {task.name!r}: {what} gave two results in two environments of one seed (from step {_STEPS // 2} "
        "on: in an environment and its fork). Something in the host or its data depends on more than seed and "
        "state",
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return (value.dtype, value.tolist()) if isinstance(value, np.ndarray) else value
