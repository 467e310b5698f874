"""MaskableRecurrentPPO against the algorithms it comes from, on environments that are not ours.

``python -m benchmarks.originals run [--workers 2]`` adds the rows that are missing to
``benchmarks/results/originals.jsonl``; ``python -m benchmarks.originals report`` writes the table in
``docs/agent.md``. Equal steps, the same seeds (five; ten of CartPole, whose returns differ most between seeds), and the
hyperparameters of each task the same for every algorithm.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO, RecurrentPPO
from sb3_contrib.common.envs import InvalidActionEnvDiscrete, InvalidActionEnvMultiDiscrete
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from benchmarks import rows
from benchmarks.pages import fill, markdown
from esper_agents.simic import MaskableRecurrentPPO, evaluate_policy

RESULTS = Path(__file__).parent / "results" / "originals.jsonl"
PAGE = Path(__file__).parents[1] / "docs" / "agent.md"
ENVS = 8
EVALUATION_EPISODES = 64


class MaskedTMaze(gymnasium.Env[NDArray[np.float32], np.int64]):
    """A corridor with a junction at its end; the first observation alone says which way is right.

    After Bakker 2002, "Reinforcement Learning with Long Short-Term Memory". In the corridor FORWARD and STAY are
    legal, at the junction LEFT and RIGHT. A step costs 0.01, an illegal action 0.05 and nothing else happens; the
    right turn pays 1, the wrong one -1. Without memory nothing above 0 can be earned on average.
    """

    LENGTH = 8
    FORWARD, STAY, LEFT, RIGHT = range(4)
    observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Start at the beginning of the corridor."""
        super().reset(seed=seed)
        self.side = int(self.np_random.integers(2))
        self.place = self.steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        """Move."""
        self.steps += 1
        done, reward = False, -0.01
        if not self.action_masks()[action]:
            reward = -0.05
        elif action in (self.LEFT, self.RIGHT):
            done, reward = True, 1.0 if action - self.LEFT == self.side else -1.0
        elif action == self.FORWARD:
            self.place += 1
        return self._observe(), reward, done, self.steps >= 5 * self.LENGTH, {}

    def action_masks(self) -> NDArray[np.bool_]:
        """What is legal, (4,)."""
        corridor = self.place < self.LENGTH
        return np.array([corridor, corridor, not corridor, not corridor])

    def _observe(self) -> NDArray[np.float32]:
        signal = (2.0 * self.side - 1.0) if self.steps == 0 else 0.0
        noise = self.np_random.uniform(-1, 1)
        return np.array([signal, float(self.place >= self.LENGTH), noise], np.float32)


class Positions(gymnasium.ObservationWrapper[Any, Any, Any]):
    """CartPole without its velocities."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def observation(self, observation: Any) -> Any:
        """Position and angle."""
        return observation[[0, 2]]


@dataclass(frozen=True)
class Task:
    """An environment, and hyperparameters that all algorithms use on it."""

    make: Callable[[], gymnasium.Env[Any, Any]]
    steps: int
    originals: tuple[type[Any], ...]
    masks: bool = True
    seeds: int = 5
    learner: dict[str, Any] = field(default_factory=dict)

    @property
    def algorithms(self) -> tuple[type[Any], ...]:
        """Ours and those it comes from."""
        return (MaskableRecurrentPPO, *self.originals)


TASKS = {
    "masked T-maze": Task(MaskedTMaze, 120_000, (RecurrentPPO, MaskablePPO)),
    "invalid actions, Discrete": Task(
        lambda: InvalidActionEnvDiscrete(dim=40, n_invalid_actions=20),
        120_000,
        (MaskablePPO,),
        learner={"gamma": 0.4, "learning_rate": lambda left: 1e-3 * left},
    ),
    "invalid actions, MultiDiscrete": Task(
        lambda: InvalidActionEnvMultiDiscrete(dims=[8, 8], n_invalid_actions=8),
        40_000,
        (MaskablePPO,),
        learner={"gamma": 0.4, "learning_rate": lambda left: 1e-3 * left},
    ),
    "CartPole without velocities": Task(
        lambda: Positions(gymnasium.make("CartPole-v1")),
        100_000,
        (RecurrentPPO,),
        masks=False,
        seeds=10,
        learner={  # rl-baselines3-zoo's for RecurrentPPO on this task
            "n_steps": 32,
            "batch_size": 256,
            "n_epochs": 20,
            "gamma": 0.98,
            "gae_lambda": 0.8,
            "ent_coef": 0.0,
            "learning_rate": lambda left: 1e-3 * left,
            "clip_range": lambda left: 0.2 * left,
        },
    ),
}
LEARNER = {"n_steps": 128, "batch_size": 256, "n_epochs": 8, "learning_rate": 1e-3, "ent_coef": 0.001}
MEMORY = {"lstm_hidden_size": 64, "shared_lstm": False, "enable_critic_lstm": True}


def run_one(name: str, kind: type[Any], seed: int) -> dict[str, Any]:
    """Train one learner and evaluate it."""
    torch.set_num_threads(1)
    np.random.seed(seed)  # noqa: NPY002 - what sb3-contrib's environments draw from
    task = TASKS[name]
    env = DummyVecEnv([lambda: Monitor(task.make())] * ENVS)
    env.seed(seed)
    arguments = LEARNER | task.learner | {"seed": seed, "device": "cpu"}
    policy = "MlpPolicy" if kind is MaskablePPO else "MlpLstmPolicy"
    if kind is not MaskablePPO:
        arguments["policy_kwargs"] = MEMORY
    if kind is MaskableRecurrentPPO:
        arguments["use_masking"] = task.masks
    model = kind(policy, env, **arguments)
    start = time.perf_counter()
    model.learn(task.steps)
    seconds = time.perf_counter() - start
    masked = task.masks and kind is not RecurrentPPO
    env.seed(10_000)
    returns, _ = evaluate_policy(model, env, EVALUATION_EPISODES, use_masking=masked)
    row = {"task": name, "algorithm": kind.__name__, "seed": seed, "steps": task.steps}
    return row | {"return": float(np.mean(returns)), "seconds": round(seconds, 1)}


def run(workers: int) -> None:
    """Run what has no row yet."""
    done = {(row["task"], row["algorithm"], row["seed"]) for row in rows.read(RESULTS)}
    jobs = [
        (name, kind, seed)
        for name, task in TASKS.items()
        for seed in range(task.seeds)
        for kind in task.algorithms
        if (name, kind.__name__, seed) not in done
    ]
    rows.make(RESULTS, jobs, run_one, workers)


def difference(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Difference of the means, with the 95 % interval of a bootstrap over the seeds of each side."""
    rng = np.random.default_rng(0)
    sides = [np.array(side)[rng.integers(len(side), size=(10_000, len(side)))].mean(1) for side in (ours, theirs)]
    low, high = np.percentile(sides[0] - sides[1], (2.5, 97.5))
    return f"{np.mean(ours) - np.mean(theirs):+.2f} [{low:+.2f}, {high:+.2f}]"


def table() -> str:
    """Mean return and seconds by task and algorithm."""
    lines = []
    found = rows.read(RESULTS)
    for name, task in TASKS.items():
        ours: list[float] = []
        for kind in task.algorithms:
            mine = sorted(
                (r for r in found if (r["task"], r["algorithm"]) == (name, kind.__name__)), key=lambda r: int(r["seed"])
            )
            if mine:
                returns, seconds = [r["return"] for r in mine], np.mean([r["seconds"] for r in mine])
                by_seed = " ".join(f"{value:.2f}" for value in returns)
                cells = [name, f"{task.steps:,}", kind.__name__, f"{np.mean(returns):.2f}", by_seed]
                lines.append([*cells, difference(ours, returns) if ours else "", f"{seconds:.0f}"])
                ours = ours or returns
    return markdown(["task", "steps", "algorithm", "mean return", "by seed", "ours less it", "seconds"], lines)


if __name__ == "__main__":
    sys.exit(rows.command("benchmarks.originals", __doc__, run, lambda: fill(PAGE, {"originals": table()})))
