"""Scripted controllers: a rule that looks at one environment, applied to each of a batch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from esper_agents.tamiyo.controller import Actions, Interface, Masks, Observations
from esper_env.leyline import Action, Op, Stage
from esper_env.leyline.observation import BASE_WHERE, SLOT_WHERE

Memory = TypeVar("Memory")


@dataclass(frozen=True)
class SlotView:
    """What a rule sees of one slot."""

    name: str
    stage: Stage
    effect_points: float | None
    """Shadow gain (TRAINING) or contribution (blended) measured in the last epoch, if any; clipped at 10."""


@dataclass(frozen=True)
class View:
    """What a rule sees of one environment: no more than its observation and its mask tell."""

    epoch: int
    """Epochs done in this episode."""
    accuracy_points: float
    """Validation accuracy in percent; 0 at epoch 0, where none was measured."""
    slots: tuple[SlotView, ...]
    legal: frozenset[Action]


class Script(Protocol[Memory]):
    """A rule for one environment."""

    def begin(self) -> Memory:
        """Return the memory an episode starts with."""

    def decide(self, view: View, memory: Memory) -> Action:
        """Return a legal action; may change `memory`."""


@dataclass
class _Life(Generic[Memory]):
    """The state of one environment."""

    epoch: int
    memory: Memory


class Scripted(Generic[Memory]):
    """Applies a `Script` to every environment of a batch, each with its own memory."""

    def __init__(self, interface: Interface, script: Script[Memory]) -> None:
        self.interface, self.script = interface, script

    def __call__(
        self, obs: Observations, action_mask: Masks, info: Mapping[str, Any] | None, state: Any
    ) -> tuple[Actions, Any]:
        """See `Controller`."""
        lives = [None] * len(obs) if state is None else copy.deepcopy(state)
        actions = np.zeros(len(obs), np.int64)
        for i, (row, mask) in enumerate(zip(obs, action_mask, strict=True)):
            life = lives[i]
            if life is None or row[BASE_WHERE["progress"]] == 0:
                life = lives[i] = _Life(0, self.script.begin())
            action = self.script.decide(self._view(life.epoch, row, mask), life.memory)
            actions[i] = self.interface.index[action]
            life.epoch += 1
        return actions, lives

    def _view(self, epoch: int, row: Any, mask: Any) -> View:
        layout = self.interface.layout
        return View(
            epoch,
            100.0 * row[BASE_WHERE["val_accuracy"]].item(),
            tuple(_slot_view(name, row[layout.slot(i)]) for i, name in enumerate(layout.slots)),
            frozenset(self.interface.actions[j] for j in np.flatnonzero(mask)),
        )


def _slot_view(name: str, block: Any) -> SlotView:
    def read(feature: str) -> float:
        return float(block[SLOT_WHERE[feature]].item())

    fresh = read("effect_measured") == 1.0 and read("effect_freshness") == 1.0
    return SlotView(
        name,
        Stage(int(block[SLOT_WHERE["stage"]].argmax())),
        10.0 * read("effect") if fresh else None,
    )


def onward(view: View, slot: SlotView) -> Action | None:
    """Return what carries a seed towards FOSSILIZED, if it is legal now: ADVANCE or FOSSILIZE."""
    for op in (Op.ADVANCE, Op.FOSSILIZE):
        if Action(op, slot.name) in view.legal:
            return Action(op, slot.name)
    return None
