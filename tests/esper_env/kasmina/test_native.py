"""The kernels against torch's own layers in float64."""

import os
import subprocess
import sys
from contextlib import nullcontext
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from esper_env.kasmina import ConvHost, Seed, build, native
from esper_env.kasmina.optim import ClippedSGD
from esper_env.leyline import Style

pytestmark = pytest.mark.skipif(native.in_use() is None, reason="torch's own layers are in use")

SHAPES = st.tuples(
    st.sampled_from((1, 3, 16, 21, 32, 50)), st.integers(1, 9), st.sampled_from((2, 5, 8)), st.sampled_from((2, 3, 6))
)
"""(N, C, H, W), with and without whole vectors, blocks of channels and an odd edge."""


def tensor(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def agree(ours, reference, inputs):
    """Check a function of float32 `inputs` and the gradients of a random projection against float64."""
    low = [x.clone().requires_grad_() for x in inputs]
    high = [x.double().requires_grad_() for x in inputs]
    y, expected = ours(*low), reference(*high)
    assert y.shape == expected.shape
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)
    direction = tensor(*y.shape, seed=9)
    gradients = torch.autograd.grad((y * direction).sum(), low)
    for mine, right in zip(gradients, torch.autograd.grad((expected * direction.double()).sum(), high), strict=True):
        scale = 1.0 + right.abs().max().item()
        torch.testing.assert_close(mine.double() / scale, right / scale, rtol=1e-4, atol=1e-5)


@given(shape=SHAPES, outputs=st.integers(1, 17), kernel=st.sampled_from((1, 3, 5)), bias=st.booleans())
def test_convolutions_have_the_values_and_gradients_of_torch(shape, outputs, kernel, bias):
    inputs = [tensor(*shape), tensor(outputs, shape[1], kernel, kernel, seed=1)]
    inputs += [tensor(outputs, seed=2)] if bias else []
    agree(native.conv2d, lambda x, w, b=None: F.conv2d(x, w, b, padding=kernel // 2), inputs)


@given(shape=SHAPES, kernel=st.sampled_from((1, 3, 5)))
def test_depthwise_convolutions_have_the_values_and_gradients_of_torch(shape, kernel):
    channels = shape[1]
    layer = native.Conv2d(channels, channels, kernel, groups=channels)

    def ours(x, weight):
        return torch.func.functional_call(layer, {"weight": weight}, (x,))

    def reference(x, weight):
        return F.conv2d(x, weight, padding=kernel // 2, groups=channels)

    agree(ours, reference, [tensor(*shape), tensor(channels, 1, kernel, kernel, seed=1)])


@given(shape=SHAPES, relu=st.booleans())
def test_group_norm_has_the_values_and_gradients_of_torch(shape, relu):
    channels = shape[1]
    groups = 2 if channels % 2 == 0 else 1
    layer = native.GroupNorm(groups, channels, relu=relu)

    def ours(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    def reference(x, weight, bias):
        out = F.group_norm(x, groups, weight, bias)
        return F.relu(out) if relu else out

    agree(ours, reference, [tensor(*shape), 1 + tensor(channels, seed=1), tensor(channels, seed=2)])


@given(shape=SHAPES, pool=st.booleans())
def test_batch_norm_has_the_values_gradients_and_statistics_of_torch(shape, pool):
    channels = shape[1]
    ours, reference = nn.BatchNorm2d(channels, momentum=0.3), nn.BatchNorm2d(channels, momentum=0.3).double()

    def expected(x, kernel, weight, bias):
        out = F.conv2d(x, kernel, padding=1)
        out = torch.func.functional_call(reference, {"weight": weight, "bias": bias}, (out,))
        return F.relu(F.max_pool2d(out, 2) if pool else out)

    def mine(x, kernel, weight, bias):
        parameters = {"conv.weight": kernel, "norm.weight": weight, "norm.bias": bias}
        return torch.func.functional_call(_Block(channels, ours, pool), parameters, (x,))

    inputs = [3 + tensor(*shape), tensor(channels, channels, 3, 3, seed=3)]
    agree(mine, expected, [*inputs, 1 + tensor(channels, seed=1), tensor(channels, seed=2)])
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(
            getattr(ours, name).double(), getattr(reference, name).double(), atol=1e-4, rtol=1e-4
        )


class _Block(nn.Module):
    def __init__(self, channels, norm, pool):
        super().__init__()
        self.conv, self.norm, self.pool = native.Conv2d(channels, channels, 3), norm, pool

    def forward(self, x):
        return native.conv_norm_pool_relu(x, self.conv, self.norm, pool=self.pool)


@given(shape=SHAPES)
def test_pooling_means_and_the_scaled_sum_have_the_values_and_gradients_of_torch(shape):
    agree(native.max_pool, lambda x: F.max_pool2d(x, 2), [tensor(*shape)])
    agree(native.pixel_mean, lambda x: x.mean((2, 3)), [tensor(*shape)])
    inputs = [tensor(*shape), tensor(*shape, seed=1), tensor(shape[1], seed=2)]
    agree(native.scaled_add, lambda h, x, scale: h + x * scale[:, None, None], inputs)


@given(shape=SHAPES, alpha=st.sampled_from((0.0, 0.3, 1.0)), size=st.sampled_from((0.01, 1.0, 30.0)))
def test_joints_have_the_values_and_gradients_of_torch(shape, alpha, size):
    h, x, scale = tensor(*shape), tensor(*shape, seed=1), size * tensor(shape[1], seed=2)

    def added(h, x, scale):
        return h + alpha * x * scale[:, None, None]

    def multiplied(h, x, scale):
        return h * (1 + alpha * torch.tanh(x * scale[:, None, None]))

    agree(partial(native.scaled_add, alpha=alpha), added, [h, x, scale])
    agree(partial(native.scaled_multiply, alpha=alpha), multiplied, [h, x, scale])
    gate, weight = size * tensor(len(x), 1, *shape[2:]), size * tensor(*shape[:2])
    agree(native.gated, lambda x, g: x * torch.sigmoid(g), [x, gate])
    agree(native.weighted, lambda x, w: x * torch.sigmoid(w)[:, :, None, None], [x, weight])
    agree(native.silu, F.silu, [weight])


def test_a_small_change_by_multiplication_keeps_its_digits():
    x = torch.logspace(-6, 0, 61).reshape(1, 1, 1, 61)
    change = native.scaled_multiply(torch.ones_like(x), x, torch.ones(1), 1e6) - 1
    torch.testing.assert_close(change, 1e6 * torch.tanh(x), rtol=1e-5, atol=0.1)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan, 200.0, -200.0])
def test_sigmoids_at_the_edges_are_those_of_torch(value):
    x = torch.full((17, 1, 1, 1), value)
    torch.testing.assert_close(native.gated(torch.ones_like(x), x), torch.sigmoid(x), equal_nan=True)


@given(shape=SHAPES, outputs=st.integers(1, 12))
def test_the_head_has_the_values_and_gradients_of_torch(shape, outputs):
    layer = native.Linear(shape[1], outputs)

    def ours(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    agree(ours, F.linear, [tensor(*shape[:2]), tensor(outputs, shape[1], seed=1), tensor(outputs, seed=2)])


@given(n=st.sampled_from((1, 3, 16, 50)), classes=st.integers(1, 12), size=st.sampled_from((1.0, 100.0)))
def test_the_gradient_of_the_loss_is_that_of_torch(n, classes, size):
    logits = (size * tensor(n, classes)).requires_grad_()
    labels = torch.arange(n) % classes
    loss, hits = torch.ones((), dtype=torch.float64), torch.ones((), dtype=torch.int64)
    ours = native.loss_gradient(logits.detach(), labels, loss, hits)
    expected = F.cross_entropy(logits.double(), labels)
    torch.testing.assert_close(ours, torch.autograd.grad(expected, logits)[0])
    assert float(loss) == pytest.approx(1 + n * expected.item(), rel=1e-5, abs=1e-5)
    assert int(hits) == 1 + int((logits.argmax(1) == labels).sum())
    with native.torch_kernels():
        torch.testing.assert_close(native.loss_gradient(logits.detach(), labels), ours)


@given(shape=SHAPES)
def test_a_fork_adds_the_gradients_of_both_ways(shape):
    def ours(x):
        a, b = native.fork(x)
        return 2 * a + b * b

    agree(ours, lambda x: 2 * x + x * x, [tensor(*shape)])


@given(shape=SHAPES)
def test_a_pool_within_a_layer_changes_no_bit_of_a_gradient(shape):
    def gradients(whole):
        norm = nn.BatchNorm2d(shape[1])
        conv = build(lambda: native.Conv2d(shape[1], shape[1], 3), 0)
        x = tensor(*shape).requires_grad_()
        y = native.conv_norm_pool_relu(x, conv, norm, pool=whole)
        y = y if whole else native.max_pool(y)
        inputs = [x, *conv.parameters(), *norm.parameters()]
        return [y, *torch.autograd.grad((y * tensor(*y.shape, seed=3)).sum(), inputs)]

    for fused, apart in zip(gradients(True), gradients(False), strict=True):
        assert torch.equal(fused, apart)


@pytest.mark.parametrize("size", [0.1, 10.0])
def test_a_clipped_step_is_that_of_torch(size):
    def train(kernels):
        module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Linear(4, 2), nn.BatchNorm2d(3))
        module.to(memory_format=torch.channels_last)
        for i, p in enumerate(module.parameters()):
            p.data.copy_(tensor(*p.shape, seed=i))
        with kernels():
            optimizer = ClippedSGD(module, 0.1)
        norms = []
        for step in range(4):
            shapes = [p.shape for p in module.parameters()]
            gradients = [size * tensor(*shape, seed=10 * step + i) for i, shape in enumerate(shapes)]
            if step == 0:
                gradients[2] = None
            norms.append(optimizer.clipped_step(gradients))  # contiguous, unlike the weights; one has none
        return [*module.parameters(), *norms]

    for ours, theirs in zip(train(nullcontext), train(native.torch_kernels), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_not_a_number_goes_through_as_in_torch():
    x = tensor(20, 3, 4, 4)
    x[3, 1, 2, 2] = torch.nan
    weight, bias = tensor(2, 3, 1, 1), tensor(2)
    for ours, theirs in (
        (native.max_pool(x), F.max_pool2d(x, 2)),
        (native.conv_pool_relu(x, weight, bias, pool=True), F.relu(F.max_pool2d(F.conv2d(x, weight, bias), 2))),
        (native.GroupNorm(1, 3, relu=True)(x), F.relu(F.group_norm(x, 1))),
    ):
        assert ours.isnan().any()
        assert torch.equal(ours.isnan(), theirs.isnan())


@pytest.mark.parametrize("n", [1, 5, 16, 40])
def test_an_image_s_logits_do_not_depend_on_the_others_of_its_batch(n):
    host = ConvHost(3, (4, 8), (3, 3)).eval()
    x = tensor(n, 3, 12, 12)
    with torch.no_grad():
        host.train(False)
        together, alone = host.inference().run(x, 0, 5), host.inference().run(x[:1], 0, 5)
    torch.testing.assert_close(together[:1], alone)


def test_counting_and_other_types_take_torch_s_own_layers():
    with native.torch_kernels():
        assert native.in_use() is None
    assert native.in_use() is not None
    double = tensor(2, 3, 4, 4).double()
    assert native.conv2d(double, tensor(2, 3, 3, 3).double()).dtype is torch.float64


def run_python(code, **variables):
    environment = os.environ | variables
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


IN_USE = "from esper_env.kasmina import native; print(native.in_use() is not None)"


def test_the_environment_variable_decides(tmp_path):
    assert run_python(IN_USE, ESPER_KERNELS="torch").stdout == "False\n"
    wrong = run_python(IN_USE, ESPER_KERNELS="fast")
    assert "auto, native or torch" in wrong.stderr
    nowhere = {"CXX": "no-such-compiler", "XDG_CACHE_HOME": str(tmp_path)}
    without = run_python(IN_USE, **nowhere)
    assert without.stdout == "False\n"
    assert "Install a C++ compiler" in without.stderr
    demanded = run_python(IN_USE, ESPER_KERNELS="native", **nowhere)
    assert demanded.returncode != 0
    assert "there is no C++ compiler" in demanded.stderr


def test_a_file_in_the_cache_s_place_is_an_error_that_says_so(tmp_path):
    (tmp_path / "esper").write_text("")
    refused = run_python(IN_USE, ESPER_KERNELS="native", XDG_CACHE_HOME=str(tmp_path))
    assert "cannot write to" in refused.stderr


def test_a_host_with_a_seed_trains_as_with_torch_s_layers():
    def train(kernels):
        with kernels():
            host = build(lambda: ConvHost(3, (4, 8), (3, 3)), 1)
            seed = build(lambda: Seed("conv_heavy", 4, Style.ADD), 2)
            optimizers = [ClippedSGD(m, 0.1) for m in (host, seed)]
            losses = []
            for step in range(4):
                x, labels = tensor(24, 3, 12, 12, seed=step), torch.arange(24) % 10
                h = host.run(x, 0, 1)
                loss = F.cross_entropy(host.run(seed(h, h, 1.0), 1, 5), labels)
                losses.append(loss.detach())
                gradients = [torch.autograd.grad(loss, o.parameters, retain_graph=True) for o in optimizers]
                for optimizer, mine in zip(optimizers, gradients, strict=True):
                    optimizer.clipped_step(mine)
        return [torch.stack(losses), *host.parameters(), *seed.parameters()]

    for ours, theirs in zip(train(nullcontext), train(native.torch_kernels), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


EVERY_BLUEPRINT = """
import hashlib, gymnasium, esper_env
from esper_env.kasmina.blueprints import BLUEPRINTS
digest = hashlib.sha256()
for number, name in enumerate(BLUEPRINTS):
    seed = [{"slot": "r0c0", "blueprint": name, "style": ("add", "gate", "multiply")[number % 3]}]
    env = gymnasium.make("Esper/Tiny-v0", batch_size=28, styles=("add", "gate", "multiply"))
    env.reset(seed=number, options={"structure": seed})
    for _ in range(2):
        digest.update(env.step(0)[0].tobytes())
print(digest.hexdigest())
"""


def test_processors_with_narrower_registers_compute_the_same_bits():
    compiler = os.environ.get("CXX", "c++")
    ours, narrow = (run_python(EVERY_BLUEPRINT, CXX=f"{compiler}{width}") for width in ("", " -DESPER_WIDTH=4"))
    assert ours.stdout == narrow.stdout
    assert len(ours.stdout) == 65, ours.stderr
