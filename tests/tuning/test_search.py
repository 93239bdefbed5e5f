"""The search on surfaces in closed form: what it finds, and with how few trials."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from statistics import fmean

import pytest

from steer_cli.results import Figures, Place
from steer_cli.tuning.search import ROUNDS, in_turn, search

LAYERS, POSITIONS, BUDGET = range(30), ("front", "every"), 0.02
Surface = Callable[[Place, float], tuple[float, float]]


class Measured:
    """A surface that counts what is asked of it, in trials with all of the evidence."""

    def __init__(self, surface: Surface, noise: float = 0.0):
        self.surface, self.noise = surface, noise
        self.asked: list[tuple[float, tuple[Place, float]]] = []
        self.batches: list[tuple[float, int]] = []

    def __call__(self, share, asked):
        assert len({place.layer for place, _ in asked}) == 1
        assert len(set(asked)) == len(asked)
        self.asked += [(share, each) for each in asked]
        self.batches.append((share, asked[0][0].layer))
        return [self._figures(share, place, value) for place, value in asked]

    def _figures(self, share, place, value):
        effect, damage = self.surface(place, value)
        # The same sentences are read in every trial of a round, so their errors differ by place alone.
        draw = random.Random(f"{share} {place}")
        spread = self.noise / math.sqrt(share)
        return Figures(
            effect * (1 + draw.gauss(0, spread)), damage * (1 + abs(draw.gauss(0, spread))), 0.001, 0.001
        )

    @property
    def cost(self) -> float:
        return sum(share for share, _ in self.asked)


def height(place: Place) -> float:
    """How well a place steers: best at layer 12, front."""
    return math.exp(-(((place.layer - 12) / 6) ** 2)) * (1.0 if place.position == "front" else 0.7)


def monotone(place: Place, coefficient: float) -> tuple[float, float]:
    """Effect grows with the coefficient, damage with its square."""
    return 0.3 * height(place) * coefficient, 0.05 * (coefficient / (1 + place.layer / 15)) ** 2


def saturating(place: Place, coefficient: float) -> tuple[float, float]:
    """The effect has its peak at coefficient 1 and is lost beyond it, long before the damage matters."""
    return height(place) * coefficient * math.exp(1 - abs(coefficient)), 0.0003 * coefficient**2


def helpful_when_small(place: Place, coefficient: float) -> tuple[float, float]:
    """Damage is negative at small coefficients, lowest at half of its zero, and grows then."""
    size = abs(coefficient)
    return 0.3 * height(place) * coefficient, 0.04 * size * (size - 1.0)


def backwards(place: Place, coefficient: float) -> tuple[float, float]:
    return monotone(place, -coefficient)


def harmless(place: Place, coefficient: float) -> tuple[float, float]:
    """No coefficient reaches the budget, and effects level off."""
    return height(place) * math.tanh(coefficient), 0.019 * math.tanh(coefficient**2)


def bumpy(place: Place, coefficient: float) -> tuple[float, float]:
    """Damage leaves the budget and falls back into it at large coefficients, where nothing steers."""
    size = abs(coefficient)
    return height(place) * coefficient * math.exp(-(size**2) / 2), 0.2 * size**2 * math.exp(-(size**2) / 2)


def harmful(place: Place, coefficient: float) -> tuple[float, float]:
    """Any coefficient, however small, costs more than the budget."""
    return height(place) * coefficient, 0.1 + coefficient**2


def lost(place: Place, coefficient: float) -> tuple[float, float]:
    """The vector only harms, with either sign."""
    return -abs(coefficient) * 0.1, 0.05 * coefficient**2


@cache
def best_of(surface: Surface, budget: float = BUDGET) -> tuple[float, Place]:
    """The largest effect within the budget on a fine grid."""
    sizes = [0.01 * 1.02**step for step in range(400)]
    return max(
        (
            (effect, Place(layer, position))
            for layer in LAYERS
            for position in POSITIONS
            for size in sizes
            for sign in (1, -1)
            for effect, damage in [surface(Place(layer, position), sign * size)]
            if damage <= budget
        ),
        key=lambda found: found[0],
    )


def guesses(layers=LAYERS, positions=POSITIONS) -> dict[Place, float]:
    """The stream grows with depth, as it does in a model."""
    return {Place(layer, position): 0.3 + layer / 17 for layer in layers for position in positions}


@pytest.mark.parametrize(
    "surface, least",
    [
        (monotone, 0.95),
        (saturating, 0.95),
        (helpful_when_small, 0.95),
        (backwards, 0.95),
        (harmless, 0.85),  # its damage stops growing just below the budget, which nothing announces
        (bumpy, 0.95),
    ],
)
def test_the_best_of_the_surface_is_found_with_a_tenth_of_a_grid(surface, least):
    measured = Measured(surface)
    found = search(guesses(), BUDGET, in_turn(measured))
    wanted, _ = best_of(surface)
    assert found.best[0].figures.effect >= least * wanted
    assert found.best[0].figures.damage <= BUDGET
    assert measured.cost <= 30 * 2 * 12 / 10


@pytest.mark.parametrize("surface", [monotone, saturating, helpful_when_small, backwards])
def test_noise_that_shrinks_with_the_evidence_costs_little_effect(surface):
    shares, (wanted, _) = [], best_of(surface)
    for seed in range(10):

        def shifted(place: Place, coefficient: float, seed: int = seed) -> tuple[float, float]:
            return surface(Place((place.layer + 3 * seed) % 30, place.position), coefficient)

        found = search(guesses(), BUDGET, in_turn(Measured(shifted, noise=0.1)))
        chosen = found.best[0]
        effect, _ = shifted(chosen.place, chosen.coefficient)
        shares.append(effect / wanted)  # shifting only moves the best

    assert fmean(shares) >= 0.9
    assert min(shares) >= 0.7


def test_a_vector_that_points_the_wrong_way_gets_a_negative_coefficient():
    found = search(guesses(), BUDGET, in_turn(Measured(backwards)))
    assert found.best[0].coefficient < 0


def test_where_every_coefficient_harms_nothing_is_best_and_the_nearest_miss_is_named():
    found = search(guesses(), BUDGET, in_turn(Measured(harmful)))
    assert found.best == ()
    miss = found.nearest_miss
    assert miss is not None
    assert miss.figures.effect > 0
    assert miss.figures.damage > BUDGET


def test_where_nothing_steers_there_is_neither_a_best_nor_a_miss():
    measured = Measured(lost)
    found = search(guesses(), BUDGET, in_turn(measured))
    assert found.best == ()
    assert found.nearest_miss is None
    assert measured.cost < 60


@pytest.mark.parametrize("later", [-0.01, 0.001, 0.01])
@pytest.mark.parametrize(("luck", "error"), [(0.2, 0.07), (0.5, 0.07), (0.5, 0.001)])
def test_one_lucky_place_does_not_hide_the_others(luck, error, later):
    """With little evidence it promises much, with more of it little or nothing; all others have an effect."""

    def measure(share, asked):
        found = []
        for place, value in asked:
            effect, doubt = (0.05, 0.01) if place.position == "front" else (-0.01, error)
            if place == Place(13, "every"):
                effect = luck if share < 0.5 else later
            found.append(Figures(effect * abs(value), 0.01 * value**2, doubt, 0.001))
        return found

    found = search(dict.fromkeys(guesses(), 1.0), BUDGET, in_turn(measure))
    assert found.best[0].place.position == "front"
    assert found.best[0].figures.effect > 0.9 * 0.05 * math.sqrt(BUDGET / 0.01)


def test_the_same_search_asks_for_the_same_trials():
    first, second = Measured(monotone, 0.1), Measured(monotone, 0.1)
    assert search(guesses(), BUDGET, in_turn(first)) == search(guesses(), BUDGET, in_turn(second))
    assert first.asked == second.asked


def test_layers_rise_within_a_round_so_that_streams_are_carried_on():
    measured = Measured(monotone)
    search(guesses(), BUDGET, in_turn(measured))
    for part in ROUNDS:
        for position in POSITIONS:
            of_round = [place for share, (place, _) in measured.asked if share == part.share]
            layers = [place.layer for place in of_round if place.position == position]
            falls = sum(later < layer for layer, later in pairwise(layers))
            assert falls <= (1 if part.best is None else 0)
    assert {share for share, _ in measured.batches} == {part.share for part in ROUNDS}


def test_chains_of_a_round_may_run_in_any_order():
    def backwards_in_order(chains):
        found = [*in_turn(Measured(saturating))([*reversed(chains)])]
        return reversed(found)

    in_order = search(guesses(), BUDGET, in_turn(Measured(saturating)))
    assert search(guesses(), BUDGET, backwards_in_order) == in_order


@pytest.mark.parametrize("layer", LAYERS)
def test_a_peak_is_found_wherever_it_lies(layer):
    def peaked(place: Place, coefficient: float) -> tuple[float, float]:
        effect, damage = monotone(Place(12, place.position), coefficient)
        return effect * math.exp(-(((place.layer - layer) / 3) ** 2)), damage

    found = search(guesses(), BUDGET, in_turn(Measured(peaked)))
    assert found.best[0].place == Place(layer, "front")


def test_few_places_go_straight_to_the_round_with_all_of_the_evidence():
    measured = Measured(backwards)
    found = search(guesses([12], ["front"]), BUDGET, in_turn(measured))
    assert {share for share, _ in measured.batches} == {1.0}
    assert found.best[0].coefficient < 0
    assert found.best[0].figures.effect >= 0.95 * max(
        backwards(Place(12, "front"), -size / 1000)[0]
        for size in range(1, 5000)
        if backwards(Place(12, "front"), -size / 1000)[1] <= BUDGET
    )


@pytest.mark.parametrize("surface", [monotone, backwards, saturating])
@pytest.mark.parametrize("places", [guesses(), guesses([12], ["front"])])
def test_what_acts_at_coefficient_0_is_told_from_what_is_moved(surface, places):
    """Other additions have an effect and damage of their own, in which the budget has to be shared."""
    effect_at_0, damage_at_0 = 2.0, 0.012

    def with_others(place: Place, coefficient: float) -> tuple[float, float]:
        effect, damage = surface(place, coefficient)
        return effect_at_0 + effect, damage_at_0 + damage

    measured = Measured(with_others)
    found = search(places, BUDGET, in_turn(measured), fixed=True)
    wanted, _ = best_of(surface, BUDGET - damage_at_0)
    assert found.best[0].figures.effect - effect_at_0 >= 0.95 * wanted
    assert found.best[0].figures.damage <= BUDGET


def test_coefficient_0_is_the_answer_where_only_the_other_additions_steer():
    def spoiling(place: Place, coefficient: float) -> tuple[float, float]:
        effect, damage = lost(place, coefficient)
        return 0.5 + effect, 0.01 + damage

    found = search(guesses([12, 13], ["front"]), BUDGET, in_turn(Measured(spoiling)), fixed=True)
    assert (found.best[0].coefficient, found.best[0].figures.effect) == (0.0, 0.5)


def test_nothing_fits_where_the_other_additions_exceed_the_budget():
    def beyond(place: Place, coefficient: float) -> tuple[float, float]:
        effect, damage = monotone(place, coefficient)
        return effect, 0.03 + damage

    found = search(guesses(), BUDGET, in_turn(Measured(beyond)), fixed=True)
    assert found.best == ()
    assert found.nearest_miss is not None


@pytest.mark.parametrize("layers", [[12], [11, 12, 13]])
@pytest.mark.parametrize("guess", [0.3, 0.7, 1.0, 2.0, 4.0])
def test_few_places_find_the_peak_of_the_effect_from_any_guess(layers, guess):
    measured = Measured(saturating)
    found = search({Place(layer, "front"): guess for layer in layers}, BUDGET, in_turn(measured))
    # The surface has its peak of 1 at coefficient 1; the budget is met at 8.
    assert found.best[0].place == Place(12, "front")
    assert found.best[0].figures.effect >= 0.94
    assert measured.cost <= 6 * len(layers)


def test_each_place_is_known_by_its_last_round():
    found = search(guesses(), BUDGET, in_turn(Measured(monotone)))
    visited = {trial.place for trial in found.trials}
    assert [trial.place for trial in found.places] == sorted(
        visited, key=lambda place: (place.layer, POSITIONS.index(place.position))
    )
    # Around the best layer none is left out.
    assert {Place(layer, "front") for layer in range(9, 16)} <= visited
    for trial in found.places:
        shares = [other.share for other in found.trials if other.place == trial.place]
        assert trial.share == max(shares)


def test_no_trial_of_the_frontier_is_beaten_by_another():
    found = search(guesses(), BUDGET, in_turn(Measured(monotone)))
    frontier = [trial.figures for trial in found.frontier]
    assert frontier == sorted(frontier, key=lambda figures: figures.damage)
    for figures in frontier:
        assert not any(
            other.figures.effect > figures.effect and other.figures.damage <= figures.damage
            for other in found.final
        )
