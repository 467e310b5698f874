"""The trainer's command line: ``python -m esper_agents.train {ppo,heuristic} --task cifar_baseline``."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from pydantic import Field
from tqdm import tqdm

from esper_agents.config import EnvironmentConfig
from esper_agents.monitoring import monitored, run_folder
from esper_agents.ppo_config import PPOConfig, base_config, run_of
from esper_agents.recording import RecordedVectorEnv
from esper_agents.report import summary
from esper_agents.runner import run_episodes
from esper_agents.tamiyo import make_controller
from esper_agents.telemetry import Telemetry, run_start
from esper_env import DataNotFoundError

LOST_TELEMETRY = 3


class HeuristicConfig(EnvironmentConfig):
    """Run the hand-written controller and print what each episode came to."""

    episodes: Annotated[int, Field(ge=1)] = 1
    """Episodes to run, with the seeds from --seed on."""


def run_heuristic(config: HeuristicConfig, *, command: str = "") -> Telemetry:
    """Run `config.episodes` episodes of the heuristic controller.

    Raises:
        ValueError: an argument of the environment is not among its choices or out of range.
        DataNotFoundError: the data set is not on disk.
    """
    num_envs = min(config.envs, config.episodes)
    env = RecordedVectorEnv(config.make(num_envs), "heuristic")
    steps = -(-config.episodes // num_envs) * num_envs * config.episode_length
    try:
        controller = make_controller("heuristic", env)
        env.reset(seed=config.seed)  # the data's digest is known only then
        with monitored(config, run_folder(config, "heuristic-")) as telemetry:
            telemetry.watch(env)
            telemetry.emit(
                run_start(
                    env,
                    controller="heuristic",
                    command=command,
                    config=json.loads(config.model_dump_json()),
                    seed=config.seed,
                    devices=config.env_devices,
                    episode_epochs=config.episode_length,
                    total_steps=steps,
                )
            )
            with tqdm(total=steps, unit="step", desc="heuristic", disable=config.sanctum) as progress:
                records = run_episodes(controller, env, config.episodes, seed=config.seed, progress=progress)
    finally:
        env.close()
    print("\n\n".join(summary(record) for record in records))
    return telemetry


def run_ppo(config: PPOConfig, *, command: str = "") -> Telemetry:
    """Train a policy; see `Trainer`.

    Raises:
        ValueError: an argument of the environment is not among its choices or out of range, or the checkpoint
            to go on from is none, is damaged or is of another run.
        DataNotFoundError: the data set is not on disk.
    """
    from esper_agents.simic.training import Trainer  # noqa: PLC0415 - slow to import, and needed only to train

    torch.set_num_threads(1)  # results do not depend on the machine, and a busy one slows down the least
    resumed = None if config.resume is None else run_of(Path(config.resume))
    folder = resumed or run_folder(config)
    trainer = Trainer(config, folder, command=command)
    try:
        if config.resume is None:
            trainer.env.reset()  # refuses what is wrong with the arguments before anything is written
        else:
            trainer.resume(Path(config.resume))
        with monitored(config, folder) as telemetry:
            trainer.run(progress=not config.sanctum, telemetry=telemetry)
    finally:
        trainer.env.close()
    return telemetry


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status.

    0: all is well; 2: bad arguments; 3: the run is whole, but telemetry lost something; 130: interrupted. A run that
    fails raises.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        base = base_config(words if words[:1] == ["ppo"] else ())
        config: Any = tyro.cli(
            Annotated[PPOConfig, tyro.conf.subcommand("ppo", default=base)]
            | Annotated[HeuristicConfig, tyro.conf.subcommand("heuristic")],
            prog="python -m esper_agents.train",
            args=words,
        )
        command = shlex.join(["python", "-m", "esper_agents.train", *words])
        telemetry = (
            run_ppo(config, command=command)
            if isinstance(config, PPOConfig)
            else run_heuristic(config, command=command)
        )
    except (ValueError, DataNotFoundError) as error:
        # the environment checks its own arguments; a step that fails never raises, it ends its episode
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return LOST_TELEMETRY if telemetry.losses else 0


if __name__ == "__main__":
    sys.exit(main())
