"""Seeds in the stream: identity, gradients, composition, fossilisation."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from esper_env.kasmina import DEFAULT_BLUEPRINTS, ConvHost, GrowingModel, Seed, build
from esper_env.kasmina.blueprints import group_norm
from esper_env.kasmina.optim import CLIP_NORM, ClippedSGD
from esper_env.leyline import Stage, Style
from esper_env.testing import ALPHAS

EVERY = [(blueprint, style) for blueprint in DEFAULT_BLUEPRINTS for style in Style]


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model(slots=("r0c0", "r0c1"), channels=(4, 8), seed=0):
    return GrowingModel(
        build(lambda: ConvHost(3, channels, [3] * len(channels)), seed),
        slots,
        (3, 12, 12),
        seed_key=lambda slot, count: sum(map(ord, slot)) + count,
        host_lr=0.05,
        seed_lr=0.05,
    )


def plant(growing, slot, stage, blueprint="conv_light", style=Style.ADD, *, alpha=1.0, learned=0.3):
    """Put a seed that has learned something into a slot, straight into `stage`."""
    place = growing.slots[slot]
    growing.germinate(place, blueprint, style, 1)
    for target in (Stage.TRAINING, Stage.BLENDING, Stage.HOLDING):
        if place.stage < stage:
            growing.advance(place)
            assert place.stage is target
    with torch.no_grad():
        place.seed.scale.copy_(learned * numbers(place.channels, seed=9))
    if stage > Stage.TRAINING:
        place.alpha = place.alpha.ramp_to(alpha, 1).tick()
    if stage is Stage.FOSSILIZED:
        growing.fossilize(place)
    return place


X, LABELS = numbers(16, 3, 12, 12), torch.arange(16) % 10


def gradients(growing):
    """Logits, and the host's gradients of one training pass."""
    growing.train()
    for module in growing.modules().values():
        module.zero_grad()
    logits, taps = growing.forward(X)
    F.cross_entropy(logits, LABELS).backward()
    return logits.detach(), {k: p.grad.clone() for k, p in growing.host.named_parameters()}, taps


@pytest.mark.parametrize("channels", [1, 2, 4, 8, 32])
@pytest.mark.parametrize(("blueprint", "style"), EVERY)
def test_a_seed_is_the_identity_at_birth_at_every_alpha(blueprint, style, channels):
    seed = build(lambda: Seed(blueprint, channels, style), 3)
    h = numbers(4, channels, 6, 6)
    for alpha in ALPHAS:
        assert torch.equal(seed(h, h, alpha), h)


@pytest.mark.parametrize("channels", [1, 2, 4, 8, 32])
@pytest.mark.parametrize(("blueprint", "style"), EVERY)
def test_every_parameter_moves_within_two_optimiser_steps(blueprint, style, channels):
    """Lessons 2 and 3: no dead convolution, no untrained gate. Weight decay is off."""
    seed = build(lambda: Seed(blueprint, channels, style), 3)
    born = {name: p.detach().clone() for name, p in seed.named_parameters()}
    optimizer = ClippedSGD(seed, 1.0)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    h, target = F.relu(numbers(8, channels, 6, 6)), numbers(8, channels, 6, 6, seed=1)
    for _ in range(2):
        optimizer.zero_grad()
        F.mse_loss(seed(h, h, 1.0), target).backward()
        torch.nn.utils.clip_grad_norm_(seed.parameters(), CLIP_NORM)
        optimizer.step()
    assert [name for name, p in seed.named_parameters() if torch.equal(p, born[name])] == []


@pytest.mark.parametrize("stage", [Stage.GERMINATED, Stage.TRAINING])
@pytest.mark.parametrize("style", Style)
def test_logits_and_host_gradients_do_not_change_in_any_bit_before_blending(stage, style):
    """Lessons 4 and 5: nothing of a seed in training reaches the host, not even a NaN."""
    plain_logits, plain_gradients, _ = gradients(model())
    grown = model()
    for slot in ("r0c0", "r0c1"):
        plant(grown, slot, stage, "conv_heavy", style)
    with torch.no_grad():
        grown.slots["r0c0"].seed.scale.fill_(float("nan"))
    logits, grads, taps = gradients(grown)
    assert set(taps) == ({"r0c0", "r0c1"} if stage is Stage.TRAINING else set())
    assert not any(tap.requires_grad for tap in taps.values())
    assert torch.equal(logits, plain_logits)
    assert all(torch.equal(grads[k], plain_gradients[k]) for k in plain_gradients)
    assert all(p.grad is None for p in grown.slots["r0c1"].seed.parameters())


@pytest.mark.parametrize("style", Style)
def test_the_host_upstream_of_a_fully_blended_seed_keeps_its_gradient(style):
    """Lesson 1: a cross-fade would leave it (1 - alpha) of its gradient, that is nothing."""
    grown = model()
    place = plant(grown, "r0c0", Stage.HOLDING, style=style)
    _, grads, _ = gradients(grown)
    assert grads["convs.0.weight"].abs().sum() > 1e-3
    if style is Style.MULTIPLY:
        return
    h = numbers(2, 4, 6, 6).requires_grad_()
    (gradient,) = torch.autograd.grad((place.seed(h, h.detach(), 1.0) * h.detach()).sum(), h)
    assert torch.equal(gradient, h.detach())


@pytest.mark.parametrize("style", Style)
def test_a_blended_seed_learns_and_a_fading_one_does_not(style):
    grown = model()
    place = plant(grown, "r0c0", Stage.HOLDING, style=style)
    gradients(grown)
    assert all(p.grad is not None for p in place.seed.parameters())
    grown.prune(place)
    grown.tick()
    _, grads, _ = gradients(grown)
    assert all(p.grad is None for p in place.seed.parameters())
    assert grads["convs.0.weight"].abs().sum() > 1e-3


def test_a_fossil_is_attached_and_an_uncommitted_seed_is_not():
    def input_gradient(stage):
        grown = model(("r0c0",))
        plant(grown, "r0c0", stage)
        return gradients(grown)[1]["convs.0.weight"]

    assert not torch.equal(input_gradient(Stage.HOLDING), input_gradient(Stage.FOSSILIZED))


@pytest.mark.parametrize("style", [Style.ADD, Style.GATE])
@pytest.mark.parametrize("blueprint", DEFAULT_BLUEPRINTS)
@pytest.mark.parametrize("alpha", [0.5, 0.7])
def test_fossilising_at_a_lower_alpha_keeps_the_logits_to_rounding(blueprint, style, alpha):
    grown = model()
    place = plant(grown, "r0c0", Stage.HOLDING, blueprint, style, alpha=alpha)
    before = gradients(grown)[0]
    momentum = torch.ones_like(place.seed.scale)
    place.optimizer.state[place.seed.scale]["momentum_buffer"].copy_(momentum)
    scale = place.seed.scale.detach().clone()
    grown.fossilize(place)
    torch.testing.assert_close(gradients(grown)[0], before, rtol=1e-4, atol=1e-5)
    assert place.alpha.value == 1.0 and place.stage is Stage.FOSSILIZED
    torch.testing.assert_close(place.seed.scale.detach(), alpha * scale)
    torch.testing.assert_close(place.optimizer.state[place.seed.scale]["momentum_buffer"], alpha * momentum)


@pytest.mark.parametrize("style", Style)
@given(alpha=st.floats(0, 1))
def test_the_three_styles_compute_what_they_say(style, alpha):
    seed = build(lambda: Seed("conv_small", 4, style), 0)
    with torch.no_grad():
        seed.scale.copy_(numbers(4))
        h = numbers(2, 4, 5, 5, seed=1)
        d = seed.scale[:, None, None] * seed.body(h)
        expected = {
            Style.ADD: lambda: h + alpha * d,
            Style.GATE: lambda: h + alpha * torch.sigmoid(seed.gate(h)) * d,
            Style.MULTIPLY: lambda: h * (1 + alpha * torch.tanh(d)),
        }[style]()
        torch.testing.assert_close(seed(h, h, alpha), expected, rtol=1e-4, atol=1e-5)


@given(st.integers(1, 200))
def test_group_norms_have_at_least_four_channels_a_group_where_they_can(channels):
    norm = group_norm(channels)
    assert channels % norm.num_groups == 0
    assert channels // norm.num_groups >= min(4, channels)


def test_the_shadow_of_a_seed_sees_it_at_alpha_one_and_other_training_seeds_absent():
    grown = model()
    plant(grown, "r0c0", Stage.TRAINING, learned=0.4)
    plant(grown, "r0c1", Stage.TRAINING, learned=0.4)
    _, _, taps = gradients(grown)
    alone = model()
    plant(alone, "r0c0", Stage.HOLDING, learned=0.4)
    alone.train()
    expected, _ = alone.forward(X)
    torch.testing.assert_close(grown.shadow("r0c0", taps["r0c0"]), expected, rtol=1e-4, atol=1e-5)
