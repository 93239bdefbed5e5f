"""Every way to multiply gives the plain product, and the fastest that was measured is chosen."""

import json
import weakref
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steer_cli.networks import fastest as chosen
from steer_cli.networks.fastest import (
    GAIN_OF_MORE_ROWS,
    GRID,
    MKL_ROWS,
    MOST_ADDED,
    Fastest,
    Step,
    choose,
    fastest,
)
from steer_cli.networks.layout import FEWEST_STEPS, Layout
from steer_cli.networks.products import ONEDNN, PLAIN, TRANSPOSED, Linear, Way, available, mkl_packs

torch.set_num_threads(1)

FLOAT32 = available(torch.float32)
WAYS = [*FLOAT32, *[Way("mkl", rows) for rows in (1, 5, 64) if mkl_packs(torch.float32)]]
SHAPES = [(96, 48), (33, 50), (1, 7)]  # outputs, inputs


def weights(outputs, inputs, turned=False, bias=False, dtype=torch.float32):
    torch.manual_seed(outputs * inputs)
    weight = torch.randn(inputs, outputs).T if turned else torch.randn(outputs, inputs)
    return weight.to(dtype), torch.randn(outputs).to(dtype) if bias else None


def close(found, stream, weight, bias):
    """As near to the product in float64 as rounding allows, in a tensor that may be written to."""
    wanted = stream.double() @ weight.double().T + (0 if bias is None else bias.double())
    assert found.shape == wanted.shape and found.dtype == stream.dtype and found.is_contiguous()
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2}[stream.dtype]
    assert float((found.double() - wanted).abs().max()) <= tolerance * float(wanted.abs().max())
    found.view(-1, found.shape[-1]).mul_(2)


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("turned", [False, True], ids=["straight", "turned"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("way", WAYS, ids=[f"{way.name}-{way.rows}" for way in WAYS])
@torch.inference_mode()
def test_each_way_is_the_plain_product(way, shape, turned, bias):
    weight, added = weights(*shape, turned, bias)
    product = way.product(weight, added)
    for rows in range(1, 65):
        stream = torch.randn(rows, shape[1])
        kept = stream.clone()
        close(product(stream), stream, weight, added)
        assert torch.equal(stream, kept)
    for outer, inner in ((1, 5), (5, 1), (3, 4), (64, 1)):
        stream = torch.randn(outer, inner, shape[1])
        close(product(stream), stream, weight, added)
        # As of one position of many: not contiguous.
        stream = torch.randn(outer, inner + 2, shape[1])[:, 1 : inner + 1]
        close(product(stream), stream, weight, added)


@pytest.mark.parametrize("way", available(torch.bfloat16), ids=lambda way: way.name)
@torch.inference_mode()
def test_each_way_is_the_plain_product_in_bfloat16(way):
    weight, bias = weights(96, 48, bias=True, dtype=torch.bfloat16)
    for rows in (1, 3, 16, 64):
        stream = torch.randn(rows, 1, 48).bfloat16()
        close(way.product(weight, bias)(stream), stream, weight, bias)


def test_ways_whose_operators_are_gone_are_not_there(monkeypatch):
    monkeypatch.setattr("steer_cli.networks.products._has", lambda *_: False)
    assert available(torch.float32) == (PLAIN, TRANSPOSED)
    assert not mkl_packs(torch.float32)
    assert ONEDNN not in available(torch.float16) and not mkl_packs(torch.bfloat16)


# ---- a layer that is laid out


@given(st.dictionaries(st.sampled_from(GRID), st.sampled_from(FLOAT32), min_size=1))
def test_a_layer_multiplies_each_number_of_rows_by_its_way(ways):
    made = []

    class Named(Way):
        def product(self, weight, bias):
            made.append(self)
            return lambda stream: (self.name, len(stream))

    linear = Linear(*weights(6, 4))
    linear.lay_out({rows: Named(*way) for rows, way in ways.items()})
    assert len(made) == len({*ways.values()}), "weights are laid out once for each way"
    for rows in range(1, 70):
        upward = [most for most in sorted(ways) if rows <= most] or [max(ways)]
        assert linear(torch.zeros(rows, 4)) == (ways[upward[0]].name, rows)


@pytest.mark.skipif(not mkl_packs(torch.float32), reason="nothing is packed here")
@torch.inference_mode()
def test_a_packed_layer_serves_its_number_of_rows_and_all_others():
    weight, bias = weights(96, 48, bias=True)
    linear = Linear(weight, bias)
    linear.lay_out(dict.fromkeys(GRID, TRANSPOSED))
    for packed_for in (16, 32):
        linear.pack_for(packed_for)
        for rows in (1, 15, 16, 17, 32):
            stream = torch.randn(rows, 1, 48)
            close(linear(stream), stream, weight, bias)


@pytest.mark.skipif(ONEDNN not in available(torch.float32), reason="nothing is packed here")
@torch.inference_mode()
def test_weights_are_not_held_twice_once_only_their_packed_copy_is_used():
    weight, bias = weights(96, 48, bias=True)
    stream, gone = torch.randn(3, 1, 48), weakref.ref(weight)
    expected = Linear(weight, bias)(stream)
    packed, transposed = Linear(weight, bias), Linear(weight, bias)
    transposed.lay_out({1: TRANSPOSED, 64: ONEDNN}, keep=False)
    packed.lay_out(dict.fromkeys(GRID, ONEDNN), keep=False)
    del weight
    assert gone() is not None, "the transposed way needs them"
    del transposed
    assert gone() is None
    torch.testing.assert_close(packed(stream), expected)


# ---- which way is chosen


def times(**seconds):
    """Each way's seconds for all numbers of rows of the grid."""
    return {Way(name): dict(zip(GRID, each, strict=True)) for name, each in seconds.items()}


def test_the_fastest_is_chosen_at_each_number_of_rows():
    found = choose(times(plain=[1, 2, 3, 4, 5, 6, 7], onednn=[2, 1, 4, 3, 9, 5, 8]))
    assert [found[rows].way.name for rows in GRID] == [
        *("plain", "onednn", "plain", "onednn", "plain", "onednn", "plain")
    ]
    assert found[1] == (PLAIN, 1) and found[4] == (PLAIN, 4)


def test_rows_are_added_only_where_so_few_are_slower_than_more():
    slow = [5, 5, 4, 1, 1, 1, 1]
    found = choose(times(plain=slow))
    # 8 rows would be faster still, but up to MOST_ADDED rows may run where there are fewer.
    assert MOST_ADDED == 4
    assert [found[rows].rows for rows in GRID] == [4, 4, 4, 8, 16, 32, 64]
    # Another way, at more rows, may be the fastest for fewer.
    found = choose(times(plain=[5, 5, 5, 5, 5, 5, 5], transposed=[9, 9, 1, 9, 9, 9, 9]))
    assert found[1] == found[2] == found[4] == (TRANSPOSED, 4) and found[8] == (PLAIN, 8)
    # Less of a gain is noise.
    assert choose(times(plain=[1, 1, GAIN_OF_MORE_ROWS + 0.01, 2, 2, 2, 2]))[1] == (PLAIN, 1)
    assert choose(times(plain=[1, 1, GAIN_OF_MORE_ROWS - 0.01, 2, 2, 2, 2]))[1] == (PLAIN, 4)


seconds = st.floats(0.001, 1)


@given(st.dictionaries(st.sampled_from(FLOAT32), st.tuples(*[seconds] * len(GRID)), min_size=1))
def test_no_choice_is_slower_than_the_fastest_for_exactly_these_rows(taken):
    measured = {way: dict(zip(GRID, each, strict=True)) for way, each in taken.items()}
    found = choose(measured)
    assert [*found] == [*GRID]
    for rows, step in found.items():
        exact = min(each[rows] for each in measured.values())
        assert measured[step.way][step.rows] <= exact
        if step.rows != rows:
            assert (
                rows < step.rows <= MOST_ADDED and measured[step.way][step.rows] < GAIN_OF_MORE_ROWS * exact
            )
        else:
            assert measured[step.way][rows] == exact


def test_a_way_that_is_hopeless_is_not_asked_for_other_rows():
    short = {PLAIN: dict.fromkeys(GRID, 1.0), TRANSPOSED: {2: 9.0, 16: 9.0}}
    assert {step.way for step in choose(short).values()} == {PLAIN}


def measured_with(monkeypatch, cost, slowness=lambda now: 1.0):
    """`measure` where products take the time that `cost` says: of a way and a number of rows."""
    now = 0.0

    def product(way, weight, bias):
        def multiply(stream):
            nonlocal now
            now += slowness(now) * cost(way, len(stream))

        return multiply

    monkeypatch.setattr(Way, "product", product)
    monkeypatch.setattr(chosen, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(chosen, "_exact_enough", lambda *_: True)
    monkeypatch.setattr(chosen, "mkl_packs", lambda _: True)
    return chosen.measure([Linear(*weights(8, 8)) for _ in range(3)])


def test_mkl_packs_for_the_numbers_of_rows_where_it_is_faster_than_all_others(monkeypatch):
    mkl = {16: 0.5, 8: 2.0, 32: 0.5, 64: 0.96}
    found = measured_with(monkeypatch, lambda way, rows: mkl[rows] if way.name == "mkl" else 1.0)
    # Far behind at 8 rows, it is not tried any more.
    assert found.packs == (16,) and MKL_ROWS[:2] == (16, 8)
    mkl[8] = 1.2
    found = measured_with(monkeypatch, lambda way, rows: mkl[rows] if way.name == "mkl" else 1.0)
    assert found.packs == (16, 32), "64 rows gain less than noise"


@pytest.mark.parametrize("begin", range(0, 400, 40))
def test_a_machine_that_is_slow_for_a_while_makes_no_other_choice(monkeypatch, begin):
    costs = {PLAIN: 1.0, TRANSPOSED: 1.1, ONEDNN: 0.8}

    def cost(way, rows):
        return rows**0.5 * costs.get(way, 3.0)

    quiet = measured_with(monkeypatch, cost)
    disturbed = measured_with(monkeypatch, cost, lambda now: 4.0 if begin <= now < begin + 80 else 1.0)
    assert disturbed == quiet


def one_after_the_other(stream, weight):
    return (stream[:, None, :] * weight).cumsum(dim=-1)[..., -1]


def in_bfloat16(stream, weight):
    return stream.bfloat16().float() @ weight.bfloat16().float().T


def with_ten_bits(stream, weight):  # TF32's
    short, weight = ((values.view(torch.int32) & ~0x1FFF).view(torch.float32) for values in (stream, weight))
    return short @ weight.T


@pytest.mark.parametrize("inputs", [64, 576, 4096])
@pytest.mark.parametrize(
    ("multiply", "enough"), [(one_after_the_other, True), (in_bfloat16, False), (with_ten_bits, False)]
)
@torch.inference_mode()
def test_a_sum_in_another_order_is_exact_enough_and_shorter_floats_are_not(
    monkeypatch, multiply, enough, inputs
):
    tried, product = Way("tried"), Way.product
    monkeypatch.setattr(
        Way,
        "product",
        lambda way, weight, bias: (
            (lambda stream: multiply(stream, weight)) if way == tried else product(way, weight, bias)
        ),
    )
    weight = torch.randn(256, inputs)
    assert all(chosen._exact_enough(tried, weight) is enough for _ in range(20))


def test_what_is_measured_here_is_a_whole_choice():
    found = chosen.measure([Linear(*weights(64, 64)) for _ in range(3)])
    assert [*found.steps] == [*GRID] and {*found.packs} <= {*MKL_ROWS}
    assert {step.way for step in found.steps.values()} <= {*FLOAT32}
    assert all(rows <= step.rows <= max(rows, MOST_ADDED) for rows, step in found.steps.items())


# ---- what is remembered


FOUND = Fastest({rows: Step(TRANSPOSED, max(rows, 2)) for rows in GRID}, (8, 32))


@pytest.fixture
def measuring(monkeypatch):
    """The layers that were measured; each measurement finds the same."""
    made = []
    monkeypatch.setattr(chosen, "measure", lambda linears: made.append(linears) or FOUND)
    monkeypatch.setattr(chosen, "_busy", lambda: False)
    return made


LAYERS = [Linear(*weights(8, 8)), Linear(*weights(16, 8))]


def test_it_is_measured_once_for_a_network_and_a_setting(measuring, tmp_path, monkeypatch):
    memory = tmp_path / "new" / "products.json"
    assert fastest(LAYERS, memory) == fastest(LAYERS, memory) == FOUND
    assert len(measuring) == 1
    # Another shape, precision or number of threads is another setting; each is remembered beside the others.
    others = [
        [*LAYERS, Linear(*weights(8, 9))],
        [Linear(each.weight.bfloat16(), None) for each in LAYERS],
    ]
    for other in others:
        assert fastest(other, memory) == fastest(other, memory) == FOUND
    assert len(measuring) == 3
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 77)
        fastest(LAYERS, memory)
    assert len(measuring) == 4
    for each in (LAYERS, *others):
        fastest(each, memory)
    assert len(measuring) == 4 and len(json.loads(memory.read_text("utf-8"))) == 4
    assert [file.name for file in memory.parent.iterdir()] == ["products.json"]


DAMAGED = {
    "empty": lambda text: "",
    "cut": lambda text: text[:-9],
    "no mapping": lambda text: "[1]",
    "a number": lambda text: "3",
    "other kinds": lambda text: json.dumps(dict.fromkeys(json.loads(text), 5)),
    "no steps": lambda text: json.dumps({key: {"steps": {}, "packs": []} for key in json.loads(text)}),
    "an unknown way": lambda text: text.replace("transposed", "sideways"),
    "packed for exact rows": lambda text: text.replace("transposed", "mkl"),
    "rows of another release": lambda text: text.replace('"64"', '"65"'),
    "rows that are no number": lambda text: text.replace('"64"', '"many"'),
    "not text": None,
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_memory_that_is_damaged_is_measured_again_and_mended(damage, measuring, tmp_path):
    memory = tmp_path / "products.json"
    fastest(LAYERS, memory)
    if DAMAGED[damage] is None:
        memory.write_bytes(b"\xff\xfe\x00{")
    else:
        memory.write_text(DAMAGED[damage](memory.read_text("utf-8")), "utf-8")
    assert fastest(LAYERS, memory) == FOUND and len(measuring) == 2
    assert fastest(LAYERS, memory) == FOUND and len(measuring) == 2


def test_packs_that_mkl_is_not_asked_for_are_left_out(measuring, tmp_path):
    memory = tmp_path / "products.json"
    fastest(LAYERS, memory)
    values = json.loads(memory.read_text("utf-8"))
    (setting,) = values
    values[setting]["packs"] = [8, 7, 32]
    memory.write_text(json.dumps(values), "utf-8")
    assert fastest(LAYERS, memory).packs == (8, 32) and len(measuring) == 1


def test_a_memory_that_cannot_be_written_only_costs_time(measuring, tmp_path):
    (tmp_path / "file").write_text("in the way", "utf-8")
    folder = tmp_path / "products.json"
    folder.mkdir()
    for number, memory in enumerate((tmp_path / "file" / "products.json", folder), 1):
        assert fastest(LAYERS, memory) == FOUND
        assert len(measuring) == number


def test_on_a_busy_machine_nothing_is_measured_so_that_runs_agree(measuring, tmp_path, monkeypatch):
    memory = tmp_path / "products.json"
    monkeypatch.setattr(chosen, "_busy", lambda: True)
    usual = ONEDNN if ONEDNN in available(torch.float32) else PLAIN
    for _ in range(2):
        assert fastest(LAYERS, memory).steps == {rows: Step(usual, rows) for rows in GRID}
    assert not measuring and not memory.exists()
    monkeypatch.setattr(chosen, "_busy", lambda: False)
    fastest(LAYERS, memory)
    monkeypatch.setattr(chosen, "_busy", lambda: True)
    assert fastest(LAYERS, memory) == FOUND, "what a quiet machine has shown is used at any time"


# ---- how many rows are run


def layout_of(padded=(), packs=()):
    """A layout whose steps run more rows where `padded` says so, and whose packings are recorded."""
    made = []

    class Recorded(Linear):
        def pack_for(self, rows):
            made.append(rows)

    steps = {rows: Step(PLAIN, dict(padded).get(rows, rows)) for rows in GRID}
    return Layout([Recorded(*weights(8, 8))], Fastest(steps, packs)), made


def test_rows_run_as_they_are_where_nothing_is_faster():
    layout, made = layout_of()
    for rows in range(1, 100):
        assert layout.rows_to_run(rows, 100, 1000) == rows == layout.slots_for(rows)
    assert not made


def test_few_rows_are_run_as_more_where_those_are_faster():
    layout, _ = layout_of({1: 4, 2: 4})
    assert [layout.rows_to_run(rows, 8, 1000) for rows in range(1, 9)] == [4, 4, 3, 4, 5, 6, 7, 8]
    assert [layout.slots_for(rows) for rows in range(1, 9)] == [4, 4, 4, 4, 5, 6, 7, 8]


def test_weights_are_packed_for_a_batch_that_is_full_enough_and_long_enough():
    layout, made = layout_of(packs=(8, 32))
    assert layout.rows_to_run(24, 24, FEWEST_STEPS - 1) == 24 and not made
    assert layout.rows_to_run(15, 24, FEWEST_STEPS) == 15 and not made
    assert layout.rows_to_run(24, 24, FEWEST_STEPS) == 32 and made == [32]
    # While enough of its rows are left, the batch is run whole, until its end.
    assert [layout.rows_to_run(rows, 24, 1) for rows in (24, 16, 15, 1)] == [32, 32, 15, 1]
    # A smaller batch has no need to be packed anew; a greater one than all packs is run as it is.
    assert layout.rows_to_run(8, 8, 1000) == 8 and layout.rows_to_run(40, 40, 1000) == 40
    assert made == [32]


def test_a_greater_batch_is_packed_anew():
    layout, made = layout_of(packs=(8, 32))
    assert layout.rows_to_run(6, 6, 1000) == 8 and layout.rows_to_run(20, 20, 1000) == 32
    assert made == [8, 32]


def test_weights_that_are_too_large_are_not_held_twice(monkeypatch):
    monkeypatch.setattr("steer_cli.networks.layout.MOST_BYTES", 1)
    layout, made = layout_of(packs=(8, 32))
    assert layout.rows_to_run(8, 8, 1000) == 8 == layout.slots_for(8) and not made


@given(
    padded=st.dictionaries(st.sampled_from((1, 2, 4)), st.sampled_from((4, 8, 16))),
    packs=st.sets(st.sampled_from(MKL_ROWS)),
    asked=st.lists(st.tuples(st.integers(1, 70), st.integers(0, 100)), min_size=1),
)
def test_there_are_slots_for_all_rows_that_are_run(padded, packs, asked):
    most = max(rows for rows, _ in asked)
    layout, made = layout_of(padded, tuple(sorted(packs)))
    for rows, steps in asked:
        assert rows <= layout.rows_to_run(rows, most, steps) <= layout.slots_for(most)
    assert len(made) <= 1 and {*made} <= packs
