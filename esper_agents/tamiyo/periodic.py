"""A seed every few epochs until accuracy stops improving."""

from __future__ import annotations

from dataclasses import dataclass, field

from esper_agents.tamiyo.controller import Interface
from esper_agents.tamiyo.scripted import View, onward
from esper_env.leyline import WAIT, Action


@dataclass(frozen=True)
class PeriodicRule:
    """Constants of `Periodic`."""

    period: int = 10
    """Epochs between two germinations."""
    blueprint: str = "conv_light"
    """What is germinated, in the first free slot."""
    min_gain_points: float = 0.5
    """Growth stops for good when accuracy gained less than this, in points, since the last germination."""
    window: int = 3
    """Accuracies averaged on either side of that comparison."""


@dataclass
class PeriodicMemory:
    """What the script remembers of an episode."""

    accuracies_points: list[float] = field(default_factory=list)
    accuracy_then_points: float | None = None
    """Mean accuracy when the last seed was germinated."""
    next_epoch: int = 0
    stopped: bool = False


class Periodic:
    """Periodic growth with a stopping rule, after AutoGrow (Wen et al., 2019, https://arxiv.org/abs/1906.02909).

    AutoGrow adds a layer every K epochs and stops when that no longer raises validation accuracy; nothing it
    grew is removed. Here a seed germinates, advances and is fossilised as soon as each is legal.
    """

    def __init__(self, interface: Interface, rule: PeriodicRule) -> None:
        self.rule = rule
        self._germinations = [interface.germination(slot, rule.blueprint) for slot in interface.layout.slots]

    def begin(self) -> PeriodicMemory:
        """The first seed is due after one period."""
        return PeriodicMemory(next_epoch=self.rule.period)

    def decide(self, view: View, memory: PeriodicMemory) -> Action:
        """Carry the seeds there are onward; germinate one when the period is over and the last one paid."""
        if view.epoch > 0:
            memory.accuracies_points = [*memory.accuracies_points, view.accuracy_points][-self.rule.window :]
        for slot in view.slots:
            action = onward(view, slot)
            if action is not None:
                return action
        if memory.stopped or view.epoch < memory.next_epoch or not memory.accuracies_points:
            return WAIT
        now = sum(memory.accuracies_points) / len(memory.accuracies_points)
        then = memory.accuracy_then_points
        if then is not None and now - then < self.rule.min_gain_points:
            memory.stopped = True
            return WAIT
        free = [germination for germination in self._germinations if germination in view.legal]
        if not free:
            return WAIT
        memory.accuracy_then_points, memory.next_epoch = now, view.epoch + self.rule.period
        return free[0]
