"""Conformance checks: run your own host, blueprint or task through the rules that Esper's promises rest on.

Three functions, for a test of yours or for the interpreter::

    >>> from esper_env.kasmina import ConvHost
    >>> from esper_env.testing import check_blueprint, check_host
    >>> check_host(lambda: ConvHost(3, [4, 8], [3, 3]), (3, 12, 12))
    >>> check_blueprint("conv_light", channels=(4,))

Each returns ``None`` when every rule holds and raises `ConformanceError` at the first that does not, with
what was seen and how to mend it. They are small (no data set, a few optimiser steps), so they can run in
every build of your project. `check_task` runs whole short episodes and takes some seconds.

What is certified
    - *Shapes*: a host's activations are (N, C, H, W) at each boundary, its logits (N, classes); a blueprint
      keeps the shape of its input.
    - *Composition*: a host's ``run`` from boundary to boundary gives, in every bit, what ``forward`` gives,
      and neither it nor a blueprint writes to its input. A seed that trains behind the host must not move it.
    - *Identity at birth*: a new seed changes nothing at any alpha, and with the styles add and gate the host
      keeps its whole gradient.
    - *Live gradients*: every parameter tensor moves within two optimiser steps, weight decay aside.
    - *Exact removal*: a host whose seed was removed is, in every bit, one that never had it.
    - *Save and load*: the state dict carries everything that the output depends on.
    - *Determinism*: the same input gives the same output, and no forward pass draws from a generator of
      torch, NumPy or Python.
"""

from __future__ import annotations

import gc
import json
import random
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from esper_env.env import EsperEnv
from esper_env.kasmina import BLUEPRINTS, ConvHost, GrowingModel, Host, Runner, Seed, build
from esper_env.kasmina.blueprints import BlueprintFactory
from esper_env.leyline import Stage, Style
from esper_env.tasks import TASKS, Instance, Task
from esper_env.tolaria.training import frozen_statistics

ALPHAS = (0.0, 0.3, 0.5, 0.7, 1.0)
BATCH = 6
_UNDER_TEST = "_under_test"


class ConformanceError(AssertionError):
    """A part breaks a rule that Esper's promises rest on; the message says which, where and how to mend it."""


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ConformanceError(message)


def _numbers(shape: Sequence[int], seed: int = 0) -> torch.Tensor:
    """Standard normal numbers from a generator of their own."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@contextmanager
def _no_global_draw(what: str) -> Iterator[None]:
    def states() -> tuple[bytes, str, str]:
        return torch.get_rng_state().numpy().tobytes(), repr(np.random.get_state()), repr(random.getstate())  # noqa: NPY002

    before = states()
    yield
    for name, old, new in zip(("torch's", "NumPy's", "Python's"), before, states(), strict=True):
        _require(
            old == new,
            f"{what} draws from {name} global generator, so results would depend on what else the process does. "
            "Leave randomness (dropout, noise) out of forward, or compute it from the input",
        )


def _call(what: str, function: Callable[..., Any], *args: Any) -> torch.Tensor:
    """Call, and name the culprit if it raises or returns no floating-point tensor."""
    try:
        out = function(*args)
    except Exception as error:
        raise ConformanceError(f"{what} raised {type(error).__name__}: {error}") from error
    _require(
        isinstance(out, torch.Tensor) and out.is_floating_point(),
        f"{what} must return one floating-point tensor, got {type(out).__name__}",
    )
    assert isinstance(out, torch.Tensor)
    _require(bool(torch.isfinite(out).all()), f"{what} returned numbers that are not finite")
    return out


def _check_moves(what: str, module: nn.Module, loss: Callable[[], torch.Tensor]) -> None:
    """Every parameter tensor moves within two plain SGD steps."""
    born = {name: p.detach().clone() for name, p in module.named_parameters()}
    if not born:
        return
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)  # no weight decay, no momentum
    for _ in range(2):
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    stuck = [name for name, p in module.named_parameters() if torch.equal(p, born[name])]
    _require(
        not stuck,
        f"{what}: after two optimiser steps these parameters have not moved: {stuck}. Either forward does not use "
        "them, or something upstream is zero at birth (a zero weight, a norm's zero gain) or cut off (detach, a "
        "dead ReLU); a seed's output scale is zero at birth already, so nothing inside a blueprint may be",
    )
    ill = [name for name, p in module.named_parameters() if not bool(torch.isfinite(p).all())]
    _require(not ill, f"{what}: after two optimiser steps these parameters are not finite: {ill}")


# -- hosts -----------------------------------------------------------------------------------------------


def check_host(factory: Callable[[], nn.Module], image_shape: tuple[int, int, int]) -> None:
    """Certify a host.

    Args:
        factory: builds a fresh host; `esper_env.kasmina.Host` says what it must offer.
        image_shape: (C, H, W) of the images it takes.

    Raises:
        ConformanceError: it breaks one of the rules in the module's docstring, or one of these: the names of
            the boundaries are different strings; the initial weights follow from torch's seed; evaluation
            treats each image alone and changes no buffer; buffers change in training mode only where a
            ``torch.nn`` batch norm does it (Esper stops those during shadow passes and can stop no others);
            the faster form that an optional method ``inference()`` returns agrees with evaluation mode.
    """
    host = build(factory, 0)
    _require(isinstance(host, nn.Module), f"the factory must return an nn.Module, got {type(host).__name__}")
    _require(
        isinstance(host, Host) and callable(host.run),
        f"{type(host).__name__} needs an attribute `boundaries`, a tuple of names, and a method `run(x, start, "
        "stop)` that carries an activation from position to position",
    )
    assert isinstance(host, Host) and isinstance(host, nn.Module)
    names = host.boundaries
    _require(
        isinstance(names, tuple)
        and len(names) > 0
        and all(isinstance(name, str) and name for name in names)
        and len(set(names)) == len(names),
        f"`boundaries` must be a non-empty tuple of different names, got {names!r}",
    )
    _same_tensors(
        "two hosts built under the same torch seed differ in {}. Initialise weights with torch.nn.init or "
        "torch's random functions and without a generator of their own",
        host.state_dict(),
        build(factory, 0).state_dict(),
    )
    images = _numbers((BATCH, *image_shape))
    for training in (True, False):
        host.train(training)
        with _no_global_draw("the host's forward"):
            _check_run(host, images, "training" if training else "evaluation")
    _check_buffers(host, images)
    _check_host_learns(factory, images)
    _check_host_reload(factory, images)


def _positions(host: Host) -> list[str]:
    return ["the input", *(f"boundary {name!r}" for name in host.boundaries), "the logits"]


def _check_run(host: nn.Module, images: torch.Tensor, mode: str) -> None:
    assert isinstance(host, Host)
    where, end = _positions(host), len(host.boundaries) + 1
    logits = _call(f"forward in {mode} mode", host, images.clone())
    _require(
        logits.ndim == 2 and len(logits) == len(images),
        f"forward must return logits (N, classes), got shape {tuple(logits.shape)} for {len(images)} images",
    )
    _require(
        torch.equal(logits, _call(f"forward in {mode} mode", host, images.clone())),
        f"forward in {mode} mode gave two results for one input. Keep no state between calls that the output "
        "depends on, and use deterministic operations",
    )
    stations = [images]
    for start, stop in pairwise(range(end + 1)):
        what = f"run from {where[start]} to {where[stop]} in {mode} mode"
        given = stations[-1].detach().clone()
        kept = given.clone()
        out = _call(what, host.run, given, start, stop)
        _require(
            torch.equal(given, kept),
            f"{what} modified its input. Seeds and the evaluation share that tensor: make the first operation "
            "after each boundary an out-of-place one (no inplace=True)",
        )
        _require(
            stop == end or (out.ndim == 4 and len(out) == len(images)),
            f"{what} gave shape {tuple(out.shape)}; a boundary's activation must be (N, C, H, W). Slots can only "
            "be set where it is: leave others out of `boundaries`",
        )
        stations.append(out)
    _compare_bits(logits, stations[-1], f"running from boundary to boundary in {mode} mode")
    for start in range(end):
        for stop in {min(start + 2, end), end} - {start}:
            what = f"run from {where[start]} to {where[stop]} in {mode} mode"
            _compare_bits(stations[stop], _call(what, host.run, stations[start].detach().clone(), start, stop), what)


def _compare_bits(expected: torch.Tensor, got: torch.Tensor, what: str) -> None:
    _require(
        expected.shape == got.shape and torch.equal(expected, got),
        f"{what} does not give what the whole forward pass gives, bit for bit. `run` must do the same operations "
        "in the same order wherever it is cut; let forward itself call `run(x, 0, len(self.boundaries) + 1)`",
    )


def _check_buffers(host: nn.Module, images: torch.Tensor) -> None:
    def buffers() -> dict[str, torch.Tensor]:
        return {name: b.clone() for name, b in host.named_buffers()}

    host.eval()
    before = buffers()
    with torch.no_grad():
        logits, alone = host(images.clone()), host(images[:1].clone())
    _same_tensors("evaluation mode changed the host's buffer {}; it must leave all as they are", before, buffers())
    _require(
        torch.allclose(logits[:1], alone, rtol=1e-4, atol=1e-5),
        "in evaluation mode the logits of an image depend on the other images of its batch. Use running "
        "statistics, or norms within one image",
    )
    host.train()
    with frozen_statistics(host):
        host(images.clone())
    _same_tensors(
        "a training pass with frozen statistics changed the host's buffer {}. Shadow passes must leave no trace, "
        "and Esper can only freeze torch.nn's batch norms: use those, or norms without running statistics",
        before,
        buffers(),
    )
    fold = getattr(host, "inference", None)
    if fold is not None:
        _check_inference(host, images)


def _check_inference(host: Any, images: torch.Tensor) -> None:
    host.train()
    for seed in range(3):
        host(_numbers(images.shape, seed))  # running statistics unlike those at birth
    host.eval()
    with torch.no_grad():
        fast: Runner = host.inference()
        x, y = images, images
        for start, stop in pairwise(range(len(host.boundaries) + 2)):
            given = y.clone()
            x, y = host.run(x, start, stop), _call("inference().run", fast.run, y, start, stop)
            _require(torch.equal(given, images) or start > 0, "inference().run modified its input")
            _require(
                x.shape == y.shape and torch.allclose(x, y, rtol=1e-3, atol=1e-4),
                f"inference().run disagrees with evaluation mode at {_positions(host)[stop]}; mend it or leave "
                "`inference` out",
            )


def _check_host_learns(factory: Callable[[], nn.Module], images: torch.Tensor) -> None:
    host = build(factory, 1)
    host.train()
    assert isinstance(host, Host)
    end = len(host.boundaries) + 1
    labels = torch.arange(len(images)) % host.run(images.clone(), 0, end).shape[1]

    def loss(stops: Sequence[int]) -> torch.Tensor:
        x = images.clone()
        for start, stop in pairwise([0, *stops]):
            x = host.run(x, start, stop)
        return F.cross_entropy(x, labels)

    parameters = dict(host.named_parameters())
    whole, pieces = (
        torch.autograd.grad(loss(stops), list(parameters.values()), materialize_grads=True)
        for stops in ([end], range(1, end + 1))
    )
    cut = [name for name, a, b in zip(parameters, whole, pieces, strict=True) if not torch.equal(a, b)]
    _require(
        not cut,
        f"run from boundary to boundary gives other gradients than in one go for {cut}. The gradient must pass "
        "each boundary: no detach, and nothing in `run` that depends on where it is cut",
    )
    _check_moves("the host", host, lambda: loss([end]))


def _check_host_reload(factory: Callable[[], nn.Module], images: torch.Tensor) -> None:
    host, other = build(factory, 1), build(factory, 2)
    host.train()
    host(images.clone())  # running statistics unlike those at birth
    other.load_state_dict(host.state_dict())
    with torch.no_grad():
        same = torch.equal(host.eval()(images.clone()), other.eval()(images.clone()))
    _require(
        same,
        "a host that was loaded from another's state_dict() gives other logits: something that matters is not in "
        "it. Hold weights as nn.Parameter or submodules and statistics as persistent buffers",
    )


def _same_tensors(message: str, a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    _require(a.keys() == b.keys(), message.format(sorted(a.keys() ^ b.keys())))
    for name, tensor in a.items():
        _require(torch.equal(tensor, b[name]), message.format(repr(name)))


# -- blueprints ------------------------------------------------------------------------------------------


@contextmanager
def _registered(blueprint: str | BlueprintFactory) -> Iterator[str]:
    if isinstance(blueprint, str):
        _require(
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
    _same_tensors(
        f"{what}: two modules built under the same torch seed differ in {{}}. Initialise weights with torch's "
        "random functions and without a generator of their own",
        seed.state_dict(),
        build(lambda: Seed(name, channels, style), 0).state_dict(),
    )
    h = F.relu(_numbers((BATCH, channels, *size)))
    for training in (True, False):
        seed.train(training)
        with _no_global_draw(what), torch.no_grad():
            kept = h.clone()
            body = _call(what, seed.body, h)
            _require(
                body.shape == h.shape,
                f"{what} turned shape {tuple(h.shape)} into {tuple(body.shape)}; it must keep the shape",
            )
            _require(
                torch.equal(h, kept),
                f"{what} modified its input, which is the host's activation: no inplace=True in its first operation",
            )
            _require(torch.equal(body, seed.body(h)), f"{what} gave two results for one input")
            for alpha in ALPHAS:
                _require(
                    torch.equal(seed(h, h, alpha), h),
                    f"{what} is not the identity at birth at alpha {alpha}: its output must be finite, so that "
                    "the output scale of 0 makes it vanish",
                )
    _check_host_gradient(what, seed.train(), h, style)
    target = _numbers(h.shape, 1)
    _check_moves(what, seed, lambda: F.mse_loss(seed(h, h, 1.0), target))
    other = build(lambda: Seed(name, channels, style), 1)
    other.load_state_dict(seed.state_dict())
    with torch.no_grad():
        same = torch.equal(seed.eval()(h, h, 0.5), other.eval()(h, h, 0.5))
    _require(
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
    weight = _numbers(h.shape, 2)
    activation = h.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((seed(activation, activation.detach(), 1.0) * weight).sum(), activation)
    _require(torch.equal(gradient, weight), f"{what}: the host's gradient does not pass the blended seed whole")
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
    _require(slot.sound, f"{what} fails gate G1 in a host: see the rules on shapes and finite weights")
    grown.advance(slot)
    for model in models:
        _train(model)
    remains = [weakref.ref(part) for part in (*slot.seed.modules(), *slot.seed.parameters())]
    grown.remove(slot)
    if any(part() is not None for part in remains):
        gc.collect()
    _require(
        all(part() is None for part in remains),
        f"{what} is still in memory after its removal: something outside the module (a global list, a hook, a "
        "cache) holds a reference to it or to a part of it",
    )
    assert slot.stage is Stage.PRUNED and isinstance(grown.host, nn.Module) and isinstance(plain.host, nn.Module)
    _same_tensors(
        f"{what}: after its removal the host's {{}} differs from that of a host that never had it. The module "
        "must write to nothing but its own parameters and buffers",
        grown.host.state_dict(),
        plain.host.state_dict(),
    )


def _train(model: GrowingModel) -> None:
    """Two batches of training, with shadow passes; nothing of it is left behind."""
    assert isinstance(model.host, nn.Module)
    images, labels = _numbers((BATCH, 3, 8, 8)), torch.arange(BATCH) % 10
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


# -- tasks -----------------------------------------------------------------------------------------------

_STEPS = 14
"""Steps of an episode that `check_task` runs: enough for a seed to be blended."""


def check_task(task: Task, *, instances: int = 3, **arguments: Any) -> None:
    """Certify a task, registered or not: its host, its distribution of instances and short episodes of it.

    Args:
        task: what would be handed to `esper_env.register_task`.
        instances: how many instances are drawn.
        arguments: arguments of `EsperEnv` for the episodes. By default they run on a few synthetic images of
            the task's shape.

    Raises:
        ConformanceError: `check_host` fails for one of its instances, or one of these does not hold: the
            defaults are JSON-able; instances follow from the generator handed to `draw` alone; all instances
            have the same boundaries; the slots are among them; two episodes of one seed are equal in every
            bit, and so is the continuation of one from its saved state.
    """
    try:
        json.dumps(dict(task.defaults))
    except TypeError as error:
        raise ConformanceError(f"task {task.name!r}: defaults must be JSON-able: {error}") from error
    drawn = [_draw(task, seed) for seed in range(instances)]
    boundaries: set[tuple[str, ...]] = set()
    for instance in dict.fromkeys([Instance(), *drawn]):
        shape = (task.channels, task.size, task.size)
        try:
            check_host(lambda instance=instance: task.host(instance), shape)  # type: ignore[misc]
        except ConformanceError as error:
            raise ConformanceError(f"task {task.name!r}, the host of {instance}: {error}") from error
        host = task.host(instance)
        assert isinstance(host, Host)
        boundaries.add(host.boundaries)
    _require(len(boundaries) == 1, f"task {task.name!r}: its instances differ in their boundaries, {boundaries}")
    missing = sorted(set(task.slots) - set(*boundaries))
    _require(not missing, f"task {task.name!r}: slots {missing} are not among its boundaries {set(*boundaries)}")
    _require(
        min(task.reference_params, task.reference_flops) > 0,
        f"task {task.name!r}: reference_params and reference_flops must be positive",
    )
    _check_episodes(task, arguments)


def _draw(task: Task, seed: int) -> Instance:
    with _no_global_draw(f"task {task.name!r}: draw"):
        first, second = (task.draw(np.random.default_rng(seed)) for _ in range(2))
    _require(
        isinstance(first, Instance) and first == second,
        f"task {task.name!r}: draw must return an Instance that follows from the generator it is given alone",
    )
    return first


def _check_episodes(task: Task, arguments: dict[str, Any]) -> None:
    small = {
        "dataset": "synthetic",
        "samples_per_epoch": 32,
        "val_samples": 32,
        "batch_size": 16,
        "episode_length": _STEPS,
    }
    stand_in = replace(task, name=f"{task.name} (under test)", synthetic_sizes=(64, 32, 32))
    TASKS[stand_in.name] = stand_in
    try:
        a, b = (EsperEnv(stand_in.name, **{**task.defaults, **small, **arguments}) for _ in range(2))
        _same(task, "reset", a.reset(seed=0), b.reset(seed=0))
        rng = np.random.default_rng(0)
        for step in range(_STEPS):
            if step == _STEPS // 2:
                b = a.fork()
            action = int(rng.choice(np.flatnonzero(a.action_masks())))
            result = a.step(action)
            _require(
                result[4]["error_code"] == 0,
                f"task {task.name!r}: step {step} ({a.action_table[action]}) failed: {a.provenance['error']}",
            )
            _same(task, f"step {step} ({a.action_table[action]})", result, b.step(action))
    finally:
        del TASKS[stand_in.name]


def _same(task: Task, what: str, a: Any, b: Any) -> None:
    _require(
        repr(_plain(a)) == repr(_plain(b)),
        f"task {task.name!r}: {what} gave two results in two environments of one seed (from step {_STEPS // 2} "
        "on: in an environment and its fork). Something in the host or its data depends on more than seed and "
        "state",
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return (value.dtype, value.tolist()) if isinstance(value, np.ndarray) else value
