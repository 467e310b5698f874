"""Stable-Baselines3 on Gymnasium vector environments."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from sb3_contrib import MaskablePPO, RecurrentPPO
from sb3_contrib.common.maskable.evaluation import evaluate_policy
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor

from esper_agents.simic import GymnasiumVecEnv


class Watch(BaseCallback):
    """Keeps what the environment said of every step."""

    def __init__(self):
        super().__init__()
        self.invalid, self.episodes = 0, []

    def _on_step(self):
        self.invalid += sum(info["invalid_action"] for info in self.locals["infos"])
        self.episodes += [info["episode"] for info in self.locals["infos"] if "episode" in info]
        return True


class Countdown(gymnasium.Env):
    """Ends after `length` steps; the observation is the steps done. Knows neither masks nor growth."""

    observation_space = gymnasium.spaces.Box(0, 100, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    render_mode = None

    def __init__(self, length):
        self.length, self.tag = length, "plain"

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {"options": repr(options), "seed": -1 if seed is None else seed}

    def step(self, action):
        self.t += 1
        return self._obs(), 2.0, self.t == self.length, False, {"t": self.t}

    def double(self, x):
        return 2 * x

    def _obs(self):
        return np.array([self.t], np.float32)


def countdowns(*lengths, limit=None):
    def build(length):
        env = Countdown(length)
        return env if limit is None else gymnasium.wrappers.TimeLimit(env, limit)

    fns = [lambda length=length: build(length) for length in lengths]
    return GymnasiumVecEnv(gymnasium.vector.SyncVectorEnv(fns, autoreset_mode=AutoresetMode.SAME_STEP))


def test_maskable_ppo_trains_and_is_evaluated_within_the_masks(make_tiny):
    env = GymnasiumVecEnv(make_tiny(2, episode_length=30))
    model = MaskablePPO("MlpPolicy", env, n_steps=64, batch_size=32, n_epochs=2, gamma=1.0, seed=1, device="cpu")
    before = [p.detach().clone() for p in model.policy.parameters()]
    watch = Watch()
    model.learn(256, callback=watch)
    assert model.num_timesteps == 256 and watch.invalid == 0
    assert any((p != q).any() for p, q in zip(before, model.policy.parameters(), strict=True))
    assert [e["l"] for e in watch.episodes] == [30] * 8
    returns, lengths = evaluate_policy(model, env, 2, return_episode_rewards=True)
    assert lengths == [30, 30] and all(np.isfinite(returns))


def test_recurrent_ppo_trains(make_tiny):
    env = GymnasiumVecEnv(make_tiny(2, episode_length=20))
    model = RecurrentPPO("MlpLstmPolicy", env, n_steps=16, batch_size=16, n_epochs=1, seed=1, device="cpu")
    model.learn(32)
    assert model.num_timesteps == 32


def test_an_episodes_end_is_that_of_a_single_environment(make_tiny):
    """Observations, rewards and infos of two episodes, against `gymnasium.make` step by step."""
    rates = {"host_lr": 0.05, "seed_lr": 0.05}
    arguments = {"samples_per_epoch": 16, "val_samples": 256, "batch_size": 16, "episode_length": 6, **rates}
    env = GymnasiumVecEnv(make_tiny(1, episode_length=6))
    single = gymnasium.make("Esper/Tiny-v0", **arguments)
    env.seed(11)
    obs = env.reset()
    expected, info = single.reset(seed=11)
    np.testing.assert_array_equal(obs[0], expected)
    rng, total = np.random.default_rng(0), 0.0
    for t in range(12):
        (masks,) = env.env_method("action_masks")
        np.testing.assert_array_equal(masks, single.unwrapped.action_masks())
        action = rng.choice(np.flatnonzero(masks))
        obs, rewards, dones, infos = env.step(np.array([action]))
        expected, reward, terminated, _, info = single.step(action)
        total += reward
        assert rewards.dtype == np.float32 and rewards[0] == np.float32(reward) and dones[0] == terminated
        assert infos[0]["TimeLimit.truncated"] is False
        for key, value in info.items():
            np.testing.assert_array_equal(infos[0][key], value, err_msg=key)
        if terminated:
            assert t in (5, 11)
            np.testing.assert_array_equal(infos[0]["terminal_observation"], expected)
            assert infos[0]["episode"]["r"] == pytest.approx(total) and infos[0]["episode"]["l"] == 6
            assert infos[0]["test_accuracy"] == info["test_accuracy"]
            expected, info = single.reset()
            total = 0.0
            np.testing.assert_array_equal(env.reset_infos[0]["action_mask"], info["action_mask"])
        np.testing.assert_array_equal(obs[0], expected)
    single.close()


def test_masks_answer_for_every_environment_without_asking_it(make_tiny):
    venv = make_tiny(3)
    env = GymnasiumVecEnv(venv)
    assert is_masking_supported(env)  # not known before the first reset
    with pytest.raises(RuntimeError, match="call reset"):
        env.env_method("action_masks")
    env.reset()
    venv.call = venv.get_attr = None
    masks = get_action_masks(env)
    assert masks.shape == (3, 40) and masks.dtype == bool and masks[:, 0].all()
    assert len(env.env_method("action_masks", indices=[2, 0])) == 2


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_other_autoreset_modes_are_refused_with_the_fix(make_tiny, mode):
    with pytest.raises(ValueError, match=r"AutoresetMode.SAME_STEP"):
        GymnasiumVecEnv(make_tiny(1, autoreset_mode=mode))


def test_episodes_of_different_lengths_and_truncation():
    env = countdowns(2, 5, limit=3)
    env.reset()
    seen = {0: [], 1: []}
    for _ in range(6):
        obs, _, dones, infos = env.step(np.zeros(2, np.int64))
        for i in np.flatnonzero(dones):
            info = infos[i]
            assert obs[i] == 0
            seen[i].append((info["terminal_observation"].item(), info["TimeLimit.truncated"], info["episode"]["l"]))
            assert info["episode"]["r"] == 2.0 * info["episode"]["l"] and info["t"] == info["episode"]["l"]
    assert seen == {0: [(2.0, False, 2)] * 3, 1: [(3.0, True, 3)] * 2}


def test_seeds_and_options_apply_once():
    env = countdowns(3, 3)
    env.seed(40)
    env.set_options({"x": 1})
    env.reset()
    assert [info["seed"] for info in env.reset_infos] == [40, 41]
    assert [info["options"] for info in env.reset_infos] == ["{'x': 1}"] * 2
    env.reset()
    assert [info["seed"] for info in env.reset_infos] == [-1, -1]
    assert [info["options"] for info in env.reset_infos] == ["None"] * 2
    env.set_options([{"x": 1}, {"x": 2}])
    with pytest.raises(ValueError, match="options differ"):
        env.reset()


def test_attributes_and_methods():
    env = countdowns(3, 4)
    env.reset()
    assert not is_masking_supported(env)
    with pytest.raises(AttributeError, match="no action_mask"):
        env.env_method("action_masks")
    assert env.get_attr("length") == [3, 4] and env.get_attr("length", 1) == [4]
    assert env.has_attr("length") and not env.has_attr("nothing")
    env.set_attr("tag", "all")
    env.set_attr("tag", "one", indices=0)
    assert env.get_attr("tag") == ["one", "all"]
    assert env.env_method("double", 4) == [8, 8]
    with pytest.raises(ValueError, match="calls all environments"):
        env.env_method("double", 4, indices=0)
    assert env.env_is_wrapped(Monitor) == [True, True]
    assert env.env_is_wrapped(gymnasium.wrappers.TimeLimit) == [False, False]
    env.close()
