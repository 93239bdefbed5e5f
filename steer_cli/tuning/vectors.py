"""The vectors of a recipe at every place of a search, and how long each is beside the stream."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from statistics import fmean

import torch
from torch import Tensor

from steer_cli.activations.arms import Steering
from steer_cli.activations.relative import lengths_of, stream_lengths
from steer_cli.activations.vectors import vector_of, with_streams
from steer_cli.errors import VectorError
from steer_cli.events import Note, Progress, silent
from steer_cli.networks.network import Network
from steer_cli.planning.placement import Alignment
from steer_cli.results import Place
from steer_cli.tuning.plan import TunePlan

# Sentences whose streams tell how long the stream of a layer is.
GAUGED = 8
# The length to begin with, in lengths of the stream: on tokens of its own, a vector does little until it is
# about as long; at every position, a tenth is much.
ON_SPAN, EVERYWHERE = 1.0, 0.1
HALF = 0.5  # of a component that is ablated


@dataclass(frozen=True)
class PlaceVectors:
    """The vectors of all additions at each place of a plan."""

    plan: TunePlan
    at: dict[Place, tuple[Tensor, ...]]

    def steering(self, place: Place, coefficient: float) -> Steering:
        """The additions of a trial with their vectors."""
        return Steering(self.plan.alignments(place, coefficient), self.at[place])

    def on(self, device: torch.device | str) -> PlaceVectors:
        """The same vectors on a device."""
        moved = {place: tuple(vector.to(device) for vector in vectors) for place, vectors in self.at.items()}
        return replace(self, at=moved)


def vectors_of_places(
    network: Network, plan: TunePlan, progress: Progress = silent, note: Note = silent
) -> PlaceVectors:
    """The vectors at each place where all of the recipe's are more than zeros, computed in shared passes.

    Raises:
        VectorError: there is no such place.
    """
    owners = [place for place, alignments in plan.places.items() for _ in alignments]
    together = [alignment for alignments in plan.places.values() for alignment in alignments]
    found: dict[Place, list[Tensor]] = {place: [] for place in plan.places}
    faults: dict[Place, VectorError] = {}
    for place, (alignment, streams) in zip(owners, with_streams(network, together, progress), strict=True):
        try:
            found[place].append(vector_of(alignment, streams, network))
        except VectorError as error:
            faults[place] = error
    if len(faults) == len(found):
        raise next(iter(faults.values()))
    for place, fault in faults.items():
        note(f"layer {place.layer}, {place.position} is left out: {fault}")
    kept = {place: tuple(vectors) for place, vectors in found.items() if place not in faults}
    return PlaceVectors(plan, kept)


def guesses(network: Network, plan: TunePlan, vectors: PlaceVectors) -> dict[Place, float]:
    """For each place, a coefficient to begin with, of the additions that the search moves.

    An ablation begins with half of the component; one that is moved with vectors, with no more than that.
    """
    moved = {place: _moved(plan, place) for place in vectors.at}
    multiples = {
        place: EVERYWHERE if alignments[0].addition.every else ON_SPAN for place, alignments in moved.items()
    }
    if plan.options.relative:
        return multiples
    operations = {plan.recipe.additions[index].operation for index in plan.tuned}
    if operations == {"ablate"}:
        return dict.fromkeys(vectors.at, HALF)
    encoded = (plan.facts.tokenizer.prompt(sentence.text) for sentence in plan.searched.neutral.sentences)
    texts = [*islice(encoded, GAUGED)]
    lengths = stream_lengths(network, texts, {place.layer for place in vectors.at})
    # Position 0 is left out: in many models its stream is a hundred times as long as all others.
    stream = {
        layer: fmean(torch.cat([of_text[layer][1:] for of_text in lengths]).tolist())
        for layer in {place.layer for place in vectors.at}
    }
    most = HALF if "ablate" in operations else math.inf
    return {
        place: min(most, multiples[place] * stream[place.layer] / _length(plan, place, of_place))
        for place, of_place in vectors.at.items()
    }


def _moved(plan: TunePlan, place: Place) -> list[Alignment]:
    """The additions that the search moves, at a place."""
    return [alignment for alignment in plan.places[place] if alignment.index in plan.tuned]


def _length(plan: TunePlan, place: Place, vectors: Sequence[Tensor]) -> float:
    """The mean length of the rows that are added and not zero, one tuned addition's on the other's."""
    rows = [
        lengths_of(vector)
        for alignment, vector in zip(plan.places[place], vectors, strict=True)
        if alignment.index in plan.tuned and alignment.addition.operation == "add"
    ]
    return sum(fmean(lengths[lengths > 0].tolist()) for lengths in rows)
