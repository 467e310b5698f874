"""What calibration runs: the schedules it compares, and the experiments."""

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
    "heavy first two at 1": everywhere("conv_heavy", 1)[:2],
}
"""Simple schedules: ten that were listed before any was run, and the last, added after the first choice had shown
two slots and the heavy seed to be good. Seeds advance and fossilise as soon as that is legal."""

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
        rates = [json.dumps(self.rates, sort_keys=True)] if self.rates else []
        return "|".join((self.experiment, self.id, str(self.seed), what, options, self.twin_of or "", *rates))

    @property
    def rates(self) -> dict[str, float]:
        """The learning rates that are not the task's own."""
        return {k: v for k, v in self.arguments.items() if k in ("host_lr", "seed_lr")}


def scheduled(experiment: str, id: str, arguments: dict[str, Any], seed: int, name: str, **kwargs: Any) -> Job:
    """A job that replays one of `SCHEDULES`."""
    return Job(experiment, id, arguments, seed, name, SCHEDULES[name], **kwargs)


LATE_EPOCHS = (1, 25, 50, 75, 100)


def _late(_: str | None) -> Iterator[Job]:
    """The germination epochs that are not among the schedules compared."""
    for seed in range(3):
        for epoch in LATE_EPOCHS:
            name = f"light everywhere at {epoch}"
            if name not in SCHEDULES:
                yield Job("late", CIFAR_ID, SYNTHETIC, seed, name, everywhere("conv_light", epoch))


HOST_RATES = (0.02, 0.05, 0.1, 0.4)
LOW_SEED_RATE = 0.05


def _rates(_: str | None) -> Iterator[Job]:
    """Other rates than the tasks' own: of the host for WAIT, of the seeds for germination at epoch 75."""
    for seed in range(3):
        for rate in HOST_RATES:
            yield scheduled("rates", CIFAR_ID, SYNTHETIC | {"host_lr": rate}, seed, NEVER)
        late = everywhere("conv_light", 75)
        slow = SYNTHETIC | {"seed_lr": LOW_SEED_RATE}
        yield Job("rates", CIFAR_ID, slow, seed, "light everywhere at 75", late)


def varied_instances() -> list[dict[str, Any]]:
    """Six instances that cover what trains differently: width, impaired block, noise and rate.

    Rent changes no training, so it is varied afterwards, in the report.
    """
    cells = ((0.5, None), (0.5, 1), (1.0, 0), (1.0, 2), (2.0, 1), (2.0, 0))
    return [
        {
            "width": width,
            "impaired": impaired,
            "label_noise": 0.2 * (i % 2),
            "lr_factor": (0.4, 0.8, 1.6)[i % 3],
            "rent_factor": 1.0,
        }
        for i, (width, impaired) in enumerate(cells)
    ]


VARIED_SCHEDULES = (
    NEVER,
    HEAVIEST,
    "heavy first at 1",
    "heavy first two at 1",
    "small everywhere at 1",
)


def _varied() -> Iterator[Job]:
    for seed in range(3):
        for instance in varied_instances():
            for name in VARIED_SCHEDULES:
                yield scheduled("varied", VARIED_ID, SYNTHETIC, seed, name, options={"instance": instance})


def _headroom(_: str | None) -> Iterator[Job]:
    structure = [{"slot": slot, "blueprint": "conv_light"} for slot in SLOTS]
    for seed in CHOICE_SEEDS:
        yield scheduled("headroom", CIFAR_ID, SYNTHETIC, seed, NEVER, options={"structure": structure})


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
    """Five seeds of what no other experiment runs; the report counts the rows of all of them."""
    for id, task in BUILT_IN.items():
        heaviest = tuple(Planting(slot, "conv_heavy", 1) for slot in task.slots)
        for seed in range(5):
            if id not in (CIFAR_ID, FASHION_ID, VARIED_ID):
                yield Job("stability", id, SYNTHETIC, seed, NEVER)
                yield Job("stability", id, SYNTHETIC, seed, HEAVIEST, heaviest)
            if id != FASHION_ID:
                yield Job("stability", id, SYNTHETIC, seed, controller="heuristic")


EXPERIMENTS: dict[str, Callable[[str | None], Iterator[Job]]] = {
    "headroom": _headroom,
    "late": _late,
    "rates": _rates,
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
