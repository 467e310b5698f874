"""The contract of controllers, and the simple ones, on real episodes."""

from __future__ import annotations

import dataclasses

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from esper_agents.runner import run_episodes
from esper_agents.tamiyo import CONTROLLERS, Interface, Planting, Schedule, make_controller
from esper_env import Op, Stage

PLAN = (
    Planting("r0c0", "conv_light", epoch=1),
    Planting("r0c1", "norm", epoch=4, alpha_target=0.5, fossilize_epoch=24),
    Planting("r0c0", "norm", epoch=6),
)


def build(name, venv):
    return make_controller(name, venv, **({"schedule": PLAN} if name == "fixed_schedule" else {}))


@pytest.mark.parametrize("name", list(CONTROLLERS))
def test_never_illegal_over_whole_episodes(make_tiny, name):
    venv = make_tiny(3)
    records = run_episodes(build(name, venv), venv, 3, seed=7)
    assert [record.final["invalid_actions"] for record in records] == [0, 0, 0]
    assert all(len(record.actions) == 40 for record in records)


@pytest.mark.parametrize("name", list(CONTROLLERS))
def test_the_state_is_not_changed_and_an_autoreset_begins_afresh(make_tiny, name):
    """The same seeds give the same episodes whether an environment was reset or reset itself."""
    venv = make_tiny(2, episode_length=22)
    controller = build(name, venv)
    obs, info = venv.reset(seed=3)
    state, chosen = None, []
    for _ in range(44):
        first, after = controller(obs, info["action_mask"], info, state)
        again, _ = controller(obs, info["action_mask"], info, state)
        np.testing.assert_array_equal(first, again)
        assert first.dtype == np.int64 and first.shape == (2,)
        chosen.append(first)
        obs, _, _, _, info = venv.step(first)
        state = after
    if name == "random":  # its generator goes on
        return
    fresh = None
    obs, info = venv.reset(seed=3)
    for _ in range(22):
        wait = np.zeros(2, np.int64)
        obs, _, _, _, info = venv.step(wait)
    for t in range(22):  # the second episode of the same seed, with a fresh state
        actions, fresh = controller(obs, info["action_mask"], info, fresh)
        np.testing.assert_array_equal(actions, chosen[22 + t])
        obs, _, _, _, info = venv.step(actions)


def test_random_takes_its_own_seed(make_tiny):
    venv = make_tiny(1)
    obs, info = venv.reset(seed=0)

    def draws(seed):
        controller, state, out = make_controller("random", venv, seed=seed), None, []
        for _ in range(20):
            actions, state = controller(obs, info["action_mask"], None, state)
            out.append(int(actions[0]))
        return out

    assert draws(1) == draws(1) != draws(2)
    assert set(draws(1)) <= set(np.flatnonzero(info["action_mask"][0]))


def test_a_single_environment_will_do():
    with gymnasium.make("Esper/Tiny-v0", samples_per_epoch=16, val_samples=256) as env:
        obs, info = env.reset(seed=0)
        controller = make_controller("heuristic", env)
        actions, _ = controller(obs[None], info["action_mask"][None], None, None)
        assert actions.tolist() == [0]


def test_unknown_controllers_and_blueprints_name_the_choices(make_tiny):
    venv = make_tiny(1, blueprints=["norm", "conv_small"])
    with pytest.raises(ValueError, match=r"unknown controller 'best'; choose one of \['wait', 'random'"):
        make_controller("best", venv)
    with pytest.raises(ValueError, match=r"'conv_light'.*choose blueprints from \['norm', 'conv_small'\]"):
        make_controller("periodic", venv)
    with pytest.raises(ValueError, match=r"has none of them, only \['norm', 'conv_small'\]"):
        make_controller("heuristic", venv, blueprints=("attention",))
    with pytest.raises(ValueError, match=r"no such action.*'blueprint': \['conv_small', 'norm'\]"):
        make_controller("fixed_schedule", venv, schedule=[Planting("r0c0", "conv_light")])
    with pytest.raises(ValueError, match=r"no such action.*'alpha_target': \[0.5, 0.7, 1.0\]"):
        make_controller("fixed_schedule", venv, schedule=[Planting("r0c0", "norm", alpha_target=0.6)])


def test_fixed_schedule_germinates_when_said_and_follows_through(make_tiny):
    venv = make_tiny(1)
    (record,) = run_episodes(build("fixed_schedule", venv), venv, 1, seed=5)
    asked = {t + 1: action for t, action in enumerate(record.actions) if action.op is not Op.WAIT}
    germinations = {t: action.slot for t, action in asked.items() if action.op is Op.GERMINATE}
    assert germinations == {1: "r0c0", 4: "r0c1"}  # r0c0 is never free again for the third planting
    fossilised = {action.slot: t for t, action in asked.items() if action.op is Op.FOSSILIZE}
    assert fossilised == {"r0c0": 13, "r0c1": 24}  # 1 germinated + 5 training + 5 blending + 1 holding; 24
    targets = [(action.slot, action.alpha_target) for action in asked.values() if action.alpha_target]
    assert targets == [("r0c1", 0.5)]
    held = record.stages[:, 2] == Stage.HOLDING
    assert held.sum() > 1 and (record.alphas[held, 2] == 0.5).all()
    assert record.final["fossilized"] == 2


def test_a_planting_waits_for_a_free_slot(make_tiny):
    """Two plantings may share a slot; a slot that was freed by hand is taken by the second."""
    venv = make_tiny(1)
    plan = [Planting("r0c0", "norm", 1), Planting("r0c0", "conv_small", 2)]
    controller = make_controller("fixed_schedule", venv, schedule=plan)
    table = venv.get_attr("action_table")[0]
    prune = next(i for i, a in enumerate(table) if a.op is Op.PRUNE and a.slot == "r0c0")
    obs, info = venv.reset(seed=0)
    state, names = None, []
    for _ in range(16):
        actions, state = controller(obs, info["action_mask"], info, state)
        if info["action_mask"][0, prune] and Op.PRUNE not in names:
            actions = np.array([prune])
        names.append(table[actions[0]].op)
        obs, _, _, _, info = venv.step(actions)
    assert names[0] is Op.GERMINATE and names.count(Op.GERMINATE) == 2
    assert names.index(Op.GERMINATE, 1) == names.index(Op.PRUNE) + 8  # seven epochs of rest lie between


def test_schedule_digest_pins_the_plantings():
    schedule = Schedule(PLAN)
    assert schedule.digest == "82947381e50e2328467c25899cd68433b65de8bd4320b42336a0f779287501ea"
    assert Schedule.from_json(schedule.to_json()) == schedule
    other = Schedule((dataclasses.replace(PLAN[0], epoch=2), *PLAN[1:]))
    assert other.digest != schedule.digest != Schedule(PLAN[::-1]).digest
    with pytest.raises(ValueError, match="changed since it was pinned"):
        Schedule.from_json(schedule.to_json().replace("conv_light", "conv_heavy"))


def test_periodic_stops_when_accuracy_does(make_tiny):
    venv = make_tiny(1, episode_length=80)
    grown = {}
    for gain in (-100.0, 100.0):
        controller = make_controller("periodic", venv, period=10, min_gain_points=gain, blueprint="norm")
        (record,) = run_episodes(controller, venv, 1, seed=2)
        grown[gain] = [t + 1 for t, action in enumerate(record.actions) if action.op is Op.GERMINATE]
    first, *later = grown[-100.0]
    assert first == 11 and len(later) == 2 and all(10 <= t - 11 <= 26 for t in later)
    assert grown[100.0] == [11]


def test_the_interface_is_read_through_every_kind_of_vector_environment(make_tiny):
    native = Interface.of(make_tiny(1))
    sync = gymnasium.make_vec("Esper/Tiny-v0", 1, "sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP})
    assert Interface.of(sync) == native
    sync.close()
