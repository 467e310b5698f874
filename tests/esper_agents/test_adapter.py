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
from stable_baselines3.common.vec_env import DummyVecEnv

from esper_agents.simic import GymnasiumVecEnv, MaskableRecurrentPPO
from esper_agents.simic.adapter import IGNORED, allow_ignored_steps


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


class Masked(gymnasium.Env):
    """Random episodes with random masks, which `step` and `reset` also give in their info."""

    observation_space = gymnasium.spaces.Box(0, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)
    render_mode = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._draw()

    def step(self, action):
        observation, info = self._draw()
        ended, cut = self.np_random.random(2) < 0.15
        return observation, float(self.np_random.normal() + action), bool(ended), bool(cut), info

    def action_masks(self):
        return self.mask

    def _draw(self):
        self.mask = (self.np_random.random(3) < 0.7) | (np.arange(3) == 0)
        return self.np_random.random(2).astype(np.float32), {"action_mask": self.mask.astype(np.int8)}


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_every_autoreset_mode_gives_what_sb3s_own_vector_environment_gives(mode):
    """Step by step, against `DummyVecEnv` of `Monitor`ed environments; ignored steps are left out."""
    k, steps = 3, 60
    theirs = DummyVecEnv([lambda: Monitor(Masked())] * k)
    env = GymnasiumVecEnv(gymnasium.vector.SyncVectorEnv([Masked] * k, autoreset_mode=mode))
    allow_ignored_steps(env)
    theirs.seed(5)
    env.seed(5)
    actions = np.random.default_rng(0).integers(3, size=(steps, k))

    def seen(vec):
        """What each environment said: observation and mask after every step that counted, and the rest."""
        obs, told, at = vec.reset(), [[] for _ in range(k)], np.zeros(k, int)
        first = [(o.tolist(), m.tolist()) for o, m in zip(obs, vec.env_method("action_masks"), strict=True)]
        while min(at) < steps:
            obs, rewards, dones, infos = vec.step(actions[np.minimum(at, steps - 1), np.arange(k)])
            masks = vec.env_method("action_masks")
            for i, info in enumerate(infos):
                after = (obs[i].tolist(), masks[i].tolist())
                if info.get(IGNORED):
                    assert rewards[i] == 0 and not dones[i]
                    told[i][-1] = (*told[i][-1][:-1], after)
                    continue
                at[i] += 1
                episode = info.get("episode", {})
                rest = (info.get("terminal_observation", obs[i]).tolist(), info["TimeLimit.truncated"])
                told[i].append((float(rewards[i]), bool(dones[i]), episode.get("l"), *rest, after))
        return first, [row[: steps - 1] for row in told]

    assert seen(env) == seen(theirs)


def test_the_last_mask_of_an_episode_is_told():
    env = GymnasiumVecEnv(gymnasium.vector.SyncVectorEnv([Masked], autoreset_mode=AutoresetMode.SAME_STEP))
    single = Masked()
    env.seed(3)
    env.reset()
    single.reset(seed=3)
    for _ in range(30):
        _, _, (done,), (info,) = env.step(np.zeros(1, int))
        *_, expected = single.step(0)
        assert ("terminal_action_mask" in info) == done
        if done:
            np.testing.assert_array_equal(info["terminal_action_mask"], expected["action_mask"])
            single.reset()


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_maskable_recurrent_ppo_learns_in_every_autoreset_mode(make_tiny, mode):
    env = GymnasiumVecEnv(make_tiny(2, episode_length=10, autoreset_mode=mode))
    model = MaskableRecurrentPPO(
        "MlpLstmPolicy",
        env,
        n_steps=22,
        n_epochs=2,
        gamma=1.0,
        seed=1,
        device="cpu",
        policy_kwargs={"lstm_hidden_size": 8},
    )
    watch = Watch()
    model.learn(88, callback=watch)
    buffer = model.rollout_buffer
    ignored = mode is AutoresetMode.NEXT_STEP
    assert (buffer.weights == 0).any() == ignored
    assert [e["l"] for e in watch.episodes] == [10] * 8
    starts = buffer.episode_starts.astype(bool)
    progress = buffer.observations[..., 0]
    assert (progress[starts & (buffer.weights > 0)] == 0).all() and (progress[~starts] > 0).all()


def test_ignored_steps_have_no_weight_in_the_loss(make_tiny):
    env = GymnasiumVecEnv(make_tiny(2, episode_length=10, autoreset_mode=AutoresetMode.NEXT_STEP))
    model = MaskableRecurrentPPO("MlpLstmPolicy", env, n_steps=22, learning_rate=0.0, seed=1, device="cpu")
    model.learn(44)
    buffer = model.rollout_buffer

    def loss():
        buffer._tensors, buffer.rng = {}, np.random.default_rng(0)
        (batch,) = buffer.get(None)
        return model._loss(batch, 0.2, model._advantage_scale())[0].item()

    before = loss()
    buffer.returns[buffer.weights == 0] += 100
    buffer.advantages[buffer.weights == 0] -= 100
    assert loss() == before
    buffer.returns[buffer.weights > 0] += 1
    assert loss() != before


def test_other_algorithms_are_refused_the_next_step_mode_with_the_fix(make_tiny):
    env = GymnasiumVecEnv(make_tiny(1, autoreset_mode=AutoresetMode.NEXT_STEP))
    model = MaskablePPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(ValueError, match=r"AutoresetMode.SAME_STEP"):
        model.learn(8)


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
