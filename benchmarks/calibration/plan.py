"""What calibration runs: the ten schedules, listed before any of them was run, and the experiments."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from esper_agents.tamiyo import Planting

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


def _rent(experiment: str, id: str, arguments: dict[str, Any], seeds: range, names: list[str]) -> Iterator[Job]:
    for seed in seeds:
        for name in names:
            yield scheduled(experiment, id, arguments, seed, name)


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
    for i, (width, impaired) in enumerate(
        (w, b) for w in (0.5, 1.0, 2.0) for b in (None, 0, 1, 2)
    ):
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
                yield scheduled(
                    "varied", VARIED_ID, SYNTHETIC, seed, name, options={"instance": instance}
                )


def jobs(experiment: str, chosen: str | None = None) -> list[Job]:
    """Return the episodes of an experiment; `chosen` is the best schedule, for those that judge it."""
    seeds = JUDGEMENT_SEEDS
    match experiment:
        case "convergence":
            return [
                scheduled(experiment, id, arguments, seed, NEVER)
                for id, arguments in ((CIFAR_ID, SYNTHETIC), (FASHION_ID, FASHION))
                for seed in range(3)
            ]
        case "headroom":
            structure = [{"slot": slot, "blueprint": "conv_light"} for slot in SLOTS]
            return [
                scheduled(experiment, CIFAR_ID, SYNTHETIC, seed, NEVER, options=options)
                for seed in range(5)
                for options in ({}, {"structure": structure})
            ]
        case "late":
            return list(_late())
        case "choose-cifar":
            return list(_rent(experiment, CIFAR_ID, SYNTHETIC, CHOICE_SEEDS, list(SCHEDULES)))
        case "choose-fashion":
            return list(_rent(experiment, FASHION_ID, FASHION, CHOICE_SEEDS, list(SCHEDULES)))
        case "judge-cifar":
            assert chosen is not None
            return list(_rent(experiment, CIFAR_ID, SYNTHETIC, seeds, sorted({NEVER, chosen, HEAVIEST})))
        case "judge-fashion":
            assert chosen is not None
            rows = list(_rent(experiment, FASHION_ID, FASHION, seeds, sorted({NEVER, chosen, HEAVIEST})))
            rows += [Job(experiment, FASHION_ID, FASHION, seed, controller="heuristic") for seed in seeds]
            return rows + [scheduled(experiment, FASHION_ID, FASHION, s, NEVER, twin_of=chosen) for s in seeds]
        case "varied":
            return list(_varied())
        case _:
            raise ValueError(f"unknown experiment {experiment!r}; choose one of {EXPERIMENTS}")


EXPERIMENTS = (
    "convergence",
    "headroom",
    "late",
    "choose-cifar",
    "judge-cifar",
    "choose-fashion",
    "judge-fashion",
    "varied",
)


def describe(plantings: tuple[Planting, ...]) -> list[dict[str, Any]]:
    """JSON-able form of a schedule."""
    return [asdict(p) for p in plantings]
