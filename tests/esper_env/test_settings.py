"""Bad input is an error that names the choices, before any work is done; and custom tasks."""

from dataclasses import dataclass

import gymnasium
import numpy as np
import pytest
import torch
from rollouts import assert_same, record, tiny
from torch import nn

from esper_env import DataNotFoundError, EsperEnv, Instance, Task, register_blueprint, register_task
from esper_env.kasmina import BLUEPRINTS, DEFAULT_BLUEPRINTS, ConvHost
from esper_env.tasks import BUILT_IN, TASKS, varied_instance
from esper_env.testing import check_task


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"slots": ["r9c9"]}, "r9c9.*r0c0"),
        ({"slots": []}, "slots.*non-empty.*r0c0"),
        ({"slots": "r0c0"}, "list"),
        ({"slots": ["r0c0", "r0c0"]}, "once"),
        ({"blueprints": ["conv_huge"]}, "conv_huge.*conv_heavy"),
        ({"blueprints": []}, "non-empty"),
        ({"styles": ["mix"]}, "mix.*add.*gate.*multiply"),
        ({"tempos": []}, "tempos"),
        ({"tempos": [0]}, "tempos=0.*at least 1"),
        ({"tempos": [5, 5]}, "different"),
        ({"tempos": [1.5]}, "whole number"),
        ({"alpha_curve": "step"}, "step.*linear.*cosine.*sigmoid"),
        ({"dataset": "mnist"}, "mnist.*cifar10.*fashion_mnist.*synthetic"),
        ({"device": "tpu"}, "tpu.*cpu.*cuda"),
        ({"device": "meta"}, "meta.*cpu.*cuda"),
        ({"precision": "fp16"}, "fp16.*fp32.*bf16"),
        ({"rent_on": "time"}, "time.*params.*flops"),
        ({"episode_length": -1}, "episode_length=-1.*at least 1"),
        ({"episode_length": True}, "episode_length"),
        ({"samples_per_epoch": 0}, "samples_per_epoch=0.*at least 1"),
        ({"val_samples": -5}, "val_samples=-5"),
        ({"batch_size": 1}, "batch_size=1.*at least 2"),
        ({"batch_size": 2.0}, "batch_size"),
        ({"host_lr": 0.0}, "host_lr=0.0.*above 0"),
        ({"seed_lr": float("nan")}, "seed_lr=nan"),
        ({"rent": -0.1}, "rent=-0.1.*at least 0"),
        ({"rent": "high"}, "rent='high'"),
        ({"render_mode": "human"}, "human.*ansi.*rgb_array"),
    ],
)
def test_a_bad_argument_is_an_error_naming_the_choices(arguments, words):
    with pytest.raises(ValueError, match=words):
        tiny(**arguments)


def test_a_device_that_is_not_there_is_an_error():
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    with pytest.raises(ValueError, match="choose 'cpu'"):
        tiny(device=f"cuda:{count}")


def test_an_unknown_task_is_an_error_naming_those_there_are():
    with pytest.raises(ValueError, match=r"'tin'.*cifar_baseline.*tiny"):
        EsperEnv("tin")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sample_per_epoch", "'sample_per_epoch'; did you mean 'samples_per_epoch'.*render_mode, dataset"),
        ("workers", r"'workers'; there are .*strict_gates$"),
    ],
)
def test_an_unknown_argument_is_an_error_naming_those_there_are(name, words):
    with pytest.raises(TypeError, match=words):
        tiny(**{name: 3})
    with pytest.raises(TypeError, match=f"no argument '{name}x'"):
        gymnasium.make_vec("Esper/Tiny-v0", num_envs=1, **{f"{name}x": 3})


def test_more_validation_images_than_there_are_is_an_error():
    with pytest.raises(ValueError, match=r"513.*512"):
        tiny(val_samples=513)


def test_a_named_data_set_that_is_absent_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ESPER_DATA", raising=False)
    with pytest.raises(DataNotFoundError, match=r"cifar-10-batches-py|CIFAR-10"):
        gymnasium.make("Esper/CifarBaseline-v0", dataset="cifar10")


def test_more_than_sixteen_blueprints_are_an_error(monkeypatch):
    for i in range(10):
        monkeypatch.setitem(BLUEPRINTS, f"extra{i}", BLUEPRINTS["norm"])
    with pytest.raises(ValueError, match=r"17 blueprints.*16"):
        tiny(blueprints=list(BLUEPRINTS))
    env = tiny(blueprints=list(BLUEPRINTS)[:16])
    assert env.action_space.n == 1 + 3 * (16 + 6)


def test_none_means_the_whole_training_split():
    env = tiny(samples_per_epoch=None)
    env.reset(seed=0)
    assert env.episode.source.samples == 2_000


def test_an_epoch_may_be_larger_than_the_training_split():
    env = tiny(samples_per_epoch=2_100, batch_size=512)
    env.reset(seed=0)
    env.step(0)
    assert env.episode.source.cursor == 100


# -- tasks and blueprints of one's own -------------------------------------------------------------------


@pytest.fixture
def registry():
    """Take out what a test registers."""
    tasks, ids, blueprints = set(TASKS), set(gymnasium.registry), set(BLUEPRINTS)
    yield
    for mapping, before in ((TASKS, tasks), (gymnasium.registry, ids), (BLUEPRINTS, blueprints)):
        for key in set(mapping) - before:
            del mapping[key]


class TwoStage(nn.Module):
    """A host that shares nothing with `ConvHost`: no batch norm, its own boundaries."""

    boundaries = ("early", "late")

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.body = nn.Conv2d(6, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.head = nn.Linear(8, 10)

    def run(self, x, start, stop):
        steps = (
            lambda x: torch.tanh(self.stem(x)),
            lambda x: torch.relu(self.norm(self.body(x))),
            lambda x: self.head(x.amax((2, 3))),
        )
        for step in steps[start:stop]:
            x = step(x)
        return x

    def forward(self, x):
        return self.run(x, 0, 3)


def my_host(instance):
    return TwoStage()


def my_task(**changes):
    fields = {
        "name": "mine",
        "host": my_host,
        "dataset": "synthetic",
        "channels": 3,
        "size": 12,
        "slots": ("early", "late"),
        "host_lr": 0.05,
        "seed_lr": 0.05,
        "rent": 0.01,
        "reference_params": 500,
        "reference_flops": 50_000,
        "synthetic_sizes": (128, 64, 64),
        "defaults": {"samples_per_epoch": 32, "val_samples": 64, "episode_length": 15},
    }
    return Task(**{**fields, **changes})


def test_a_registered_task_runs_like_the_built_in_ones(registry):
    register_task(my_task(), "Mine/Two-v0")
    a, b = (gymnasium.make("Mine/Two-v0", tempos=[1]) for _ in range(2))
    assert a.observation_space.shape == (93,)
    assert a.unwrapped.layout.slots == ("early", "late")
    assert_same(record(a, 15), record(b, 15))
    envs = gymnasium.make_vec("Mine/Two-v0", num_envs=2)
    envs.reset(seed=0)
    envs.close()


def test_lists_in_a_task_are_as_good_as_tuples(registry):
    task = my_task(slots=["early", "late"], synthetic_sizes=[128, 64, 64])
    assert task == my_task()
    check_task(task)
    register_task(task, "Mine/Two-v0")
    assert gymnasium.make("Mine/Two-v0").unwrapped.settings.slots == ("early", "late")


def test_a_task_that_cannot_be_hashed_is_an_error():
    @dataclass
    class Host:
        width: int = 8

    with pytest.raises(TypeError, match=r"'mine'.*unhashable.*host and draw"):
        my_task(host=Host())


def test_a_task_may_be_registered_twice_the_same_but_not_differently(registry):
    register_task(my_task(), "Mine/Two-v0")
    with pytest.raises(ValueError, match=r"'mine'.*another name"):
        register_task(my_task(rent=0.5), "Mine/Three-v0")
    with pytest.raises(ValueError, match="another id"):
        register_task(my_task(name="other"), "Mine/Two-v0")
    assert gymnasium.make("Mine/Two-v0").unwrapped.settings.rent == 0.01


def test_what_is_defined_again_unchanged_may_be_registered_again(registry):
    cell = """
def host(instance, unused={default}):
    return TwoStage()

def draw(rng):
    return Instance(label_noise=0.1)

register_blueprint("mine", lambda channels: nn.Conv2d(channels, channels, {kernel}, padding="same"))
register_task(my_task(host=host, draw=draw), "Mine/Two-v0")
"""
    names = {name: globals()[name] for name in ("Instance", "TwoStage", "my_task", "nn", "register_blueprint")}
    names["register_task"] = register_task
    for _ in range(2):
        exec(cell.format(default=1, kernel=3), names)
        assert TASKS["mine"].host is names["host"]
    gymnasium.make("Mine/Two-v0", blueprints=["mine"]).reset(seed=0)
    with pytest.raises(ValueError, match="blueprint 'mine'"):
        exec(cell.format(default=1, kernel=5), names)
    with pytest.raises(ValueError, match="task 'mine'"):
        exec(cell.format(default=2, kernel=3), names)


def test_a_known_task_cannot_take_the_id_of_another(registry):
    register_task(my_task(), "Mine/Two-v0")
    with pytest.raises(ValueError, match="another id"):
        register_task(BUILT_IN["Esper/Tiny-v0"], "Mine/Two-v0")


def test_a_host_that_names_no_boundaries_is_an_error(registry):
    register_task(my_task(host=lambda instance: nn.Flatten()), "Mine/Bad-v0")
    with pytest.raises(TypeError, match=r"Flatten.*boundaries.*check_host"):
        gymnasium.make("Mine/Bad-v0")


def test_a_registered_blueprint_can_be_germinated(registry):
    register_blueprint("mine", lambda channels: nn.Conv2d(channels, channels, 5, padding=2))
    env = tiny(blueprints=[*DEFAULT_BLUEPRINTS, "mine"])
    env.reset(seed=0)
    action = next(i for i, a in enumerate(env.action_table) if a.blueprint == "mine")
    *_, info = env.step(action)
    assert info["blueprints"].tolist() == [7, -1, -1] and info["error_code"] == 0
    with pytest.raises(ValueError, match=r"'mine'.*another name"):
        register_blueprint("mine", nn.Conv2d)
    with pytest.raises(ValueError, match="identifier"):
        register_blueprint("my blueprint", nn.Conv2d)


def test_a_registered_blueprint_is_no_default(registry):
    register_blueprint("mine", lambda channels: nn.Identity())
    assert tiny().action_space.n == 40


# -- instances -------------------------------------------------------------------------------------------


def test_varied_instances_follow_the_documented_distribution():
    rng = np.random.default_rng(0)
    drawn = [varied_instance(rng) for _ in range(400)]
    assert {i.width for i in drawn} == {0.5, 1.0, 2.0}
    assert {i.impaired for i in drawn} == {None, 0, 1, 2}
    assert {i.label_noise for i in drawn} == {0.0, 0.2}
    assert all(0.3 <= i.lr_factor <= 2 and 0.125 <= i.rent_factor <= 8 for i in drawn)
    assert min(i.lr_factor for i in drawn) < 0.35 and max(i.lr_factor for i in drawn) > 1.8
    assert min(i.rent_factor for i in drawn) < 0.15 and max(i.rent_factor for i in drawn) > 7


@pytest.mark.parametrize("fields", [{"width": 0}, {"lr_factor": -1}, {"label_noise": 1.5}, {"rent_factor": -1}])
def test_an_impossible_instance_is_an_error(fields):
    with pytest.raises(ValueError, match="width"):
        Instance(**fields)


def test_hosts_of_all_instances_have_the_same_boundaries():
    task = BUILT_IN["Esper/CifarVaried-v0"]
    hosts = [task.host(i) for i in (Instance(), Instance(width=0.5, impaired=2), Instance(impaired=0))]
    assert {h.boundaries for h in hosts} == {ConvHost(3, [8, 16, 32], [3, 3, 3]).boundaries}
