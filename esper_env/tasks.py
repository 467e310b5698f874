"""Tasks: a host, its data and its hyperparameters, and the registry behind the environment ids."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import gymnasium
import numpy as np
from torch import nn

from esper_env.kasmina import ConvHost
from esper_env.kasmina.definition import as_defined


@dataclass(frozen=True)
class Instance:
    """What may differ from one episode of a task to the next."""

    width: float = 1.0
    """Factor on the channels of every block: 0.5, 1 or 2."""
    impaired: int | None = None
    """Index of a block with 1x1 kernels and a quarter of its width, or ``None``."""
    label_noise: float = 0.0
    """Share of training labels replaced by a random class, 0 to 1."""
    lr_factor: float = 1.0
    """Factor on the host's learning rate."""
    rent_factor: float = 1.0
    """Factor on the rent."""

    def __post_init__(self) -> None:
        if not (self.width > 0 and self.lr_factor > 0 and self.rent_factor >= 0 and 0 <= self.label_noise <= 1):
            raise ValueError(
                f"{self}: width and lr_factor must be positive, rent_factor not negative, label_noise in 0..1"
            )

    def pinned(self, options: Mapping[str, Any]) -> Instance:
        """Return this instance with the fields of `options` in place of its own.

        Raises:
            ValueError: an unknown field.
        """
        names = [field.name for field in fields(self)]
        unknown = sorted(set(options) - set(names))
        if unknown:
            raise ValueError(f"unknown instance fields {unknown}; choose from {names}")
        return replace(self, **options)

    def to_array(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """The fields in order as float64, -1 for no impaired block."""
        values = asdict(self)
        return np.array([-1.0 if value is None else value for value in values.values()], np.float64)


Draw = Callable[[np.random.Generator], Instance]


def fixed_instance(rng: np.random.Generator) -> Instance:
    """Every episode is the same instance."""
    return Instance()


def varied_instance(rng: np.random.Generator) -> Instance:
    """The distribution of `Esper/CifarVaried-v0`: no open-loop schedule is right for all of it.

    Width factor 0.5, 1 or 2; with probability 3/4 one of the three blocks is impaired; label noise 0 or 0.2;
    learning-rate factor log-uniform in [0.3, 2]; rent factor log-uniform in [1/8, 8]. All independent.
    """
    return Instance(
        width=float(rng.choice([0.5, 1.0, 2.0])),
        impaired=[None, 0, 1, 2][int(rng.integers(4))],
        label_noise=float(rng.choice([0.0, 0.2])),
        lr_factor=math.exp(rng.uniform(math.log(0.3), math.log(2.0))),
        rent_factor=math.exp(rng.uniform(math.log(1 / 8), math.log(8.0))),
    )


@dataclass(frozen=True)
class ConvHostSpec:
    """Builds the `ConvHost` of an instance."""

    inputs: int
    channels: tuple[int, ...]
    kernel: int = 3
    pool: bool = True

    def __call__(self, instance: Instance) -> nn.Module:
        """Build the host with the instance's widths and kernels."""
        channels = [max(1, round(c * instance.width)) for c in self.channels]
        kernels = [self.kernel] * len(channels)
        if instance.impaired is not None:
            if not 0 <= instance.impaired < len(channels):
                raise ValueError(
                    f"instance: impaired={instance.impaired}, but the host has blocks 0 to {len(channels) - 1}"
                )
            channels[instance.impaired] = max(1, channels[instance.impaired] // 4)
            kernels[instance.impaired] = 1
        return ConvHost(self.inputs, channels, kernels, self.pool)


@dataclass(frozen=True)
class Task:
    """A host, its data and its hyperparameters. Register it with `register_task`."""

    name: str
    host: Callable[[Instance], nn.Module]
    """Builds a fresh host; see `esper_env.kasmina.Host` for what it must offer."""
    dataset: str
    """What ``dataset="auto"`` prefers: "cifar10", "fashion_mnist" or "synthetic"."""
    channels: int
    size: int
    """Side of the images the host takes."""
    slots: tuple[str, ...]
    host_lr: float
    seed_lr: float
    rent: float
    """Price, in accuracy (0..1), of adding as many parameters (or FLOPs) as the reference has."""
    reference_params: int
    reference_flops: int
    """Forward FLOPs of one image."""
    draw: Draw = fixed_instance
    synthetic_sizes: tuple[int, int, int] = (20_000, 5_000, 5_000)
    """Training, validation and test images of the synthetic set."""
    defaults: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Other environment arguments whose default this task changes."""

    def __post_init__(self) -> None:
        for name in ("slots", "synthetic_sizes"):  # a list will do, though a task is hashed
            object.__setattr__(self, name, tuple(getattr(self, name)))
        try:
            hash(self)
        except TypeError as error:
            raise TypeError(f"task {self.name!r}: {error}; host and draw must be functions or frozen objects") from None


TASKS: dict[str, Task] = {}


def register_task(task: Task, id: str) -> None:
    """Give `task` the Gymnasium id `id`, for ``make`` and ``make_vec``.

    A process started afresh (``AsyncVectorEnv`` with the spawn context) must register it too: put the call
    at the top level of a module `m` and make ``"m:" + id``. Registering again what was defined again, unchanged,
    as by running a cell of a notebook twice, is no error.

    Raises:
        ValueError: the name or the id is taken.
    """
    known = TASKS.get(task.name, task)
    if any(as_defined(getattr(known, f.name)) != as_defined(getattr(task, f.name)) for f in fields(Task)):
        raise ValueError(f"task {task.name!r} is registered already; choose another name")
    spec = gymnasium.registry.get(id)
    if spec is not None and spec.kwargs.get("task") != task.name:
        raise ValueError(f"{id!r} is registered already; choose another id or version")
    TASKS[task.name] = task
    if spec is None:
        gymnasium.register(
            id,
            entry_point="esper_env.env:EsperEnv",
            vector_entry_point="esper_env.vector_env:EsperVectorEnv",
            kwargs={"task": task.name},
        )


def get_task(name: str) -> Task:
    """Return the task called `name`.

    Raises:
        ValueError: there is none; the message names those there are.
    """
    if name not in TASKS:
        raise ValueError(
            f"unknown task {name!r}; registered are {sorted(TASKS)}. A task of your own must be registered "
            "with esper_env.register_task in every process that uses it"
        )
    return TASKS[name]


_BASELINE_FLOPS = 1_644_192
_THREE = ("r0c0", "r0c1", "r0c2")


def _cifar(name: str, host: ConvHostSpec, slots: Sequence[str] = _THREE, draw: Draw = fixed_instance) -> Task:
    return Task(
        name=name,
        host=host,
        dataset="cifar10",
        channels=3,
        size=32,
        slots=tuple(slots),
        host_lr=0.2,
        seed_lr=0.2,
        rent=0.025,
        reference_params=6_418,
        reference_flops=_BASELINE_FLOPS,
        draw=draw,
    )


_BASELINE = ConvHostSpec(3, (8, 16, 32))

BUILT_IN: dict[str, Task] = {
    "Esper/CifarBaseline-v0": _cifar("cifar_baseline", _BASELINE),
    "Esper/CifarImpaired-v0": _cifar("cifar_impaired", ConvHostSpec(3, (1, 2, 4), kernel=1)),
    "Esper/CifarMinimal-v0": _cifar("cifar_minimal", ConvHostSpec(3, (2, 4, 8), kernel=1, pool=False)),
    "Esper/CifarScale-v0": _cifar("cifar_scale", ConvHostSpec(3, (8, 16, 32, 64, 128)), ("r0c0", "r0c2", "r0c4")),
    "Esper/CifarVaried-v0": _cifar("cifar_varied", _BASELINE, draw=varied_instance),
    "Esper/FashionBaseline-v0": Task(
        name="fashion_baseline",
        host=ConvHostSpec(1, (8, 16, 32)),
        dataset="fashion_mnist",
        channels=1,
        size=32,
        slots=_THREE,
        host_lr=0.2,
        seed_lr=0.2,
        rent=0.006,
        reference_params=6_274,
        reference_flops=1_349_280,
    ),
    "Esper/Tiny-v0": Task(
        name="tiny",
        host=ConvHostSpec(3, (4, 8)),
        dataset="synthetic",
        channels=3,
        size=12,
        slots=("r0c0", "r1c0", "r0c1"),
        host_lr=0.2,
        seed_lr=0.2,
        rent=0.02,
        reference_params=510,
        reference_flops=53_304,
        synthetic_sizes=(2_000, 512, 512),
        defaults={"samples_per_epoch": 128, "val_samples": 128},
    ),
}
"""The ids that ``import esper_env`` registers."""
