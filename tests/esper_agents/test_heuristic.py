"""Every rule of the heuristic controller, on observations made for it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from esper_agents.tamiyo import Interface
from esper_agents.tamiyo.heuristic import Heuristic, HeuristicRule
from esper_agents.tamiyo.scripted import Scripted
from esper_env import Action, ObservationLayout, Op, Stage
from esper_env.leyline import WAIT, action_table
from esper_env.leyline.observation import BASE_WHERE, SLOT_WHERE

SLOTS = ("a", "b")
BLUEPRINTS = ("norm", "attention", "conv_small", "depthwise", "conv_light", "bottleneck", "conv_heavy")
INTERFACE = Interface(action_table(SLOTS, BLUEPRINTS, ("add",), (5,)), ObservationLayout(SLOTS))
ORDER = HeuristicRule().blueprints


@dataclass
class Scene:
    """One environment seen by the controller: what `see` is told is what the observation says."""

    rule: HeuristicRule = field(default_factory=HeuristicRule)
    epoch: int = 0
    state: object = None

    def see(self, accuracy_points, legal=(), **slots):
        """Show one step; `slots` are name=(stage, effect in points or None). Return the action chosen."""
        layout = INTERFACE.layout
        obs = np.zeros((1, layout.size), np.float32)
        obs[0, BASE_WHERE["progress"]] = self.epoch / 150
        obs[0, BASE_WHERE["val_accuracy"]] = accuracy_points / 100
        for i, name in enumerate(SLOTS):
            stage, effect = slots.get(name, (Stage.DORMANT, None))
            block = obs[0, layout.slot(i)]
            block[SLOT_WHERE["stage"].start + stage] = 1
            if effect is not None:
                block[SLOT_WHERE["effect_measured"]] = block[SLOT_WHERE["effect_freshness"]] = 1
                block[SLOT_WHERE["effect"]] = effect / 10
        mask = np.zeros((1, len(INTERFACE.actions)), np.int8)
        for action in (WAIT, *legal):
            mask[0, INTERFACE.index[action]] = 1
        controller = Scripted(INTERFACE, Heuristic(INTERFACE, self.rule))
        actions, self.state = controller(obs, mask, None, self.state)
        self.epoch += 1
        return INTERFACE.actions[actions[0]]


def germinations(*slots):
    return [a for a in INTERFACE.actions if a.op is Op.GERMINATE and a.slot in slots]


def act(op, slot="a"):
    return Action(op, slot)


def germinated(action):
    return (action.slot, action.blueprint) if action.op is Op.GERMINATE else None


def until_plateau(scene, accuracy_points=50.0, legal=None):
    """Show a constant accuracy until something is germinated."""
    for _ in range(20):
        action = scene.see(accuracy_points, germinations(*SLOTS) if legal is None else legal)
        if action is not WAIT:
            return action
    raise AssertionError("nothing was germinated")


def test_germinates_after_three_plateau_epochs_from_epoch_five():
    scene = Scene()
    actions = [scene.see(0.0 if epoch == 0 else 50.0, germinations(*SLOTS)) for epoch in range(9)]
    # accuracies of epochs 1-3 make the first mean, so 4, 5 and 6 are the first that can be on a plateau
    assert [germinated(a) for a in actions] == [None] * 6 + [("a", "conv_light"), None, None]
    late = Scene(HeuristicRule(first_epoch=12))
    until_plateau(late)
    assert late.epoch == 13


@pytest.mark.parametrize(("rise", "expected"), [(0.6, False), (0.4, True)])
def test_a_rising_accuracy_is_no_plateau(rise, expected):
    scene = Scene()
    actions = [scene.see(20 + rise * epoch, germinations(*SLOTS)) for epoch in range(30)]
    assert any(a.op is Op.GERMINATE for a in actions) is expected


def test_a_rise_restarts_the_count_of_plateau_epochs():
    scene = Scene()
    curve = [0, 50, 50, 50, 50, 50, 53, 56, 59, 59, 59, 59, 59, 59, 59]
    actions = [scene.see(accuracy, germinations(*SLOTS)) for accuracy in curve]
    # the means rise by 1 or more up to the one of epochs 8-10; 11, 12 and 13 are on the plateau
    assert [t for t, a in enumerate(actions) if a.op is Op.GERMINATE] == [13]


def test_rotates_blueprints_through_the_first_free_slot():
    scene = Scene()
    legal = germinations("b")
    names = [germinated(until_plateau(scene, legal=legal)) for _ in range(6)]
    assert names == [("b", blueprint) for blueprint in (*ORDER, ORDER[0])]


@pytest.mark.parametrize("stage", [Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING])
def test_advances_as_soon_as_legal_before_germinating(stage):
    scene = Scene()
    assert scene.see(50, germinations("b"), a=(stage, None)) is WAIT
    assert scene.see(50, [act(Op.ADVANCE), *germinations("b")], a=(stage, None)) == act(Op.ADVANCE)


@pytest.mark.parametrize("stage", [Stage.TRAINING, Stage.BLENDING, Stage.HOLDING])
def test_prunes_a_loss_of_two_points_after_five_epochs(stage):
    for effect, verdict in ((-2.1, act(Op.PRUNE)), (-1.9, None)):
        scene = Scene()
        legal = [act(Op.PRUNE)] + ([act(Op.ADVANCE)] if stage is not Stage.HOLDING else [act(Op.FOSSILIZE)])
        actions = [scene.see(50, legal if epoch >= 4 else (), a=(stage, effect)) for epoch in range(5)]
        assert actions[:4] == [WAIT] * 4
        onward = act(Op.PRUNE) if stage is Stage.HOLDING else act(Op.ADVANCE)
        assert actions[4] == (verdict or onward)


def test_a_loss_is_not_judged_before_five_epochs():
    scene = Scene()
    for _ in range(3):
        scene.see(50, a=(Stage.BLENDING, -5.0))
    assert scene.see(50, [act(Op.PRUNE), act(Op.ADVANCE)], a=(Stage.BLENDING, -5.0)) == act(Op.ADVANCE)


@pytest.mark.parametrize(("effect", "now", "pruned"), [(1.0, 49.0, True), (1.0, 51.0, False), (-1.0, 49.0, False)])
def test_prunes_dependence_a_contribution_without_a_gain(effect, now, pruned):
    scene = Scene()
    assert germinated(until_plateau(scene)) == ("a", "conv_light")
    for _ in range(5):
        scene.see(now, a=(Stage.BLENDING, effect))
    action = scene.see(now, [act(Op.PRUNE), act(Op.ADVANCE)], a=(Stage.BLENDING, effect))
    assert action == act(Op.PRUNE if pruned else Op.ADVANCE)


def test_a_shadow_gain_is_no_dependence():
    scene = Scene()
    until_plateau(scene)
    for _ in range(5):
        scene.see(40, a=(Stage.TRAINING, 1.0))
    action = scene.see(40, [act(Op.PRUNE), act(Op.ADVANCE)], a=(Stage.TRAINING, 1.0))
    assert action == act(Op.ADVANCE)


@pytest.mark.parametrize(("effect", "op"), [(0.6, Op.FOSSILIZE), (0.4, Op.PRUNE), (0.0, Op.PRUNE)])
def test_holding_fossilises_above_half_a_point_else_prunes(effect, op):
    scene = Scene()
    legal = [act(Op.FOSSILIZE), act(Op.PRUNE)]
    for _ in range(2):
        scene.see(50, a=(Stage.BLENDING, effect))
    assert scene.see(50, legal, a=(Stage.HOLDING, effect)) == act(op)


def test_holding_waits_for_three_measurements_and_does_not_hold_up_the_others():
    scene = Scene()
    legal = [act(Op.FOSSILIZE), act(Op.PRUNE), act(Op.ADVANCE, "b")]
    action = scene.see(50, legal, a=(Stage.HOLDING, 3.0), b=(Stage.TRAINING, None))
    assert action == act(Op.ADVANCE, "b")
    assert scene.see(50, legal[:2], a=(Stage.HOLDING, None)) is WAIT  # not measured in this epoch
    assert scene.see(50, legal[:2], a=(Stage.HOLDING, 3.0)) is WAIT
    assert scene.see(50, legal[:2], a=(Stage.HOLDING, 3.0)) == act(Op.FOSSILIZE)


def test_shadow_gains_do_not_count_as_contributions():
    scene = Scene()
    for _ in range(5):
        scene.see(50, a=(Stage.TRAINING, 9.0))
    legal = [act(Op.FOSSILIZE), act(Op.PRUNE)]
    for _ in range(2):
        scene.see(50, a=(Stage.BLENDING, 0.1))
    assert scene.see(50, legal, a=(Stage.HOLDING, 0.1)) == act(Op.PRUNE)


def test_a_blueprint_pruned_twice_is_passed_over_for_a_while():
    rule = HeuristicRule(blueprints=("norm", "attention"), penalty_decay=0.9)
    scene = Scene(rule)

    def live_and_die():
        name = until_plateau(scene).blueprint
        for _ in range(4):
            scene.see(50, a=(Stage.TRAINING, -5.0))
        assert scene.see(50, [act(Op.PRUNE)], a=(Stage.TRAINING, -5.0)) == act(Op.PRUNE)
        return name

    # with slow decay the second prune of norm takes it to 3; its turn is passed until it has decayed
    assert [live_and_die() for _ in range(3)] == ["norm", "attention", "norm"]
    penalties = scene.state[0].memory.penalties
    assert penalties["norm"] > penalties["attention"] > 1.0
    scene.state[0].memory.penalties["attention"] = 10.0
    assert until_plateau(scene).blueprint == "norm"


def test_the_default_penalty_halves_each_epoch():
    scene = Scene()
    until_plateau(scene)
    for _ in range(4):
        scene.see(50, a=(Stage.TRAINING, -5.0))
    scene.see(50, [act(Op.PRUNE)], a=(Stage.TRAINING, -5.0))
    values = []
    for _ in range(3):
        values.append(scene.state[0].memory.penalties["conv_light"])
        scene.see(50)
    assert values == [2.0, 1.0, 0.5]


def test_all_is_forgotten_when_the_epoch_goes_back_to_zero():
    scene = Scene()
    until_plateau(scene)
    scene.epoch = 0
    actions = [scene.see(0.0 if epoch == 0 else 50.0, germinations(*SLOTS)) for epoch in range(7)]
    assert [germinated(a) for a in actions] == [None] * 6 + [("a", "conv_light")]
