"""The governor's judgement, on loss and accuracy curves alone."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_env.tolaria.governor import Governor, Panic


def judge(curve, classes=10):
    """The verdict of every epoch of a curve of (loss, accuracy), and the governor after it."""
    governor, verdicts = Governor(classes), []
    for loss, accuracy in curve:
        panic, governor = governor.judge(loss, accuracy, finite=True)
        verdicts.append(panic)
    return verdicts, governor


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_a_panic_at_once(loss):
    assert judge([(2.3, 0.1), (loss, 0.1)])[0] == [None, Panic.NON_FINITE]


def test_a_parameter_that_is_not_finite_is_a_panic_at_once():
    panic, after = Governor(10).judge(2.0, 0.3, finite=False)
    assert panic is Panic.NON_FINITE and not after.pending


def test_collapse_needs_two_epochs_running_at_chance_after_having_learned():
    learned, chance = (2.0, 0.2), (2.3, 0.12)
    known = [learned, learned]
    assert judge([*known, chance, chance])[0] == [None, None, None, Panic.COLLAPSE]
    assert judge([*known, chance, learned, chance])[0] == [None] * 5
    assert judge([*known, (2.3, 0.13), (2.3, 0.13)])[0] == [None] * 4
    assert judge([(2.0, 0.199), (2.0, 0.199), chance, chance, chance])[0] == [None] * 5


def test_one_lucky_epoch_is_no_learning():
    """With 128 validation images a network at chance reaches 20 % now and then."""
    lucky, chance = (2.3, 0.21), (2.3, 0.1)
    assert judge([lucky, chance, chance, lucky, chance, chance])[0] == [None] * 6
    assert judge([lucky, lucky, lucky, chance, chance])[0][-1] is Panic.COLLAPSE


def test_divergence_needs_two_epochs_running_above_the_bound():
    bound = math.log(10) + 1
    high, low = (bound + 0.01, 0.3), (1.0, 0.3)
    assert judge([low, high, high])[0] == [None, None, Panic.DIVERGENCE]
    assert judge([low, high, low, high])[0] == [None] * 4
    assert judge([low, (bound - 0.01, 0.3), (bound - 0.01, 0.3)])[0] == [None] * 3
    assert judge([high, high, high])[0] == [None] * 3, "twice the best loss is the bound here"
    assert judge([(3.0, 0.3), (5.9, 0.3), (5.9, 0.3)])[0] == [None] * 3
    assert judge([(3.0, 0.3), (6.1, 0.3), (6.1, 0.3)])[0] == [None, None, Panic.DIVERGENCE]


def test_a_panic_is_pending_in_between_and_not_after():
    """Lesson 8: what is pending is no state to keep."""
    curve = [(1.0, 0.5), (9.0, 0.5)]
    assert judge(curve)[1].pending
    assert not judge([*curve, (1.0, 0.5)])[1].pending
    assert not judge([*curve, (9.0, 0.5)])[1].pending
    assert judge([(1.0, 0.5), (1.0, 0.5), (1.0, 0.1)])[1].pending


def test_a_collapse_is_counted_afresh_after_a_rollback():
    learned, chance = (2.0, 0.2), (2.3, 0.1)
    assert judge([learned, learned, chance, chance, chance, chance])[0] == [
        None, None, None, Panic.COLLAPSE, None, Panic.COLLAPSE,
    ]  # fmt: skip


@given(st.lists(st.tuples(st.floats(0, 3.3), st.floats(0.121, 1)), min_size=1, max_size=30))
def test_no_panic_without_a_reason(curve):
    verdicts, governor = judge(curve)
    assert verdicts == [None] * len(curve)
    assert not governor.pending and governor.best_loss == min(loss for loss, _ in curve)
