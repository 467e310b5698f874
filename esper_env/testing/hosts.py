"""The check of a host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from esper_env.kasmina import Host, Runner, build
from esper_env.testing._common import BATCH, call, check_moves, no_global_draw, numbers, require, same_tensors
from esper_env.tolaria.training import frozen_statistics


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
    require(isinstance(host, nn.Module), f"the factory must return an nn.Module, got {type(host).__name__}")
    require(
        isinstance(host, Host) and callable(host.run),
        f"{type(host).__name__} needs an attribute `boundaries`, a tuple of names, and a method `run(x, start, "
        "stop)` that carries an activation from position to position",
    )
    assert isinstance(host, Host) and isinstance(host, nn.Module)
    names = host.boundaries
    require(
        isinstance(names, tuple)
        and len(names) > 0
        and all(isinstance(name, str) and name for name in names)
        and len(set(names)) == len(names),
        f"`boundaries` must be a non-empty tuple of different names, got {names!r}",
    )
    same_tensors(
        "two hosts built under the same torch seed differ in {}. Initialise weights with torch.nn.init or "
        "torch's random functions and without a generator of their own",
        host.state_dict(),
        build(factory, 0).state_dict(),
    )
    images = numbers((BATCH, *image_shape))
    for training in (True, False):
        host.train(training)
        with no_global_draw("the host's forward"):
            _check_run(host, images, "training" if training else "evaluation")
    _check_buffers(host, images)
    _check_host_learns(factory, images)
    _check_host_reload(factory, images)


def _positions(host: Host) -> list[str]:
    return ["the input", *(f"boundary {name!r}" for name in host.boundaries), "the logits"]


def _check_run(host: nn.Module, images: torch.Tensor, mode: str) -> None:
    assert isinstance(host, Host)
    where, end = _positions(host), len(host.boundaries) + 1
    logits = call(f"forward in {mode} mode", host, images.clone())
    require(
        logits.ndim == 2 and len(logits) == len(images),
        f"forward must return logits (N, classes), got shape {tuple(logits.shape)} for {len(images)} images",
    )
    require(
        torch.equal(logits, call(f"forward in {mode} mode", host, images.clone())),
        f"forward in {mode} mode gave two results for one input. Keep no state between calls that the output "
        "depends on, and use deterministic operations",
    )
    stations = [images]
    for start, stop in pairwise(range(end + 1)):
        what = f"run from {where[start]} to {where[stop]} in {mode} mode"
        given = stations[-1].detach().clone()
        kept = given.clone()
        out = call(what, host.run, given, start, stop)
        require(
            torch.equal(given, kept),
            f"{what} modified its input. Seeds and the evaluation share that tensor: make the first operation "
            "after each boundary an out-of-place one (no inplace=True)",
        )
        require(
            stop == end or (out.ndim == 4 and len(out) == len(images)),
            f"{what} gave shape {tuple(out.shape)}; a boundary's activation must be (N, C, H, W). Slots can only "
            "be set where it is: leave others out of `boundaries`",
        )
        stations.append(out)
    _compare_bits(logits, stations[-1], f"running from boundary to boundary in {mode} mode")
    for start in range(end):
        for stop in {min(start + 2, end), end} - {start}:
            what = f"run from {where[start]} to {where[stop]} in {mode} mode"
            _compare_bits(stations[stop], call(what, host.run, stations[start].detach().clone(), start, stop), what)


def _compare_bits(expected: torch.Tensor, got: torch.Tensor, what: str) -> None:
    require(
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
    same_tensors("evaluation mode changed the host's buffer {}; it must leave all as they are", before, buffers())
    require(
        torch.allclose(logits[:1], alone, rtol=1e-4, atol=1e-5),
        "in evaluation mode the logits of an image depend on the other images of its batch. Use running "
        "statistics, or norms within one image",
    )
    host.train()
    with frozen_statistics(host):
        host(images.clone())
    same_tensors(
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
        host(numbers(images.shape, seed))  # running statistics unlike those at birth
    host.eval()
    with torch.no_grad():
        fast: Runner = host.inference()
        x, y = images, images
        for start, stop in pairwise(range(len(host.boundaries) + 2)):
            given = y.clone()
            x, y = host.run(x, start, stop), call("inference().run", fast.run, y, start, stop)
            require(torch.equal(given, images) or start > 0, "inference().run modified its input")
            require(
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
    require(
        not cut,
        f"run from boundary to boundary gives other gradients than in one go for {cut}. The gradient must pass "
        "each boundary: no detach, and nothing in `run` that depends on where it is cut",
    )
    check_moves("the host", host, lambda: loss([end]))


def _check_host_reload(factory: Callable[[], nn.Module], images: torch.Tensor) -> None:
    host, other = build(factory, 1), build(factory, 2)
    host.train()
    host(images.clone())  # running statistics unlike those at birth
    other.load_state_dict(host.state_dict())
    with torch.no_grad():
        same = torch.equal(host.eval()(images.clone()), other.eval()(images.clone()))
    require(
        same,
        "a host that was loaded from another's state_dict() gives other logits: something that matters is not in "
        "it. Hold weights as nn.Parameter or submodules and statistics as persistent buffers",
    )
