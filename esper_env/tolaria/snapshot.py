"""Snapshots: the whole of a growing model, with optimisers and slots, as one immutable object."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from esper_env.kasmina import GrowingModel
from esper_env.kasmina.alpha import Alpha
from esper_env.kasmina.slot import HEALTH_BATCHES, Evidence, Slot
from esper_env.leyline import AlphaCurve, Stage, Style
from esper_env.leyline.lifecycle import EVIDENCE_WINDOW

_PLAIN = ("epochs_in_stage", "age", "germinations", "blueprint", "tempo", "fading", "sound")
_EVIDENCE = (
    "health",
    "previous_health",
    "gradient_norm",
    "vanishing",
    "exploding",
    "effect",
    "effect_trend",
    "effect_age",
)


@dataclass(frozen=True)
class Snapshot:
    """Named tensors, and everything else as JSON-able values."""

    tensors: Mapping[str, torch.Tensor]
    slots: Mapping[str, Any]


def capture(model: GrowingModel) -> Snapshot:
    """Copy the state of `model`."""
    tensors: dict[str, torch.Tensor] = {}
    for name, module in model.modules().items():
        tensors |= {f"{name}/{key}": value.clone() for key, value in module.state_dict().items()}
    for name, optimizer in model.optimizers().items():
        for i, momentum in enumerate(optimizer.momenta):
            tensors[f"{name}/momentum/{i}"] = momentum.clone()
    for slot in model.stream:
        if slot.evidence.norms:
            tensors[f"seed.{slot.name}/norms"] = torch.stack(list(slot.evidence.norms))
    return Snapshot(tensors, {slot.name: _slot_state(slot) for slot in model.stream})


def _slot_state(slot: Slot) -> dict[str, Any]:
    state = {name: getattr(slot, name) for name in _PLAIN}
    state |= {"stage": slot.stage.name, "style": slot.style, "alpha": dict(vars(slot.alpha))}
    state["evidence"] = {name: getattr(slot.evidence, name) for name in _EVIDENCE}
    state["evidence"]["shadow_gains"] = list(slot.evidence.shadow_gains)
    state["evidence"]["contributions"] = list(slot.evidence.contributions)
    return state


def restore(model: GrowingModel, snapshot: Snapshot) -> None:
    """Put `model` into the state of `snapshot`, which must come from a model of the same host and slots."""
    for slot in model.stream:
        _restore_slot(model, slot, snapshot.slots[slot.name], snapshot.tensors)
    for name, module in model.modules().items():
        state = {key: snapshot.tensors[f"{name}/{key}"] for key in module.state_dict()}
        module.load_state_dict(state)
        for i, momentum in enumerate(model.optimizers()[name].momenta):
            momentum.copy_(snapshot.tensors[f"{name}/momentum/{i}"])


def _restore_slot(
    model: GrowingModel, slot: Slot, state: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> None:
    slot.clear()
    model.seed_flops.pop(slot.name, None)
    if state["blueprint"] is not None:
        model.install(slot, state["blueprint"], Style(state["style"]), state["tempo"], key=0)
    slot.stage = Stage[state["stage"]]
    for name in _PLAIN:
        setattr(slot, name, state[name])
    if slot.seed is not None:
        slot.seed.requires_grad_(not slot.fading)
    slot.alpha = Alpha(**{**state["alpha"], "curve": AlphaCurve(state["alpha"]["curve"])})
    evidence = dict(state["evidence"])
    gains, contributions = evidence.pop("shadow_gains"), evidence.pop("contributions")
    norms = tensors.get(f"seed.{slot.name}/norms")
    slot.evidence = Evidence(
        norms=deque([] if norms is None else list(norms), HEALTH_BATCHES),
        shadow_gains=deque(gains, EVIDENCE_WINDOW),
        contributions=deque(contributions, EVIDENCE_WINDOW),
        **evidence,
    )
