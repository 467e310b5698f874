"""Tamiyo's learned policy and its files."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib.common.recurrent.type_aliases import RNNStates

from esper_agents.runner import run_episodes
from esper_agents.simic import GymnasiumVecEnv, MaskableRecurrentPPO
from esper_agents.tamiyo import Interface
from esper_agents.tamiyo.policy import (
    LEANINGS,
    BlueprintFeatures,
    TamiyoPolicy,
    policy_arguments,
)
from esper_agents.tamiyo.policy_files import PolicyFileError, load_policy, save_policy
from esper_env.leyline import Op
from esper_env.leyline.observation import blueprint_code

SHAPES = {
    "default": {},
    "critic v": {"critic": "v"},
    "critic memory": {"critic_memory": True},
    "no memory": {"memory": "none"},
    "other sizes": {"feature_size": 24},
}


def make_policy(env, **kwargs):
    arguments = policy_arguments(env, **({"memory_size": 16, "feature_size": 16} | kwargs))
    space = env.single_observation_space, env.single_action_space
    return TamiyoPolicy(*space, lambda _: 1e-3, **arguments)


def as_learner(env, **kwargs):
    adapted = GymnasiumVecEnv(env)
    arguments = policy_arguments(env, **({"memory_size": 16, "feature_size": 16} | kwargs))
    return MaskableRecurrentPPO(
        TamiyoPolicy, adapted, n_steps=12, n_epochs=2, gamma=1.0, seed=0, device="cpu", policy_kwargs=arguments
    )


@given(st.lists(st.one_of(st.none(), st.integers(0, 6)), min_size=3, max_size=3))
@settings(max_examples=30)
def test_codes_are_replaced_by_their_blueprints_embedding(present):
    """128 numbers go in; the linear layer sees the first 116 as they are and 4 learned ones for each slot."""
    features = BlueprintFeatures(spaces.Box(-1, 1, (128,), np.float32), size=8)
    assert features.linear.in_features == 128
    seen = {}
    features.linear.register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    obs = torch.rand(1, 128) * 2 - 1
    codes = [(0.0,) * 4 if index is None else blueprint_code(index) for index in present]
    obs[0, 116:] = torch.tensor(codes).flatten()
    features(obs)
    assert torch.equal(seen["x"][0, :116], obs[0, :116])
    rows = [16 if index is None else index for index in present]
    assert torch.equal(seen["x"][0, 116:], features.embedding.weight[rows].flatten())


def test_an_observation_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="23 \\+ 35 S numbers, not 100"):
        BlueprintFeatures(spaces.Box(-1, 1, (100,), np.float32))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_learns_and_every_parameter_of_it_moves(make_tiny, shape):
    model = as_learner(make_tiny(2, episode_length=12), **SHAPES[shape])
    before = {n: p.detach().clone() for n, p in model.policy.named_parameters()}
    model.learn(48)
    still = [n for n, p in model.policy.named_parameters() if torch.equal(p, before[n])]
    assert not still
    assert model.policy.operations == (1 if shape == "critic v" else 6)


def test_actor_and_critic_both_train_the_one_memory(make_tiny):
    env = make_tiny(1)
    policy = make_policy(env)
    obs, zeros = torch.rand(4, 128), torch.zeros(1, 4, 16)
    for part in ("actor", "critic"):
        policy.zero_grad()
        distribution, _ = policy.get_distribution(obs, RNNStates((zeros, zeros), (zeros, zeros)), torch.ones(4))
        values = policy.predict_values(obs, RNNStates((zeros, zeros), (zeros, zeros)), torch.ones(4))
        (distribution.entropy() if part == "actor" else values).sum().backward()
        assert policy.lstm_actor.weight_ih_l0.grad.abs().sum() > 0, part


def test_lesson_15_the_baseline_does_not_depend_on_the_action(make_tiny):
    """V(s) weighs Q(s, op) by the policy; the operation that is then drawn changes nothing."""
    env = make_tiny(1)
    policy = make_policy(env)
    operations = [action.op for action in Interface.of(env).actions]
    assert policy.op_of_action.tolist() == operations
    obs, zeros = torch.rand(1, 128).expand(64, -1), torch.zeros(1, 64, 16)
    actions, values, _, _ = policy(obs, RNNStates((zeros, zeros), (zeros, zeros)), torch.ones(64))
    assert len(actions.unique()) > 5 and len(values.unique()) == 1


def test_lesson_14_nothing_keeps_a_probability_from_vanishing(make_tiny):
    policy = make_policy(make_tiny(1))
    with torch.no_grad():
        policy.action_net.bias[0] = 200.0
    zeros = torch.zeros(1, 1, 16)
    distribution, _ = policy.get_distribution(
        torch.rand(1, 128), RNNStates((zeros, zeros), (zeros, zeros)), torch.ones(1)
    )
    assert distribution.probs[0, 0] == 1.0 and distribution.entropy().item() < 1e-6


def test_a_prompt_start_plants_soon_goes_on_sooner_and_rarely_sets_back(make_tiny):
    env = make_tiny(1)
    operations = np.array([int(action.op) for action in Interface.of(env).actions])
    count = np.bincount(operations)
    zeros = torch.zeros(1, 1, 16)

    def shares(**kwargs):
        policy = make_policy(env, **kwargs)
        with torch.no_grad():
            policy.action_net.weight.zero_()
        distribution, _ = policy.get_distribution(
            torch.rand(1, 128), RNNStates((zeros, zeros), (zeros, zeros)), torch.ones(1)
        )
        return np.bincount(operations, weights=distribution.probs[0].detach().numpy())

    prompt, uniform = shares(), shares(start="uniform")
    np.testing.assert_allclose(uniform, count / len(operations), rtol=1e-5)
    leanings = np.array([LEANINGS[Op(op)] for op in range(len(Op))])
    np.testing.assert_allclose(prompt / prompt[Op.WAIT], np.exp(leanings), rtol=1e-4)
    order = [Op.PRUNE, Op.WAIT, Op.GERMINATE, Op.ADVANCE]
    assert (np.diff(prompt[order]) > 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_gives_the_same_controller_back(make_tiny, tmp_path, shape):
    venv = make_tiny(2, episode_length=12)
    model = as_learner(venv, **SHAPES[shape])
    model.learn(24)
    path = tmp_path / "policy.safetensors"
    save_policy(model.policy, path, venv, origin={"command": "test", "seed": 0})
    controller = load_policy(path, venv, temperature=0.0)
    assert controller.description["origin"] == {"command": "test", "seed": 0}
    obs, info = venv.reset(seed=3)
    mine, state, start = None, None, np.ones(2, bool)
    for _ in range(30):
        actions, state = controller(obs, info["action_mask"], info, state)
        expected, mine = model.predict(obs, mine, start, True, info["action_mask"])
        np.testing.assert_array_equal(actions, expected)
        obs, _, start, _, info = venv.step(actions)
    (record,) = run_episodes(controller, venv, 1, seed=5)
    assert record.final["invalid_actions"] == 0


def test_drawn_actions_come_from_the_controllers_own_seed(make_tiny, tmp_path):
    venv = make_tiny(2)
    save_policy(make_policy(venv), tmp_path / "p", venv)
    controllers = [load_policy(tmp_path / "p", seed=s) for s in (1, 1, 2)]
    first, again, other = [run_episodes(c, venv, 1, seed=0)[0].actions for c in controllers]
    assert first == again != other


def test_a_lower_temperature_makes_likely_actions_likelier(make_tiny, tmp_path):
    venv = make_tiny(1)
    policy = make_policy(venv)
    with torch.no_grad():
        policy.action_net.weight.zero_()
        policy.action_net.bias.copy_(torch.linspace(2.0, 0.0, len(policy.action_net.bias)))
    save_policy(policy, tmp_path / "p", venv)
    obs, info = venv.reset(seed=0)
    legal = np.flatnonzero(info["action_mask"][0])

    def shares(temperature):
        controller, state, counts = load_policy(tmp_path / "p", temperature=temperature), None, np.zeros(len(legal))
        for _ in range(2_000):
            (action,), state = controller(obs, info["action_mask"], info, state)
            counts[np.searchsorted(legal, action)] += 1
        return counts / counts.sum()

    odds = np.exp(policy.action_net.bias.detach().numpy()[legal].astype(float))
    for temperature in (1.0, 0.5):
        expected = odds ** (1 / temperature)
        np.testing.assert_allclose(shares(temperature), expected / expected.sum(), atol=0.05)
    assert shares(0.0).max() == 1.0
    with pytest.raises(ValueError, match="choose 0 or more"):
        load_policy(tmp_path / "p", temperature=-1.0)


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('it ran')",))


def test_bad_files_are_clear_errors_and_run_nothing(make_tiny, tmp_path):
    venv = make_tiny(1)
    path, bad = tmp_path / "policy.safetensors", tmp_path / "bad"
    save_policy(make_policy(venv), path, venv)
    good = path.read_bytes()
    with pytest.raises(FileNotFoundError, match="no policy file"):
        load_policy(tmp_path / "nothing")
    rng = np.random.default_rng(0)
    flips = []
    for place in [*rng.integers(8, len(good), 20), 3, 0]:
        flipped = bytearray(good)
        flipped[place] ^= 1 << int(rng.integers(8))
        flips.append(bytes(flipped))
    foreign = safetensors.torch.save({"x": torch.zeros(2)})
    other = safetensors.torch.save({"x": torch.zeros(2)}, {"esper": json.dumps({"format": "esper policy 9"})})
    for data in (*flips, b"", good[:100], good[:-5], pickle.dumps(Bomb()), foreign, other):
        bad.write_bytes(data)
        with pytest.raises(PolicyFileError, match=r"no policy|damaged|this version reads"):
            load_policy(bad)


def test_a_policy_of_another_environment_is_refused(make_tiny, tmp_path):
    venv = make_tiny(1)
    save_policy(make_policy(venv), tmp_path / "p", venv)
    others = make_tiny(1, blueprints=["norm", "conv_light"])
    with pytest.raises(PolicyFileError, match="another environment: it has 40 actions, this one 25"):
        load_policy(tmp_path / "p", others)
    two = make_tiny(1, slots=["r0c0", "r0c1"])
    with pytest.raises(PolicyFileError, match=r"takes observations of shape \(128,\)"):
        run_episodes(load_policy(tmp_path / "p"), two, 1, seed=0)
