"""Checkpoints: everything a training run needs to go on as if it had never stopped."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from esper_agents.simic.ppo import MaskableRecurrentPPO
from esper_env.state import StateError, pack, unpack

SUFFIX = ".checkpoint"
KEPT = 3
"""Checkpoints that stay; older ones are deleted."""


class CheckpointError(ValueError):
    """A file that is no checkpoint, a damaged one, or one of another run."""


def capture(model: MaskableRecurrentPPO, values: Mapping[str, Any]) -> bytes:
    """Return the learner at the end of a round as bytes, with JSON-able `values` of the caller's.

    Every round begins with a reset of all environments under seeds of its own, so neither their states nor the
    policy's memory outlive a round.
    """
    tensors = {f"policy/{k}": v for k, v in _named(model).items()}
    optimizer = model.policy.optimizer.state_dict()
    for i, state in optimizer["state"].items():
        tensors |= {f"optimizer/{i}/{k}": torch.as_tensor(v) for k, v in state.items()}
    tensors["generator/torch"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors |= {f"generator/cuda/{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    return pack(
        tensors,
        {
            "groups": [{k: v for k, v in g.items() if k != "params"} for g in optimizer["param_groups"]],
            "minibatches": model.rollout_buffer.rng.bit_generator.state,
            "timesteps": model.num_timesteps,
            "updates": model._n_updates,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "run": dict(values),
        },
    )


def restore(model: MaskableRecurrentPPO, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
    """Put `model` into the state that `capture` kept.

    Raises:
        CheckpointError: the policy has another shape.
    """
    parameters = _named(model)
    mine = {n: tuple(p.shape) for n, p in parameters.items()}
    if mine != {n.removeprefix("policy/"): tuple(t.shape) for n, t in tensors.items() if n.startswith("policy/")}:
        raise CheckpointError("the checkpoint's policy has another shape than this run's")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"policy/{name}"])
    optimizer = model.policy.optimizer
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/")
            state.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    merged = [{**saved, "params": now["params"]} for saved, now in zip(values["groups"], groups, strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": merged})
    torch.set_rng_state(tensors["generator/torch"])
    if torch.cuda.is_available():
        states = sorted(n for n in tensors if n.startswith("generator/cuda/"))
        torch.cuda.set_rng_state_all([tensors[n] for n in states])
    model.rollout_buffer.rng.bit_generator.state = values["minibatches"]
    model.num_timesteps, model._n_updates = values["timesteps"], values["updates"]


def _named(model: MaskableRecurrentPPO) -> dict[str, torch.Tensor]:
    return dict(model.policy.named_parameters())


def write(folder: Path, number: int, data: bytes) -> Path:
    """Write the checkpoint of round `number` so that it is whole or not there at all; keep the last few."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"round-{number:06d}{SUFFIX}"
    write_whole(path, data)
    for old in sorted(folder.glob(f"*{SUFFIX}"))[:-KEPT]:
        old.unlink()
    return path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under another name, bring it to the disk, and only then give it its own."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read(path: Path) -> tuple[Path, dict[str, torch.Tensor], dict[str, Any]]:
    """Read a checkpoint, or the last one of a folder.

    Returns:
        Its path, its tensors and its values.

    Raises:
        CheckpointError: there is none, or it is damaged or foreign.
    """
    if path.is_dir():
        found = sorted(path.rglob(f"*{SUFFIX}"))
        if not found:
            raise CheckpointError(f"there is no checkpoint in {path}")
        path = found[-1]
    try:
        tensors, values = unpack(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    except StateError as error:
        others = ", ".join(p.name for p in sorted(path.parent.glob(f"*{SUFFIX}")) if p != path)
        hint = f"; others beside it: {others}" if others else ""
        raise CheckpointError(f"{path} is no checkpoint, or a damaged one ({error}){hint}") from error
    if "run" not in values:
        raise CheckpointError(f"{path} is no checkpoint of a training run")
    return path, tensors, values
