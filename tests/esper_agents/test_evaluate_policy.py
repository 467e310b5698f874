"""Evaluation with masks and memory."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy as evaluate_of_sb3
from stable_baselines3.common.vec_env import DummyVecEnv

from esper_agents.simic import GymnasiumVecEnv, MaskableRecurrentPPO, evaluate_policy


class Count(gymnasium.Env):
    """`length` steps, each worth 1 if the action is the step's number modulo 3, the only legal one."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, length):
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {"action_mask": self.action_masks()}

    def step(self, action):
        reward = float(action == self.t % 3)
        self.t += 1
        return np.zeros(1, np.float32), reward, self.t == self.length, False, {"action_mask": self.action_masks()}

    def action_masks(self):
        return np.arange(3) == self.t % 3


class Counter:
    """Knows the step only from its memory."""

    def __init__(self):
        self.masks = []

    def predict(self, observations, state, starts, deterministic, action_masks=None):
        count = np.zeros(len(observations), int) if state is None else state[0]
        count = np.where(starts, 0, count)
        self.masks.append(action_masks)
        return count % 3, (count + 1,)


def test_the_memory_is_carried_from_step_to_step_and_begins_anew_with_an_episode():
    model = Counter()
    returns, lengths = evaluate_policy(model, DummyVecEnv([lambda: Count(4), lambda: Count(7)]), 5)
    assert returns == lengths == [4, 7, 4, 7, 7]  # two of the first environment, three of the second
    assert all(np.array_equal(mask.sum(1), [1, 1]) for mask in model.masks)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_every_autoreset_mode_gives_the_same(mode):
    venv = SyncVectorEnv([lambda: Count(4), lambda: Count(7)], autoreset_mode=mode)
    assert sorted(evaluate_policy(Counter(), GymnasiumVecEnv(venv), 4)[0]) == [4, 4, 7, 7]


def test_without_masks_it_is_sb3_s_own():
    model = RecurrentPPO("MlpLstmPolicy", make_vec_env("CartPole-v1", 2, seed=1), n_steps=8, seed=1, device="cpu")
    model.learn(16)
    model.env.seed(5)
    expected = evaluate_of_sb3(model, model.env, 5, return_episode_rewards=True)
    model.env.seed(5)
    assert evaluate_policy(model, model.env, 5) == expected


def test_a_single_environment_and_our_learner():
    model = MaskableRecurrentPPO("MlpLstmPolicy", DummyVecEnv([lambda: Count(4)]), n_steps=8, seed=1, device="cpu")
    assert evaluate_policy(model, Count(4), 2) == ([4.0, 4.0], [4, 4])  # only one action is ever legal


def test_a_learner_of_sb3_contrib_s_gets_masks_too_but_none_that_was_told_to_do_without():
    env = DummyVecEnv([lambda: Count(4)])
    assert evaluate_policy(MaskablePPO("MlpPolicy", env, n_steps=8, seed=1, device="cpu"), env, 2) == ([4, 4], [4, 4])
    arguments = {"n_steps": 8, "seed": 1, "device": "cpu"}
    without = MaskableRecurrentPPO("MlpLstmPolicy", env, use_masking=False, **arguments)
    assert evaluate_policy(without, env, 2)[0] != [4, 4]


def test_mistakes_are_errors():
    with pytest.raises(ValueError, match="at least 1"):
        evaluate_policy(Counter(), Count(4), 0)
    with pytest.raises(ValueError, match="no action_masks"):
        evaluate_policy(Counter(), make_vec_env("CartPole-v1"), 1, use_masking=True)
