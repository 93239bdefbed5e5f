"""Draws against the exact distribution, worked out here in float64 with the whole vocabulary sorted."""

import hashlib

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from steer_cli.decoding.sampling import (
    draw_from_candidates,
    draw_from_more,
    row_generator,
    token_counts,
    uniforms,
)
from steer_cli.recipe.sampling import Sampling

DRAWS = 20_000
NEUTRAL = {"temperature": 1.0, "top_p": 1.0, "top_k": None, "frequency_penalty": 0.0}
ALMOST_1 = 1 - 2.0**-53


def settings(**changes):
    return Sampling(**{**NEUTRAL, **changes})


def logits_of(vocabulary, spread):
    """Gaussian, float32; the nucleus of a small spread holds most of the vocabulary."""
    return torch.randn(vocabulary, generator=torch.Generator().manual_seed(vocabulary)) * spread


def exact(logits, counts, sampling):
    """The probability of each token."""
    scores = logits.double().numpy() / sampling.temperature - sampling.frequency_penalty * counts.numpy()
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    order = np.argsort(-shares, kind="stable")
    before = np.cumsum(shares[order]) - shares[order]
    kept = order[(before < sampling.top_p) | (sampling.top_p == 1)][: sampling.top_k]
    result = np.zeros_like(shares)
    result[kept] = shares[kept]
    return result / result.sum()


def draw(logits, counts, sampling, uniform):
    """One token per row, each from a slot of its own, as a step of a batch draws them."""
    facts = (logits, counts, sampling, uniform, torch.arange(len(logits)))
    token, enough = draw_from_candidates(*facts)
    return token if enough.all() else draw_from_more(token, enough, *facts)


def drawn(logits, counts, sampling, uniform):
    """One token for each uniform number, in parts that fit into memory."""
    parts = []
    for part in uniform.split(4000):
        many = None if counts is None else counts.expand(len(part), -1)
        parts.append(draw(logits.expand(len(part), -1), many, sampling, part))
    return torch.cat(parts).numpy()


# A nucleus of 520 flat logits is larger than the first look, one of 520 peaked logits is smaller.
FLAT, PEAKED = (520, 0.5), (520, 3.0)
WAYS = {
    "plain": {},
    "top-p": {"top_p": 0.7},
    "small top-p": {"top_p": 0.3},
    "top-k": {"top_k": 7},
    "large top-k": {"top_k": 300},
    "top-p and top-k": {"top_p": 0.8, "top_k": 12},
    "penalty": {"frequency_penalty": 1.0},
    "penalty and top-p": {"frequency_penalty": -0.5, "top_p": 0.9},
    "temperature 0.5": {"temperature": 0.5},
    "temperature 2": {"temperature": 2.0, "top_p": 0.9, "frequency_penalty": 0.7},
}


CASES = [
    *((50, 1.5, way) for way in WAYS),
    *((*FLAT, way) for way in ("plain", "top-p", "top-p and top-k", "large top-k", "temperature 2")),
    *((*PEAKED, way) for way in ("plain", "top-p", "penalty and top-p", "temperature 0.5")),
]


@pytest.mark.parametrize(("vocabulary", "spread", "way"), CASES)
def test_draws_follow_the_exact_distribution(vocabulary, spread, way):
    sampling, logits = settings(**WAYS[way]), logits_of(vocabulary, spread)
    generator = torch.Generator().manual_seed(5)
    row = torch.randint(vocabulary, (1, 40), generator=generator)
    counts = torch.bincount(row[0], minlength=vocabulary)
    uniform = torch.rand(DRAWS, generator=generator, dtype=torch.float64)
    given = None if sampling.frequency_penalty == 0 else token_counts(row, vocabulary)[0]
    tokens = drawn(logits, given, sampling, uniform)
    share = exact(logits, counts, sampling)
    seen = np.bincount(tokens, minlength=vocabulary)
    assert seen[share == 0].sum() == 0, "drawn from outside of the nucleus"
    often = share * DRAWS >= 5
    observed, expected = seen[often], share[often] * DRAWS
    if not often.all() and share[~often].sum() * DRAWS >= 1:
        observed = np.append(observed, seen[~often].sum())
        expected = np.append(expected, share[~often].sum() * DRAWS)
    if len(observed) > 1:
        assert chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-4
    # Sharper still: each token owns the stretch of [0, 1) that its share takes in vocabulary order.
    end = np.cumsum(share)
    low, high = (np.searchsorted(end, uniform.numpy() + rounding) for rounding in (-1e-6, 1e-6))
    assert (low == high).mean() > 0.98
    assert (tokens == low)[low == high].all()


def test_the_first_look_and_its_fallback_are_both_met():
    """What the two kinds of 520 logits are for."""
    for kind, more in ((FLAT, True), (PEAKED, False)):
        share = exact(logits_of(*kind), torch.zeros(520), settings(top_p=0.7))
        assert ((share > 0).sum() > 128) == more


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("vocabulary", [20, 520, 20_010])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_glance_never_settles_a_row_that_is_not_finite(vocabulary, way, value):
    logits = torch.stack([logits_of(vocabulary, 3.0)] * 3)
    logits[1, 7] = value
    logits[2, 7] = -float("inf")  # a token that cannot be drawn is nothing to stop at
    counts = torch.zeros_like(logits)
    drawing = (settings(**WAYS[way]), torch.tensor([0.1, 0.9, 0.5], dtype=torch.float64), torch.arange(3))
    _, enough = draw_from_candidates(logits, counts, *drawing)
    alone = [
        draw_from_candidates(
            logits[row : row + 1], counts[:1], drawing[0], drawing[1][row, None], torch.tensor([0])
        )
        for row in (0, 2)
    ]
    assert not enough[1]
    assert enough[[0, 2]].tolist() == [bool(one) for _, one in alone]


def test_rows_of_a_slot_draw_from_its_logits():
    logits = torch.stack([logits_of(*FLAT), logits_of(*PEAKED)])
    counts = token_counts(torch.randint(520, (2, 40), generator=torch.Generator().manual_seed(2)), 520)
    at = torch.tensor([0, 1, 1, 0, 1])
    uniform = torch.rand(5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for way in WAYS:
        sampling = settings(**WAYS[way])
        shared = (logits, counts, sampling, uniform, at)
        token, enough = draw_from_candidates(*shared)
        wanted = draw(logits[at], counts[at], sampling, uniform)
        assert torch.equal(draw_from_more(token, enough, *shared), wanted)
        assert torch.equal(token[enough], wanted[enough])


@pytest.mark.parametrize("way", ["top-p", "small top-p", "top-p and top-k"])
def test_a_large_vocabulary_is_looked_through_to_its_end(way):
    """Its largest scores are sought chunk by chunk; these lie at the ends of chunks and behind the last."""
    logits, sampling = logits_of(20_010, 1.0), settings(**WAYS[way])
    logits[[0, 127, 128, 9999, 19_967, 19_968, 20_009]] += torch.tensor([11.0, 12.0, 11.5, 12, 11, 12.5, 12])
    share = exact(logits, torch.zeros(20_010), sampling)
    assert (share > 0).sum() < 8
    uniform = torch.linspace(0.001, 0.999, 300, dtype=torch.float64)
    low, high = (np.searchsorted(np.cumsum(share), uniform.numpy() + rounding) for rounding in (-1e-6, 1e-6))
    assert (low == high).mean() > 0.98
    assert (drawn(logits, None, sampling, uniform) == low)[low == high].all()


def test_the_token_that_crosses_p_is_kept_and_no_other():
    logits = torch.tensor([0.1, 0.5, 0.15, 0.25]).log()
    even = torch.linspace(0, ALMOST_1, 2000, dtype=torch.float64)
    for top_p, kept in ((0.01, {1}), (0.49, {1}), (0.51, {1, 3}), (0.74, {1, 3}), (0.76, {1, 2, 3})):
        assert set(drawn(logits, None, settings(top_p=top_p), even)) == kept
    assert set(drawn(logits, None, settings(top_p=0.91), even)) == {0, 1, 2, 3}
    # top-k comes after top-p and can only take away; what is left is scaled up again.
    assert set(drawn(logits, None, settings(top_p=0.76, top_k=2), even)) == {1, 3}
    assert set(drawn(logits, None, settings(top_p=0.51, top_k=3), even)) == {1, 3}
    tokens = drawn(logits, None, settings(top_p=0.51), even)
    assert abs((tokens == 1).mean() - 2 / 3) < 1e-3


@pytest.mark.parametrize("way", WAYS)
def test_a_row_is_drawn_as_if_it_were_alone(way):
    """A flat row sends the whole batch to the fallback; that must not show in a peaked one."""
    rows = torch.stack([logits_of(*FLAT), logits_of(*PEAKED)])
    uniform = torch.rand(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    counts = token_counts(torch.randint(520, (2, 40), generator=torch.Generator().manual_seed(2)), 520)
    for one in uniform:
        together = draw(rows, counts, settings(**WAYS[way]), one.expand(2))
        alone = [draw(rows[i : i + 1], counts[i : i + 1], settings(**WAYS[way]), one[None]) for i in (0, 1)]
        assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("way", [{"top_p": 0.7}, {"top_k": 3}, {"top_p": 0.7, "top_k": 3}])
def test_a_row_with_equal_logits_is_drawn_as_if_it_were_alone(way):
    """Half precision makes many logits equal; which of them are kept must not depend on other rows."""
    ties = torch.full((520,), -9.0)
    ties[100:500:40] = 3.0  # ten tokens that share nearly all of the mass
    rows = torch.stack([torch.zeros(520), ties])
    for one in torch.linspace(0, ALMOST_1, 60, dtype=torch.float64):
        together = draw(rows, None, settings(**way), one.expand(2))[1]
        alone = draw(rows[1:], None, settings(**way), one[None])[0]
        assert together == alone


def test_temperature_0_is_the_largest_after_the_penalty():
    logits = torch.tensor([[1.0, 4.0, 3.0], [1.0, 4.0, 3.0], [1.0, 4.0, 3.0]])
    counts = token_counts(torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 2]]), 3)
    greedy = settings(temperature=0.0, frequency_penalty=1.5, top_p=0.3)
    never = torch.full((3,), float("nan"), dtype=torch.float64)
    assert draw(logits, counts, greedy, never).tolist() == [1, 2, 2]
    assert draw(logits, None, settings(temperature=0.0), never).tolist() == [1, 1, 1]
    # The penalty is not divided by the temperature.
    warm = settings(temperature=10.0, frequency_penalty=1.5, top_p=1e-9)
    assert draw(logits[:2], counts[:2], warm, never[:2].nan_to_num(0.5)).tolist() == [1, 2]


def test_counts_are_of_the_whole_row():
    assert token_counts(torch.tensor([[3, 1, 3], [0, 0, 0]]), 5).tolist() == [
        [0, 1, 0, 2, 0],
        [3, 0, 0, 0, 0],
    ]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("uniform", [0.0, 2.0**-53, ALMOST_1])
def test_the_ends_of_the_unit_interval_give_tokens_that_can_be(way, uniform):
    logits = logits_of(520, 3.0)
    # The first and the last tokens of the vocabulary have no probability at all, so they show a slip.
    logits[:5] = logits[-5:] = -1e30
    sampling = settings(**WAYS[way])
    share = exact(logits, torch.zeros(520), sampling)
    assert share[0] == share[-1] == 0
    (token,) = draw(logits[None], torch.zeros(1, 520), sampling, torch.tensor([uniform], dtype=torch.float64))
    possible = np.flatnonzero(share)
    assert token == (possible[0] if uniform < 0.5 else possible[-1])


@pytest.mark.parametrize("changes", [{"temperature": 1e-30}, {"temperature": 1e-45}, {"temperature": 1e-300}])
def test_a_tiny_temperature_is_greedy(changes):
    logits = logits_of(50, 1.5)[None]
    half = torch.tensor([0.5], dtype=torch.float64)
    for top_p in (1.0, 0.3):
        assert draw(logits, None, settings(**changes, top_p=top_p), half) == logits.argmax()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_huge_penalty_forbids_what_was_used(temperature):
    logits = torch.tensor([[0.0, 9.0, 1.0, 8.0]])
    counts = token_counts(torch.tensor([[1, 3, 3]]), 4)
    forbid = settings(temperature=temperature, top_p=0.3, frequency_penalty=1e6)
    assert draw(logits, counts, forbid, torch.tensor([0.5], dtype=torch.float64)).tolist() == [2]


def test_uniforms_are_those_of_each_samples_own_generator():
    made = uniforms(7, range(4), 6)
    assert made.shape == (4, 6) and made.dtype == torch.float64
    for sample in range(4):
        digest = hashlib.sha256(f"7:{sample}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") // 2)
        one_by_one = [torch.rand((), generator=generator, dtype=torch.float64).item() for _ in range(6)]
        assert made[sample].tolist() == one_by_one
    assert torch.rand(1, generator=row_generator(7, 2), dtype=torch.float64) == made[2, 0]


def test_uniforms_do_not_depend_on_how_many_were_asked_for():
    whole = uniforms(3, range(40), 70)
    for samples in (range(1), range(5), range(32, 40), range(39, 40)):
        for steps in (1, 2, 15, 16, 17, 33, 70):
            assert torch.equal(uniforms(3, samples, steps), whole[samples.start : samples.stop, :steps])
    assert len(whole.unique()) == whole.numel()
    assert not torch.equal(uniforms(4, range(40), 70), whole)
    assert uniforms(3, range(0), 5).shape == (0, 5)


def test_uniforms_are_uniform():
    made = uniforms(0, range(200), 100).flatten().numpy()
    assert made.min() >= 0 and made.max() < 1
    assert chisquare(np.histogram(made, 50, (0, 1))[0]).pvalue > 1e-4
    # Neighbouring seeds and samples have nothing in common.
    a, b = uniforms(0, range(1), 5000)[0], uniforms(0, range(1, 2), 5000)[0]
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.06
