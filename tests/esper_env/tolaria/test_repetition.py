"""Batches that are replayed from a recording instead of run by Python."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rollouts import grow_to, steps, tiny, wait
from torch import nn

from esper_env.kasmina import native
from esper_env.kasmina.blueprints import BLUEPRINTS, DEFAULT_BLUEPRINTS
from esper_env.leyline import Op, Stage
from esper_env.tolaria import repetition

pytestmark = pytest.mark.skipif(native.in_use() is None, reason="torch's own layers are in use")

STYLES = ("add", "gate", "multiply")


@pytest.fixture
def recordings(monkeypatch):
    """Every recording from here on."""
    tapes = []

    class Kept(native.Tape):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            tapes.append(self)

    monkeypatch.setattr(native, "Tape", Kept)
    return tapes


def weights(env):
    return {f"{n}/{k}": v for n, m in env.episode.model.modules().items() for k, v in m.state_dict().items()}


def play(choices, replaying):
    """Act by `choices` among the legal actions; the weights and the last info."""
    with pytest.MonkeyPatch.context() as patch:
        if not replaying:
            patch.setattr(repetition, "_has_only_known_code", lambda model: False)
        # the last batch of an epoch and the last chunk of an evaluation are smaller than the others
        env = tiny(samples_per_epoch=100, batch_size=32, val_samples=500, styles=STYLES, blueprints=DEFAULT_BLUEPRINTS)
        env.reset(seed=3)
        for choice in choices:
            legal = np.flatnonzero(env.action_masks())
            *_, info = env.step(int(legal[choice % len(legal)]))
    return weights(env), info


@settings(max_examples=12)
@given(choices=st.lists(st.integers(0, 1_000), min_size=1, max_size=12))
def test_a_replay_computes_the_same_bits(choices):
    (replayed, info), (run, expected) = play(choices, True), play(choices, False)
    for name, value in run.items():
        assert torch.equal(value, replayed[name]), name
    for key in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
        assert info[key] == expected[key], key


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("blueprint", DEFAULT_BLUEPRINTS)
def test_every_seed_in_every_stage_can_be_replayed(blueprint, style, recordings):
    env = tiny(blueprints=(blueprint,), styles=(style,), tempos=(1,))
    env.reset(seed=0)
    grow_to(env, Stage.FOSSILIZED, "r0c0", blueprint, style)
    grow_to(env, Stage.HOLDING, "r0c1", blueprint, style)
    steps(env, Op.PRUNE, "r0c1")
    assert env.episode.model.slots["r0c1"].fading
    assert recordings and {name for tape in recordings for name in tape.foreign} == set()


class Counting(nn.Module):
    """A module of a user's, which does more in a forward pass than a recording can see."""

    def __init__(self, channels):
        super().__init__()
        self.conv = native.Conv2d(channels, channels, 1)
        self.calls = 0

    def forward(self, x):
        self.calls += self.training
        return self.conv(x)


def test_a_module_of_a_user_s_is_called_for_every_batch(monkeypatch):
    monkeypatch.setitem(BLUEPRINTS, "counting", Counting)
    env = tiny(blueprints=("counting",), tempos=(1,), samples_per_epoch=256, batch_size=32)
    env.reset(seed=0)
    grow_to(env, Stage.FOSSILIZED, "r0c0", "counting")
    body = env.episode.model.slots["r0c0"].seed.body
    before = body.calls
    wait(env)
    assert body.calls == before + 8


def test_an_operation_that_is_no_kernel_is_done_for_every_batch(monkeypatch, recordings):
    monkeypatch.setitem(BLUEPRINTS, "dropped", lambda channels: nn.Sequential(nn.Dropout(0.5), Counting(channels).conv))
    env = tiny(blueprints=("dropped",), tempos=(1,))
    env.reset(seed=0)
    grow_to(env, Stage.TRAINING, "r0c0", "dropped")
    assert not recordings[-1].complete, "it was noticed"
    recordings.clear()
    sizes = []

    def forward(self, x):
        sizes.append(len(x))
        return nn.functional.dropout(x)

    monkeypatch.setattr(nn.Dropout, "forward", forward)
    wait(env)
    assert not recordings, "it is remembered"
    # the epoch, and its validation images
    assert sum(sizes) == env.settings.samples_per_epoch + env.settings.val_samples


def test_a_moving_tensor_gives_each_run_its_part():
    parts, out = torch.arange(12.0).reshape(4, 3), torch.zeros(4, 3)
    tape = native.Tape([(parts, 12), (out, 12)])
    with tape.recording():
        native.tape.call("sum", parts[0], parts[0], out[0], 3)
    tape.replay(3)
    assert tape.complete and torch.equal(out, 2 * parts)


def test_memory_between_kernels_is_used_again():
    parts, out = torch.arange(64.0).reshape(4, 16), torch.zeros(4, 16)
    tape = native.Tape([(parts, 64), (out, 64)])
    with tape.recording():
        x = parts[0]
        for _ in range(50):
            y = native.tape.empty((16,), (1,))
            native.tape.call("sum", x, parts[0], y, 16)
            x = y
        native.tape.call("sum", x, parts[0], out[0], 16)
    tape.replay(3)
    assert torch.equal(out, 52 * parts)
    assert len(tape.arena.blocks) == 2
