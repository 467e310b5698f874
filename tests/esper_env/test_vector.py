"""The native vector environment, and that every way to run many environments gives the same bits."""

import signal
import threading
import time
from functools import cache

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from rollouts import (
    MODES,
    NUM_ENVS,
    SHORT,
    SMALL,
    STEPS,
    TINY,
    assert_same,
    digest,
    index,
    plain,
    tiny,
    vector_record,
    wait,
)

from esper_env import EsperVectorEnv
from esper_env.leyline import Op


def native(num_envs=NUM_ENVS, workers=1, mode="NextStep", **arguments):
    return gymnasium.make_vec(TINY, num_envs=num_envs, workers=workers, autoreset_mode=mode, **{**SHORT, **arguments})


@cache
def native_record(mode, workers=1, num_envs=NUM_ENVS):
    envs = native(num_envs, workers, mode)
    try:
        return vector_record(envs, STEPS, mode=mode)
    finally:
        envs.close()


# -- equality --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("workers", [2, 4])
def test_the_number_of_workers_does_not_matter(mode, workers):
    assert_same(native_record(mode, workers, 4), native_record(mode, 1, 4))


@pytest.mark.parametrize("mode", MODES)
def test_native_equals_sync(mode):
    sync = gymnasium.make_vec(
        TINY,
        num_envs=NUM_ENVS,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode(mode)},
        **SHORT,
    )
    expected = vector_record(sync, STEPS, mode=mode)
    assert_same(native_record(mode), expected)
    assert any(result[2].any() for result in expected if len(result) == 5), "no episode ended"


@pytest.mark.parametrize("how", [*(f"fork {mode}" for mode in MODES), "spawn SameStep"])
def test_native_equals_async_in_another_process_under_another_hash_seed(how, in_a_fresh_process):
    assert digest(native_record(how.split()[1])) == in_a_fresh_process[how]


def test_native_equals_the_single_environments():
    singles = [tiny(episode_length=6) for _ in range(NUM_ENVS)]
    envs = native()
    rng = np.random.default_rng(0)
    observations, infos = envs.reset(seed=3)
    for i, single in enumerate(singles):
        observation, info = single.reset(seed=3 + i)
        assert_same(observation, observations[i])
        assert_same(info, {k: type(info[k])(infos[k][i]) if np.ndim(info[k]) == 0 else infos[k][i] for k in info})
    for _ in range(6):
        actions = (rng.random((NUM_ENVS, 40)) * envs.action_masks()).argmax(1)
        observations, rewards, terminated, truncated, infos = envs.step(actions)
        for i, single in enumerate(singles):
            observation, reward, term, trunc, info = single.step(actions[i])
            assert_same((observation, reward), (observations[i], float(rewards[i])))
            assert (term, trunc) == (terminated[i], truncated[i])
            for key, value in info.items():
                assert infos[f"_{key}"][i]
                assert np.array_equal(infos[key][i], value)
    assert terminated.all()
    envs.close()


def test_the_number_of_environments_does_not_change_any_of_them():
    """Lesson 17: an epoch is the same amount of data however many environments there are."""
    two, four = native_record("NextStep", 1, 2), native_record("NextStep", 1, 4)
    assert_same(two[0][0], four[0][0][:2])
    first, same = (native(n, 1) for n in (1, 3))
    for envs in (first, same):
        envs.reset(seed=9)
    a, b = (envs.step(np.full(envs.num_envs, 5)) for envs in (first, same))
    assert_same(a[0][0], b[0][0])
    assert a[4]["flops_train"][0] == b[4]["flops_train"][0]
    first.close()
    same.close()


# -- autoreset and time limits ---------------------------------------------------------------------------


def test_next_step_resets_on_the_step_after_the_end():
    envs = native(2, mode="NextStep", episode_length=2)
    envs.reset(seed=0)
    envs.step(np.zeros(2, int))
    *_, terminated, _, infos = envs.step(np.zeros(2, int))
    assert terminated.all() and "final_info" not in infos and (infos["epoch"] == 2).all()
    _, rewards, terminated, _, infos = envs.step(np.full(2, 5))
    assert not rewards.any() and not terminated.any() and (infos["epoch"] == 0).all()
    envs.close()


def test_same_step_keeps_the_final_observation_and_info():
    envs = native(2, mode="SameStep", episode_length=2)
    envs.reset(seed=0)
    envs.step(np.zeros(2, int))
    observations, rewards, terminated, _, infos = envs.step(np.zeros(2, int))
    assert terminated.all() and (infos["epoch"] == 0).all() and (infos["final_info"]["epoch"] == 2).all()
    assert (observations[:, 0] == 0).all() and all(final[0] == 1 for final in infos["final_obs"])
    assert "committed_accuracy" in infos["final_info"] and rewards.any()
    envs.close()


def test_disabled_demands_a_reset_of_those_that_ended():
    envs = native(2, mode="Disabled", episode_length=2)
    envs.reset(seed=0)
    envs.reset(options={"reset_mask": np.array([True, False])})
    envs.step(np.zeros(2, int))
    *_, terminated, _, _ = envs.step(np.zeros(2, int))
    assert terminated.all()
    with pytest.raises(RuntimeError, match=r"\[0, 1\].*reset_mask"):
        envs.step(np.zeros(2, int))
    _, infos = envs.reset(options={"reset_mask": np.array([False, True])})
    assert infos["_epoch"].tolist() == [False, True]
    with pytest.raises(RuntimeError, match=r"\[0\]"):
        envs.step(np.zeros(2, int))
    envs.close()


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_max_episode_steps_truncates_like_the_time_limit_wrapper(mode):
    envs = native(2, mode=mode, max_episode_steps=3, episode_length=100)
    sync = gymnasium.make_vec(
        TINY,
        num_envs=2,
        vectorization_mode="sync",
        max_episode_steps=3,
        vector_kwargs={"autoreset_mode": AutoresetMode(mode)},
        **{**SHORT, "episode_length": 100},
    )
    a, b = vector_record(envs, 8), vector_record(sync, 8)
    assert_same(a, b)
    assert any(result[3].all() for result in a[1:]) and not any(result[2].any() for result in a[1:])
    envs.close()


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, "SameStep", "SAME_STEP"])
def test_the_autoreset_mode_is_an_enum_or_its_name(mode):
    envs = native(mode=mode)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    envs.close()


def test_returned_arrays_are_never_written_again():
    envs = native(2)
    kept = [envs.reset(seed=0)]
    copies = [plain(kept[0])]
    for _ in range(3):
        kept.append(envs.step(np.array([5, 0])))
        copies.append(plain(kept[-1]))
    assert [plain(result) for result in kept] == copies
    envs.close()


# -- reaching the environments ---------------------------------------------------------------------------


def test_seeds_may_be_a_list():
    a, b = native(), native()
    assert_same(a.reset(seed=5), b.reset(seed=[5, 6]))
    assert plain(a.reset(seed=5)[0]) == plain(b.reset(seed=[5, 6])[0])
    a.close()
    b.close()


def test_call_get_attr_and_set_attr_reach_every_environment():
    envs = native()
    envs.reset(seed=0)
    assert_same(list(envs.call("action_masks")), list(envs.action_masks()))
    assert [p["episode_seed"] for p in envs.get_attr("provenance")] == [
        env.provenance["episode_seed"] for env in envs.envs
    ]
    envs.set_attr("note", ["a", "b"])
    assert envs.get_attr("note") == ("a", "b")
    envs.set_attr("note", 3)
    assert envs.get_attr("note") == (3, 3)
    with pytest.raises(ValueError, match="3 values for 2"):
        envs.set_attr("note", [1, 2, 3])
    envs.close()


def test_states_of_all_environments_can_be_taken_and_restored():
    a, b = native(), native()
    a.reset(seed=0)
    a.step(np.array([5, 7]))
    b.reset(seed=1)
    for env, state in zip(b.envs, a.call("get_state"), strict=True):
        env.set_state(state)
    for _ in range(3):
        assert_same(a.step(np.zeros(2, int)), b.step(np.zeros(2, int)))
    a.close()
    b.close()


def test_one_copy_of_the_data_serves_all():
    envs = native(3)
    envs.reset(seed=0)
    assert len({id(env.episode.data) for env in envs.envs}) == 1
    assert len({id(env.episode.validation) for env in envs.envs}) == 1
    envs.close()


def test_the_callers_thread_count_stays():
    torch.set_num_threads(2)
    envs = native(2, workers=2)
    envs.reset(seed=0)
    envs.step(np.zeros(2, int))
    envs.close()
    assert torch.get_num_threads() == 2


def test_the_callers_default_dtype_neither_matters_nor_changes():
    envs = native(4, workers=4)
    try:
        torch.set_default_dtype(torch.float64)
        got = vector_record(envs, STEPS)
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    envs.close()
    assert_same(native_record("NextStep", 4, 4), got)


# -- bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_envs": 0}, "num_envs=0.*at least 1"),
        ({"num_envs": 1.5}, "num_envs"),
        ({"workers": 0}, "workers=0.*at least 1"),
        ({"autoreset_mode": "Never"}, "Never.*NextStep.*SameStep.*Disabled"),
        ({"max_episode_steps": 0}, "max_episode_steps"),
    ],
)
def test_bad_arguments_are_errors_naming_the_choices(arguments, words):
    with pytest.raises(ValueError, match=words):
        EsperVectorEnv("tiny", **{"num_envs": 2, **SMALL, **arguments})


@pytest.mark.parametrize(
    ("actions", "words"),
    [
        (np.zeros(3, int), r"shape \(2,\)"),
        (np.zeros((2, 1), int), r"shape \(2,\)"),
        (np.zeros(2), "whole numbers"),
        (3, r"shape \(2,\)"),
        (np.array([0, 40]), "0 to 39"),
        (np.array([-1, 0]), "0 to 39"),
    ],
)
def test_bad_actions_are_errors_and_change_nothing(actions, words):
    envs = native()
    envs.reset(seed=0)
    before = envs.call("get_state")
    with pytest.raises(ValueError, match=words):
        envs.step(actions)
    assert envs.call("get_state") == before
    envs.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"seed": [1]}, "1 seeds for 2"),
        ({"options": {"reset_mask": [True, False]}}, "bool array"),
        ({"options": {"reset_mask": np.zeros(2, bool)}}, "no environment"),
        ({"options": {"reset_mask": np.ones(3, bool)}}, r"shape \(2,\)"),
    ],
)
def test_bad_resets_are_errors(arguments, words):
    envs = native()
    with pytest.raises(ValueError, match=words):
        envs.reset(**arguments)
    envs.close()


# -- faults ----------------------------------------------------------------------------------------------


def test_an_exception_in_one_environment_ends_that_episode_only(caplog):
    clean, faulty = (native(4, workers=2, mode="Disabled", episode_length=8) for _ in range(2))
    for envs in (clean, faulty):
        envs.reset(seed=0)
        *_, infos = envs.step(np.full(4, index(envs.envs[0], Op.GERMINATE, "r0c0", blueprint="norm")))
    clean.step(np.zeros(4, int))
    value_before = infos["value"][2]

    def explode(*_):
        raise ZeroDivisionError("planted")

    faulty.envs[2].episode.model.forward = explode
    _, rewards, terminated, truncated, infos = faulty.step(np.zeros(4, int))
    assert terminated.tolist() == [False, False, True, False] and not truncated.any()
    assert infos["error_code"].tolist() == [0, 0, 1, 0]
    assert rewards[2] == pytest.approx(1 / 10 - value_before)
    assert infos["value"][2] == 1 / 10
    assert "planted" in faulty.envs[2].provenance["error"] and "planted" in caplog.text
    assert np.isfinite(infos["val_loss"]).all() and infos["_test_accuracy"].tolist() == [
        False,
        False,
        True,
        False,
    ]
    for i in (0, 1, 3):
        assert faulty.envs[i].get_state() == clean.envs[i].get_state()
        assert faulty.envs[i].provenance["error"] is None
    observations, infos = faulty.reset(options={"reset_mask": terminated})
    assert faulty.envs[2].provenance["error"] is None and observations[2][0] == 0
    assert [env.last_error for env in faulty.envs] == [None, None, "ZeroDivisionError: planted", None]
    clean.close()
    faulty.close()


def test_a_first_step_that_fails_ends_its_episode_too():
    env = tiny()
    env.reset(seed=0)
    env.episode.model.forward = None
    _, reward, terminated, _, info = env.step(0)
    assert (reward, terminated, info["error_code"], info["value"]) == (0.0, True, 1, 0.1)
    env.reset()
    assert wait(env)[-1]["error_code"] == 0


def interrupt(env):
    """Let the next batch of `env` be the moment of Ctrl-C, and the batch take its time."""
    forward, main = env.episode.model.forward, threading.main_thread().ident

    def interrupted(*args):
        env.episode.model.forward = forward
        signal.pthread_kill(main, signal.SIGINT)
        time.sleep(0.2)
        return forward(*args)

    env.episode.model.forward = interrupted


def test_after_an_interrupted_step_nothing_is_at_work_and_a_reset_is_clean():
    envs, clean = (native(3, workers=2, mode="SameStep") for _ in range(2))
    envs.reset(seed=0)
    interrupt(envs.envs[1])
    with pytest.raises(KeyboardInterrupt):
        envs.step(np.zeros(3, int))
    assert envs.running == ()
    with pytest.raises(RuntimeError, match=r"\[0, 1, 2\].*reset them"):
        envs.step(np.zeros(3, int))
    assert_same(vector_record(envs, STEPS), vector_record(clean, STEPS))
    envs.close()
    clean.close()


def test_an_interrupted_single_step_asks_for_a_reset():
    env = tiny()
    env.reset(seed=0)
    interrupt(env)
    with pytest.raises(KeyboardInterrupt):
        env.step(0)
    with pytest.raises(RuntimeError, match="reset"):
        env.step(0)
    assert_same(env.reset(seed=0), tiny().reset(seed=0))
