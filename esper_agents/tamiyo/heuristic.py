"""The hand-written closed-loop controller: plateau, grow, measure, keep or prune."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from esper_agents.tamiyo.controller import Interface
from esper_agents.tamiyo.scripted import SlotView, View
from esper_env.leyline import WAIT, Action, Op, Stage
from esper_env.leyline.lifecycle import BLENDED


@dataclass(frozen=True)
class HeuristicRule:
    """Constants of `Heuristic`. Points are percentage points of validation accuracy."""

    window: int = 3
    """Measurements in every mean: of accuracy, of shadow gain and of contribution."""
    first_epoch: int = 5
    """No germination before so many epochs are done."""
    plateau_epochs: int = 3
    """Germinate after so many epochs running on a plateau."""
    plateau_gain_points: float = 0.5
    """An epoch is on a plateau if the mean accuracy rose by less than this since the epoch before."""
    blueprints: tuple[str, ...] = ("conv_light", "conv_heavy", "attention", "norm", "depthwise")
    """Germinated in rotation."""
    penalty: float = 2.0
    """Added to a blueprint's penalty when a seed of it is pruned."""
    penalty_decay: float = 0.5
    """Factor on every penalty each epoch."""
    skip_penalty: float = 3.0
    """A blueprint is passed over while its penalty is at least this."""
    judge_epochs: int = 5
    """A seed is judged a failure only after so many epochs in its stage."""
    loss_points: float = 2.0
    """A failure: a mean effect of minus this or less."""
    fossilize_points: float = 0.5
    """A HOLDING seed is fossilised if its mean contribution is above this, else pruned."""


@dataclass
class SeedMemory:
    """What is remembered of the seed in one slot."""

    stage: Stage = Stage.DORMANT
    epochs_in_stage: int = 0
    effects_points: list[float] = field(default_factory=list)
    """The last shadow gains, or the last contributions: never a mixture."""
    accuracy_at_birth_points: float | None = None
    blueprint: str = ""


@dataclass
class HeuristicMemory:
    """What is remembered of an episode."""

    accuracies_points: list[float] = field(default_factory=list)
    plateau: int = 0
    rotation: int = 0
    penalties: dict[str, float] = field(default_factory=dict)
    seeds: dict[str, SeedMemory] = field(default_factory=dict)


class Heuristic:
    """Germinate on a plateau, advance as soon as legal, keep what measurably helps and prune the rest.

    In slot order, at most one action a step. A seed in TRAINING, BLENDING or HOLDING is pruned after
    `judge_epochs` in its stage if its mean effect is a loss of `loss_points`, or if it contributes although
    accuracy fell since its germination: the host has come to depend on it without getting better. In HOLDING
    it is fossilised or pruned by its mean contribution. When no seed needs anything, a plateau germinates the
    next blueprint of the rotation in the first free slot.

    The script reads nothing that a learned policy does not see. No mean is taken of fewer than `window`
    measurements: until then there is no verdict.

    Raises:
        ValueError: the environment has none of the rule's blueprints.
    """

    def __init__(self, interface: Interface, rule: HeuristicRule) -> None:
        self.rule = rule
        self.blueprints = tuple(b for b in rule.blueprints if b in interface.blueprints)
        if not self.blueprints:
            raise ValueError(
                f"blueprints={list(rule.blueprints)}: the environment has none of them, only "
                f"{list(interface.blueprints)}"
            )
        self._interface = interface

    def begin(self) -> HeuristicMemory:
        """No measurement, no penalty."""
        return HeuristicMemory(
            penalties=dict.fromkeys(self.blueprints, 0.0),
            seeds={slot: SeedMemory() for slot in self._interface.layout.slots},
        )

    def decide(self, view: View, memory: HeuristicMemory) -> Action:
        """Note the last epoch's measurements, then act by them."""
        self._note(view, memory)
        for slot in view.slots:
            seed = memory.seeds[slot.name]
            action = self._judge(slot, seed, memory)
            if action is not None and action in view.legal:
                if action.op is Op.PRUNE and seed.blueprint in memory.penalties:
                    memory.penalties[seed.blueprint] += self.rule.penalty
                return action
        if view.epoch >= self.rule.first_epoch and memory.plateau >= self.rule.plateau_epochs:
            return self._germinate(view, memory)
        return WAIT

    def _note(self, view: View, memory: HeuristicMemory) -> None:
        rule = self.rule
        for blueprint in memory.penalties:
            memory.penalties[blueprint] *= rule.penalty_decay
        if view.epoch > 0:
            before = _mean(memory.accuracies_points, rule.window)
            memory.accuracies_points = [*memory.accuracies_points, view.accuracy_points][-rule.window :]
            now = _mean(memory.accuracies_points, rule.window)
            flat = now is not None and before is not None and now - before < rule.plateau_gain_points
            memory.plateau = memory.plateau + 1 if flat else 0
        for slot in view.slots:
            seed = memory.seeds[slot.name]
            if slot.stage is not seed.stage:
                if slot.stage is not Stage.HOLDING or seed.stage is not Stage.BLENDING:
                    seed.effects_points = []
                seed.stage, seed.epochs_in_stage = slot.stage, 0
            seed.epochs_in_stage += 1
            if slot.effect_points is not None:
                seed.effects_points = [*seed.effects_points, slot.effect_points][-rule.window :]

    def _judge(self, slot: SlotView, seed: SeedMemory, memory: HeuristicMemory) -> Action | None:
        """Return what the seed needs, which need not be legal yet."""
        rule = self.rule
        effect = _mean(seed.effects_points, rule.window)
        if effect is not None and seed.epochs_in_stage >= rule.judge_epochs:
            birth, now = seed.accuracy_at_birth_points, _mean(memory.accuracies_points, rule.window)
            worse = birth is not None and now is not None and now < birth
            dependence = slot.stage in BLENDED and effect > 0.0 and worse
            if effect <= -rule.loss_points or dependence:
                return Action(Op.PRUNE, slot.name)
        if slot.stage is not Stage.HOLDING:
            return Action(Op.ADVANCE, slot.name)
        if effect is None:
            return None
        return Action(Op.FOSSILIZE if effect > rule.fossilize_points else Op.PRUNE, slot.name)

    def _germinate(self, view: View, memory: HeuristicMemory) -> Action:
        """Return the germination of the next blueprint that is not passed over, or WAIT."""
        count = len(self.blueprints)
        for i in range(memory.rotation, memory.rotation + count):
            blueprint = self.blueprints[i % count]
            if memory.penalties[blueprint] >= self.rule.skip_penalty:
                continue
            for slot in view.slots:
                action = self._interface.germination(slot.name, blueprint)
                if action in view.legal:
                    memory.rotation, memory.plateau = (i + 1) % count, 0
                    accuracy_points = _mean(memory.accuracies_points, self.rule.window)
                    memory.seeds[slot.name] = SeedMemory(accuracy_at_birth_points=accuracy_points, blueprint=blueprint)
                    return action
        return WAIT


def _mean(values: Sequence[float], window: int) -> float | None:
    """Return the mean of the last `window` measurements, ``None`` before there are as many."""
    return sum(values[-window:]) / window if len(values) >= window else None
