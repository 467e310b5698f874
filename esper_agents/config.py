"""Configuration that the trainer's commands share: which environment, and how many of it."""

from __future__ import annotations

import inspect
import json
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Annotated, Any, Final, Literal, Self

import gymnasium
import torch
import tyro
from gymnasium.vector import AutoresetMode
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from esper_agents.runner import VectorEnv
from esper_env.settings import Settings
from esper_env.tasks import TASKS

SCREENS: Final = {"sanctum": "textual", "overwatch": "nicegui", "wandb": "wandb"}
"""Packages that flags need which not everyone has."""
EXTRAS: Final = {"sanctum": "karn", "overwatch": "karn", "wandb": "wandb"}
FIRST_RESERVED_SEED: Final = 1_000_000
"""Training and tuning use the seeds below this one."""


def environment_ids() -> dict[str, str]:
    """Return the registered environment id of every task, by the task's name."""
    specs = gymnasium.registry.values()
    return {spec.kwargs["task"]: spec.id for spec in specs if spec.kwargs.get("task") in TASKS}


def _json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"{text!r} is not a JSON object")
    return value


JsonObject = Annotated[
    dict[str, Any],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=lambda words: _json_object(words[0]),
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [json.dumps(value)],
    ),
]
"""A dict that the command line takes as JSON."""


def usual_device() -> str:
    """The device that is used unless one is named."""
    return "cuda:0" if torch.cuda.is_available() else "cpu"


def check_device(name: str) -> None:
    """Refuse a device that is not there.

    Raises:
        ValueError: with what there is.
    """
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0))]
    if name not in there:
        raise ValueError(f"there is no device {name!r}; choose from {', '.join(there)}")


def _hint(name: str, choices: list[str]) -> str:
    near = get_close_matches(name, choices, 1)
    return f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(choices)}"


class EnvironmentConfig(BaseModel):
    """Which environment is run. The fields are the command line's flags, with these words as their help."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: Any) -> Any:
        if isinstance(given, dict):
            for key in given:
                if key not in cls.model_fields:
                    raise ValueError(f"there is no setting {key!r}; {_hint(key, list(cls.model_fields))}")
        return given

    task: str = "cifar_baseline"
    """A task's name (cifar_baseline is Esper/CifarBaseline-v0) or an environment id."""
    dataset: str = "auto"
    """auto, cifar10, fashion_mnist or synthetic. auto takes the real data if they are on disk."""
    data_root: str | None = None
    """Folder that is searched first for data."""
    env_json: JsonObject = Field(default_factory=dict)
    """Any other arguments of the environment as a JSON object, as in '{"samples_per_epoch": 512}'."""
    envs: Annotated[int, Field(ge=1)] = 4
    """Environments that run side by side."""
    episode_length: Annotated[int, Field(ge=1)] = 150
    """Epochs of an episode."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the first episode, below 1000000."""
    num_workers: Annotated[int | None, Field(ge=1)] = None
    """Environment threads; None is one per core."""
    devices: Annotated[tuple[str, ...], Field(strict=False)] | None = None
    """Devices over which the environments are spread; None is the policy's, or cuda:0 if it is there, else cpu."""
    gpu_preload: bool = False
    """Insist that the data lie on the environments' GPUs, as they always do; an error if one runs on the CPU."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the host networks."""
    telemetry_dir: str = "runs"
    """Folder of the runs; each has one of its own in it."""
    sanctum: bool = False
    """Show the run in the terminal."""
    overwatch: bool = False
    """Show the run in a browser."""
    wandb: bool = False
    """Log to Weights & Biases too; its own settings apply, such as WANDB_MODE=offline."""

    @field_validator("task")
    @classmethod
    def _known_task(cls, task: str) -> str:
        ids = environment_ids()
        if task not in ids and task not in ids.values():
            raise ValueError(f"unknown; choose one of {', '.join(ids)}, or an id: {', '.join(ids.values())}")
        return task

    @field_validator("seed")
    @classmethod
    def _not_reserved(cls, seed: int) -> int:
        if seed >= FIRST_RESERVED_SEED:
            kept = "the seeds from there on are kept for references and evaluation"
            raise ValueError(f"must be below {FIRST_RESERVED_SEED}: {kept}")
        return seed

    @field_validator("env_json")
    @classmethod
    def _known_arguments(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        flags = {"task", "device", *cls.model_fields}
        choices = [name for name in inspect.signature(Settings.resolve).parameters if name not in flags]
        for name in arguments:
            if name in flags:
                raise ValueError(f"{name!r} has a flag of its own")
            if name not in choices:
                raise ValueError(f"the environment has no argument {name!r}; {_hint(name, choices)}")
        return arguments

    @model_validator(mode="after")
    def _available(self) -> Self:
        for name, package in SCREENS.items():
            if getattr(self, name) and find_spec(package) is None:
                raise ValueError(f"--{name} needs the package {package}: pip install -e '.[{EXTRAS[name]}]'")
        for device in self.env_devices:
            check_device(device)
            if self.gpu_preload and device == "cpu":
                raise ValueError("--gpu-preload: environments run on the CPU; name GPUs with --devices or leave it out")
        return self

    @property
    def env_devices(self) -> tuple[str, ...]:
        """Where the environments run, in turn."""
        return self.devices or (usual_device(),)

    @property
    def env_id(self) -> str:
        """The environment's registered id."""
        return environment_ids().get(self.task, self.task)

    def make(self, num_envs: int, **arguments: Any) -> VectorEnv:
        """Build `num_envs` environments in the autoreset mode ``SAME_STEP``, with `arguments` of theirs added.

        Raises:
            ValueError: an argument is not among its choices or out of range.
            DataNotFoundError: the data set is not on disk.
        """
        return gymnasium.make_vec(
            self.env_id,
            num_envs=num_envs,
            workers=self.num_workers,
            autoreset_mode=AutoresetMode.SAME_STEP.value,
            dataset=self.dataset,
            data_root=self.data_root,
            episode_length=self.episode_length,
            device=self.env_devices,
            precision=self.precision,
            **self.env_json,
            **arguments,
        )
