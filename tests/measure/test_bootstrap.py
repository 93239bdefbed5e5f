"""Intervals: they hold the truth as often as they promise, and do not depend on units or chance."""

import math

import numpy as np
import pytest
from intervals import held, sentences, simulated
from scipy import stats

from steer_cli.measure.bootstrap import Draws, estimate
from steer_cli.measure.share import mean_share, share_of
from steer_cli.measure.student import bound_of, within
from steer_cli.measure.verdicts import chance, verdict
from steer_cli.results import Estimate
from steer_cli.results.verdict import costs

MADE = {kind: sentences(kind) for kind in ("normal", "skewed as KL")}
CELLS = [cell for cell in simulated() if max(cell.sizes) <= 16]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.name} {cell.sizes}")
def test_95_of_100_intervals_hold_the_truth(cell):
    """Within what so few tries can tell: 2 standard errors of the share, on top of 93 to 97."""
    tries = 300
    slack = 2 * math.sqrt(0.95 * 0.05 / tries)
    assert 0.93 - slack <= 1 - sum(held(cell, tries)) <= 0.97 + slack


def without_each(made):
    """The mean without one of the draws, for each."""
    kept = [np.delete(np.arange(len(made.sums)), number) for number in range(len(made.sums))]
    return np.array([made.sums[some].sum() / made.counts[some].sum() for some in kept])


@pytest.mark.parametrize("count", [8, 30])
def test_no_end_is_nearer_than_what_single_draws_do_to_the_mean(count):
    """The error is the jackknife's: how far the mean moves when a draw is left out."""
    for seed in range(20):
        made = MADE["skewed as KL"].draw(np.random.default_rng(seed), count)
        error = math.sqrt(np.square(without_each(made) - made.mean).sum())
        found = estimate((1.0, made))
        assert found.high - made.mean >= 1.9599 * error
        assert made.mean - found.low >= 1.9599 * error


def test_one_long_sentence_does_not_hide_how_little_is_known():
    """It agrees with the mean that it makes; the others say how far off it may be."""
    others = np.array([1.0, -1.0, 2.0, -2.0, 0.0, 1.5, -1.5, 0.5])
    long = Draws(np.append(5 * others, 1000 * 1.0), np.append(np.full(8, 5.0), 1000.0))
    found = estimate((1.0, long))
    assert found.low < others.mean() and found.high > 1.0


def test_a_rare_word_has_an_interval_with_ends():
    """Most resamples of few counts are all alike, so that nothing can be studentised."""
    draw, tries, held = np.random.default_rng(3), 150, 0
    for _ in range(tries):
        found = estimate((1.0, Draws.of(draw.poisson(0.15, 24))))
        assert math.isfinite(found.low) and math.isfinite(found.high)
        held += found.low <= 0.15 <= found.high
    assert held / tries >= 0.88


def test_with_many_draws_it_is_the_normal_interval():
    made = MADE["normal"].draw(np.random.default_rng(4), 2000)
    off = made.sums - made.mean * made.counts
    error = math.sqrt(len(off) * off.var(ddof=1)) / made.counts.sum()
    found = estimate((1.0, made))
    assert found.value == pytest.approx(made.sums.sum() / made.counts.sum())
    assert found.high - found.value == pytest.approx(1.96 * error, rel=0.06)
    assert found.value - found.low == pytest.approx(1.96 * error, rel=0.06)


def test_units_order_and_repetition():
    made = MADE["skewed as KL"].draw(np.random.default_rng(5), 20)
    found = estimate((1.0, made))
    assert estimate((1.0, made)) == found
    twice = estimate((2.0, made))
    assert (twice.low, twice.high) == pytest.approx((2 * found.low, 2 * found.high))
    away = estimate((-1.0, made))
    assert (away.low, away.high) == pytest.approx((-found.high, -found.low), rel=0.02)


@pytest.mark.parametrize("others", [1, 2, 3, 4])
@pytest.mark.parametrize("most", [0.0, 1 / 7, 1 / 3, 2 / 3, 1.4])
def test_equal_draws_are_equal_whatever_they_are(most, others):
    """Draws most of which are the same number, which is not 0 and has no short binary form."""
    draws = np.array([0.0] * (24 - others) + [1 / 7] * others)
    plain, moved = estimate((1.0, Draws.of(draws))), estimate((1.0, Draws.of(draws + most)))
    assert moved.low == pytest.approx(plain.low + most, abs=1e-9)
    assert moved.high == pytest.approx(plain.high + most, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_no_end_lies_beyond_all_draws_where_most_are_nearly_equal(seed):
    generator = np.random.default_rng(seed)
    draws = 1 + 1e-6 * generator.normal(size=24)
    draws[:2] += (1.0, 0.5)
    found = estimate((1.0, Draws.of(draws)))
    assert draws.min() < found.low < found.high < draws.max()


def test_a_paired_difference_is_narrower_and_that_of_the_same_is_nothing():
    made = MADE["normal"].draw(np.random.default_rng(6), 30)
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


@pytest.mark.parametrize("ones, draws", [(0, 8), (1, 24), (7, 24), (24, 24)])
def test_shares_of_0_and_1_have_clopper_and_pearsons_interval(ones, draws):
    expected = stats.binomtest(ones, draws).proportion_ci(0.95, "exact")
    found = mean_share(Draws.of([1.0] * ones + [0.0] * (draws - ones)))
    assert found.value == ones / draws and found.count == draws
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.012)


@pytest.mark.parametrize("draws", [8, 24])
def test_a_rare_completion_that_repeats_itself_is_reckoned_with(draws):
    """The bootstrap's interval is [0, 0] wherever there is none among the draws."""
    draw, tries = np.random.default_rng(9), 100
    made = [Draws.of(np.where(draw.random(draws) < 0.03, 0.45, 0.0)) for _ in range(tries)]
    found = [mean_share(part) for part in made]
    assert sum(share.low <= 0.03 * 0.45 <= share.high for share in found) / tries >= 0.95
    assert (
        sum(bound.high >= 0.03 * 0.45 for bound in map(estimate, [(1.0, part) for part in made])) / tries
        < 0.9
    )


def test_a_difference_of_shares_is_that_of_the_other_turned_round():
    values = np.random.default_rng(10).normal(0.1, 0.2, 24).clip(-1, 1)
    found, turned = (mean_share(Draws.of(side * values), least=-1.0) for side in (1, -1))
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), abs=0.01)
    assert mean_share(Draws.of(values[::-1]), least=-1.0) == found


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
        (Estimate(0.3, -0.1, 0.6, 50), 0, "its interval contains 0"),
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


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ((0.02, 0.01, 0.03), "costs 2.0 % [1.0, 3.0] on neutral text"),
        ((0.2, 0.1, 0.3), "harms neutral text (22 % [11, 35] of perplexity)"),
        ((0.6, 0.5, 0.7), "ruins neutral text (82 % [65, 101] of perplexity)"),
        ((-0.02, -0.03, -0.01), "neutral text becomes likelier (-2.0 % [-3.0, -1.0] of perplexity)"),
        ((0.005, -0.01, 0.015), "costs nothing that could be measured on neutral text (0.5 % [-1.0, 1.5] of"),
        ((0.01, -0.01, 0.03), "may cost up to 3.0 % on neutral text (1.0 % [-1.0, 3.0] of perplexity)"),
        ((-0.005, -0.04, 0.03), "may cost up to 3.0 % on neutral text (-0.5 % [-3.9, 3.0] of perplexity)"),
        # So wide an interval does not exclude that it ruins neutral text.
        ((0.6, -0.01, 1.2), "costs an unknown amount on neutral text (82 % [-1.0, 232] of perplexity)"),
    ],
)
def test_a_cost_is_not_said_to_be_nothing_where_it_may_be_much(damage, says):
    assert costs(Estimate(*damage, 20)).startswith(says)
