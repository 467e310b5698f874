"""Planted faults: what the governor does, and that only the episode concerned notices."""

import gymnasium
import numpy as np
import pytest
import torch
from rollouts import SHORT, TINY, digest, grow_to, index, steps, tiny, wait

from esper_env.leyline import Op, Stage
from esper_env.tolaria.snapshot import capture


def poison(env, how=float("nan")):
    with torch.no_grad():
        env.episode.model.host.convs[0].weight[0, 0, 0, 0] = how


def bits(module):
    """Digest of a module's parameters and buffers."""
    return digest({k: v.numpy() for k, v in module.state_dict().items()})


def momenta(env):
    return [m for optimizer in env.episode.model.optimizers().values() for m in optimizer.momenta if m.any()]


@pytest.fixture
def grown():
    """An environment with a fossil in r0c0, a blended seed in r1c0 and a TRAINING one in r0c1."""
    env = tiny(tempos=(2,))
    env.reset(seed=0)
    grow_to(env, Stage.FOSSILIZED, "r0c0")
    grow_to(env, Stage.BLENDING, "r1c0")
    steps(env, Op.GERMINATE, "r0c1", blueprint="norm")
    steps(env, Op.ADVANCE, "r0c1")
    return env


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_planted_nan_restores_the_last_healthy_network_without_what_was_not_committed(grown, value):
    value_before = wait(grown)[-1]["value"]
    healthy, fossil = bits(grown.episode.model.host), bits(grown.episode.model.slots["r0c0"].seed)
    before = grown.episode.epoch
    assert momenta(grown)
    poison(grown, value)
    observation, reward, terminated, truncated, info = grown.step(0)
    assert info["rollback"] and not terminated and not truncated and info["error_code"] == 0
    assert reward == pytest.approx(info["value"] - value_before - 0.1, abs=1e-12)
    assert info["value"] == pytest.approx(info["val_accuracy"] - info["rent"])
    assert bits(grown.episode.model.host) == healthy
    slots = grown.episode.model.slots
    assert bits(slots["r0c0"].seed) == fossil
    assert info["stages"].tolist() == [Stage.FOSSILIZED, Stage.PRUNED, Stage.PRUNED]
    assert slots["r1c0"].seed is slots["r0c1"].seed is None
    assert momenta(grown) == []
    assert np.isfinite(observation).all() and all(np.isfinite(v).all() for v in info.values())
    assert grown.episode.epoch == before + 1
    *_, info = grown.step(0)
    assert not info["rollback"] and info["stages"].tolist() == [5, Stage.PRUNED, Stage.PRUNED]
    *_, info = grown.step(0)
    assert info["stages"].tolist() == [5, Stage.EMBARGOED, Stage.EMBARGOED]


def test_a_planted_nan_in_a_seed_is_a_rollback_too(grown):
    """Lesson 5: a non-finite seed must not turn the host non-finite for good."""
    with torch.no_grad():
        grown.episode.model.slots["r0c1"].seed.scale[0] = float("nan")
    healthy = bits(grown.episode.model.host)
    *_, info = grown.step(0)
    assert info["rollback"] and info["stages"][2] == Stage.PRUNED
    assert bits(grown.episode.model.host) == healthy


def test_a_rollback_does_not_rewind_the_data_or_the_count_of_germinations():
    a, b = tiny(), tiny()
    for env in (a, b):
        env.reset(seed=0)
        wait(env, 2)
    poison(a)
    for env in (a, b):
        steps(env, Op.GERMINATE, "r0c0", blueprint="norm")
    assert a.episode.rollbacks == 1 and b.episode.rollbacks == 0
    for name, generator in a.episode.generators.items():
        assert torch.equal(generator.get_state(), b.episode.generators[name].get_state())
    assert a.episode.source.cursor == b.episode.source.cursor
    assert a.episode.model.slots["r0c0"].seed is None
    assert a.episode.model.slots["r0c0"].germinations == 1


def test_the_third_rollback_ends_the_episode_with_its_settlement():
    """Lesson 23: each rollback is paid for in the step it happens in."""
    env = tiny()
    env.reset(seed=0)
    wait(env, 3)
    rewards = []
    for count in range(1, 4):
        poison(env)
        _, reward, terminated, truncated, info = env.step(0)
        rewards.append(reward)
        assert info["rollback"] and terminated == (count == 3) and not truncated
        if count < 3:
            assert not env.step(0)[-1]["rollback"]
    assert info["rollbacks"] == 3 and info["error_code"] == 0
    assert info["value"] == info["committed_accuracy"] > 0
    assert env.action_masks().sum() == 1


def test_the_return_counts_every_rollback():
    env = tiny(episode_length=8)
    env.reset(seed=0)
    total = 0.0
    for t in range(8):
        if t in (2, 5):
            poison(env)
        _, reward, terminated, _, info = env.step(0)
        total += reward
    assert terminated and info["rollbacks"] == 2
    assert total == pytest.approx(info["value"] - 0.1 - 0.2, abs=1e-9)


def test_planted_divergence_is_a_rollback_on_the_second_epoch_to_the_state_before_the_first():
    """Lesson 8: no snapshot is taken while a panic is pending."""
    env = tiny(host_lr=1e-6)
    env.reset(seed=0)
    wait(env, 3)
    healthy = bits(env.episode.model.host)
    with torch.no_grad():
        env.episode.model.host.head.weight.mul_(1e4)
    *_, first = env.step(0)
    assert not first["rollback"] and env.episode.governor.pending
    broken = bits(env.episode.model.host)
    *_, second = env.step(0)
    assert second["rollback"] and bits(env.episode.model.host) == healthy != broken
    assert momenta(env) == []
    *_, third = env.step(0)
    assert not third["rollback"] and third["val_loss"] < 3


def test_planted_collapse_to_chance_is_a_rollback_on_the_second_epoch():
    env = tiny(host_lr=1e-6)
    env.reset(seed=0)
    wait(env, 2)
    env.episode.governor = type(env.episode.governor)(10, best_loss=2.3, learned=2)
    with torch.no_grad():
        env.episode.model.host.head.weight.zero_()
        env.episode.model.host.head.bias.zero_()
        env.episode.model.host.head.bias[int(env.episode.validation.labels[0].bincount().argmin())] = 0.1
    flags = [env.step(0)[-1]["rollback"] for _ in range(2)]
    assert flags == [False, True]


def test_a_panic_that_passes_is_no_rollback_and_snapshots_go_on():
    env = tiny(host_lr=1e-6)
    env.reset(seed=0)
    wait(env, 2)
    weight = env.episode.model.host.head.weight
    with torch.no_grad():
        weight.mul_(1e4)
    assert not env.step(0)[-1]["rollback"]
    assert env.episode.governor.pending
    with torch.no_grad():
        weight.mul_(1e-4)
    assert not env.step(0)[-1]["rollback"]
    assert not env.episode.governor.pending
    now = capture(env.episode.model)
    assert all(torch.equal(now.tensors[k], env.episode.healthy.tensors[k]) for k in now.tensors)


@pytest.mark.parametrize("fault", ["nan", "exception"])
def test_a_fault_in_one_of_four_leaves_the_others_bitwise_alone(fault):
    clean, faulty = (
        gymnasium.make_vec(TINY, num_envs=4, workers=2, **{**SHORT, "episode_length": 12}) for _ in range(2)
    )
    for envs in (clean, faulty):
        envs.reset(seed=0)
        envs.step(np.full(4, index(envs.envs[0], Op.GERMINATE, "r0c1", blueprint="conv_light")))
        envs.step(np.full(4, index(envs.envs[0], Op.ADVANCE, "r0c1")))
    if fault == "nan":
        poison(faulty.envs[1])
    else:
        faulty.envs[1].episode.source.labels = None
    for step in range(3):
        expected = clean.step(np.zeros(4, int))
        got = faulty.step(np.zeros(4, int))
        if step == 0:
            assert got[4]["rollback"].tolist() == [False, fault == "nan", False, False]
            assert got[4]["error_code"].tolist() == [0, int(fault != "nan"), 0, 0]
            assert got[2].tolist() == [False, fault != "nan", False, False]
        for i in (0, 2, 3):
            assert (got[0][i] == expected[0][i]).all() and got[1][i] == expected[1][i]
            assert faulty.envs[i].get_state() == clean.envs[i].get_state()
    clean.close()
    faulty.close()


def test_an_episode_that_an_exception_ended_is_worth_chance_and_flagged(caplog):
    env = tiny()
    env.reset(seed=0)
    total = sum(wait(env)[1] for _ in range(4))
    env.episode.source.labels = None
    _, reward, terminated, truncated, info = env.step(0)
    assert (terminated, truncated, info["error_code"], info["value"]) == (True, False, 1, 0.1)
    assert total + reward == pytest.approx(0.0, abs=1e-12)
    assert env.provenance["error"].startswith("TypeError") and "failed" in caplog.text
    assert all(np.isfinite(v).all() for v in info.values())
    fork = env.fork()
    assert fork.provenance["error"] == env.provenance["error"]
    _, info = env.reset()
    assert info["error_code"] == 0 and env.provenance["error"] is None
