"""The contracts: action table, legality rules, observation layout, lifecycle."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_env.leyline import (
    BASE_FEATURES,
    RULES,
    SLOT_FEATURES,
    TRANSITIONS,
    AlphaCurve,
    ObservationLayout,
    Op,
    SlotFacts,
    Stage,
    Style,
    action_table,
    is_legal,
    legal_mask,
    legality_table,
    observation_table,
)
from esper_env.leyline.lifecycle import COOLDOWN_EPOCHS, FADE_EPOCHS, OCCUPIED, UNCOMMITTED
from esper_env.leyline.observation import blueprint_code

SLOTS = ("r0c0", "r0c1", "r0c2")
BLUEPRINTS = ("norm", "attention", "conv_small", "depthwise", "conv_light", "bottleneck", "conv_heavy")
TABLE = action_table(SLOTS, BLUEPRINTS, ("add",), (5,))


def facts(stage, **changes):
    """A seed that passes every gate of `stage`, but for `changes`."""
    return dataclasses.replace(
        SlotFacts(
            stage=stage,
            epochs_in_stage=5,
            age=5,
            fading=False,
            alpha=1.0,
            alpha_target=1.0,
            at_target=True,
            style=Style.ADD,
            sound=True,
            health=1.0,
            shadow_gain=0.005,
            contribution_measured=True,
            contribution=0.01,
        ),
        **changes,
    )


def legal_ops(strict=False, **changes):
    """The operations that are legal for a slot with these facts, with the alpha targets of SET_ALPHA_TARGET."""
    stage = changes.pop("stage")
    state = {"r0c0": facts(stage, **changes)}
    return {(a.op, a.alpha_target) for a in TABLE if a.slot == "r0c0" and is_legal(a, state, strict_gates=strict)}


# -- actions ---------------------------------------------------------------------------------------------


def test_the_default_table_has_forty_actions_in_the_documented_order():
    assert len(TABLE) == 40
    assert str(TABLE[0]) == "WAIT"
    assert [str(a) for a in TABLE[1:14]] == [
        *(f"GERMINATE {b} in r0c0 (add, tempo 5)" for b in BLUEPRINTS),
        "ADVANCE r0c0",
        "SET_ALPHA_TARGET 0.5 in r0c0",
        "SET_ALPHA_TARGET 0.7 in r0c0",
        "SET_ALPHA_TARGET 1 in r0c0",
        "FOSSILIZE r0c0",
        "PRUNE r0c0",
    ]
    assert TABLE[14].slot == "r0c1"


@given(slots=st.integers(1, 6), blueprints=st.integers(1, 16), styles=st.integers(1, 3), tempos=st.integers(1, 4))
def test_the_size_of_the_table_follows_the_formula_and_no_action_is_twice_in_it(slots, blueprints, styles, tempos):
    table = action_table(
        [f"s{i}" for i in range(slots)],
        [f"b{i}" for i in range(blueprints)],
        list(Style)[:styles],
        range(1, tempos + 1),
    )
    assert len(table) == len(set(table)) == 1 + slots * (blueprints * styles * tempos + 6)


def test_enums_keep_the_order_that_the_observation_relies_on():
    assert [op.name for op in Op] == ["WAIT", "GERMINATE", "ADVANCE", "SET_ALPHA_TARGET", "FOSSILIZE", "PRUNE"]
    assert [stage.name for stage in Stage] == [
        "DORMANT",
        "GERMINATED",
        "TRAINING",
        "BLENDING",
        "HOLDING",
        "FOSSILIZED",
        "PRUNED",
        "EMBARGOED",
        "RESETTING",
    ]
    assert [c.value for c in AlphaCurve] == ["linear", "cosine", "sigmoid"]


# -- lifecycle -------------------------------------------------------------------------------------------


def test_the_lifecycle_is_the_documented_one():
    assert TRANSITIONS[Stage.FOSSILIZED] == frozenset()
    assert {s for s in Stage if Stage.PRUNED in TRANSITIONS[s]} == UNCOMMITTED
    assert {s for s in Stage if Stage.BLENDING in TRANSITIONS[s]} == {Stage.TRAINING, Stage.HOLDING}
    assert {s for s in Stage if Stage.DORMANT in TRANSITIONS[s]} == {Stage.RESETTING}
    assert COOLDOWN_EPOCHS == {Stage.PRUNED: 1, Stage.EMBARGOED: 5, Stage.RESETTING: 1}
    assert FADE_EPOCHS == 3
    assert UNCOMMITTED | {Stage.FOSSILIZED} == OCCUPIED


# -- legality --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "ops"),
    [
        ({"stage": Stage.DORMANT}, {"GERMINATE"}),
        ({"stage": Stage.GERMINATED}, {"ADVANCE", "PRUNE"}),
        ({"stage": Stage.GERMINATED, "sound": False}, {"PRUNE"}),
        ({"stage": Stage.GERMINATED, "age": 4}, {"ADVANCE"}),
        ({"stage": Stage.TRAINING}, {"ADVANCE", "PRUNE"}),
        ({"stage": Stage.TRAINING, "epochs_in_stage": 4}, {"PRUNE"}),
        ({"stage": Stage.TRAINING, "health": None}, {"PRUNE"}),
        ({"stage": Stage.TRAINING, "health": 0.69}, {"PRUNE"}),
        ({"stage": Stage.TRAINING, "health": 0.7}, {"ADVANCE", "PRUNE"}),
        ({"stage": Stage.TRAINING, "shadow_gain": None}, {"ADVANCE", "PRUNE"}),
        ({"stage": Stage.BLENDING}, {"ADVANCE", "SET_ALPHA_TARGET", "PRUNE"}),
        ({"stage": Stage.BLENDING, "at_target": False, "alpha": 0.3}, {"SET_ALPHA_TARGET", "PRUNE"}),
        ({"stage": Stage.BLENDING, "fading": True}, set()),
        ({"stage": Stage.HOLDING}, {"SET_ALPHA_TARGET", "FOSSILIZE", "PRUNE"}),
        ({"stage": Stage.HOLDING, "contribution_measured": False}, {"SET_ALPHA_TARGET", "PRUNE"}),
        ({"stage": Stage.HOLDING, "style": Style.MULTIPLY}, {"SET_ALPHA_TARGET", "FOSSILIZE", "PRUNE"}),
        ({"stage": Stage.HOLDING, "style": Style.MULTIPLY, "alpha": 0.7}, {"SET_ALPHA_TARGET", "PRUNE"}),
        ({"stage": Stage.HOLDING, "style": Style.GATE, "alpha": 0.7}, {"SET_ALPHA_TARGET", "FOSSILIZE", "PRUNE"}),
        ({"stage": Stage.FOSSILIZED}, set()),
        ({"stage": Stage.PRUNED}, set()),
        ({"stage": Stage.EMBARGOED}, set()),
        ({"stage": Stage.RESETTING}, set()),
    ],
)
def test_legal_operations_by_stage_and_evidence(case, ops):
    assert {op.name for op, _ in legal_ops(**case)} == ops


@pytest.mark.parametrize(
    ("case", "op", "legal"),
    [
        ({"stage": Stage.TRAINING, "shadow_gain": 0.005}, Op.ADVANCE, True),
        ({"stage": Stage.TRAINING, "shadow_gain": 0.0049}, Op.ADVANCE, False),
        ({"stage": Stage.TRAINING, "shadow_gain": None}, Op.ADVANCE, False),
        ({"stage": Stage.HOLDING, "contribution": 0.01}, Op.FOSSILIZE, True),
        ({"stage": Stage.HOLDING, "contribution": 0.009}, Op.FOSSILIZE, False),
        ({"stage": Stage.HOLDING, "contribution": None}, Op.FOSSILIZE, False),
    ],
)
def test_strict_gates_demand_gain_and_contribution(case, op, legal):
    assert any(o is op for o, _ in legal_ops(strict=True, **case)) == legal


def test_only_other_targets_may_be_set():
    targets = {t for op, t in legal_ops(stage=Stage.HOLDING, alpha_target=0.7) if op is Op.SET_ALPHA_TARGET}
    assert targets == {0.5, 1.0}


def test_the_mask_is_the_rule_for_every_action_and_wait_is_always_legal():
    state = {slot: facts(stage) for slot, stage in zip(SLOTS, Stage, strict=False)}
    mask = legal_mask(TABLE, state)
    assert mask[0] and mask == [is_legal(a, state) for a in TABLE]
    assert not any(legal_mask(TABLE, {slot: facts(Stage.FOSSILIZED) for slot in SLOTS})[1:])


def test_the_legality_table_lists_every_rule():
    table = legality_table()
    assert table.count("\n") == 2 + len(RULES)
    for rule in RULES:
        assert rule.condition in table and all(stage.name in table for stage in rule.stages)


# -- observation layout ----------------------------------------------------------------------------------


@given(st.integers(1, 9))
def test_features_tile_the_observation_without_gap_or_overlap(slots):
    layout = ObservationLayout(tuple(f"s{i}" for i in range(slots)))
    assert layout.size == 23 + 35 * slots
    covered = [i for f in layout.features() for i in range(f.where.start, f.where.stop)]
    assert covered == list(range(layout.size))
    assert len({f.name for f in layout.features()}) == len(layout.features())
    assert all(f.low < f.high and f.low in (-1, 0) and f.high == 1 for f in layout.features())


def test_the_layout_is_the_documented_one():
    base = {f.name: (f.index, f.size) for f in BASE_FEATURES}
    assert base == {
        "progress": (0, 1),
        "val_loss": (1, 1),
        "val_accuracy": (2, 1),
        "loss_history": (3, 5),
        "accuracy_history": (8, 5),
        "generalisation_gap": (13, 1),
        "price": (14, 1),
        "growth": (15, 1),
        "last_action_executed": (16, 1),
        "last_op": (17, 6),
    }
    slot = {f.name: f.index for f in SLOT_FEATURES}
    assert (slot["stage"], slot["seed_params"], slot["alpha"], slot["alpha_velocity"]) == (0, 9, 10, 16)
    assert (slot["effect_measured"], slot["interaction"], slot["gradient_norm"], slot["age"]) == (19, 23, 25, 30)
    layout = ObservationLayout(SLOTS)
    assert layout.size == 128
    assert [layout.slot(i).start for i in range(3)] == [23, 54, 85]
    assert [layout.blueprint(i).start for i in range(3)] == [116, 120, 124]


@given(st.integers(0, 15))
def test_blueprint_codes_are_the_bits_of_the_index(index):
    code = blueprint_code(index)
    assert set(code) <= {-1, 1} and len(code) == 4
    assert sum((bit > 0) << i for i, bit in enumerate(code)) == index


def test_the_observation_table_names_every_feature():
    table = observation_table()
    for feature in (*BASE_FEATURES, *SLOT_FEATURES):
        assert f"| {feature.name} |" in table and feature.meaning in table
