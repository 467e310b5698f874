"""The trainer's command line: ``python -m esper_agents.train {ppo,heuristic} --task cifar_baseline``."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from pydantic import Field
from tqdm import tqdm

from esper_agents.config import EnvironmentConfig
from esper_agents.ppo_config import PPOConfig, base_config
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


def run_ppo(config: PPOConfig, *, command: str = "") -> None:
    """Train a policy; see `Trainer`.

    Raises:
        ValueError: an argument of the environment is not among its choices or out of range, or the checkpoint
            to go on from is none, is damaged or is of another run.
        DataNotFoundError: the data set is not on disk.
    """
    from esper_agents.simic.training import Trainer  # noqa: PLC0415 - tensorboard and more, only to train

    torch.set_num_threads(1)  # results do not depend on the machine, and a busy one slows down the least
    trainer = Trainer(config, run_folder(config), command=command)
    try:
        if config.resume is not None:
            trainer.resume(Path(config.resume))
        trainer.run()
    finally:
        trainer.env.close()


def run_folder(config: PPOConfig) -> Path:
    """The folder of a run: that of the run it goes on with, else a new one."""
    if config.resume is not None:
        path = Path(config.resume)
        for folder in (path, *path.parents[:2]):
            if (folder / "config.json").is_file():
                return folder
    name = f"{config.task.replace('/', '-')}-seed{config.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    return Path(config.telemetry_dir) / name


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, 2 for bad arguments, 130 when interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        base = base_config(words) if words[:1] == ["ppo"] and not {"-h", "--help"} & set(words) else PPOConfig()
        config: Any = tyro.cli(
            Annotated[PPOConfig, tyro.conf.subcommand("ppo", default=base)]
            | Annotated[HeuristicConfig, tyro.conf.subcommand("heuristic")],
            prog="python -m esper_agents.train",
            args=words,
        )
        if isinstance(config, PPOConfig):
            run_ppo(config, command=shlex.join(["python", "-m", "esper_agents.train", *words]))
        else:
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
