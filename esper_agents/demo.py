"""A short demonstration on embedded data: ``python -m esper_agents.demo``.

Runs three scripted controllers and the trained policy that comes with the package, trains Esper's own agent for a few
rounds, evaluates all on the same seeds, prints one table and writes one picture.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from tqdm import tqdm

from esper_agents import load_policy
from esper_agents.monitoring import monitored, run_folder
from esper_agents.pictures import draw_lives
from esper_agents.ppo_config import PRESETS, PPOConfig
from esper_agents.runner import EpisodeRecord, VectorEnv, run_episodes
from esper_agents.simic.training import POLICY, Trainer
from esper_agents.tamiyo import Controller, make_controller

SETTINGS: Final[dict[str, Any]] = PRESETS["cifar_baseline"] | {
    "dataset": "synthetic",
    "env_json": {"samples_per_epoch": 256, "val_samples": 256},
    "episode_length": 50,
    "envs": 4,
    "rounds": 10,
    "telemetry_dir": "demo",
}
SCRIPTED: Final = ("wait", "random", "heuristic")
SHIPPED: Final = "cifar_baseline"
"""The trained policy, which learned on whole episodes."""
NEW: Final = "newly trained"
EVALUATION_SEED: Final = 2_000_000
EVALUATION_EPISODES: Final = 4
PICTURE: Final = Path("demo") / "demo.png"


def train(config: PPOConfig) -> Path:
    """Train the agent; return the file of its policy."""
    folder = run_folder(config)
    trainer = Trainer(config, folder, command="python -m esper_agents.demo")
    try:
        with monitored(config, folder) as telemetry:
            trainer.run(telemetry=telemetry)
    finally:
        trainer.env.close()
    return folder / POLICY


def evaluate(name: str, controller: Controller, venv: VectorEnv, length: int) -> list[EpisodeRecord]:
    """Run the controller on the evaluation seeds."""
    with tqdm(total=EVALUATION_EPISODES * length, unit="step", desc=name) as progress:
        return run_episodes(controller, venv, EVALUATION_EPISODES, seed=EVALUATION_SEED, progress=progress)


def table(results: Mapping[str, list[EpisodeRecord]]) -> str:
    """Return the means over the evaluation seeds, a line per controller."""
    lines = [
        f"{'controller':<15}{'return':>9}{'committed acc':>15}{'test acc':>10}{'params':>9}"
        f"{'total FLOPs':>13}{'fossilised':>12}"
    ]
    for name, records in results.items():

        def mean(key: str, records: list[EpisodeRecord] = records) -> float:
            return float(np.mean([record.final[key] for record in records]))

        episode_return = float(np.mean([record.episode_return for record in records]))
        lines.append(
            f"{name:<15}{episode_return:>+9.4f}{mean('committed_accuracy'):>15.2%}{mean('test_accuracy'):>10.2%}"
            f"{mean('params'):>9,.0f}{mean('flops_total'):>13.3g}{mean('fossilized'):>12.1f}"
        )
    return "\n".join(lines)


def main() -> int:
    """Run the demonstration; return the exit status."""
    started = time.monotonic()
    config = PPOConfig(**SETTINGS)
    arguments = ", ".join(
        f"{name}={value}" for name, value in {"episode_length": config.episode_length, **config.env_json}.items()
    )
    print("A short demonstration of Esper, not a benchmark.")
    print(f"{config.env_id} on the {config.dataset} data set, with {arguments}")
    print(
        f"The agent: {config.rounds} rounds of {config.envs} episodes, seeds from {config.seed}; every controller: "
        f"{EVALUATION_EPISODES} episodes, seeds from {EVALUATION_SEED}\n",
        flush=True,
    )
    venv = config.make(EVALUATION_EPISODES)
    results = {name: evaluate(name, make_controller(name, venv), venv, config.episode_length) for name in SCRIPTED}
    results[SHIPPED] = evaluate(SHIPPED, load_policy(SHIPPED, venv), venv, config.episode_length)
    file = train(config)
    results[NEW] = evaluate(NEW, load_policy(file, venv), venv, config.episode_length)
    venv.close()
    print(f"\nMean over {EVALUATION_EPISODES} seeds:\n{table(results)}\n")
    first = {name: records[0] for name, records in results.items()}
    draw_lives(first, PICTURE, f"Slots' lives in one episode of {config.env_id}, seed {EVALUATION_SEED}")
    print(f"Picture: {PICTURE}. The training run: {file.parent}; docs/monitoring.md says how to look at it.")
    print(f"So few episodes rank nothing. The policy {SHIPPED} learned on episodes of 150 epochs with four times the")
    print("images; the new one has hardly begun to learn. README.md has measured results.")
    print(f"Time: {time.monotonic() - started:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
