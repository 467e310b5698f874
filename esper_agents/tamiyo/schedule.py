"""Open-loop schedules: which seed is planted where and when, whatever the episode turns out to be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from esper_agents.tamiyo.controller import Interface
from esper_agents.tamiyo.scripted import SlotView, View, onward
from esper_env.leyline import WAIT, Action, Op, Stage, Style
from esper_env.leyline.lifecycle import BLENDED


@dataclass(frozen=True)
class Planting:
    """One seed. Once germinated it advances and is fossilised as soon as that is legal."""

    slot: str
    blueprint: str
    epoch: int = 1
    """The first epoch, counted from 1, that may be trained with the seed; later if the slot is not free."""
    style: str = "add"
    tempo: int = 5
    alpha_target: float = 1.0
    """Where alpha is sent as soon as the seed blends."""
    fossilize_epoch: int = 1
    """FOSSILIZE waits for this epoch, counted as `epoch`."""

    @property
    def germination(self) -> Action:
        """The action that plants it."""
        return Action(Op.GERMINATE, self.slot, self.blueprint, Style(self.style), self.tempo)


@dataclass(frozen=True)
class Schedule:
    """Plantings in order of precedence: each step takes the action of the first that has one to take."""

    plantings: tuple[Planting, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the plantings as canonical JSON: names this schedule in results."""
        text = json.dumps([asdict(p) for p in self.plantings], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> str:
        """Return the plantings and their digest."""
        return json.dumps({"digest": self.digest, "plantings": [asdict(p) for p in self.plantings]}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Schedule:
        """Read what `to_json` wrote.

        Raises:
            ValueError: the plantings are not those the digest was taken of.
        """
        content = json.loads(text)
        schedule = cls(tuple(Planting(**p) for p in content["plantings"]))
        if schedule.digest != content["digest"]:
            raise ValueError(f"changed since it was pinned: digest {schedule.digest}, not {content['digest']}")
        return schedule


@dataclass
class Planted:
    """Which plantings of a schedule were germinated, by index, and which of them was last in each slot."""

    indices: set[int] = field(default_factory=set)
    last: dict[str, int] = field(default_factory=dict)


class FixedSchedule:
    """The script that carries out a `Schedule`.

    Raises:
        ValueError: a planting needs an action that the environment does not have.
    """

    def __init__(self, interface: Interface, schedule: Schedule | Iterable[Planting]) -> None:
        self.schedule = schedule if isinstance(schedule, Schedule) else Schedule(tuple(schedule))
        for planting in self.schedule.plantings:
            for action in (planting.germination, _target(planting)):
                if action not in interface.index:
                    same = [a for a in interface.actions if a.op is action.op]
                    choices = {name: sorted({getattr(a, name) for a in same}) for name in _fields(action)}
                    raise ValueError(f"{planting}: no such action as {action}; choose from {choices}")

    def begin(self) -> Planted:
        """Nothing is planted."""
        return Planted()

    def decide(self, view: View, memory: Planted) -> Action:
        """Return the action of the first planting that has a legal one to take."""
        slots = {slot.name: slot for slot in view.slots}
        for i, planting in enumerate(self.schedule.plantings):
            slot = slots[planting.slot]
            if i in memory.indices:
                last = memory.last[planting.slot] == i
                action = _tend(view, slot, planting) if last else None
                if action is not None:
                    return action
            elif view.epoch + 1 >= planting.epoch and planting.germination in view.legal:
                memory.indices.add(i)
                memory.last[planting.slot] = i
                return planting.germination
        return WAIT


def _target(planting: Planting) -> Action:
    return Action(Op.SET_ALPHA_TARGET, planting.slot, alpha_target=planting.alpha_target)


def _fields(action: Action) -> list[str]:
    values: dict[str, Any] = asdict(action)
    return [name for name, value in values.items() if name != "op" and value is not None]


def _tend(view: View, slot: SlotView, planting: Planting) -> Action | None:
    # The mask says whether alpha has another target: setting the one it has is illegal.
    target = _target(planting)
    if slot.stage in BLENDED and target in view.legal:
        return target
    if slot.stage is Stage.HOLDING and view.epoch + 1 < planting.fossilize_epoch:
        return None
    return onward(view, slot)
