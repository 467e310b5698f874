"""Controllers by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from esper_agents.tamiyo.controller import Controller, Interface, Random, Wait
from esper_agents.tamiyo.heuristic import Heuristic, HeuristicRule
from esper_agents.tamiyo.periodic import Periodic, PeriodicRule
from esper_agents.tamiyo.schedule import FixedSchedule, Planting, Schedule
from esper_agents.tamiyo.scripted import Scripted


def _fixed_schedule(interface: Interface, *, schedule: Schedule | Iterable[Planting]) -> Controller:
    return Scripted(interface, FixedSchedule(interface, schedule))


def _periodic(interface: Interface, **constants: Any) -> Controller:
    return Scripted(interface, Periodic(interface, PeriodicRule(**constants)))


def _heuristic(interface: Interface, **constants: Any) -> Controller:
    return Scripted(interface, Heuristic(interface, HeuristicRule(**constants)))


CONTROLLERS: dict[str, Callable[..., Controller]] = {
    "wait": Wait,
    "random": Random,
    "fixed_schedule": _fixed_schedule,
    "periodic": _periodic,
    "heuristic": _heuristic,
}


def make_controller(name: str, env: Any, **arguments: Any) -> Controller:
    """Build a scripted controller for `env`, single or vector.

    Args:
        name: "wait", "random", "fixed_schedule", "periodic" or "heuristic".
        env: an Esper environment; only its action table and its observation layout are read.
        **arguments: ``seed`` of "random", ``schedule`` of "fixed_schedule" (a `Schedule` or `Planting`s), the
            fields of `PeriodicRule` and of `HeuristicRule`.

    Raises:
        ValueError: no such controller, or values the environment has no action for.
        TypeError: an argument the controller does not have.
    """
    if name not in CONTROLLERS:
        raise ValueError(f"unknown controller {name!r}; choose one of {list(CONTROLLERS)}")
    return CONTROLLERS[name](Interface.of(env), **arguments)
