"""Alpha and its ramps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_env.kasmina.alpha import Alpha, curve_value
from esper_env.leyline import AlphaCurve

curves = st.sampled_from(AlphaCurve)


@given(curves, st.lists(st.floats(0, 1), min_size=2))
def test_curves_are_monotone_and_exact_at_both_ends(curve, shares):
    heights = [curve_value(curve, share) for share in sorted(shares)]
    assert heights == sorted(heights)
    assert all(0 <= h <= 1 for h in heights)
    assert curve_value(curve, 0.0) == 0.0 and curve_value(curve, 1.0) == 1.0
    assert curve_value(curve, 0.5) == pytest.approx(0.5)


def test_the_three_curves_differ():
    assert len({round(curve_value(curve, 0.25), 3) for curve in AlphaCurve}) == 3


@given(curves, st.lists(st.tuples(st.sampled_from([0.0, 0.5, 0.7, 1.0]), st.integers(1, 12)), min_size=1, max_size=4))
def test_ramps_are_monotone_take_their_length_and_end_exactly_at_the_target(curve, ramps):
    alpha = Alpha(curve=curve)
    assert not alpha.at_target and alpha.tick().value == 0.0
    for target, length in ramps:
        alpha = alpha.ramp_to(target, length)
        start, values = alpha.value, [alpha.value]
        for done in range(1, length + 1):
            assert not alpha.at_target
            before, alpha = alpha, alpha.tick()
            assert alpha.done == done
            assert alpha.velocity == alpha.value - before.value
            values.append(alpha.value)
        assert alpha.at_target and alpha.value == target
        assert values == sorted(values, reverse=start > target)
        assert all(0 <= v <= 1 for v in values)
        rest = alpha.tick()
        assert (rest.value, rest.velocity) == (target, 0.0)


@given(curves, st.integers(1, 5))
def test_a_ramp_may_be_turned_around_half_way(curve, done):
    alpha = Alpha(curve=curve).ramp_to(1.0, 6)
    for _ in range(done):
        alpha = alpha.tick()
    here = alpha.value
    alpha = alpha.ramp_to(0.0, 3)
    assert alpha.value == here
    values = [here]
    for _ in range(3):
        alpha = alpha.tick()
        values.append(alpha.value)
    assert values == sorted(values, reverse=True) and values[-1] == 0.0
