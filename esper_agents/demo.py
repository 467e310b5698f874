"""A short demonstration on embedded data: ``python -m esper_agents.demo``.

Runs three scripted controllers, trains sb3-contrib's `MaskablePPO` for a few episodes through
`GymnasiumVecEnv`, evaluates all on the same seeds, prints one table and writes one picture.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import gymnasium
import numpy as np
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from esper_agents.pictures import draw_lives
from esper_agents.runner import EpisodeRecord, VectorEnv, run_episodes
from esper_agents.simic import GymnasiumVecEnv
from esper_agents.tamiyo import Controller, make_controller
from esper_agents.tamiyo.controller import Actions, Masks, Observations

ENV_ID: Final = "Esper/CifarBaseline-v0"
SETTINGS: Final[dict[str, Any]] = {
    "dataset": "synthetic",
    "episode_length": 40,
    "samples_per_epoch": 384,
    "val_samples": 384,
    "batch_size": 64,
}
SCRIPTED: Final = ("wait", "random", "heuristic")
TRAINING_ENVS: Final = 4
TRAINING_ROUNDS: Final = 3
TRAINING_SEED: Final = 0
EVALUATION_SEED: Final = 2_000_000
EVALUATION_EPISODES: Final = 2
PICTURE: Final = Path("demo") / "demo.png"


class LearnedController:
    """A trained `MaskablePPO` as a `Controller`; it draws its actions from the policy, as in training."""

    def __init__(self, model: MaskablePPO) -> None:
        self.model = model

    def __call__(
        self, obs: Observations, action_mask: Masks, info: Mapping[str, Any] | None, state: Any
    ) -> tuple[Actions, Any]:
        """See `Controller`."""
        actions, state = self.model.predict(obs, state, action_masks=action_mask, deterministic=False)
        return np.asarray(actions, np.int64), state


class _ShowProgress(BaseCallback):
    """Moves a progress bar on and shows the mean return of the last episodes."""

    def __init__(self, progress: tqdm[Any]) -> None:
        super().__init__()
        self.progress = progress

    def _on_step(self) -> bool:
        returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        if returns:
            self.progress.set_postfix({"mean return": f"{np.mean(returns):+.3f}"}, refresh=False)
        self.progress.update(self.training_env.num_envs)
        return True


def make(num_envs: int) -> VectorEnv:
    """Build the demonstration's environments."""
    return gymnasium.make_vec(ENV_ID, num_envs=num_envs, autoreset_mode="SameStep", **SETTINGS)


def train() -> Controller:
    """Train a policy for `TRAINING_ROUNDS` rounds of one episode per environment."""
    length = SETTINGS["episode_length"]
    env = GymnasiumVecEnv(make(TRAINING_ENVS))
    model = MaskablePPO(
        "MlpPolicy",
        env,
        n_steps=length,
        batch_size=length,
        gamma=1.0,  # the environment's objective is the undiscounted return
        ent_coef=0.01,
        seed=TRAINING_SEED,
        device="cpu",
    )
    steps = TRAINING_ROUNDS * TRAINING_ENVS * length
    with tqdm(total=steps, unit="step", desc="training ppo") as progress:
        model.learn(steps, callback=_ShowProgress(progress))
    env.close()
    return LearnedController(model)


def evaluate(name: str, controller: Controller, venv: VectorEnv) -> list[EpisodeRecord]:
    """Run the controller on the evaluation seeds."""
    with tqdm(total=EVALUATION_EPISODES * SETTINGS["episode_length"], unit="step", desc=name) as progress:
        return run_episodes(controller, venv, EVALUATION_EPISODES, seed=EVALUATION_SEED, progress=progress)


def table(results: Mapping[str, list[EpisodeRecord]]) -> str:
    """Return the means over the evaluation seeds, a line per controller."""
    lines = [
        f"{'controller':<11}{'return':>9}{'committed acc':>15}{'test acc':>10}{'params':>9}"
        f"{'total FLOPs':>13}{'fossilised':>12}"
    ]
    for name, records in results.items():

        def mean(key: str, records: list[EpisodeRecord] = records) -> float:
            return float(np.mean([record.final[key] for record in records]))

        episode_return = float(np.mean([record.episode_return for record in records]))
        lines.append(
            f"{name:<11}{episode_return:>+9.4f}{mean('committed_accuracy'):>15.2%}{mean('test_accuracy'):>10.2%}"
            f"{mean('params'):>9,.0f}{mean('flops_total'):>13.3g}{mean('fossilized'):>12.1f}"
        )
    return "\n".join(lines)


def main() -> int:
    """Run the demonstration; return the exit status."""
    started = time.monotonic()
    settings = ", ".join(f"{name}={value}" for name, value in SETTINGS.items())
    print("A short demonstration of Esper, not a benchmark.")
    print(f"{ENV_ID} with {settings}")
    print(
        f"PPO: {TRAINING_ROUNDS * TRAINING_ENVS} episodes of training, seeds from {TRAINING_SEED}; every "
        f"controller: {EVALUATION_EPISODES} episodes, seeds from {EVALUATION_SEED}\n",
        flush=True,
    )
    venv = make(EVALUATION_EPISODES)
    results = {name: evaluate(name, make_controller(name, venv), venv) for name in SCRIPTED}
    results["ppo"] = evaluate("ppo", train(), venv)
    venv.close()
    print(f"\nMean over {EVALUATION_EPISODES} seeds:\n{table(results)}\n")
    first = {name: records[0] for name, records in results.items()}
    draw_lives(first, PICTURE, f"Slots' lives in one episode of {ENV_ID}, seed {EVALUATION_SEED}")
    print(f"Picture: {PICTURE}. Time: {time.monotonic() - started:.0f} s.")
    print("So few episodes and seeds rank nothing, and the learned policy has hardly begun to learn.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
