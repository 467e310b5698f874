"""Kasmina: the growing model. Pure torch; no reinforcement learning and no input or output."""

from esper_env.kasmina.blueprints import BLUEPRINTS, DEFAULT_BLUEPRINTS, register_blueprint
from esper_env.kasmina.hosts import ConvHost, Host, Runner
from esper_env.kasmina.model import GrowingModel, build
from esper_env.kasmina.seed import Seed
from esper_env.kasmina.slot import Slot

__all__ = [
    "BLUEPRINTS",
    "DEFAULT_BLUEPRINTS",
    "ConvHost",
    "GrowingModel",
    "Host",
    "Runner",
    "Seed",
    "Slot",
    "build",
    "register_blueprint",
]
