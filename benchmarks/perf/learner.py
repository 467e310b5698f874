"""One update epoch of MaskableRecurrentPPO against sb3-contrib's RecurrentPPO: ``python -m benchmarks.perf.learner``.

Both sides hold the same rollout, 8 environments x 150 steps of whole episodes, and the same network: one memory of
512 for actor and critic. Beside it RecurrentPPO with its own default of two memories. One intra-op thread. The
figure is the median over processes of the ratio of the medians within a process, sides interleaved; ``--write`` puts
it into ``docs/performance.md``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv

from benchmarks.pages import fill as fill_page
from benchmarks.pages import markdown
from esper_agents.simic import MaskableRecurrentPPO

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
MINIBATCHES = {1: 4, 4: 8}
"""Minibatches of an epoch, and how many times faster an epoch is to be."""
ENVS, STEPS, WIDTH, ACTIONS, MEMORY = 8, 150, 128, 40, 512
ONE_MEMORY = {"shared_lstm": True, "enable_critic_lstm": False}


class Blank(gymnasium.Env[Any, Any]):
    """The spaces of `Esper/CifarBaseline-v0`; nobody steps it."""

    observation_space = spaces.Box(-1.0, 1.0, (WIDTH,), np.float32)
    action_space = spaces.Discrete(ACTIONS)


def learner(kind: type[RecurrentPPO], minibatches: int, memories: dict[str, bool]) -> RecurrentPPO:
    """A learner with one pass a round and the same initial network whichever its kind."""
    model = kind(
        "MlpLstmPolicy",
        DummyVecEnv([Blank] * ENVS),
        n_steps=STEPS,
        batch_size=ENVS * STEPS // minibatches,
        n_epochs=1,
        seed=0,
        device="cpu",
        policy_kwargs={"lstm_hidden_size": MEMORY, "net_arch": [], **memories},
    )
    model.set_logger(Logger(None, []))
    fill(model)
    return model


def fill(model: RecurrentPPO) -> None:
    """Put a made-up rollout of whole episodes into the buffer, the same for all."""
    rng = np.random.default_rng(0)
    buffer: Any = model.rollout_buffer
    buffer.reset()
    zeros = torch.zeros(1, ENVS, MEMORY)
    states = RNNStates((zeros, zeros), (zeros, zeros))
    for t in range(STEPS):
        observations = rng.uniform(-1, 1, (ENVS, WIDTH)).astype(np.float32)
        actions = rng.integers(ACTIONS, size=(ENVS, 1))
        rewards = rng.normal(size=ENVS).astype(np.float32)
        starts = np.full(ENVS, t == 0)
        values, log_probs = torch.zeros(ENVS), torch.full((ENVS,), -np.log(ACTIONS))
        if isinstance(model, MaskableRecurrentPPO):
            masks = rng.random((ENVS, ACTIONS)) < 0.5
            masks[np.arange(ENVS), actions[:, 0]] = True
            model.rollout_buffer.initial_states = states
            model.rollout_buffer.add(
                observations,
                actions,
                rewards=rewards,
                episode_starts=starts,
                values=values,
                log_probs=log_probs,
                action_masks=masks,
                weights=np.ones(ENVS, np.float32),
            )
        else:
            rng.random((ENVS, ACTIONS))  # the same numbers for both kinds
            buffer.add(observations, actions, rewards, starts, values, log_probs, lstm_states=states)
    buffer.compute_returns_and_advantage(torch.zeros(ENVS), np.ones(ENVS))


def seconds(model: RecurrentPPO) -> float:
    """Time one update epoch."""
    start = time.perf_counter()
    model.train()
    return time.perf_counter() - start


def measure(repeats: int) -> dict[str, list[float]]:
    """Seconds of each side by number of minibatches, medians of this process, sides interleaved."""
    torch.set_num_threads(1)
    seconds_of = {}
    for minibatches in MINIBATCHES:
        sides = {
            "ours": learner(MaskableRecurrentPPO, minibatches, ONE_MEMORY),
            "one memory": learner(RecurrentPPO, minibatches, ONE_MEMORY),
            "two memories": learner(RecurrentPPO, minibatches, {}),
        }
        for model in sides.values():
            model.train()
        times = {name: [] for name in sides}  # type: dict[str, list[float]]
        for _ in range(repeats):
            for name, model in sides.items():
                times[name].append(seconds(model))
        seconds_of[str(minibatches)] = [float(np.median(values)) for values in times.values()]
    return seconds_of


def table(runs: list[dict[str, list[float]]]) -> str:
    """Median ratios over the processes with their range, a line for each number of minibatches."""
    head = ["minibatches", "ours, s", "RecurrentPPO, the same network", "goal", "RecurrentPPO, its defaults"]
    lines = []
    for minibatches, goal in MINIBATCHES.items():
        ours, one, two = np.array([run[str(minibatches)] for run in runs]).T
        ratios = [f"{np.median(r):.1f} times [{r.min():.1f}, {r.max():.1f}]" for r in (one / ours, two / ours)]
        lines.append([str(minibatches), f"{np.median(ours):.3f}", ratios[0], f"{goal}", ratios[1]])
    return markdown(head, lines)


def main() -> int:
    """Run the processes and print the medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.perf.learner", description=__doc__)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="write the table into docs/performance.md")
    parser.add_argument("--one", action="store_true", help="measure in this process and print JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.repeats)))
        return 0
    command = [sys.executable, "-m", "benchmarks.perf.learner", "--one", "--repeats", str(arguments.repeats)]
    runs = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(arguments.processes)
    ]
    text = table(runs)
    print(text)
    if arguments.write:
        fill_page(PAGE, {"learner": text})
    return 0


if __name__ == "__main__":
    sys.exit(main())
