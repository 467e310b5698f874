"""The statistics against scipy, and against counting."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks import statistics as s


def drawn(runs, seeds, mean=0.0, seed=0):
    return np.random.default_rng(seed).normal(mean, 1.0, (runs, seeds))


def test_the_interval_of_a_paired_difference_is_that_of_scipy():
    a, b = drawn(1, 30, 0.5), drawn(1, 30, seed=1)
    ours = s.estimate(s.mean_difference, a, b)
    theirs = stats.bootstrap(
        ((a - b)[0],), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(7)
    ).confidence_interval
    assert ours.value == pytest.approx(np.mean(a - b))
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)
    assert ours == s.paired(a[0], b[0]), "it is seeded"
    assert ours.seeds == 30


def test_the_interval_of_four_pairs_is_that_of_every_resample():
    differences = np.array([0.0, 1.0, 3.0, 4.0])
    means = [np.mean(resample) for resample in product(differences, repeat=4)]
    interval = s.paired(differences, np.zeros(4))
    low, high = np.quantile(means, [0.025, 0.975])
    assert interval.low == pytest.approx(low, abs=0.26) and interval.high == pytest.approx(high, abs=0.26)


def test_pairing_takes_the_seeds_noise_away_and_runs_add_their_own():
    noise = 10 * drawn(1, 20)
    few = s.estimate(s.mean_difference, noise + 1.0, noise)
    assert few.low == pytest.approx(1.0) and few.high == pytest.approx(1.0)
    runs = noise + np.array([[0.0], [1.0], [2.0]])
    several = s.estimate(s.mean_difference, runs, noise)
    # the mean of three draws of 0, 1, 2 is 0 or 2 in one case of 27 each
    assert several.value == pytest.approx(1.0)
    assert several.low == pytest.approx(0.0) and several.high == pytest.approx(2.0)


def test_the_interval_of_a_mean_knows_that_both_runs_and_seeds_vary():
    by_run = s.estimate(s.mean, np.array([[-3.0], [-1.0], [1.0], [3.0]]) + np.zeros((4, 50)))
    assert by_run.low < -1 and by_run.high > 1
    constant = s.estimate(s.mean, np.full((4, 50), 0.25))
    assert (constant.low, constant.high) == (0.25, 0.25)
    by_seed = s.estimate(s.mean, np.arange(50.0)[None] + np.zeros((4, 1)))
    assert 15 < by_seed.low < 24.5 < by_seed.high < 34


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_the_p_value_is_about_that_of_a_t_test(shift):
    a, b = drawn(1, 60, shift), drawn(1, 60, seed=1)
    assert s.estimate(s.mean_difference, a, b).p == pytest.approx(stats.ttest_rel(a[0], b[0]).pvalue, abs=0.05)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(0, 99))
def test_the_probability_of_improvement_is_what_counting_says(runs_a, runs_b, seeds, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(3, size=(runs_a, seeds)).astype(float), rng.integers(3, size=(runs_b, seeds)).astype(float)
    wins = [(x > y) + 0.5 * (x == y) for i in range(seeds) for x, y in product(a[:, i], b[:, i])]
    assert s.probability_of_improvement(a, b) == pytest.approx(np.mean(wins))
    assert s.probability_of_improvement(b, a) == pytest.approx(1.0 - np.mean(wins))


def test_the_interquartile_mean_is_scipy_s_trimmed_mean():
    scores = drawn(3, 13) ** 3
    assert s.interquartile_mean(scores) == pytest.approx(stats.trim_mean(scores, 0.25, axis=None))


def test_a_profile_falls_from_one_to_nothing():
    scores = drawn(2, 40)
    thresholds = [scores.min() - 1, np.median(scores), scores.max()]
    assert s.profile(scores, thresholds).tolist() == [1.0, 0.5, 0.0]


def test_holm_is_the_textbook_s():
    assert s.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert s.holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


POINTS = st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=6)


@given(POINTS)
def test_the_hypervolume_is_what_counting_cubes_says(points):
    covered = sum(
        any(all(c < x for c, x in zip(cube, p, strict=True)) for p in points) for cube in product(range(4), repeat=3)
    )
    assert s.hypervolume(points, (0, 0, 0)) == covered


@given(POINTS)
def test_what_is_not_on_the_front_is_dominated_by_what_is(points):
    named = {str(i): p for i, p in enumerate(points)}
    front = s.front(named)
    assert front
    for name, p in named.items():
        assert (name in front) != any(s.dominates(named[other], p) for other in front)
    assert s.hypervolume([named[n] for n in front], (0, 0, 0)) == s.hypervolume(points, (0, 0, 0))


def test_what_is_no_pair_or_no_number_is_refused():
    with pytest.raises(ValueError, match="no pairs"):
        s.estimate(s.mean_difference, drawn(1, 3), drawn(1, 4))
    with pytest.raises(ValueError, match="list failed episodes"):
        s.as_scores([1.0, np.nan])
    assert s.as_scores([1.0, 2.0]).shape == (1, 2)
