"""What the observation says of the state, number by number."""

import math

import numpy as np
import pytest
from rollouts import feature_values, grow_to, index, pick, rollout, steps, tiny, wait

from esper_env.leyline import Op, Stage
from esper_env.leyline.observation import blueprint_code

VARIETY = [
    {"rent": 0.3, "styles": ("gate", "multiply"), "tempos": (1, 3)},
    {"seed_lr": 30.0, "tempos": (2,)},  # gradients explode
    {"samples_per_epoch": 2, "batch_size": 2, "tempos": (2,), "rent": 0.0},  # the first gradients are exactly 0
]


def grow_everything(env):
    """Bring a seed in every slot to HOLDING, lower its alpha, wait, and keep them all."""
    germinate = {"blueprint": "conv_light"}
    up, down = (Op.ADVANCE, {}), (Op.SET_ALPHA_TARGET, {"alpha_target": 0.5})
    for op, wanted in ((Op.GERMINATE, germinate), up, up, up, down, up, (Op.WAIT, {}), (Op.FOSSILIZE, {})):
        for slot in env.settings.slots if op is not Op.WAIT else [None] * 3:
            action = index(env, op, slot, **wanted)
            while not env.action_masks()[action]:
                yield env.step(0)
            yield env.step(action)


def test_every_dimension_changes_in_some_rollout_and_all_stay_in_the_box():
    seen = []
    for seed, config in enumerate([*VARIETY, {"tempos": (2,), "samples_per_epoch": 128, "val_samples": 512}]):
        env = tiny(**{"episode_length": 60, **config})
        seen.append(env.reset(seed=seed)[0])
        results = rollout(env, 60, seed) if seed < len(VARIETY) else enumerate(grow_everything(env))
        for _, result in results:
            seen.append(result[0])
            assert env.observation_space.contains(result[0])
    seen = np.array(seen)
    assert seen.shape[1] == 128 and seen.dtype == np.float32
    still = [f.name for f in env.layout.features() if (np.ptp(seen[:, f.where], axis=0) == 0).any()]
    assert not still
    for feature in env.layout.features():
        part = seen[:, feature.where]
        assert part.min() >= feature.low and part.max() <= feature.high, feature.name


@pytest.mark.parametrize(("slots", "size"), [(["r0c0"], 58), (None, 128), (["r0c0", "r1c0", "r0c1", "r1c1"], 163)])
def test_the_size_follows_the_number_of_slots(slots, size):
    env = tiny(slots=slots)
    assert env.observation_space.shape == (size,)
    assert env.reset(seed=0)[0].shape == (size,)


def test_the_first_observation_shows_nothing_as_measured_or_healthy():
    """Lesson 24: absence is never shown as health."""
    env = tiny()
    observation, _ = env.reset(seed=0)
    shown = {name for name, value in feature_values(env, observation).items() if value.any()}
    assert shown == {"price", "r0c0.stage", "r1c0.stage", "r0c1.stage"}
    steps(env, Op.GERMINATE, "r0c0", blueprint="conv_heavy")
    values = feature_values(env, wait(env)[0])
    for name in ("health", "effect_measured", "effect", "effect_freshness", "gradient_norm", "gradient_fault"):
        assert not values[f"r0c0.{name}"].any(), name


def test_base_features_follow_the_infos():
    env = tiny(episode_length=20, rent=0.05)
    env.reset(seed=0)
    rng = np.random.default_rng(3)
    losses, accuracies = [], []
    for t in range(1, 9):
        action = pick(rng, env)
        observation, _, _, _, info = env.step(action)
        values = feature_values(env, observation)
        losses.append(info["val_loss"])
        accuracies.append(info["val_accuracy"])
        assert values["progress"] == pytest.approx(t / 20)
        assert values["val_loss"] == pytest.approx(min(1, info["val_loss"] / (2 * math.log(10))))
        assert values["val_accuracy"] == pytest.approx(info["val_accuracy"])
        gap = info["train_accuracy"] - info["val_accuracy"]
        assert values["generalisation_gap"] == pytest.approx(gap, abs=1e-6)
        assert values["price"] == pytest.approx(0.25)
        assert values["growth"] == pytest.approx(math.log1p(info["growth"]) / 7, abs=1e-6)
        assert values["last_op"].argmax() == env.action_table[action].op and values["last_op"].sum() == 1
        for name, series, gain in (("loss_history", losses, 2), ("accuracy_history", accuracies, 10)):
            past = [0.0] * (5 - len(series[-6:-1])) + [gain * (v - series[-1]) for v in series[-6:-1]]
            assert values[name] == pytest.approx(np.clip(past, -1, 1), abs=1e-6)


def test_slot_features_follow_the_life_of_a_seed():
    env = tiny(episode_length=50, tempos=(4,), styles=("gate",), alpha_curve="linear", rent=0.1)
    env.reset(seed=0)
    observation = steps(env, Op.GERMINATE, "r0c0", blueprint="conv_light")[0]
    seed = env.episode.model.slots["r0c0"].seed

    def now():
        return {k.removeprefix("r0c0."): v for k, v in feature_values(env, observation).items() if "r0c0" in k}

    assert now()["stage"].argmax() == Stage.GERMINATED and now()["stage"].sum() == 1
    assert now()["seed_params"] == pytest.approx(math.log1p(seed.size / 510) / 7)
    assert now()["style"] == pytest.approx(2 / 3) and now()["tempo"] == pytest.approx(0.4)
    assert now()["seed_rent"] == pytest.approx(min(1, 0.1 * seed.size / 510 * 10))
    assert now()["blueprint"].tolist() == list(blueprint_code(env.settings.blueprints.index("conv_light")))
    assert now()["age"] == now()["epochs_in_stage"] == pytest.approx(1 / 50)

    observation = steps(env, Op.ADVANCE, "r0c0")[0]
    assert now()["effect_measured"] == now()["effect_freshness"] == 1
    assert now()["health"] == pytest.approx(env.slot_facts["r0c0"].health) and now()["health"] > 0
    assert now()["gradient_norm"] > 0
    wait(env, 4)
    observation = steps(env, Op.ADVANCE, "r0c0")[0]
    for done in range(1, 5):
        assert now()["alpha"] == pytest.approx(done / 4)
        assert now()["alpha_target"] == 1 and now()["alpha_falling"] == 0
        assert now()["alpha_rising"] == (done < 4)
        assert now()["ramp_done"] == pytest.approx(done / 4)
        assert now()["ramp_left"] == pytest.approx((4 - done) / 10)
        assert now()["alpha_velocity"] == pytest.approx(0.25)
        observation = env.step(0)[0]
    assert now()["alpha_velocity"] == 0
    steps(env, Op.ADVANCE, "r0c0")
    observation = steps(env, Op.PRUNE, "r0c0")[0]
    assert now()["alpha_falling"] == 1 and now()["alpha_velocity"] < 0 and now()["alpha_target"] == 0
    observation = wait(env, 2)[0]
    gone = now()
    assert gone.pop("stage").argmax() == Stage.PRUNED
    assert gone.pop("epochs_in_stage") == pytest.approx(1 / 50)
    assert not any(value.any() for value in gone.values())


def test_the_effect_is_the_shadow_gain_and_then_the_contribution():
    env = tiny(tempos=(1,))
    env.reset(seed=0)
    grow_to(env, Stage.TRAINING, "r0c0")
    observation, *_, info = wait(env)
    slot = env.episode.model.slots["r0c0"]
    shown = feature_values(env, observation)["r0c0.effect"]
    assert not info["contributions_measured"].any()
    assert shown == pytest.approx(np.clip(10 * slot.evidence.shadow_gains[-1], -1, 1), abs=1e-6)
    wait(env, 4)
    observation, *_, info = steps(env, Op.ADVANCE, "r0c0")
    shown = feature_values(env, observation)["r0c0.effect"]
    assert info["contributions_measured"].tolist() == info["shapley_measured"].tolist() == [True, False, False]
    assert shown == pytest.approx(np.clip(10 * info["contributions"][0], -1, 1), abs=1e-6)
    assert info["shapley"][0] == info["contributions"][0]  # alone, they are the same
    grow_to_fossil = index(env, Op.FOSSILIZE, "r0c0")
    steps(env, Op.ADVANCE, "r0c0")
    env.step(grow_to_fossil)
    observation, *_, info = wait(env)
    assert not info["contributions_measured"].any()
    assert feature_values(env, observation)["r0c0.effect_freshness"] == pytest.approx(0.8**2)


def test_price_is_the_rent_in_points_whatever_the_data():
    for rent, shown in ((0.0, 0.0), (0.03, 0.15), (5.0, 1.0)):
        env = tiny(rent=rent)
        assert feature_values(env, env.reset(seed=0)[0])["price"] == pytest.approx(shown)
