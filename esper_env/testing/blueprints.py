"""The check of a blueprint."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from esper_env.kasmina import BLUEPRINTS, ConvHost, GrowingModel, Seed, build
from esper_env.kasmina.blueprints import BlueprintFactory
from esper_env.leyline import Stage, Style
from esper_env.testing._common import (
    ALPHAS,
    BATCH,
    ConformanceError,
    call,
    check_moves,
    no_global_draw,
    numbers,
    require,
    same_tensors,
)
from esper_env.tolaria.training import frozen_statistics

_UNDER_TEST = "_under_test"


@contextmanager
def _registered(blueprint: str | BlueprintFactory) -> Iterator[str]:
    if isinstance(blueprint, str):
        require(
            blueprint in BLUEPRINTS,
            f"there is no blueprint {blueprint!r}; registered are {sorted(BLUEPRINTS)}",
        )
        yield blueprint
        return
    BLUEPRINTS[_UNDER_TEST] = blueprint
    try:
        yield _UNDER_TEST
    finally:
        del BLUEPRINTS[_UNDER_TEST]


def check_blueprint(
    blueprint: str | BlueprintFactory,
    channels: Sequence[int] = (1, 3, 8, 16),
    styles: Sequence[Style | str] = tuple(Style),
    sizes: Sequence[tuple[int, int]] = ((8, 8), (3, 5)),
) -> None:
    """Certify a blueprint, alone and as the seed of a small host, for each number of channels and each style.

    Args:
        blueprint: a registered name, or a factory ``channels -> nn.Module`` that need not be registered.
        channels: numbers of channels to try. Built-in hosts have 1 to 128; a blueprint that cannot take some
            should raise a ``ValueError`` that says so, and be certified for the others.
        styles: styles to try.
        sizes: (H, W) of the activations to try.

    Raises:
        ConformanceError: it breaks one of the rules in the module's docstring.
    """
    with _registered(blueprint) as name:
        for count in channels:
            for style in map(Style, styles):
                shown = name if isinstance(blueprint, str) else getattr(blueprint, "__name__", repr(blueprint))
                what = f"blueprint {shown!r} with {count} channels and style {style}"
                for size in sizes:
                    _check_seed(what, name, count, style, size)
                _check_removal(what, name, count, style)


def _check_seed(what: str, name: str, channels: int, style: Style, size: tuple[int, int]) -> None:
    try:
        seed = build(lambda: Seed(name, channels, style), 0)
    except Exception as error:
        raise ConformanceError(f"{what} could not be built: {type(error).__name__}: {error}") from error
    assert isinstance(seed, Seed)
    same_tensors(
        f"{what}: two modules built under the same torch seed differ in {{}}. Initialise weights with torch's "
        "random functions and without a generator of their own",
        seed.state_dict(),
        build(lambda: Seed(name, channels, style), 0).state_dict(),
    )
    h = F.relu(numbers((BATCH, channels, *size)))
    for training in (True, False):
        seed.train(training)
        with no_global_draw(what), torch.no_grad():
            kept = h.clone()
            body = call(what, seed.body, h)
            require(
                body.shape == h.shape,
                f"{what} turned shape {tuple(h.shape)} into {tuple(body.shape)}; it must keep the shape",
            )
            require(
                torch.equal(h, kept),
                f"{what} modified its input, which is the host's activation: no inplace=True in its first operation",
            )
            require(torch.equal(body, seed.body(h)), f"{what} gave two results for one input")
            for alpha in ALPHAS:
                require(
                    torch.equal(seed(h, h, alpha), h),
                    f"{what} is not the identity at birth at alpha {alpha}: its output must be finite, so that "
                    "the output scale of 0 makes it vanish",
                )
    _check_host_gradient(what, seed.train(), h, style)
    target = numbers(h.shape, 1)
    check_moves(what, seed, lambda: F.mse_loss(seed(h, h, 1.0), target))
    other = build(lambda: Seed(name, channels, style), 1)
    other.load_state_dict(seed.state_dict())
    with torch.no_grad():
        same = torch.equal(seed.eval()(h, h, 0.5), other.eval()(h, h, 0.5))
    require(
        same,
        f"{what}: a module loaded from its state_dict() gives another output. Hold weights as nn.Parameter or "
        "submodules and statistics as persistent buffers",
    )


def _check_host_gradient(what: str, seed: Seed, h: torch.Tensor, style: Style) -> None:
    """With add and gate the host's gradient passes a blended seed whole, whatever the seed has learned."""
    if style is Style.MULTIPLY:
        return
    with torch.no_grad():
        seed.scale.fill_(0.5)
    weight = numbers(h.shape, 2)
    activation = h.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((seed(activation, activation.detach(), 1.0) * weight).sum(), activation)
    require(torch.equal(gradient, weight), f"{what}: the host's gradient does not pass the blended seed whole")
    with torch.no_grad():
        seed.scale.zero_()


def _check_removal(what: str, name: str, channels: int, style: Style) -> None:
    """Train a host with a seed for some batches, take it out, and compare with a host that never had one."""
    models = [
        GrowingModel(
            build(lambda: ConvHost(3, [channels, 4], [3, 3]), 0),
            ("r0c0",),
            (3, 8, 8),
            seed_key=lambda slot, germinations: 1 + germinations,
            host_lr=0.1,
            seed_lr=0.1,
        )
        for _ in range(2)
    ]
    grown, plain = models
    slot = grown.slots["r0c0"]
    grown.germinate(slot, name, style, 1)
    assert slot.seed is not None
    require(slot.sound, f"{what} fails gate G1 in a host: see the rules on shapes and finite weights")
    grown.advance(slot)
    for model in models:
        _train(model)
    remains = [weakref.ref(part) for part in (*slot.seed.modules(), *slot.seed.parameters())]
    grown.remove(slot)
    if any(part() is not None for part in remains):
        gc.collect()
    require(
        all(part() is None for part in remains),
        f"{what} is still in memory after its removal: something outside the module (a global list, a hook, a "
        "cache) holds a reference to it or to a part of it",
    )
    assert slot.stage is Stage.PRUNED and isinstance(grown.host, nn.Module) and isinstance(plain.host, nn.Module)
    same_tensors(
        f"{what}: after its removal the host's {{}} differs from that of a host that never had it. The module "
        "must write to nothing but its own parameters and buffers",
        grown.host.state_dict(),
        plain.host.state_dict(),
    )


def _train(model: GrowingModel) -> None:
    """Two batches of training, with shadow passes; nothing of it is left behind."""
    assert isinstance(model.host, nn.Module)
    images, labels = numbers((BATCH, 3, 8, 8)), torch.arange(BATCH) % 10
    for _ in range(2):
        model.train()
        logits, taps = model.forward(images)
        F.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        for name, tap in taps.items():
            seed = model.slots[name].seed
            assert seed is not None
            with frozen_statistics(model.host):
                loss = F.cross_entropy(model.shadow(name, tap), labels)
            torch.autograd.grad(loss, list(seed.parameters()), materialize_grads=True)
        model.host_optimizer.step()
        model.host_optimizer.zero_grad()
