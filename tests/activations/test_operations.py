"""Every in four ways, all layers and ablation, against plain transformers with a hook on each block."""

import json
from contextlib import ExitStack, contextmanager

import pytest
import torch
from conftest import ARCHITECTURES, FIVE
from reference import blocks
from tiny import (
    LOVE,
    PROMPT,
    by_transformers,
    drawn,
    hidden_states,
    open_model,
    recipe_of,
    steer,
    watching,
)

from steer_cli.activations.arms import UNSTEERED, Arm
from steer_cli.activations.change import Ablation, Change, with_room
from steer_cli.activations.vectors import compute
from steer_cli.decoding.engine import decode
from steer_cli.decoding.prefill import prefill
from steer_cli.decoding.request import Request
from steer_cli.errors import RecipeError, VectorError
from steer_cli.measure.next_token import next_logits
from steer_cli.planning.placement import align_additions, place
from steer_cli.planning.tokens import open_tokenizer
from steer_cli.recipe.sampling import Sampling

every_architecture = pytest.mark.parametrize("arch", ARCHITECTURES)
GREEDY = {"temperature": 0, "frequency_penalty": 0}
WAYS = {  # of positions and the prompt's length: where it acts
    "prompt": lambda positions, size: (positions > 0) & (positions < size),
    "new": lambda positions, size: positions >= size,
    "both": lambda positions, size: positions > 0,
    "all": lambda positions, size: positions >= 0,
}
ABLATED = {"operation": "ablate", "coefficient": 1}
ABLATE = {**LOVE, **ABLATED}


def every(way, **more):
    return {**LOVE, "position": {"every": way}, **more}


def direction(folder, layer):
    """Love - Hate, each at its last token."""
    tokenizer = open_tokenizer(folder)
    plus, minus = (hidden_states(folder, tokenizer.prompt(text))[layer][-1] for text in ("Love", "Hate"))
    return plus - minus


def adding(vector, coefficient):
    return lambda stream: stream + coefficient * vector


def ablating(vector, coefficient):
    unit = vector / vector.norm()
    return lambda stream: stream - coefficient * (stream @ unit)[..., None] * unit


@contextmanager
def hooked(folder, operations, way, size):
    """Within the `with`, transformers' model does each layer's operation where a way acts.

    The dictionary that is given has the position of a pass's first token.
    """
    model, now = by_transformers(folder), {"first": 0}

    def hook(operation):
        def change(_, args, kwargs):
            stream = args[0] if args else kwargs["hidden_states"]
            inside = WAYS[way](now["first"] + torch.arange(stream.shape[1]), size)[:, None]
            changed = torch.where(inside, operation(stream), stream)
            return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": changed})

        return change

    with ExitStack() as undo:
        for layer, operation in operations.items():
            block = blocks(model)[layer]
            undo.callback(block.register_forward_pre_hook(hook(operation), with_kwargs=True).remove)
        yield now


@torch.no_grad()
def generated(folder, prompt, operations, way, steps, cached=True):
    """What transformers draws greedily, with its cache or with a whole pass per token."""
    model, ids, cache = by_transformers(folder), list(prompt), None
    with hooked(folder, operations, way, len(prompt)) as now:
        for _ in range(steps):
            start = now["first"] = (len(ids) - 1 if len(ids) > len(prompt) else 0) if cached else 0
            output = model(torch.tensor([ids[start:]]), past_key_values=cache, use_cache=cached)
            cache = output.past_key_values if cached else None
            ids.append(int(output.logits[0, -1].argmax()))
    return tuple(ids[len(prompt) :])


def steered_ids(folder, *additions, steps):
    one = steer(folder, *additions)
    (row,) = one.rows(1, eos=(), max_new_tokens=steps, **GREEDY)[1]
    return one.prompt, row.ids


# ---- every, in four ways


@every_architecture
def test_both_is_every_bit_for_bit(arch, tiny_folder):
    folder = tiny_folder(arch)
    words, both = steer(folder, {**LOVE, "position": "every"}), steer(folder, every("both"))
    assert torch.equal(words.prefilled().logits, both.prefilled().logits)
    settings = {"samples": 3, "eos": (), "max_new_tokens": 8}
    assert drawn(words.rows(**settings)[1]) == drawn(both.rows(**settings)[1])


@every_architecture
def test_new_leaves_the_prompts_logits_as_they_are_bit_for_bit(arch, tiny_folder):
    for operation in ({}, {"operation": "ablate", "coefficient": 1}):
        one = steer(tiny_folder(arch), every("new", layer="all", **operation))
        logits = one.prefilled().logits
        assert torch.equal(logits[0], logits[1])
        plain, steered = one.rows(1, eos=(), max_new_tokens=12, **GREEDY)
        assert plain[0].ids[0] == steered[0].ids[0] and plain[0].ids != steered[0].ids


@every_architecture
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("operation", ["add", "ablate"])
def test_each_way_is_a_hook_of_transformers(arch, way, operation, tiny_folder):
    folder, layers = tiny_folder(arch), (1, 3)
    make = {"add": adding, "ablate": ablating}[operation]
    prompt, ids = steered_ids(
        folder, every(way, layer=list(layers), coefficient=0.8, operation=operation), steps=10
    )
    operations = {layer: make(direction(folder, layer), 0.8) for layer in layers}
    assert ids == generated(folder, prompt, operations, way, 10)


@every_architecture
@pytest.mark.parametrize("cached", [True, False], ids=["cached", "whole passes"])
def test_ablation_at_all_layers_is_a_hook_of_transformers_for_50_tokens(arch, cached, tiny_folder):
    folder = tiny_folder(arch)
    addition = every("all", layer="all", source_layer=2, operation="ablate", coefficient=1)
    prompt, ids = steered_ids(folder, addition, steps=50)
    operations = dict.fromkeys(range(5), ablating(direction(folder, 2), 1))
    assert ids == generated(folder, prompt, operations, "all", 50, cached)
    assert ids != steered_ids(folder, {**addition, "coefficient": 0}, steps=50)[1]


def test_without_bos_prompt_and_both_begin_at_the_first_token(tiny_folder):
    for way, start in (("prompt", 0), ("both", 0), ("all", 0), ("new", 8)):
        one = steer(tiny_folder("llama"), every(way), bos="none")
        assert (one.placements[0].start, one.placements[0].end) == (start, 8)


# ---- all layers


def test_all_is_every_block_and_needs_no_depth(tiny_folder):
    tokenizer = open_tokenizer(tiny_folder("gpt2"))
    for source in ({}, {"source_layer": 2}):
        recipe = recipe_of({**LOVE, "layer": "all", **source})
        known = align_additions(recipe, tokenizer, 5)
        assert [(one.block, one.turn) for one in known] == [(layer, layer) for layer in range(5)]
        assert [one.source_block for one in known] == [source.get("source_layer", n) for n in range(5)]
        (unknown,) = align_additions(recipe, tokenizer, None)
        assert (unknown.layer, unknown.source_layer) == ("all", source.get("source_layer", "all"))
    listed = steer(tiny_folder("gpt2"), {**LOVE, "layer": [0, 1, 2, 3, 4]})
    assert torch.equal(
        listed.prefilled().logits, steer(tiny_folder("gpt2"), {**LOVE, "layer": "all"}).prefilled().logits
    )


def test_all_layers_of_a_vector_that_is_zero_at_layer_0_need_a_source_layer(tiny_folder):
    same_end = every("both", plus="a calm", minus="I calm", layer="all")
    with pytest.raises(VectorError, match="layer 0; list other layers, or set `source_layer`"):
        steer(tiny_folder("llama"), same_end)
    steer(tiny_folder("llama"), {**same_end, "source_layer": 2}).prefilled()


# ---- ablation


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@every_architecture
def test_nothing_is_left_along_the_vector_at_coefficient_1(arch, dtype, tiny_folder):
    folder = tiny_folder(arch)
    network, tokenizer = open_model(folder, dtype).network, open_tokenizer(folder)
    alignments = align_additions(recipe_of(every("all", **ABLATED)), tokenizer, network.depth)
    (vector,) = compute(network, alignments)
    ids = tokenizer.prompt(PROMPT)
    arm = Arm(place(alignments, tokenizer, ids, PROMPT), (vector,))
    with watching(network) as seen:
        prefill(network, [Request(ids, (UNSTEERED, arm))])
    before, after = seen[2].double()
    unit = (vector[0] / vector[0].norm()).double()
    rounding = {"float32": 1e-6, "bfloat16": 2**-8}[dtype] * before.norm(dim=-1)
    assert ((after @ unit).abs() <= rounding).all()
    assert ((before @ unit).abs() > 10 * (after @ unit).abs()).any()
    # What is at a right angle stays.
    rest = after - (before - (before @ unit)[:, None] * unit)
    assert (rest.norm(dim=-1) <= 2 * rounding).all()


@every_architecture
@pytest.mark.parametrize("position", ["front", "back", "every", {"every": "new"}], ids=str)
def test_an_ablation_with_coefficient_0_is_unsteered(arch, position, tiny_folder):
    one = steer(tiny_folder(arch), {**ABLATE, "coefficient": 0, "position": position, "layer": [0, 2]})
    logits = one.prefilled().logits
    assert torch.equal(logits[0], logits[1])
    plain, ablated = one.rows(2, eos=(), max_new_tokens=6)
    assert drawn(plain) == drawn(ablated)


@every_architecture
@pytest.mark.parametrize("position, start", [("front", 0), ("back", 6), ({"at": 2}, 2)], ids=str)
def test_in_a_span_each_row_ablates_its_position_and_a_row_of_zeros_none(arch, position, start, tiny_folder):
    one = steer(tiny_folder(arch), {**ABLATE, "coefficient": 0.7, "position": position})
    with watching(one.network) as seen:
        one.prefilled()
    before, after = seen[2]
    expected = before.clone()
    assert not one.vector[0].any() and one.vector[1:].any(-1).all()
    for row in (1, 2):
        expected[start + row] = ablating(one.vector[row], 0.7)(before[start + row])
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(after[start], before[start])


def test_additions_come_first_and_ablations_in_the_order_of_the_recipe(tiny_folder):
    folder = tiny_folder("llama")
    ship = every("all", plus=" ship", minus=" wedding", **ABLATED)
    love, added = every("all", operation="ablate", coefficient=0.5), every("all", plus=" wine", minus=" rain")
    for additions in ([ship, added, love], [added, love, ship]):
        one = steer(folder, *additions)
        with watching(one.network) as seen:
            one.prefilled()
        before, after = seen[2]
        for placement, vector in zip(one.placements, one.vectors, strict=True):
            if not placement.ablates:
                expected = before + placement.coefficient * vector[0]
        for placement, vector in zip(one.placements, one.vectors, strict=True):
            if placement.ablates:
                expected = ablating(vector[0], placement.coefficient)(expected)
        torch.testing.assert_close(after, expected, atol=1e-4, rtol=1e-4)


def test_an_ablation_made_twice_is_made_once(tiny_folder):
    once, twice = (steer(tiny_folder("llama"), *[every("both", **ABLATED)] * times) for times in (1, 2))
    torch.testing.assert_close(once.prefilled().logits, twice.prefilled().logits, atol=1e-4, rtol=1e-4)
    settings = {"samples": 1, "eos": (), "max_new_tokens": 10, **GREEDY}
    assert drawn(once.rows(**settings)[1]) == drawn(twice.rows(**settings)[1])


def test_the_size_of_the_vector_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    stream, vector = (torch.randn(3, 7, generator=generator) for _ in range(2))
    changes = [Change(torch.zeros(3, 7), (Ablation.along(size * vector, 0.6),)) for size in (1e-6, 1, 4096)]
    first, *others = (change.of(stream) for change in changes)
    for other in others:
        torch.testing.assert_close(first, other)
    nothing = Change(torch.zeros(3, 7), (Ablation.along(torch.zeros(3, 7), 1),))
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        assert torch.equal(nothing.of(stream.to(dtype)), stream.to(dtype))
        assert nothing.of(stream.to(dtype)).dtype == dtype


def test_room_for_more_keeps_the_tensors_that_a_graph_has_recorded():
    row = torch.ones(7)
    one = with_room(None, Change(row, (Ablation.along(row, 2),)), 4)
    one.fill(slice(1, 3), Change(row, (Ablation.along(row, 2),)))
    two = with_room(one, Change(row, (Ablation.along(row, 1),) * 2), 4)
    assert len(two.tensors) == 5
    assert all(kept is before for kept, before in zip(two.tensors, one.tensors, strict=False))
    stream = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    changed = (two.of(stream) != stream).any(-1)
    assert changed.tolist() == [False, True, True, False]
    two.fill(slice(0, 4), None)
    assert torch.equal(two.of(stream), stream)


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("arch", ["llama", "gpt2", "gemma3_adapted"])
def test_rows_of_many_arms_do_not_disturb_each_other(arch, fixed, tiny_folder):
    """Arms with none, one and two ablations enter and leave slots, and share and leave them."""
    folder = tiny_folder(arch)
    recipes = (
        [every("new", **ABLATED)],
        [every("both", **ABLATED), every("both", plus=" ship", operation="ablate", coefficient=2)],
        [every("both", layer=[1, 2])],
        [LOVE],
        [every("prompt", layer="all", **ABLATED), every("new", layer=4)],
    )
    arms = [steer(folder, *additions) for additions in recipes]
    network, prompt = arms[0].network, arms[0].prompt
    settings = Sampling(samples=5, max_new_tokens=9)

    def run(requests, rows):
        return [
            [drawn(arm) for arm in finished.arms]
            for finished in decode(network, requests, settings, (), len(prompt), rows, fixed=fixed)
        ]

    requests = [Request(prompt, (UNSTEERED, one.arm)) for one in arms] * 2
    alone = [run([request], None)[0] for request in requests[: len(arms)]]
    assert run(requests, 6) == alone * 2
    assert len({str(of_arm[1]) for of_arm in alone}) == len(arms)


@every_architecture
def test_a_scored_pass_is_a_hook_of_transformers(arch, tiny_folder):
    folder = tiny_folder(arch)
    one = steer(folder, every("both", layer=[1, 3], **ABLATED))
    got = next_logits(one.network, one.prompt, [UNSTEERED, one.arm], len(one.prompt) - 1)
    operations = {layer: ablating(direction(folder, layer), 1) for layer in (1, 3)}
    model, ids = by_transformers(folder), torch.tensor([one.prompt])
    with torch.no_grad():
        plain = model(ids).logits[0, -1]
        with hooked(folder, operations, "both", len(one.prompt)):
            ablated = model(ids).logits[0, -1]
    torch.testing.assert_close(got, torch.stack([plain, ablated]), atol=1e-3, rtol=1e-3)


def test_the_default_model_without_a_direction_at_any_layer(real_folder):
    addition = every("both", layer="all", source_layer=14, **ABLATED)
    prompt, ids = steered_ids(real_folder, addition, steps=12)
    operations = dict.fromkeys(range(30), ablating(direction(real_folder, 14), 1))
    assert ids == generated(real_folder, prompt, operations, "both", 12)


# ---- never silent


@every_architecture
def test_an_ablation_that_changes_nothing_is_an_error(arch, tiny_folder):
    folder = tiny_folder(arch)
    tiny = {"operation": "ablate", "coefficient": 1e-20}
    said = "does nothing: no value of the stream changed .* or the stream has no component along the vector"
    with pytest.raises(VectorError, match=said):
        steer(folder, every("both", **tiny)).prefilled()
    with pytest.raises(VectorError, match="the vector is all zeros"):
        steer(folder, every("both", dims=1e-9, **ABLATED))
    for operation in (tiny, {"coefficient": 1e-20}):
        late = steer(folder, every("new", **operation))
        late.prefilled()
        with pytest.raises(VectorError, match="does nothing: no value"):
            late.rows(2, eos=(), max_new_tokens=3)
        # Not even beside an addition that does change the prompt there.
        beside = steer(folder, LOVE, every("new", **operation))
        with pytest.raises(VectorError, match="does nothing: no value"):
            beside.rows(2, eos=(), max_new_tokens=3)


@pytest.mark.parametrize("measure", ["shift", "norms", "perplexity", "sweep", "sweep lines"])
def test_new_tokens_are_nowhere_where_none_are_generated(measure, command, recipe_file, tiny_folder):
    path = recipe_file(tiny_folder("llama"), every("new"), prompt=PROMPT)
    lines = ("--corpus", "five.txt", "--lines", "--method", "overlay")
    arguments = {
        "perplexity": ("perplexity", path, *lines),
        "sweep": ("sweep", path, "--layers", "1,2"),
        "sweep lines": ("sweep", path, "--layers", "1", *lines),
    }
    code, _, err = command(*arguments.get(measure, (measure, path)))
    assert code == 1 and err.count("\n") == 1
    assert "'Love' - 'Hate': does nothing: {every: new} acts on new tokens alone" in err


def test_norms_of_what_acts_nowhere_on_the_prompt_are_an_error(command, recipe_file, tiny_folder):
    path = recipe_file(tiny_folder("llama"), every("new", coefficient=0), prompt=PROMPT)
    code, _, err = command("norms", path)
    assert code == 1 and "{every: new} acts at no position of the prompt" in err
    assert command("shift", path)[0] == 0  # a coefficient of 0 is no fault


@every_architecture
def test_a_corpus_without_a_direction_is_a_hook_of_transformers(arch, command, recipe_file, tiny_folder):
    folder = tiny_folder(arch)
    path = recipe_file(folder, every("all", layer=[1, 3], **ABLATED))
    code, out, err = command(
        "perplexity", path, "--corpus", "five.txt", "--lines", "--method", "overlay", "--jsonl"
    )
    assert code == 0, err
    tokenizer, found = open_tokenizer(folder), []
    operations = {layer: ablating(direction(folder, layer), 1) for layer in (1, 3)}
    for text in FIVE:
        ids = torch.tensor([tokenizer.prompt(text)])
        with torch.no_grad(), hooked(folder, operations, "all", ids.shape[1]):
            logprobs = by_transformers(folder)(ids).logits[0, :-1].log_softmax(-1)
        found.append(logprobs.gather(1, ids[0, 1:, None]))
    expected = float((-torch.cat(found).mean()).exp())
    assert json.loads(out.splitlines()[0])["perplexity_steered"] == pytest.approx(expected, rel=1e-3)


def test_a_sweep_takes_the_ways(command, recipe_file, tiny_folder):
    path = recipe_file(tiny_folder("llama"), LOVE, prompt=PROMPT, count={"love": ["love"]})
    positions = ("--positions", "every,every=both,every=prompt,every=all,every=new")
    counts = ("--measure", "counts", "--samples", "1", "--jsonl")
    code, out, err = command("sweep", path, "--layers", "1", *positions, *counts)
    assert code == 0, err
    found = [json.loads(line)["position"] for line in out.splitlines()]
    assert found == ["every", {"every": "prompt"}, {"every": "all"}, {"every": "new"}]
    code, _, err = command("sweep", path, "--layers", "1", "--positions", "every=old")
    assert code == 1 and "write front, middle, back, every, every=new" in err


def test_a_single_token_is_drawn_and_not_run(tiny_folder):
    with pytest.raises(VectorError, match="more new tokens"):
        steer(tiny_folder("llama"), every("new")).rows(1, max_new_tokens=1)


def test_match_norm_does_not_go_with_an_ablation():

    with pytest.raises(RecipeError, match=r"additions\.0: match_norm changes nothing in an ablation"):
        recipe_of({**ABLATE, "match_norm": True})
