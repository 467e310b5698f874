"""Esper's environment: neural networks that grow while they train.

``import esper_env`` registers the ids of `esper_env.tasks.BUILT_IN` with Gymnasium.
"""

from importlib.metadata import PackageNotFoundError, version

from esper_env.env import EsperEnv
from esper_env.kasmina import register_blueprint
from esper_env.leyline import Action, ObservationLayout, Op, Stage, Style
from esper_env.state import StateError
from esper_env.tasks import BUILT_IN, Instance, Task, register_task
from esper_env.tolaria.datasets import DataNotFoundError, EsperDataWarning
from esper_env.vector_env import EsperVectorEnv

__all__ = [
    "Action",
    "DataNotFoundError",
    "EsperDataWarning",
    "EsperEnv",
    "EsperVectorEnv",
    "Instance",
    "ObservationLayout",
    "Op",
    "Stage",
    "StateError",
    "Style",
    "Task",
    "__version__",
    "register_blueprint",
    "register_task",
]

try:
    __version__ = version("esper")
except PackageNotFoundError:  # a checkout that is on the path but not installed
    __version__ = "unknown"

for _id, _task in BUILT_IN.items():
    register_task(_task, _id)
