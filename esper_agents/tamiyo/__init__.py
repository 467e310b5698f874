"""Tamiyo: controllers, which choose what grows, when and where. `make_controller` builds one by name."""

from esper_agents.tamiyo.controller import Controller, Interface, Random, Wait
from esper_agents.tamiyo.factory import CONTROLLERS, make_controller
from esper_agents.tamiyo.heuristic import HeuristicRule
from esper_agents.tamiyo.periodic import PeriodicRule
from esper_agents.tamiyo.schedule import Planting, Schedule

__all__ = [
    "CONTROLLERS",
    "Controller",
    "HeuristicRule",
    "Interface",
    "PeriodicRule",
    "Planting",
    "Random",
    "Schedule",
    "Wait",
    "make_controller",
]
