"""Invariants of random legal rollouts, and what an illegal action does."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rollouts import grow_to, index, pick, rollout, tiny, wait

from esper_env.leyline import TRANSITIONS, Op, Stage
from esper_env.leyline.lifecycle import ALPHA_TARGETS
from esper_env.state import unpack

configs = st.fixed_dictionaries(
    {
        "styles": st.sampled_from([("add",), ("gate", "multiply"), ("multiply", "add")]),
        "tempos": st.sampled_from([(5,), (1, 3)]),
        "slots": st.sampled_from([None, ["r0c1"], ["r1c1", "r0c0"], ["r0c0", "r1c0", "r0c1", "r1c1"]]),
        "alpha_curve": st.sampled_from(["linear", "cosine", "sigmoid"]),
        "rent": st.sampled_from([0.0, 0.02, 0.5]),
        "rent_on": st.sampled_from(["params", "flops"]),
        "strict_gates": st.booleans(),
        "seed_lr": st.sampled_from([0.05, 0.5]),
        "episode_length": st.integers(1, 30),
        "samples_per_epoch": st.sampled_from([16, 33]),
    }
)


def expected_mask(env):
    """The mask by the text of the contract, written independently of `esper_env.leyline.legality`."""
    strict = env.settings.strict_gates
    out = []
    for action in env.action_table:
        if action.op is Op.WAIT:
            out.append(True)
            continue
        slot = env.episode.model.slots[action.slot]
        evidence = slot.evidence
        gain, worth = list(evidence.shadow_gains), list(evidence.contributions)
        resting = slot.alpha.target is not None and slot.alpha.value == slot.alpha.target
        match action.op, slot.stage:
            case Op.GERMINATE, Stage.DORMANT:
                legal = True
            case Op.ADVANCE, Stage.GERMINATED:
                legal = True
            case Op.ADVANCE, Stage.TRAINING:
                legal = slot.epochs_in_stage >= 5 and evidence.health is not None and evidence.health >= 0.7
                legal = legal and (not strict or (len(gain) == 3 and sum(gain) / 3 >= 0.005))
            case Op.ADVANCE, Stage.BLENDING:
                legal = resting and not slot.fading
            case Op.SET_ALPHA_TARGET, (Stage.BLENDING | Stage.HOLDING):
                legal = not slot.fading and action.alpha_target != slot.alpha.target
            case Op.FOSSILIZE, Stage.HOLDING:
                legal = len(worth) > 0 and (slot.style != "multiply" or slot.alpha.value == 1.0)
                legal = legal and (not strict or (len(worth) == 3 and sum(worth) / 3 >= 0.01))
            case Op.PRUNE, (Stage.GERMINATED | Stage.TRAINING | Stage.BLENDING | Stage.HOLDING):
                legal = slot.age >= 5 and not slot.fading
            case _:
                legal = False
        out.append(legal)
    return out


@settings(max_examples=25)
@given(config=configs, seed=st.integers(0, 10**6))
def test_invariants_of_random_legal_rollouts(config, seed):
    env = tiny(**config)
    observation, info = env.reset(seed=seed)
    returned, rollbacks, rng = 0.0, 0, np.random.default_rng(seed)
    terminated = False
    while not terminated:
        assert env.observation_space.contains(observation)
        assert info["action_mask"].tolist() == [int(legal) for legal in expected_mask(env)]
        assert (info["action_mask"] == env.action_masks()).all()
        stages = info["stages"]
        action = pick(rng, env)
        observation, reward, terminated, truncated, info = env.step(action)
        assert not truncated and not info["invalid_action"] and info["error_code"] == 0
        assert ((info["alphas"] >= 0) & (info["alphas"] <= 1)).all()
        assert np.isfinite(observation).all() and np.abs(observation).max() <= 1
        for before, after in zip(stages, info["stages"], strict=True):
            acted = {Stage(before), *TRANSITIONS[Stage(before)]}
            reachable = acted.union(*(TRANSITIONS[stage] for stage in acted))
            assert after in reachable or info["rollback"]
        returned += reward
        rollbacks += info["rollback"]
    assert info["rollbacks"] == rollbacks
    assert info["value"] == pytest.approx(info["committed_accuracy"] - info["rent"], abs=1e-12)
    assert returned == pytest.approx(info["value"] - 0.1 - 0.1 * rollbacks, abs=1e-6)
    kept = {Stage.DORMANT, Stage.FOSSILIZED, Stage.PRUNED, Stage.EMBARGOED, Stage.RESETTING}
    assert set(info["stages"]) <= kept
    assert set(info["alphas"]) <= {0.0, 1.0}


@pytest.mark.parametrize("when", [0, 3, 14, 27])
def test_execution_accepts_exactly_what_the_mask_allows(when):
    """Lesson 7: no gate needs telemetry, and none refuses what the mask allowed."""
    env = tiny(slots=["r0c0", "r0c1"], blueprints=["norm", "conv_light"], tempos=(2,), styles=("multiply",))
    env.reset(seed=1)
    for _ in rollout(env, when, seed=4):
        pass
    mask, waited = env.action_masks(), env.fork()
    waited.step(0)
    for action, legal in enumerate(mask):
        fork = env.fork()
        *_, info = fork.step(action)
        assert info["invalid_action"] == (not legal)
        assert info["error_code"] == 0
        changed = slots_of(fork) != slots_of(waited)
        assert changed == (legal and action != 0), str(env.action_table[action])


def slots_of(env):
    return unpack(env.get_state())[1]["episode"]["now"]


@settings(max_examples=6)
@given(seed=st.integers(0, 10**6), when=st.integers(0, 25))
def test_an_illegal_action_is_a_counted_wait_that_changes_nothing_else(seed, when):
    env = tiny(tempos=(2,), styles=("gate",))
    env.reset(seed=seed)
    for _ in rollout(env, when, seed):
        pass
    illegal = np.flatnonzero(~env.action_masks())
    asked, waited = env.fork(), env.fork()
    action = int(illegal[seed % len(illegal)])
    result, plain_result = asked.step(action), waited.step(0)
    assert result[4].pop("invalid_action") and not plain_result[4].pop("invalid_action")
    assert result[1:4] == plain_result[1:4]
    executed = env.layout.features()[[f.name for f in env.layout.features()].index("last_action_executed")].index
    assert (result[0][executed], plain_result[0][executed]) == (0, 1)
    result[0][executed] = 1
    assert (result[0] == plain_result[0]).all()
    for key, value in plain_result[4].items():
        assert np.array_equal(result[4][key], value), key
    (tensors, values), (other_tensors, other_values) = unpack(asked.get_state()), unpack(waited.get_state())
    assert values["tally"].pop("invalid_actions") == other_values["tally"].pop("invalid_actions") + 1
    assert values["history"].pop("executed") is False and other_values["history"].pop("executed") is True
    assert json.dumps(values, sort_keys=True) == json.dumps(other_values, sort_keys=True)
    del tensors["observation"], other_tensors["observation"]
    assert tensors.keys() == other_tensors.keys()
    assert all(torch.equal(tensors[key], other_tensors[key]) for key in tensors)


# -- what actions may not touch --------------------------------------------------------------------------


def test_actions_never_advance_the_order_or_augmentation_of_the_data():
    busy, idle = tiny(), tiny()
    busy.reset(seed=2)
    idle.reset(seed=2)
    for _ in rollout(busy, 30):
        idle.step(0)
        for name, generator in busy.episode.generators.items():
            assert torch.equal(generator.get_state(), idle.episode.generators[name].get_state())
        assert busy.episode.source.cursor == idle.episode.source.cursor
        assert torch.equal(busy.episode.source.permutation, idle.episode.source.permutation)


def weights(env, slot):
    return {k: v.clone() for k, v in env.episode.model.slots[slot].seed.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_seed_is_initialised_by_episode_seed_slot_and_count_alone():
    def born(seed, slot, waits=0, cycles=0, neighbour=False):
        env = tiny()
        env.reset(seed=seed)
        wait(env, waits + 1)
        if neighbour:
            env.step(index(env, Op.GERMINATE, "r1c0", blueprint="conv_heavy"))
        for _ in range(cycles):
            env.step(index(env, Op.GERMINATE, slot, blueprint="norm"))
            wait(env, 4)
            env.step(index(env, Op.PRUNE, slot))
            wait(env, 7)
        env.step(index(env, Op.GERMINATE, slot, blueprint="conv_light"))
        assert env.episode.model.slots[slot].germinations == cycles + 1
        return weights(env, slot)

    reference = born(1, "r0c0")
    assert same(reference, born(1, "r0c0", waits=4, neighbour=True))
    assert not same(reference, born(2, "r0c0"))
    assert not same(reference, born(1, "r0c0", cycles=1))
    assert same(born(1, "r0c0", cycles=1), born(1, "r0c0", waits=2, cycles=1))
    assert not same(reference, born(1, "r1c0"))  # the same four channels


# -- timing through the environment ----------------------------------------------------------------------


def life(env, slot, n):
    """Stage names after each of n WAIT steps."""
    out = []
    for _ in range(n):
        env.step(0)
        out.append(env.episode.model.slots[slot].stage.name)
    return out


def test_cooldowns_last_as_long_as_they_say():
    """Lesson 6: PRUNED 1, EMBARGOED 5, RESETTING 1, whatever happens in other slots."""
    env = tiny()
    env.reset(seed=0)
    env.step(index(env, Op.GERMINATE, "r0c0", blueprint="norm"))
    env.step(index(env, Op.GERMINATE, "r0c1", blueprint="norm"))
    wait(env, 3)
    *_, info = env.step(index(env, Op.PRUNE, "r0c0"))
    assert info["stages"][0] == Stage.PRUNED
    assert life(env, "r0c0", 8) == ["EMBARGOED"] * 5 + ["RESETTING", "DORMANT", "DORMANT"]


@pytest.mark.parametrize("stage", [Stage.BLENDING, Stage.HOLDING])
def test_a_blended_seed_fades_over_three_epochs_frozen_and_untouchable(stage):
    env = tiny(alpha_curve="linear", tempos=(2,))
    env.reset(seed=0)
    grow_to(env, stage, "r0c0")
    if stage is Stage.BLENDING:
        env.step(0)
    slot = env.episode.model.slots["r0c0"]
    start = slot.alpha.value
    born = weights(env, "r0c0")
    norm = slot.evidence.gradient_norm
    expected = [start * 2 / 3, start / 3, 0.0]
    *_, info = env.step(index(env, Op.PRUNE, "r0c0"))
    for alpha in expected:
        assert info["alphas"][0] == pytest.approx(alpha, abs=1e-12)
        if alpha:
            assert info["stages"][0] == Stage.BLENDING
            assert same(born, weights(env, "r0c0"))
            assert slot.evidence.gradient_norm == norm
            touching = [i for i, a in enumerate(env.action_table) if a.slot == "r0c0"]
            assert not env.action_masks()[touching].any()
            *_, info = env.step(0)
    assert info["stages"][0] == Stage.PRUNED and slot.seed is None
    assert life(env, "r0c0", 7) == ["EMBARGOED"] * 5 + ["RESETTING", "DORMANT"]


def test_the_shortest_way_to_a_fossil_takes_the_epochs_of_the_gates():
    env = tiny(tempos=(3,))
    env.reset(seed=0)
    grow_to(env, Stage.FOSSILIZED, "r0c0")
    # 1 germinate, 1 + 4 train (five epochs in stage), 1 + 2 ramp (tempo 3), 1 hold, 1 fossilise
    assert env.episode.epoch == 11
    assert env.episode.model.slots["r0c0"].age == 11


def test_a_new_target_returns_from_holding_to_blending():
    env = tiny(tempos=(2,), styles=("multiply",))
    env.reset(seed=0)
    grow_to(env, Stage.HOLDING, "r0c0", style="multiply")
    masks = {t: env.action_masks()[index(env, Op.SET_ALPHA_TARGET, "r0c0", alpha_target=t)] for t in ALPHA_TARGETS}
    assert masks == {0.5: True, 0.7: True, 1.0: False}
    *_, info = env.step(index(env, Op.SET_ALPHA_TARGET, "r0c0", alpha_target=0.7))
    assert info["stages"][0] == Stage.BLENDING and 0.7 < info["alphas"][0] < 1
    *_, info = env.step(0)
    assert info["alphas"][0] == 0.7
    *_, info = env.step(index(env, Op.ADVANCE, "r0c0"))
    assert info["stages"][0] == Stage.HOLDING
    fossilise = index(env, Op.FOSSILIZE, "r0c0")
    assert not env.action_masks()[fossilise], "multiply can only be kept at alpha 1"
    env.step(index(env, Op.SET_ALPHA_TARGET, "r0c0", alpha_target=1.0))
    wait(env)
    env.step(index(env, Op.ADVANCE, "r0c0"))
    assert env.action_masks()[fossilise]


def test_strict_gates_demand_evidence_that_lenient_ones_do_not():
    lenient, strict = (tiny(strict_gates=s) for s in (False, True))
    for env in (lenient, strict):
        env.reset(seed=0)
        env.step(index(env, Op.GERMINATE, "r0c0", blueprint="norm"))
        env.step(index(env, Op.ADVANCE, "r0c0"))
        wait(env, 5)
        for gains, expected in (([0.0] * 3, False), ([0.006] * 3, True), ([0.006] * 2, False)):
            gate = env.episode.model.slots["r0c0"].evidence.shadow_gains
            gate.clear()
            gate.extend(gains)
            wanted = expected or env is lenient
            assert env.action_masks()[index(env, Op.ADVANCE, "r0c0")] == wanted
        slot = env.episode.model.slots["r0c0"]
        slot.evidence.contributions.extend([0.02, 0.02, -0.02])
        slot.stage = Stage.HOLDING
        assert env.action_masks()[index(env, Op.FOSSILIZE, "r0c0")] == (env is lenient)
        slot.evidence.contributions.extend([0.02, 0.02])
        assert env.action_masks()[index(env, Op.FOSSILIZE, "r0c0")] == (env is lenient)
        slot.evidence.contributions.append(0.02)
        assert env.action_masks()[index(env, Op.FOSSILIZE, "r0c0")]


def test_an_unhealthy_seed_may_not_blend():
    env = tiny()
    env.reset(seed=0)
    env.step(index(env, Op.GERMINATE, "r0c0", blueprint="norm"))
    env.step(index(env, Op.ADVANCE, "r0c0"))
    wait(env, 5)
    advance = index(env, Op.ADVANCE, "r0c0")
    for health, legal in ((0.7, True), (0.69, False), (None, False)):
        env.episode.model.slots["r0c0"].evidence.health = health
        assert env.action_masks()[advance] == legal


def test_fossils_only_grow_in_number_and_never_leave():
    env = tiny(tempos=(1,))
    env.reset(seed=0)
    grow_to(env, Stage.FOSSILIZED, "r0c1")
    for _, (_, _, _, _, info) in rollout(env, 25):
        assert info["stages"][2] == Stage.FOSSILIZED
        assert info["alphas"][2] == 1.0
