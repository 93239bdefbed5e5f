"""Samples regrouped after a draw: nobody is lost, and whoever drew the same goes on together."""

from hypothesis import given, settings
from hypothesis import strategies as st

from steer_cli.decoding.regroup import regroup


@st.composite
def draws(draw):
    """Slots of numbered samples, and what each sample drew; few tokens, so that many draw the same."""
    sizes = draw(st.lists(st.integers(1, 4), max_size=7))
    count = sum(sizes)
    names = iter(draw(st.permutations(range(count))))
    slots = [[next(names) for _ in range(size)] for size in sizes]
    tokens = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    over = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    return slots, tokens, over


@given(draws())
@settings(max_examples=500, deadline=None)
def test_every_sample_is_where_it_belongs(drawn):
    slots, tokens, over = drawn
    samples = [(sample, slot) for slot, inside in enumerate(slots) for sample in inside]
    was_in, drew = dict(samples), dict(zip([sample for sample, _ in samples], tokens, strict=True))
    stopped = {sample for (sample, _), stop in zip(samples, over, strict=True) if stop}
    found = regroup(slots, tokens, over)

    assert len(found.slots) == len(found.tokens) == len(found.origins)
    assert all(found.slots), "the first slots are in use, each by some sample"
    # Those that are over, each once, with the slot that it was in and its last token.
    assert sorted(found.ended) == sorted((sample, was_in[sample], drew[sample]) for sample in stopped)
    # Those that go on, each once, with the token it drew, in a slot that comes from the one it was in.
    going_on = [sample for inside in found.slots for sample in inside]
    assert sorted(going_on) == sorted(was_in.keys() - stopped)
    for inside, token, origin in zip(found.slots, found.tokens, found.origins, strict=True):
        assert {drew[sample] for sample in inside} == {token}
        assert {was_in[sample] for sample in inside} == {origin}
    # Samples share a slot if and only if they came from one and drew the same.
    kinds = {(was_in[sample], drew[sample]) for sample in going_on}
    assert len(kinds) == len(found.slots)


@given(draws())
@settings(max_examples=500, deadline=None)
def test_a_slot_stays_where_it_is_unless_it_has_to_fill_a_gap(drawn):
    """What stays is not copied; no slot is written to that another, or a copy, is still to be made of."""
    slots, tokens, over = drawn
    found = regroup(slots, tokens, over)
    alive, index = [], 0
    for slot, inside in enumerate(slots):
        if not all(over[index : index + len(inside)]):
            alive.append(slot)
        index += len(inside)
    in_use = len(alive)
    assert set(found.origins) == set(alive), "origins are old slots, and each that goes on is one"
    for slot, origin in enumerate(found.origins[:in_use]):
        assert origin == slot or slot not in alive, "a slot that goes on below the end has stayed"
        assert origin == slot or origin >= in_use, "only what lay beyond the end has moved"
    assert sorted(found.origins[:in_use]) == alive, "one slot for each that goes on, then the parted"


def test_nothing_is_regrouped_into_nothing():
    assert regroup([], [], []) == ([], [], [], [])
    assert regroup([["a"]], [3], [True]) == ([], [], [], [("a", 0, 3)])


def test_the_order_of_samples_within_a_slot_is_kept():
    found = regroup([["a", "b", "c", "d"]], [5, 6, 5, 6], [False] * 4)
    assert found == ([["a", "c"], ["b", "d"]], [5, 6], [0, 0], [])
