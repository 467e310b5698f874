"""get_state, set_state and fork: at any step and stage, here and in another process."""

import copy
import json
import pickle

import gymnasium
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rollouts import SMALL, TINY, assert_same, digest, grow_to, record, rollout, tiny, wait

from esper_env import StateError
from esper_env.leyline import Stage
from esper_env.state import pack, unpack

WIDE = {"styles": ("add", "gate", "multiply"), "tempos": (1, 4), "episode_length": 60}
"""Every kind of seed; a third of the episode is learning-rate decay."""


def in_the_middle():
    """An environment in the middle of an episode with a seed of another stage in each slot."""
    env = tiny(**WIDE)
    env.reset(seed=5)
    grow_to(env, Stage.FOSSILIZED, "r0c0", "conv_heavy", "gate")
    grow_to(env, Stage.BLENDING, "r1c0", "bottleneck", "multiply")
    grow_to(env, Stage.TRAINING, "r0c1", "depthwise", "add")
    return env


@pytest.fixture(scope="module")
def advanced():
    env = in_the_middle()
    return env, env.get_state()


@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), when=st.integers(0, 45), data_seed=st.integers(0, 10**6))
def test_a_random_legal_rollout_continues_bitwise_from_its_state_and_in_a_fork(seed, when, data_seed):
    env = tiny(**WIDE)
    env.reset(seed=seed)
    for _ in rollout(env, when, data_seed):
        pass
    state = env.get_state()
    other = tiny(**WIDE)
    other.set_state(state)
    assert other.get_state() == state
    fork = env.fork()
    for (_, a), (_, b), (_, c) in zip(
        rollout(env, 10, data_seed), rollout(other, 10, data_seed), rollout(fork, 10, data_seed), strict=True
    ):
        assert_same(a, b)
        assert_same(a, c)
    assert env.get_state() == other.get_state() == fork.get_state()


def test_the_state_carries_the_stream_of_later_episodes(advanced):
    env, state = advanced
    other = tiny(**WIDE)
    other.set_state(state)
    env.set_state(state)
    assert_same(env.reset(), other.reset())
    assert_same(record(env, 3, seed=None), record(other, 3, seed=None))


def test_the_same_continuation_in_a_fresh_process_under_another_hash_seed(in_a_fresh_process):
    env = tiny()
    env.set_state(in_a_fresh_process["state"])
    assert in_a_fresh_process["continuation"] == digest([env.step(0) for _ in range(10)])


def test_seeds_of_every_stage_continue_bitwise(advanced):
    _, state = advanced
    env, other = in_the_middle(), tiny(**WIDE)
    other.set_state(state)
    for (_, a), (_, b) in zip(rollout(env, 15), rollout(other, 15), strict=True):
        assert_same(a, b)
    env.set_state(state)
    env.set_state(env.get_state())
    assert env.get_state() == state


def test_a_fork_is_independent():
    env = tiny()
    env.reset(seed=0)
    state = env.get_state()
    fork = env.fork()
    for _ in rollout(fork, 8):
        pass
    assert env.get_state() == state
    assert env.action_space == fork.action_space


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_and_a_pickle_are_forks(copied):
    env = gymnasium.make(TINY, **SMALL, **WIDE)
    unborn = copied(env)
    assert_same(record(unborn, 3), record(env, 3))
    env.unwrapped.note = "mine"
    env.action_space.seed(5)
    other = copied(env)
    assert other.unwrapped.note == "mine"
    for _ in range(10):
        mask = env.unwrapped.action_masks().astype("int8")
        action = env.action_space.sample(mask=mask)
        assert other.action_space.sample(mask=mask) == action
        assert_same(env.step(action), other.step(action))
    state = env.unwrapped.get_state()
    other.step(0)
    assert env.unwrapped.get_state() == state


def test_a_state_of_a_finished_episode_is_finished():
    env = tiny(episode_length=3)
    env.reset(seed=0)
    wait(env, 3)
    fork = env.fork()
    with pytest.raises(RuntimeError, match="reset"):
        fork.step(0)
    assert_same(env.reset(), fork.reset())


def test_momentum_and_evidence_survive_bitwise(advanced):
    """Lesson 8: optimiser momentum is part of the state."""
    env, state = advanced
    env.set_state(state)
    tensors, values = unpack(state)
    assert sum(name.startswith("now/host/momentum/") for name in tensors) == 8
    assert any(name == "now/seed.r0c1/norms" for name in tensors)
    for name, optimizer in env.episode.model.optimizers().items():
        for i, momentum in enumerate(optimizer.momenta):
            assert momentum.any()
            assert torch.equal(momentum, tensors[f"now/{name}/momentum/{i}"])
    assert values["episode"]["now"]["r1c0"]["evidence"]["shadow_gains"]


def test_every_field_of_a_slot_survives(advanced):
    _, state = advanced
    env, other = tiny(**WIDE), tiny(**WIDE)
    env.set_state(state)
    evidence = env.episode.model.slots["r1c0"].evidence
    for i, (name, value) in enumerate(vars(evidence).items()):
        if value is None or isinstance(value, int | float):
            setattr(evidence, name, 3 + i)
    other.set_state(env.get_state())
    for name, slot in env.episode.model.slots.items():
        mine, theirs = vars(slot).copy(), vars(other.episode.model.slots[name]).copy()
        for key in ("seed", "optimizer"):
            assert (mine.pop(key) is None) == (theirs.pop(key) is None)
        mine, theirs = (vars(fields.pop("evidence")) | fields for fields in (mine, theirs))
        assert all(torch.equal(a, b) for a, b in zip(mine.pop("norms"), theirs.pop("norms"), strict=True))
        assert mine == theirs


def test_render_mode_and_place_of_the_data_are_no_part_of_the_state(advanced):
    _, state = advanced
    other = tiny(**WIDE, render_mode="ansi")
    other.set_state(state)
    assert other.get_state() == state


# -- bytes that are no state -----------------------------------------------------------------------------


def assert_refused(env, state, words):
    before = env.get_state()
    with pytest.raises(StateError, match=words):
        env.set_state(state)
    assert env.get_state() == before


@settings(max_examples=40)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_an_error(advanced, where, bit):
    _, state = advanced
    damaged = bytearray(state)
    damaged[int(where * len(state))] ^= 1 << bit
    with pytest.raises(StateError, match=r"damaged|not a state"):
        unpack(bytes(damaged))


@settings(max_examples=40)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_state_is_an_error(advanced, share):
    _, state = advanced
    with pytest.raises(StateError, match=r"truncated|not a state"):
        unpack(state[: int(share * len(state))])


@pytest.mark.parametrize("foreign", [b"", b"hello", b"\x80\x04K\x01.", "text", None, 3])
def test_foreign_bytes_are_an_error_and_change_nothing(advanced, foreign):
    env, _ = advanced
    assert_refused(env, foreign, "not a state of an Esper environment")


def test_a_damaged_state_changes_nothing(advanced):
    env, state = advanced
    env.set_state(state)
    env.step(0)
    assert_refused(env, state[:-1], "truncated or damaged")
    assert_refused(env, state[:-1] + bytes([state[-1] ^ 1]), "truncated or damaged")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("host_lr", 0.01),
        ("slots", ["r0c1"]),
        ("tempos", (1, 5)),
        ("blueprints", ["norm"]),
        ("episode_length", 61),
        ("rent_on", "flops"),
        ("strict_gates", True),
    ],
)
def test_the_state_of_other_arguments_is_an_error_naming_them(advanced, argument, value):
    _, state = advanced
    other = tiny(**{**WIDE, argument: value})
    other.reset(seed=1)
    assert_refused(other, state, argument)


def test_the_state_of_other_data_is_an_error(advanced):
    env, state = advanced
    tensors, values = unpack(state)
    assert_refused(env, pack(tensors, {**values, "digest": "0" * 64}), "other data")


def test_a_state_with_a_valid_checksum_but_without_its_parts_is_an_error(advanced):
    env, state = advanced
    tensors, values = unpack(state)
    del values["episode"]["cursor"]
    assert_refused(env, pack(tensors, values), "cursor")
    assert_refused(env, pack({}, unpack(state)[1]), "version")
    assert_refused(env, pack(tensors, {}), "arguments")


def test_the_state_is_no_pickle_and_holds_plain_tensors(advanced):
    _, state = advanced
    tensors, values = unpack(state)
    assert all(isinstance(t, torch.Tensor) for t in tensors.values())
    assert json.loads(json.dumps(values)) == values
    assert state.startswith(b"ESPERENV")
