"""Intervals: they hold the truth as often as they promise, and do not depend on units or chance."""

import math

import numpy as np
import pytest
from scipy import stats

from steer_cli.measure.bootstrap import Draws, estimate
from steer_cli.measure.share import share_of
from steer_cli.measure.student import bound_of, within
from steer_cli.measure.verdicts import chance, verdict
from steer_cli.results import Estimate


def sentences(draw, count, kind):
    """The changes of sentences of 5 to 40 tokens; each has a mean of its own beside its tokens' noise."""
    lengths = draw.integers(5, 41, count).astype(float)
    own = {"even": draw.normal(0.2, 0.15, count), "short gain more": 3 / lengths, "skewed": None}[kind]
    if own is None:
        own = 0.1 + draw.gamma(2, 0.07, count)
    return Draws(lengths * own + np.sqrt(lengths) * draw.normal(0, 0.4, count), lengths)


def truth(kind):
    everything = sentences(np.random.default_rng(1), 200_000, kind)
    return everything.mean


@pytest.mark.parametrize("kind", ["even", "short gain more", "skewed"])
@pytest.mark.parametrize("count", [8, 30])
def test_95_of_100_intervals_hold_the_truth(kind, count):
    """Within what 400 tries can tell: 2.5 standard errors of the share, on top of 93 to 97."""
    draw, value, tries = np.random.default_rng(count), truth(kind), 300
    held = 0
    for _ in range(tries):
        found = estimate((1.0, sentences(draw, count, kind)))
        held += found.low <= value <= found.high
    slack = 2.5 * math.sqrt(0.95 * 0.05 / tries)
    assert 0.93 - slack <= held / tries <= 0.97 + slack


def test_so_do_those_of_a_difference_of_two_sets():
    draw, value, tries, held = np.random.default_rng(2), truth("even") - truth("skewed"), 200, 0
    for _ in range(tries):
        found = estimate((1.0, sentences(draw, 12, "even")), (-1.0, sentences(draw, 30, "skewed")))
        held += found.low <= value <= found.high
    assert 0.9 <= held / tries <= 0.99


def test_a_rare_word_has_an_interval_with_ends():
    """Most resamples of few counts are all alike, so that nothing can be studentised."""
    draw, tries, held = np.random.default_rng(3), 150, 0
    for _ in range(tries):
        found = estimate((1.0, Draws.of(draw.poisson(0.15, 24))))
        assert math.isfinite(found.low) and math.isfinite(found.high)
        held += found.low <= 0.15 <= found.high
    assert held / tries >= 0.88


def test_with_many_draws_it_is_the_normal_interval():
    made = sentences(np.random.default_rng(4), 2000, "even")
    off = made.sums - made.mean * made.counts
    error = math.sqrt(len(off) * off.var(ddof=1)) / made.counts.sum()
    found = estimate((1.0, made))
    assert found.value == pytest.approx(made.sums.sum() / made.counts.sum())
    assert found.high - found.value == pytest.approx(1.96 * error, rel=0.06)
    assert found.value - found.low == pytest.approx(1.96 * error, rel=0.06)


def test_units_order_and_repetition():
    made = sentences(np.random.default_rng(5), 20, "skewed")
    found = estimate((1.0, made))
    assert estimate((1.0, made)) == found
    twice = estimate((2.0, made))
    assert (twice.low, twice.high) == pytest.approx((2 * found.low, 2 * found.high))
    away = estimate((-1.0, made))
    assert (away.low, away.high) == pytest.approx((-found.high, -found.low), rel=0.02)


def test_a_paired_difference_is_narrower_and_that_of_the_same_is_nothing():
    made = sentences(np.random.default_rng(6), 30, "even")
    noise = Draws(0.1 * np.sqrt(made.counts) * np.random.default_rng(7).normal(size=30), made.counts)
    near = Draws(made.sums + noise.sums, made.counts)
    paired, apart = estimate((1.0, near.less(made))), estimate((1.0, near), (-1.0, made))
    assert paired.high - paired.low < 0.3 * (apart.high - apart.low)
    assert estimate((1.0, made.less(made))) == Estimate(0.0, 0.0, 0.0, 30)
    with pytest.raises(ValueError, match="cannot be paired"):
        made.less(Draws.of(made.sums))


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 30])
def test_students_t_is_that_of_scipy(degrees):
    for bound in (0.3, 1, 2.5, 8):
        assert within(bound, degrees) == pytest.approx(2 * stats.t.cdf(bound, degrees) - 1)
    assert bound_of(0.95, degrees) == pytest.approx(stats.t.ppf(0.975, degrees))


@pytest.mark.parametrize("found, items", [(0, 8), (3, 20), (20, 20)])
def test_a_share_has_wilsons_interval(found, items):
    expected = stats.binomtest(found, items).proportion_ci(0.95, "wilson")
    share = share_of(found, items)
    assert (share.low, share.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_random_vector_is_declared_to_steer_in_fewer_than_1_of_20():
    """However surely its own effect is not 0: the effects of vectors are drawn, and so is the judged one."""
    draw, steers = np.random.default_rng(8), 0
    for _ in range(2000):
        own, *others = draw.normal(0, 0.1, 4)
        sure = Estimate(own, own - 0.001, own + 0.001, 50)
        beyond = [Estimate(own - r, own - r - 0.001, own - r + 0.001, 50) for r in others]
        steers += verdict(sure, beyond, others).direction != 0
    assert steers / 2000 < 0.06


def test_the_best_of_many_must_reach_further():
    assert chance([0.1, -0.1, 0.1], tried=30) > 2 * chance([0.1, -0.1, 0.1])


@pytest.mark.parametrize(
    "effect, direction, reason",
    [
        (Estimate(0.3, 0.2, 0.4, 50), 1, ""),
        (Estimate(-0.3, -0.4, -0.2, 50), -1, ""),
        (Estimate(0.3, -0.1, 0.6, 50), 0, "its interval holds 0"),
        (Estimate(0.03, 0.02, 0.04, 50), 0, "random vectors of the same length may do as much"),
        (Estimate(0.0, 0.0, 0.0, 50), 0, "nothing changes"),
    ],
)
def test_the_rule_of_the_verdict(effect, direction, reason):
    randoms = [0.01, -0.02, 0.015]
    beyond = [Estimate(effect.value - r, effect.low - r, effect.high - r, 50) for r in randoms]
    found = verdict(effect, beyond, randoms)
    assert (found.direction, found.reason) == (direction, reason)
    conditions = [(False, "they lose too")]
    assert verdict(effect, beyond, randoms, conditions).direction == min(direction, 0)
