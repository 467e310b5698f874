"""The reward telescopes to what the committed network is worth."""

import gymnasium
import numpy as np
import pytest
from rollouts import SMALL, grow_to, index, rollout, steps, tiny, wait

from esper_env.leyline import Op, Stage


def play(env, plan):
    """Play an episode by `plan(t)` -> action; return the sum of rewards and the last info."""
    total, terminated, t = 0.0, False, 0
    while not terminated:
        action = plan(t)
        _, reward, terminated, _, info = env.step(action if env.action_masks()[action] else 0)
        total, t = total + reward, t + 1
    return total, info


def test_each_reward_is_the_change_of_value_and_value_is_accuracy_less_rent():
    env = tiny(rent=0.3, tempos=(2,))
    _, info = env.reset(seed=0)
    assert info["value"] == 1 / 10 and info["rent"] == 0
    grown = False
    for _, (_, reward, terminated, _, after) in rollout(env, 30):
        assert reward == pytest.approx(after["value"] - info["value"] - 0.1 * after["rollback"], abs=1e-12)
        if not terminated:
            assert after["value"] == pytest.approx(after["val_accuracy"] - after["rent"], abs=1e-12)
        assert after["rent"] == pytest.approx(0.3 * after["growth"] * 510 / 510, abs=1e-12)
        grown |= after["rent"] > 0
        info = after
    assert grown


def test_added_counts_alpha_while_uncommitted_and_everything_once_fossilised():
    env = tiny(tempos=(4,), alpha_curve="linear")
    env.reset(seed=0)
    steps(env, Op.GERMINATE, "r0c0", blueprint="conv_light")
    size = env.episode.model.slots["r0c0"].seed.size
    assert wait(env)[-1]["growth"] == 0
    steps(env, Op.ADVANCE, "r0c0")
    assert wait(env, 4)[-1]["growth"] == 0
    assert steps(env, Op.ADVANCE, "r0c0")[-1]["growth"] == pytest.approx(0.25 * size / 510)
    steps(env, Op.SET_ALPHA_TARGET, "r0c0", alpha_target=0.5)
    wait(env, 3)
    assert steps(env, Op.ADVANCE, "r0c0")[-1]["growth"] == pytest.approx(0.5 * size / 510)
    assert steps(env, Op.FOSSILIZE, "r0c0")[-1]["growth"] == pytest.approx(size / 510)


def test_unfinished_seeds_earn_nothing():
    """Lesson 9: at the settlement everything that is not fossilised is removed first."""
    env = tiny(episode_length=12, tempos=(2,), rent=0.5)
    env.reset(seed=0)
    grow_to(env, Stage.BLENDING, "r0c0")
    info = wait(env, 12 - env.episode.epoch)[-1]
    assert info["growth"] == info["rent"] == 0 and info["fossilized"] == 0
    assert info["value"] == info["committed_accuracy"]
    assert info["params"] == 510


def test_the_settlement_uses_the_whole_validation_split_and_reports_the_test_split():
    """Lesson 18: the reward never sees the test set."""
    env = tiny(episode_length=3)
    env.reset(seed=0)
    info = wait(env, 3)[-1]
    assert round(info["committed_accuracy"] * 512) == pytest.approx(info["committed_accuracy"] * 512)
    assert info["value"] == info["committed_accuracy"]
    data = env.episode.data
    assert len(data.validation.labels) == len(data.test.labels) == 512
    assert env.episode.validation.size == 64


def test_doing_nothing_pays_no_rent():
    env = tiny(episode_length=5, rent=1.0)
    env.reset(seed=0)
    total, info = play(env, lambda t: 0)
    assert total == pytest.approx(info["committed_accuracy"] - 0.1, abs=1e-9)


@pytest.mark.parametrize("rent_on", ["params", "flops"])
def test_rent_is_on_what_it_says(rent_on):
    """A heavy seed is cheap in parameters early in the host and cheap in FLOPs late in it."""
    env = gymnasium.make("Esper/CifarBaseline-v0", **SMALL, rent_on=rent_on, rent=1.0, tempos=[1]).unwrapped
    env.reset(seed=0)
    price = {}
    for slot in ("r0c0", "r0c2"):
        env.step(index(env, Op.GERMINATE, slot, blueprint="conv_heavy"))
        price[slot] = env.rent.seed(env.episode.model, env.episode.model.slots[slot])
    share = price["r0c0"]
    if rent_on == "params":
        assert share == pytest.approx((2 * 9 * 64 + 2 * 16 + 8) / 6_418)
        assert share < price["r0c2"]
    else:
        # relative to the host's own FLOPs, by the counter that counted the seed's
        host = env.episode.model.flops_between(0, env.episode.model.end)
        assert share * env.rent.reference == env.episode.model.seed_flops["r0c0"]
        assert 1.0 < env.episode.model.seed_flops["r0c0"] / host < 3.0
        assert share > price["r0c2"]


@pytest.mark.parametrize("rent_on", ["params", "flops"])
def test_an_unsound_seed_costs_something_and_breaks_nothing(rent_on):
    """G1 keeps a blueprint of the wrong shape out of the host; the episode goes on."""
    from torch import nn  # noqa: PLC0415

    from esper_env.kasmina import BLUEPRINTS  # noqa: PLC0415

    BLUEPRINTS["unsound"] = lambda channels: nn.Conv2d(channels, channels + 1, 1)
    try:
        env = tiny(blueprints=["norm", "unsound"], rent_on=rent_on)
        env.reset(seed=0)
        *_, info = steps(env, Op.GERMINATE, "r0c0", blueprint="unsound")
        assert info["error_code"] == 0, env.provenance["error"]
        assert not env.action_masks()[index(env, Op.ADVANCE, "r0c0")]
        assert_fine = [env.step(0)[-1]["error_code"] for _ in range(4)]
        assert assert_fine == [0] * 4
        *_, info = steps(env, Op.PRUNE, "r0c0")
        assert info["stages"][0] == Stage.PRUNED and np.isfinite(info["value"])
    finally:
        del BLUEPRINTS["unsound"]
