"""Small environments for the agents' tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import pytest

import esper_env  # noqa: F401 - registers the ids
from esper_agents.train import main

SMALL = {
    "samples_per_epoch": 16,
    "val_samples": 256,
    "batch_size": 16,
    "episode_length": 40,
    "host_lr": 0.05,
    "seed_lr": 0.05,
}
"""Arguments that make a step of Esper/Tiny-v0 cheap. With fewer validation images, or at the task's own rates with
one small batch an epoch, noise looks like a collapse to the governor."""


@pytest.fixture
def make_tiny() -> Iterator[Callable[..., Any]]:
    """Builds small vector environments, autoreset mode "SameStep" unless told, and closes them."""
    made = []

    def make(num_envs: int = 2, **arguments: Any) -> Any:
        arguments = {**SMALL, "autoreset_mode": "SameStep", "workers": 1, **arguments}
        made.append(gymnasium.make_vec("Esper/Tiny-v0", num_envs=num_envs, **arguments))
        return made[-1]

    yield make
    for venv in made:
        venv.close()


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Callable[[list[str], str], bool]:
    """Says whether the trainer's command line ends with status 2 and this message, and without a traceback."""

    def check(arguments: list[str], message: str) -> bool:
        try:
            status: Any = main(arguments)
        except SystemExit as stop:  # how tyro ends
            status = stop.code
        flat = " ".join(capfd.readouterr().err.replace("│", " ").split())
        assert message in flat and "Traceback" not in flat
        return bool(status == 2)

    return check
