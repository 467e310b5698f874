"""What calibration runs: the ten schedules, listed before any of them was run, and the experiments."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from esper_agents.tamiyo import Planting
from esper_env.tasks import BUILT_IN

SLOTS = ("r0c0", "r0c1", "r0c2")


def everywhere(blueprint: str, epoch: int) -> tuple[Planting, ...]:
    """The same seed in every slot, germinated from `epoch` on, one slot an epoch."""
    return tuple(Planting(slot, blueprint, epoch) for slot in SLOTS)


SCHEDULES: dict[str, tuple[Planting, ...]] = {
    "never": (),
    "light everywhere at 1": everywhere("conv_light", 1),
    "heavy everywhere at 1": everywhere("conv_heavy", 1),
    "small everywhere at 1": everywhere("conv_small", 1),
    "light first at 1": (Planting("r0c0", "conv_light", 1),),
    "heavy first at 1": (Planting("r0c0", "conv_heavy", 1),),
    "small first at 1": (Planting("r0c0", "conv_small", 1),),
    "light everywhere at 50": everywhere("conv_light", 50),
    "heavy everywhere at 50": everywhere("conv_heavy", 50),
    "light first two at 1": everywhere("conv_light", 1)[:2],
}
"""Ten simple schedules. Seeds advance and fossilise as soon as that is legal."""

NEVER, HEAVIEST = "never", "heavy everywhere at 1"

REFERENCE_SEEDS = 1_000_000
CHOICE_SEEDS, JUDGEMENT_SEEDS = range(5), range(100, 110)

SYNTHETIC = {"dataset": "synthetic"}
FASHION = {"dataset": "fashion_mnist"}
CIFAR_ID, FASHION_ID, VARIED_ID = "Esper/CifarBaseline-v0", "Esper/FashionBaseline-v0", "Esper/CifarVaried-v0"


@dataclass(frozen=True)
class Job:
    """One episode of calibration."""

    experiment: str
    id: str
    arguments: dict[str, Any]
    seed: int
    schedule: str | None = None
    """Name in `SCHEDULES`, or ``None`` when `controller` says who decides."""
    plantings: tuple[Planting, ...] = ()
    controller: str = "fixed_schedule"
    options: dict[str, Any] = field(default_factory=dict)
    """Reset options."""
    twin_of: str | None = None
    """The structure is that of this schedule's or controller's episode of the same seed."""

    @property
    def key(self) -> str:
        """Tells this episode from every other."""
        what = self.schedule or self.controller
        options = json.dumps(self.options, sort_keys=True)
        return "|".join((self.experiment, self.id, str(self.seed), what, options, self.twin_of or ""))


def scheduled(experiment: str, id: str, arguments: dict[str, Any], seed: int, name: str, **kwargs: Any) -> Job:
    """A job that replays one of `SCHEDULES`."""
    return Job(experiment, id, arguments, seed, name, SCHEDULES[name], **kwargs)


def _late() -> Iterator[Job]:
    for seed in range(3):
        for epoch in (1, 25, 50, 75, 100):
            plantings = everywhere("conv_light", epoch)
            yield Job("late", CIFAR_ID, SYNTHETIC, seed, f"light everywhere at {epoch}", plantings)


def varied_instances() -> list[dict[str, Any]]:
    """Twelve instances that cover what trains differently: width, impaired block, noise and rate.

    Rent changes no training, so it is varied afterwards, in the report.
    """
    rows = []
    for i, (width, impaired) in enumerate((w, b) for w in (0.5, 1.0, 2.0) for b in (None, 0, 1, 2)):
        rows.append(
            {
                "width": width,
                "impaired": impaired,
                "label_noise": 0.2 * (i % 2),
                "lr_factor": (0.4, 0.8, 1.6)[i % 3],
                "rent_factor": 1.0,
            }
        )
    return rows


VARIED_SCHEDULES = (
    NEVER,
    "light everywhere at 1",
    "heavy everywhere at 1",
    "small everywhere at 1",
    "light first at 1",
    "heavy first at 1",
)


def _varied() -> Iterator[Job]:
    for seed in (0, 1):
        for instance in varied_instances():
            for name in VARIED_SCHEDULES:
                yield scheduled("varied", VARIED_ID, SYNTHETIC, seed, name, options={"instance": instance})


def _convergence(_: str | None) -> Iterator[Job]:
    for id, arguments in ((CIFAR_ID, SYNTHETIC), (FASHION_ID, FASHION)):
        for seed in range(3):
            yield scheduled("convergence", id, arguments, seed, NEVER)


def _headroom(_: str | None) -> Iterator[Job]:
    structure = [{"slot": slot, "blueprint": "conv_light"} for slot in SLOTS]
    for seed in range(5):
        for options in ({}, {"structure": structure}):
            yield scheduled("headroom", CIFAR_ID, SYNTHETIC, seed, NEVER, options=options)


def _choose(experiment: str, id: str, arguments: dict[str, Any]) -> Iterator[Job]:
    for seed in CHOICE_SEEDS:
        for name in SCHEDULES:
            yield scheduled(experiment, id, arguments, seed, name)


def _judge(experiment: str, id: str, arguments: dict[str, Any], chosen: str | None) -> Iterator[Job]:
    if chosen is None:
        raise ValueError(f"{experiment} judges a schedule: name it")
    for seed in JUDGEMENT_SEEDS:
        for name in dict.fromkeys((NEVER, chosen, HEAVIEST)):
            yield scheduled(experiment, id, arguments, seed, name)


def _judge_fashion(chosen: str | None) -> Iterator[Job]:
    experiment = "judge-fashion"
    yield from _judge(experiment, FASHION_ID, FASHION, chosen)
    for seed in JUDGEMENT_SEEDS:
        yield Job(experiment, FASHION_ID, FASHION, seed, controller="heuristic")
        yield scheduled(experiment, FASHION_ID, FASHION, seed, NEVER, twin_of=chosen)


def _stability(_: str | None) -> Iterator[Job]:
    for id, task in BUILT_IN.items():
        arguments = FASHION if id == FASHION_ID else SYNTHETIC
        heaviest = tuple(Planting(slot, "conv_heavy", 1) for slot in task.slots)
        for seed in range(5):
            yield Job("stability", id, arguments, seed, NEVER)
            yield Job("stability", id, arguments, seed, HEAVIEST, heaviest)
            yield Job("stability", id, arguments, seed, controller="heuristic")


EXPERIMENTS: dict[str, Callable[[str | None], Iterator[Job]]] = {
    "convergence": _convergence,
    "headroom": _headroom,
    "late": lambda _: _late(),
    "choose-cifar": lambda _: _choose("choose-cifar", CIFAR_ID, SYNTHETIC),
    "judge-cifar": lambda chosen: _judge("judge-cifar", CIFAR_ID, SYNTHETIC, chosen),
    "choose-fashion": lambda _: _choose("choose-fashion", FASHION_ID, FASHION),
    "judge-fashion": _judge_fashion,
    "varied": lambda _: _varied(),
    "stability": _stability,
}
"""The episodes of each experiment; those that judge take the name of the chosen schedule."""


def describe(plantings: tuple[Planting, ...]) -> list[dict[str, Any]]:
    """JSON-able form of a schedule."""
    return [asdict(p) for p in plantings]
