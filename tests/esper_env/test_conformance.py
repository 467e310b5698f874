"""The conformance kit passes what is right and names what is wrong."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_settings import TwoStage, my_task
from torch import nn

from esper_env.kasmina import BLUEPRINTS, DEFAULT_BLUEPRINTS, ConvHost
from esper_env.tasks import BUILT_IN, TASKS, Instance
from esper_env.testing import ConformanceError, check_blueprint, check_host, check_task

IMAGE = (3, 12, 12)


@pytest.mark.parametrize("blueprint", DEFAULT_BLUEPRINTS)
def test_every_built_in_blueprint_conforms_in_every_style(blueprint):
    """Lesson 2: every parameter of every blueprint moves within two steps; lesson 3: the gate's too."""
    check_blueprint(blueprint, channels=(1, 2, 4, 8, 32))


@pytest.mark.parametrize("env_id", BUILT_IN)
def test_every_built_in_task_conforms(env_id):
    check_task(BUILT_IN[env_id], instances=1)


def test_a_host_and_a_task_of_ones_own_conform():
    check_host(TwoStage, IMAGE)
    check_task(my_task())
    assert "mine" not in TASKS and "mine (under test)" not in TASKS


# -- hosts that are wrong --------------------------------------------------------------------------------


class Composition(TwoStage):
    def forward(self, x):
        return super().forward(x) * 1.0001


class NoBoundaries(TwoStage):
    boundaries = ()


class RepeatedBoundaries(TwoStage):
    boundaries = ("same", "same")


class ShortRun(TwoStage):
    def run(self, x, start, stop):
        return super().run(x, start, min(stop, 2)).flatten(1) if stop == 3 else super().run(x, start, stop)[..., 0]


class InPlace(TwoStage):
    def run(self, x, start, stop):
        return super().run(x.mul_(2) if start == 1 else x, start, stop)


class Draws(TwoStage):
    def run(self, x, start, stop):
        return F.dropout(super().run(x, start, stop), 0.1, training=self.training)


class DrawsNumpy(TwoStage):
    def forward(self, x):
        np.random.rand()  # noqa: NPY002
        return super().forward(x)


class DrawsPython(TwoStage):
    def forward(self, x):
        random.random()
        return super().forward(x)


class Counts(TwoStage):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * self.calls


class DeadParameter(TwoStage):
    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.ones(2))


class CutOff(TwoStage):
    def run(self, x, start, stop):
        return super().run(x.detach(), start, stop)


class OwnStatistics(TwoStage):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def run(self, x, start, stop):
        if self.training and start == 0:
            self.mean.lerp_(x.mean(), 0.1)
        return super().run(x, start, stop)


class HiddenState(TwoStage):
    def __init__(self):
        super().__init__()
        self.hidden = torch.rand(1)

    def run(self, x, start, stop):
        x = super().run(x, start, stop)
        return x * self.hidden if stop == 3 else x


class OwnGenerator(TwoStage):
    generator = torch.Generator()

    def __init__(self):
        super().__init__()
        with torch.no_grad():
            self.head.bias.copy_(torch.rand(10, generator=self.generator))


class AcrossImages(TwoStage):
    def run(self, x, start, stop):
        return super().run(x - x.mean() if start == 0 else x, start, stop)


class BadInference(ConvHost):
    def __init__(self):
        super().__init__(3, [4, 4], [3, 3])

    def inference(self):
        runner = super().inference()
        runner.head = nn.Linear(4, 10)
        return runner


class WrongLogits(TwoStage):
    def run(self, x, start, stop):
        x = super().run(x, start, stop)
        return x[0] if stop == 3 else x


class NotFinite(TwoStage):
    def run(self, x, start, stop):
        return super().run(x, start, stop) / 0.0


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (lambda: "no module", r"nn\.Module, got str"),
        (nn.Flatten, "boundaries"),
        (NoBoundaries, "non-empty tuple of different names"),
        (RepeatedBoundaries, "different names"),
        (Composition, "bit for bit"),
        (ShortRun, r"\(N, C, H, W\)|bit for bit"),
        (InPlace, "boundary 'early' to boundary 'late' in training mode modified its input"),
        (Draws, "torch's global generator|bit for bit|two results"),
        (DrawsNumpy, "NumPy's global generator"),
        (DrawsPython, "Python's global generator"),
        (Counts, "two results"),
        (DeadParameter, r"not moved: \['unused'\]"),
        (CutOff, "other gradients.*stem"),
        (OwnStatistics, "buffer 'mean'"),
        (HiddenState, "state_dict"),
        (OwnGenerator, "'head.bias'"),
        (AcrossImages, "other images of its batch"),
        (BadInference, "inference.*the logits"),
        (WrongLogits, r"logits \(N, classes\)"),
        (NotFinite, "not finite"),
    ],
)
def test_a_broken_host_is_named_for_what_is_wrong(host, words):
    with pytest.raises(ConformanceError, match=words):
        check_host(host, IMAGE)


# -- blueprints that are wrong ---------------------------------------------------------------------------


class Module(nn.Module):
    """A module of one function, with a convolution to learn."""

    def __init__(self, channels, function):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.function = function

    def forward(self, x):
        return self.function(self.conv, x)


def zero_convolution(channels):
    conv = nn.Conv2d(channels, channels, 3, padding=1)
    for p in conv.parameters():
        nn.init.zeros_(p)
    return nn.Sequential(conv, nn.GroupNorm(1, channels), nn.ReLU())


kept_alive = []


def immortal(channels):
    kept_alive.append(nn.Conv2d(channels, channels, 1))
    return kept_alive[-1]


BROKEN = {
    "zero convolution": (zero_convolution, "not moved.*body"),
    "in place": (lambda c: Module(c, lambda conv, x: conv(x.relu_().add_(1))), "modified its input"),
    "shape": (lambda c: nn.Conv2d(c, c, 3), "keep the shape"),
    "channels": (lambda c: nn.Conv2d(c, 2 * c, 1), "keep the shape"),
    "dropout": (lambda c: nn.Sequential(nn.Conv2d(c, c, 1), nn.Dropout(0.5)), "global generator|two results"),
    "raises": (lambda c: nn.Conv2d(c + 1, c, 1), "raised RuntimeError"),
    "not finite": (lambda c: Module(c, lambda conv, x: conv(x) / 0.0), "not finite"),
    "detached": (lambda c: Module(c, lambda conv, x: x + conv(x).detach()), "not moved.*conv"),
    "tuple": (lambda c: Module(c, lambda conv, x: (conv(x), x)), "one floating-point tensor"),
    "immortal": (immortal, "still in memory"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_blueprint_is_named_for_what_is_wrong(name):
    factory, words = BROKEN[name]
    before = dict(BLUEPRINTS)
    with pytest.raises(ConformanceError, match=words):
        check_blueprint(factory, channels=(4,), styles=("add",))
    assert before == BLUEPRINTS


def test_a_blueprint_that_cannot_be_built_or_is_unknown_is_named():
    def picky(channels):
        raise ValueError("only 3 channels")

    with pytest.raises(ConformanceError, match=r"'picky' with 4 channels.*only 3 channels"):
        check_blueprint(picky, channels=(4,))
    with pytest.raises(ConformanceError, match=r"'nothing'.*conv_light"):
        check_blueprint("nothing")


# -- tasks that are wrong --------------------------------------------------------------------------------


def by_instance(instance):
    host = TwoStage()
    host.boundaries = ("early", "late") if instance.width == 1.0 else ("first", "second")
    return host


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"slots": ("early", "middle")}, r"\['middle'\].*early"),
        ({"defaults": {"slots": {1, 2}}}, "JSON"),
        ({"draw": lambda rng: Instance(width=1.0 + torch.rand(()).item())}, "torch's global generator"),
        ({"draw": lambda rng: "small"}, "must return an Instance"),
        ({"host": by_instance, "draw": lambda rng: Instance(width=2.0)}, "differ in their boundaries"),
        ({"host": lambda instance: NotFinite()}, "'mine', the host of Instance.*not finite"),
        ({"reference_params": 0}, "reference_params"),
    ],
)
def test_a_broken_task_is_named_for_what_is_wrong(changes, words):
    with pytest.raises(ConformanceError, match=words):
        check_task(replace(my_task(), **changes))
    assert "mine (under test)" not in TASKS
