"""One update epoch of MaskableRecurrentPPO against sb3-contrib's RecurrentPPO.

All sides hold the same rollout, 8 environments x 150 steps of whole episodes. Ours and the first RecurrentPPO have the
same network, one memory of 512 for actor and critic; the second has its own default of two memories.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv

from benchmarks.pages import markdown
from benchmarks.perf.measure import Report, Target, each, medians, spread
from esper_agents.simic import MaskableRecurrentPPO

SIDES = ("ours", "one memory", "two memories")
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
                decided=np.ones(ENVS, np.float32),
            )
        else:
            rng.random((ENVS, ACTIONS))  # the same numbers for both kinds
            buffer.add(observations, actions, rewards, starts, values, log_probs, lstm_states=states)
    buffer.compute_returns_and_advantage(torch.zeros(ENVS), np.ones(ENVS))


def measure(process: int) -> dict[str, Any]:
    """Seconds of each side by number of minibatches."""
    out: dict[str, Any] = {}
    for minibatches in MINIBATCHES:
        models = [
            learner(MaskableRecurrentPPO, minibatches, ONE_MEMORY),
            learner(RecurrentPPO, minibatches, ONE_MEMORY),
            learner(RecurrentPPO, minibatches, {}),
        ]
        out[str(minibatches)] = medians({side: m.train for side, m in zip(SIDES, models, strict=True)}, 5)
    return out


def report(rows: list[dict[str, Any]]) -> Report:
    """Ratios for each number of minibatches."""
    lines, targets = [], []
    for minibatches, goal in MINIBATCHES.items():
        ours, one, two = (each(rows, str(minibatches), side) for side in SIDES)
        ratio = spread(one / ours, ".1f")
        lines.append([str(minibatches), spread(ours, ".3f"), ratio, spread(two / ours, ".1f")])
        what = f"one update epoch, 8 x 150 steps, {minibatches} minibatches, RecurrentPPO over ours"
        targets.append(Target(what, f">= {goal}", ratio, bool(np.median(one / ours) >= goal)))
    head = ["minibatches", "ours, s", "RecurrentPPO, same network, over ours", "RecurrentPPO, its defaults, over ours"]
    return Report(markdown(head, lines), targets)
