"""The arguments of an environment, checked and resolved against its task before any work is done."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from esper_env.kasmina import BLUEPRINTS, DEFAULT_BLUEPRINTS, Host, build
from esper_env.leyline import AlphaCurve, Style
from esper_env.leyline.observation import MAX_BLUEPRINTS
from esper_env.tasks import Instance, Task, get_task
from esper_env.tolaria.datasets import (
    VALIDATION_IMAGES,
    ImageData,
    ResolvedData,
    check_shape,
    load_resolved,
    resolve_data,
)
from esper_env.tolaria.episode import EpisodeConfig, Structure

RENT_ON = ("params", "flops")
PRECISIONS = ("fp32", "bf16")


def one_of(name: str, value: str, choices: Iterable[str]) -> str:
    """Return `value` if it is among `choices`.

    Raises:
        ValueError: it is not; the message names the choices.
    """
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"{name}={value!r}: choose one of {choices}")
    return value


def _some_of(name: str, values: Sequence[str], choices: Iterable[str]) -> tuple[str, ...]:
    if not isinstance(values, list | tuple) or not values:
        raise ValueError(f"{name}={values!r}: give a non-empty list, from {list(choices)}")
    choices = list(choices)
    chosen = tuple(one_of(name, str(value), choices) for value in values)
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"{name}={list(chosen)}: each only once")
    return chosen


def count(name: str, value: Any, least: int = 1) -> int:
    """Return `value` if it is a whole number of at least `least`.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name}={value!r}: must be a whole number of at least {least}")
    return int(value)


def _at_most(available: int, val_samples: int) -> int:
    if val_samples > available:
        raise ValueError(f"val_samples={val_samples}: the validation split has {available} images")
    return val_samples


def _rate(name: str, value: Any, *, zero: bool = False) -> float:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool) and np.isfinite(value)
    if not number or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{name}={value!r}: must be a finite number {'of at least' if zero else 'above'} 0")
    return float(value)


def _device(name: str) -> str:
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={name!r}: choose 'cpu' or 'cuda:N'") from error
    if device.type == "cpu":
        return "cpu"
    if device.type != "cuda":
        raise ValueError(f"device={name!r}: choose 'cpu' or 'cuda:N'")
    if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        raise ValueError(f"device={name!r}: this machine has {found} CUDA devices; choose 'cpu' or one that exists")
    return str(device)


@lru_cache(maxsize=64)
def host_boundaries(task: Task) -> tuple[str, ...]:
    """The boundaries of a task's host, which are the same for all its instances."""
    host = build(lambda: task.host(Instance()), 0)
    if not isinstance(host, Host):
        raise TypeError(
            f"task {task.name!r}: its host is a {type(host).__name__}, which does not name its `boundaries` or "
            "has no `run(x, start, stop)`; esper_env.testing.check_host says what is missing"
        )
    return host.boundaries


@dataclass(frozen=True)
class Settings:
    """Checked arguments of one environment."""

    task: Task
    data: ResolvedData
    slots: tuple[str, ...]
    blueprints: tuple[str, ...]
    styles: tuple[Style, ...]
    tempos: tuple[int, ...]
    alpha_curve: AlphaCurve
    episode_length: int
    samples_per_epoch: int | None
    val_samples: int
    batch_size: int
    host_lr: float
    seed_lr: float
    rent: float
    rent_on: str
    device: str
    precision: str
    strict_gates: bool

    @classmethod
    def resolve(
        cls,
        *,
        task: str,
        dataset: str = "auto",
        data_root: str | None = None,
        slots: Sequence[str] | None = None,
        blueprints: Sequence[str] = DEFAULT_BLUEPRINTS,
        styles: Sequence[str] = ("add",),
        tempos: Sequence[int] = (5,),
        alpha_curve: str = "sigmoid",
        episode_length: int = 150,
        samples_per_epoch: int | None = 1024,
        val_samples: int = 1024,
        batch_size: int = 64,
        host_lr: float | None = None,
        seed_lr: float | None = None,
        rent: float | None = None,
        rent_on: str = "params",
        device: str = "cpu",
        precision: str = "fp32",
        strict_gates: bool = False,
    ) -> Settings:
        """Check the arguments of `EsperEnv`; its docstring says what they mean.

        Raises:
            ValueError: an argument that is not among its choices or out of range, or a data set whose images are
                not of the task's shape.
            DataNotFoundError: a data set that was named is not on disk.
        """
        the_task = get_task(task)
        names = _some_of("blueprints", blueprints, BLUEPRINTS)
        if len(names) > MAX_BLUEPRINTS:
            raise ValueError(f"{len(names)} blueprints: the observation can tell at most {MAX_BLUEPRINTS} apart")
        if not isinstance(tempos, list | tuple) or not tempos or len(set(tempos)) < len(tempos):
            raise ValueError(f"tempos={tempos!r}: give a non-empty list of different numbers of epochs")
        data = resolve_data(dataset, preferred=the_task.dataset, data_root=data_root)
        check_shape(data, the_task.channels, the_task.size)
        most = the_task.synthetic_sizes[1] if data.folder is None else VALIDATION_IMAGES
        return cls(
            task=the_task,
            data=data,
            slots=_some_of("slots", the_task.slots if slots is None else slots, host_boundaries(the_task)),
            blueprints=names,
            styles=tuple(Style(style) for style in _some_of("styles", styles, Style)),
            tempos=tuple(count("tempos", tempo) for tempo in tempos),
            alpha_curve=AlphaCurve(one_of("alpha_curve", alpha_curve, AlphaCurve)),
            episode_length=count("episode_length", episode_length),
            samples_per_epoch=None if samples_per_epoch is None else count("samples_per_epoch", samples_per_epoch),
            val_samples=_at_most(most, count("val_samples", val_samples)),
            batch_size=count("batch_size", batch_size, least=2),
            host_lr=_rate("host_lr", the_task.host_lr if host_lr is None else host_lr),
            seed_lr=_rate("seed_lr", the_task.seed_lr if seed_lr is None else seed_lr),
            rent=_rate("rent", the_task.rent if rent is None else rent, zero=True),
            rent_on=one_of("rent_on", rent_on, RENT_ON),
            device=_device(device),
            precision=one_of("precision", precision, PRECISIONS),
            strict_gates=bool(strict_gates),
        )

    def load(self) -> ImageData:
        """Read the data, or return the copy this process has."""
        task = self.task
        data = load_resolved(self.data, channels=task.channels, size=task.size, sizes=task.synthetic_sizes)
        _at_most(len(data.validation.labels), self.val_samples)  # files on disk may hold fewer than published
        return data

    def episode_config(self, instance: Instance, data: ImageData) -> EpisodeConfig:
        """How an episode of `instance` is run."""
        return EpisodeConfig(
            slots=self.slots,
            episode_length=self.episode_length,
            samples_per_epoch=self.samples_per_epoch or len(data.train.labels),
            val_samples=self.val_samples,
            batch_size=self.batch_size,
            host_lr=self.host_lr * instance.lr_factor,
            seed_lr=self.seed_lr,
            label_noise=instance.label_noise,
            alpha_curve=self.alpha_curve,
            bf16=self.precision == "bf16",
            device=self.device,
        )

    def structure(self, option: Sequence[Mapping[str, str]]) -> tuple[Structure, ...]:
        """Check ``reset(options={"structure": ...})``.

        Raises:
            ValueError: an unknown key, slot, blueprint or style, or a slot that is named twice.
        """
        seeds = []
        for entry in option:
            unknown = sorted(set(entry) - {"slot", "blueprint", "style"})
            if unknown or not {"slot", "blueprint"} <= set(entry):
                raise ValueError(f"structure entry {dict(entry)}: give slot, blueprint and, if not 'add', style")
            slot = one_of("structure slot", entry["slot"], self.slots)
            blueprint = one_of("structure blueprint", entry["blueprint"], self.blueprints)
            style = Style(one_of("structure style", entry.get("style", "add"), Style))
            seeds.append(Structure(slot, blueprint, style))
        if len({seed.slot for seed in seeds}) < len(seeds):
            raise ValueError("structure: each slot only once")
        return tuple(seeds)


def arguments_there_are(names: Iterable[str]) -> None:
    """Check that `Settings.resolve` has arguments of these names.

    Raises:
        TypeError: it has not; the message has the nearest name and all others.
    """
    choices = [name for name in inspect.signature(Settings.resolve).parameters if name != "task"]
    for name in names:
        if name not in choices:
            near = get_close_matches(name, choices, 1)
            meant = f"did you mean {near[0]!r}? " if near else ""
            there_are = ", ".join(["render_mode", *choices])
            raise TypeError(f"the environment has no argument {name!r}; {meant}there are {there_are}")
