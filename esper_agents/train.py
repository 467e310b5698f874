"""The trainer's command line: ``python -m esper_agents.train heuristic --task cifar_baseline``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import tyro
from pydantic import Field
from tqdm import tqdm

from esper_agents.config import EnvironmentConfig
from esper_agents.report import summary
from esper_agents.runner import run_episodes
from esper_agents.tamiyo import make_controller
from esper_env import DataNotFoundError


class HeuristicConfig(EnvironmentConfig):
    """Run the hand-written controller and print what each episode came to."""

    episodes: Annotated[int, Field(ge=1)] = 1
    """Episodes to run, with the seeds from --seed on."""


def run_heuristic(config: HeuristicConfig) -> None:
    """Run `config.episodes` episodes of the heuristic controller.

    Raises:
        ValueError: an argument of the environment is not among its choices or out of range.
        DataNotFoundError: the data set is not on disk.
    """
    num_envs = min(config.envs, config.episodes)
    venv = config.make(num_envs)
    try:
        controller = make_controller("heuristic", venv)
        rounds = -(-config.episodes // num_envs)
        with tqdm(total=rounds * num_envs * config.episode_length, unit="step", desc="heuristic") as progress:
            records = run_episodes(controller, venv, config.episodes, seed=config.seed, progress=progress)
    finally:
        venv.close()
    print("\n\n".join(summary(record) for record in records))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, 2 for bad arguments, 130 when interrupted."""
    config: HeuristicConfig = tyro.extras.subcommand_cli_from_dict(
        {"heuristic": HeuristicConfig}, prog="python -m esper_agents.train", args=arguments
    )
    try:
        run_heuristic(config)
    except (ValueError, DataNotFoundError) as error:
        # the environment checks its own arguments; a step that fails never raises, it ends its episode
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
