"""The single environment seen through Gymnasium."""

import json
import pickle
import random
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from rollouts import (
    IDS,
    SMALL,
    TINY,
    assert_same,
    digest,
    grow_to,
    index,
    pick,
    plain,
    record,
    rollout,
    steps,
    tiny,
    wait,
)
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import esper_env
from esper_env.leyline import Op, Stage
from esper_env.tolaria.batches import evaluation_set, prepare

QUICK = {**SMALL, "episode_length": 1_000}
"""An episode that no test below brings to its end, where all of validation and test set is evaluated."""


def arrays(value):
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from arrays(item)


# -- Gymnasium's and sb3's own checkers ------------------------------------------------------------------


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_check_env_passes_without_a_warning(env_id):
    env = gymnasium.make(env_id, **QUICK)
    check_env(env.unwrapped)


def test_sb3_check_env_passes_without_a_warning():
    sb3_check_env(gymnasium.make(TINY, **QUICK))


def test_every_registered_id_is_in_the_table_of_ids():
    assert {i for i in gymnasium.registry if i.startswith("Esper/")} >= set(IDS)
    assert set(esper_env.tasks.BUILT_IN) == set(IDS)


# -- exact repetition ------------------------------------------------------------------------------------


def test_two_environments_of_one_seed_agree_in_every_bit_over_150_masked_steps():
    a, b = (gymnasium.make(TINY) for _ in range(2))
    first, second = record(a, 150), record(b, 150)
    assert len(first) == 151 and first[-1][2]
    for x, y in zip(first, second, strict=True):
        assert_same(x, y)


def test_the_action_space_samples_the_same_masked_actions_from_one_seed():
    env = tiny()
    env.reset(seed=0)
    for _ in range(2):
        env.action_space.seed(5)
        drawn = [int(env.action_space.sample(mask=env.action_masks().astype(np.int8))) for _ in range(9)]
        assert all(env.action_masks()[drawn])
    assert len(set(drawn)) > 1


def test_the_same_rollout_in_a_fresh_process_that_knows_only_the_prefixed_id(in_a_fresh_process):
    assert in_a_fresh_process["rollout"] == digest(record(gymnasium.make(TINY, **SMALL), 30))


def test_another_seed_gives_another_episode():
    env = tiny()
    assert plain(record(env, 3, seed=1)) != plain(record(env, 3, seed=2))


def test_reset_without_a_seed_continues_the_stream():
    a, b = tiny(), tiny()
    runs = []
    for env in (a, b):
        env.reset(seed=4)
        seeds = [env.provenance["episode_seed"]]
        for _ in range(3):
            env.reset()
            seeds.append(env.provenance["episode_seed"])
        runs.append(seeds)
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 4


def test_scribbling_over_all_that_was_returned_changes_nothing_later():
    clean, scribbled = tiny(), tiny()
    rng = np.random.default_rng(0)
    expected, got = clean.reset(seed=0), scribbled.reset(seed=0)
    for _ in range(25):
        action = pick(rng, clean)
        for array in (got[0], *arrays(got[-1])):
            array[...] = 1
        got[-1].clear()
        expected, got = clean.step(action), scribbled.step(action)
        assert_same(expected, got)
    got[0][...] = 1
    assert clean.get_state() == scribbled.get_state()


def test_no_two_returned_arrays_share_memory():
    env = tiny()
    kept = []
    for _, result in [(0, env.reset(seed=0)), *rollout(env, 12)]:
        for array in (result[0], *arrays(result[-1])):
            assert not any(np.shares_memory(array, other) for other in kept)
            kept.append(array)


def test_infos_are_finite_numbers_and_arrays_of_fixed_shape():
    env = tiny(episode_length=40)
    shapes = None
    for _, result in [(0, env.reset(seed=0)), *rollout(env, 40)]:
        info = {k: v for k, v in result[-1].items() if k != "instance"}
        for value in info.values():
            assert isinstance(value, int | float | bool | np.ndarray)
            assert np.isfinite(value).all()
        now = {k: np.shape(v) for k, v in info.items()}
        assert shapes is None or now.items() >= shapes.items()
        shapes = shapes or now
    assert {"committed_accuracy", "test_accuracy", "test_loss", "stability"} <= set(info)
    kinds = {k: v.dtype.name for k, v in info.items() if isinstance(v, np.ndarray)}
    assert kinds == {
        "action_mask": "int8",
        "stages": "int64",
        "blueprints": "int64",
        "alphas": "float64",
        "contributions": "float64",
        "contributions_measured": "bool",
        "shapley": "float64",
        "shapley_measured": "bool",
    }


def test_the_last_info_counts_what_was_done():
    env = tiny(episode_length=25)
    env.reset(seed=0)
    steps(env, Op.GERMINATE, "r0c0", blueprint="norm")
    env.step(index(env, Op.FOSSILIZE, "r1c0"))  # illegal
    wait(env, 4)
    steps(env, Op.PRUNE, "r0c0")
    grow_to(env, Stage.FOSSILIZED, "r0c1", blueprint="conv_heavy")
    info = wait(env, 25 - env.episode.epoch)[-1]
    assert (info["germinated"], info["pruned"], info["fossilized"], info["invalid_actions"]) == (2, 1, 1, 1)
    heavy = env.episode.model.slots["r0c1"].seed.size
    assert info["params"] == info["peak_params"] == 510 + heavy
    assert info["flops_total"] == info["flops_train"] + info["flops_shadow"] + info["flops_eval"]
    assert info["flops_shadow"] > 0
    assert info["rollbacks"] == 0


# -- specs -----------------------------------------------------------------------------------------------


def test_the_spec_survives_json_and_pickle():
    env = gymnasium.make(TINY, **SMALL, slots=["r0c1"], styles=["add", "gate"])
    as_json = env.spec.to_json()
    json.loads(as_json)
    for spec in (EnvSpec.from_json(as_json), pickle.loads(pickle.dumps(env.spec))):
        assert spec == env.spec
        assert_same(record(gymnasium.make(spec), 5), record(env, 5))


@pytest.mark.parametrize("env_id", IDS)
def test_every_registered_spec_is_json_able(env_id):
    assert EnvSpec.from_json(gymnasium.spec(env_id).to_json()).kwargs == gymnasium.spec(env_id).kwargs


# -- beginning and end -----------------------------------------------------------------------------------


def test_an_episode_terminates_after_its_length_and_never_truncates():
    env = tiny(episode_length=6)
    env.reset(seed=0)
    ends = [env.step(0)[2:4] for _ in range(6)]
    assert ends == [(False, False)] * 5 + [(True, False)]
    with pytest.raises(RuntimeError, match="reset"):
        env.step(0)
    assert env.action_masks().tolist() == [True] + [False] * 39


def test_a_time_limit_truncates():
    env = gymnasium.make(TINY, **SMALL, max_episode_steps=4)
    env.reset(seed=0)
    ends = [env.step(0)[2:4] for _ in range(4)]
    assert ends == [(False, False)] * 3 + [(False, True)]


def test_nothing_works_before_the_first_reset():
    env = tiny()
    for call in (lambda: env.step(0), env.action_masks, env.get_state, lambda: env.episode):
        with pytest.raises(RuntimeError, match="reset"):
            call()


@pytest.mark.parametrize("action", [-1, 40, 10**30])
def test_an_action_outside_the_space_is_an_error_naming_the_range(action):
    env = tiny()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="0 to 39"):
        env.step(action)


@pytest.mark.parametrize("action", [1.0, None, "0", np.array([0, 1]), np.array([3]), np.array(0.0), [1]])
def test_an_action_of_the_wrong_kind_is_an_error_naming_the_range(action):
    env = tiny()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="0 to 39"):
        env.step(action)


@pytest.mark.parametrize("action", [3, np.int64(3), np.int32(3), np.array(3)])
def test_whole_numbers_of_every_kind_are_actions(action):
    env = tiny()
    env.reset(seed=0)
    env.step(action)
    assert env.episode.model.slots["r0c0"].blueprint == "conv_small"


# -- other people's state --------------------------------------------------------------------------------


def test_global_generators_and_thread_count_stay_the_callers():
    torch.set_num_threads(2)
    torch.manual_seed(11)
    np.random.seed(11)  # noqa: NPY002
    random.seed(11)

    def states():
        return (
            torch.get_rng_state().tolist(),
            plain(np.random.get_state()[1]),  # noqa: NPY002
            random.getstate(),
            torch.get_num_threads(),
            torch.is_grad_enabled(),
        )

    before = states()
    env = tiny(episode_length=12)
    env.reset(seed=0)
    for _ in rollout(env, 12):
        pass
    env.reset()
    env.set_state(env.fork().get_state())
    assert states() == before


def test_the_callers_generators_do_not_matter():
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        results.append(plain(record(tiny(), 15)))
    assert results[0] == results[1]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_training_works_whatever_grad_or_autocast_mode_the_caller_is_in(mode):
    expected = record(tiny(), 10)
    with mode():
        before = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
        got = record(tiny(), 10)
        assert (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")) == before
    assert_same(expected, got)
    env = tiny()
    with mode():
        env.reset(seed=3)
    got = [result for _, result in rollout(env, 10)]
    assert_same(expected[1:], got)


@pytest.mark.parametrize("defaults", [(torch.float64, "cpu"), (torch.bfloat16, "cpu"), (torch.float32, "meta")])
def test_the_callers_default_dtype_and_device_neither_matter_nor_change(defaults):
    """Nor are they in what later environments of the process share: the data as training takes them."""

    def everything(val_samples):
        env = tiny(val_samples=val_samples, episode_length=10)
        out = record(env, 8)
        fork = env.fork()
        return [*out, fork.get_state(), fork.step(0), env.step(0)]

    expected = [everything(n) for n in (60, 61)]
    prepare.cache_clear()
    evaluation_set.cache_clear()
    try:
        torch.set_default_dtype(defaults[0])
        torch.set_default_device(defaults[1])
        got = [everything(60)]
        assert (torch.get_default_dtype(), torch.get_default_device().type) == defaults
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert_same(expected, [*got, everything(61)])


# -- instances and structure -----------------------------------------------------------------------------


def test_varied_draws_one_instance_an_episode_and_reports_it():
    env = gymnasium.make("Esper/CifarVaried-v0", **QUICK).unwrapped
    seen = []
    for seed in range(5):
        _, info = env.reset(seed=seed)
        assert_same(info["instance"], env.instance.to_array())
        assert env.provenance["instance"]["width"] == env.instance.width
        seen.append(tuple(info["instance"]))
    assert len(set(seen)) == 5


def test_options_pin_fields_of_the_instance():
    env = gymnasium.make("Esper/CifarVaried-v0", **QUICK).unwrapped
    pinned = {"width": 2.0, "impaired": 1, "label_noise": 0.2, "lr_factor": 0.5, "rent_factor": 3.0}
    env.reset(seed=0, options={"instance": pinned})
    assert vars(env.instance) == pinned
    assert [conv.out_channels for conv in env.episode.model.host.convs] == [16, 8, 64]
    assert env.episode.model.host.convs[1].kernel_size == (1, 1)
    assert env.episode.config.host_lr == 0.5 * env.settings.host_lr
    assert env.rent.price == 3.0 * env.settings.rent
    changed = (env.episode.source.labels != env.episode.data.train.labels).float().mean()
    assert 0.15 < changed < 0.21  # a tenth of the replaced labels are drawn right


def test_pinning_does_not_shift_the_rest_of_the_stream():
    a, b = (gymnasium.make("Esper/CifarVaried-v0", **QUICK).unwrapped for _ in range(2))
    a.reset(seed=0)
    b.reset(seed=0, options={"instance": {"width": 1.0}})
    assert a.provenance["episode_seed"] == b.provenance["episode_seed"]
    assert a.instance.lr_factor == b.instance.lr_factor


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"instances": {}}, "instance.*structure"),
        ({"instance": {"depth": 3}}, "depth.*width"),
        ({"instance": {"width": -1.0}}, "width"),
        ({"instance": {"impaired": 7}}, "0 to 1"),
        ({"structure": [{"slot": "r9c9", "blueprint": "norm"}]}, "r9c9.*r0c0"),
        ({"structure": [{"slot": "r0c0", "blueprint": "x"}]}, "'x'.*conv_light"),
        ({"structure": [{"slot": "r0c0", "blueprint": "norm", "style": "mix"}]}, "mix.*gate"),
        ({"structure": [{"slot": "r0c0"}]}, "blueprint"),
        ({"structure": [{"slot": "r0c0", "blueprint": "norm", "tempo": 3}]}, "tempo"),
        ({"structure": [{"slot": "r0c0", "blueprint": "norm"}] * 2}, "once"),
    ],
)
def test_a_bad_reset_option_is_an_error_and_leaves_the_episode(options, words):
    env = tiny()
    twin = tiny()
    for e in (env, twin):
        e.reset(seed=0)
        e.step(1)
    with pytest.raises(ValueError, match=words):
        env.reset(options=options)
    assert_same(env.step(0), twin.step(0))


def test_a_static_twin_has_the_parameters_of_the_grown_network():
    env = tiny(styles=("add", "gate"), episode_length=60)
    env.reset(seed=0)
    grow_to(env, Stage.FOSSILIZED, "r0c0", blueprint="conv_heavy", style="add")
    _, _, _, _, info = grow_to(env, Stage.FOSSILIZED, "r0c1", blueprint="attention", style="gate")
    twin = tiny(styles=("add", "gate"))
    _, twin_info = twin.reset(
        seed=0,
        options={
            "structure": [
                {"slot": "r0c0", "blueprint": "conv_heavy"},
                {"slot": "r0c1", "blueprint": "attention", "style": "gate"},
            ]
        },
    )

    def shapes(e):
        return {
            f"{name}/{key}": tuple(p.shape)
            for name, module in e.episode.model.modules().items()
            for key, p in module.named_parameters()
        }

    assert shapes(twin) == shapes(env)
    assert twin_info["params"] == info["params"]
    assert_same(twin_info["stages"], info["stages"])
    _, reward, *_, info = twin.step(0)
    assert np.isfinite(reward) and info["flops_shadow"] == 0
    assert twin.episode.model.slots["r0c0"].seed.scale.abs().sum() > 0  # it learns from the first epoch


# -- no rollback in ordinary use -------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("plan", ["wait", "heaviest everywhere"])
def test_ordinary_plans_cause_no_rollback(env_id, plan):
    env = gymnasium.make(env_id, **QUICK, tempos=[2]).unwrapped
    env.reset(seed=0)
    for _ in range(15):
        action = 0
        if plan != "wait":
            mask = env.action_masks()
            wanted = [
                index(env, op, slot, **({"blueprint": "conv_heavy"} if op is Op.GERMINATE else {}))
                for op in (Op.FOSSILIZE, Op.ADVANCE, Op.GERMINATE)
                for slot in env.settings.slots
            ]
            action = next((i for i in wanted if mask[i]), 0)
        *_, info = env.step(action)
        assert not info["rollback"] and info["error_code"] == 0
    if plan != "wait":
        assert info["stages"].max() == Stage.FOSSILIZED


def test_warnings_are_errors_in_this_suite():
    with pytest.raises(UserWarning):
        warnings.warn("as pyproject.toml says", stacklevel=1)
