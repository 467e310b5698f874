"""Writes the tables of these pages that come from the code: `python docs/tables.py`, or `make tables`.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end of table -->``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path

from esper_env import BUILT_IN, Instance, Style
from esper_env.kasmina import DEFAULT_BLUEPRINTS, Seed
from esper_env.leyline import TRANSITIONS, legality_table, observation_table
from esper_env.settings import Settings

DOCS = Path(__file__).parent
_BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)

ARGUMENTS = {
    "dataset": '"auto", "cifar10", "fashion_mnist" or "synthetic"; see [data](data.md)',
    "data_root": "folder to look for the data in first",
    "slots": "boundaries of the host that get a slot; the task's if not given",
    "blueprints": "what can be germinated, at most 16; their order is that of the action indices",
    "styles": 'how a seed can join the stream: "add", "gate", "multiply"',
    "tempos": "epochs an alpha ramp can take; chosen at germination",
    "alpha_curve": 'shape of the ramps: "linear", "cosine" or "sigmoid"',
    "episode_length": "steps of an episode; the learning-rate schedule spans them",
    "samples_per_epoch": "training images a step; None is the whole training split",
    "val_samples": "validation images that every step is scored on, always the same",
    "batch_size": "images of a training batch",
    "host_lr": "the host's learning rate; the task's if not given",
    "seed_lr": "learning rate of seeds until they are fossilised; the task's if not given",
    "rent": "price of adding the reference size, in accuracy (0..1); the task's if not given",
    "rent_on": 'what the rent is charged on: "params", or forward "flops"',
    "device": '"cpu" or "cuda:N"',
    "precision": '"fp32", or "bf16" autocast',
    "strict_gates": "the gates also ask for a measured gain; see the rules below",
}


def _table(head: str, rows: list[str]) -> str:
    return "\n".join([head, re.sub(r"[^|]+", " --- ", head), *rows])


def arguments() -> str:
    """The environment's arguments with their defaults."""
    parameters = inspect.signature(Settings.resolve).parameters
    rows = []
    for name in [p for p in parameters if p != "task"]:
        default = parameters[name].default
        shown = "all seven built-in" if default is DEFAULT_BLUEPRINTS else f"`{default!r}`"
        rows.append(f"| `{name}` | {shown} | {ARGUMENTS[name]} |")
    return _table("| argument | default | meaning |", rows)


def tasks() -> str:
    """The registered ids."""
    rows = []
    for id, task in BUILT_IN.items():
        params = sum(p.numel() for p in task.host(Instance()).parameters())
        changed = ", ".join(f"{k}={v}" for k, v in task.defaults.items())
        rows.append(
            f"| `{id}` | {params:,} | {task.channels}x{task.size}x{task.size} | {' '.join(task.slots)} | "
            f"{task.dataset} | {task.host_lr:g} | {task.seed_lr:g} | {task.rent:g} | "
            f"{task.reference_params:,} | {changed} |"
        )
    head = (
        "| id | host parameters | images | slots | data | `host_lr` | `seed_lr` | `rent` | "
        "reference parameters | other defaults |"
    )
    return _table(head, rows)


def blueprints() -> str:
    """The built-in blueprints and their sizes."""
    rows = []
    for name in DEFAULT_BLUEPRINTS:
        sizes = " | ".join(f"{Seed(name, channels, Style.ADD).size:,}" for channels in (8, 16, 32))
        rows.append(f"| `{name}` | {sizes} |")
    return _table("| blueprint | parameters at 8 channels | at 16 | at 32 |", rows)


def transitions() -> str:
    """From where a slot can go where."""
    rows = [
        f"| {stage.name} | {', '.join(after.name for after in sorted(to)) or 'none: it is there for good'} |"
        for stage, to in TRANSITIONS.items()
    ]
    return _table("| stage | next |", rows)


TABLES: dict[str, Callable[[], str]] = {
    "arguments": arguments,
    "blueprints": blueprints,
    "legality": legality_table,
    "observation": observation_table,
    "tasks": tasks,
    "transitions": transitions,
}


def renewed(text: str) -> str:
    """Return a page with its tables as the code has them now."""
    return _BLOCK.sub(lambda m: f"{m[1]}\n{TABLES[m[2]]()}\n\n{m[3]}", text)


if __name__ == "__main__":
    for page in sorted(DOCS.glob("*.md")):
        page.write_text(renewed(page.read_text("utf-8")), "utf-8")
