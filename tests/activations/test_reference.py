"""The reference against closed forms and against transformers, so that the rest may be held against it."""

import hashlib
import math

import pytest
from conftest import KINDS

PROMPT = "I went up to my friend and said"
LOVE = {"plus": "Love", "minus": "Hate", "layer": 2, "coefficient": 3}
SAMPLING = {"max_new_tokens": 15, "samples": 3, "top_p": 0.9, "frequency_penalty": 0.5, "seed": 4}
GREEDY = {"max_new_tokens": 30, "temperature": 0, "frequency_penalty": 0, "seed": 0}


@pytest.fixture(scope="session")
def loaded(tiny_folder):
    """A function: architecture -> (model, tokenizer, names, the BOS in front, the prompt's ids)."""
    from reference import front_ids, load, tokens

    def parts(arch):
        model, tokenizer, names = load(tiny_folder(arch))
        front = front_ids(tokenizer, names, "auto")
        return model, tokenizer, names, front, tokens(tokenizer, front, PROMPT)

    return parts


@pytest.fixture(scope="session")
def embeddings(loaded):
    """A function: texts -> their rows of GPT-2's token embeddings, whose layer 0 is these plus positions."""
    model, tokenizer, *_ = loaded("gpt2")

    def rows(*texts):
        return model.transformer.wte.weight.data[[tokenizer.token_to_id(text) for text in texts]]

    return rows


def hf_greedy(model, prompt_ids):
    import torch

    model.generation_config.eos_token_id = None  # 30 tokens, whatever they are
    row = torch.tensor([prompt_ids])
    made = model.generate(row, attention_mask=torch.ones_like(row), do_sample=False, max_new_tokens=30)
    return made[0, len(prompt_ids) :].tolist()


@pytest.mark.parametrize("arch", KINDS)
def test_greedy_is_that_of_transformers(arch, loaded):
    from reference import complete

    model, *_, prompt_ids = loaded(arch)
    made = complete(model, prompt_ids, None, GREEDY, 0)
    assert made == {"ids": hf_greedy(model, prompt_ids), "finish": "length"}


@pytest.mark.parametrize("arch", KINDS)
def test_steering_again_at_every_step_is_steering_the_prefill_of_a_cached_pass(arch, loaded):
    from reference import blocks, complete, injected, placements

    model, tokenizer, names, front, prompt_ids = loaded(arch)
    plain = hf_greedy(model, prompt_ids)
    placed = placements(model, tokenizer, names, front, prompt_ids, [LOVE])
    with injected(model, placed):
        ids = complete(model, prompt_ids, None, GREEDY, 0)["ids"]

    def prefill_only(block, args, kwargs):
        stream = (args[0] if args else kwargs["hidden_states"]).clone()
        if stream.shape[1] > 1:
            stream[0, :3] += 3 * placed[0]["vector"]
        return ((stream, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": stream})

    blocks(model)[2].register_forward_pre_hook(prefill_only, with_kwargs=True)
    assert ids == hf_greedy(model, prompt_ids)
    assert ids != plain


@pytest.mark.parametrize("arch", KINDS)
def test_coefficient_0_is_unsteered(arch, tiny_folder):
    import torch
    from reference import reference

    result = reference(tiny_folder(arch), PROMPT, [{**LOVE, "coefficient": 0}], SAMPLING)
    assert torch.equal(result["steered"]["logits"], result["unsteered"]["logits"])
    assert result["steered"]["samples"] == result["unsteered"]["samples"]


def test_one_token_nucleus_is_greedy(tiny_folder):
    from reference import reference

    def ids(**sampling):
        return [
            reference(tiny_folder("gptj"), PROMPT, [LOVE], {**SAMPLING, **sampling})[arm]["samples"]
            for arm in ("unsteered", "steered")
        ]

    assert ids(top_p=1e-9) == ids(temperature=0) == ids(top_p=1.0, top_k=1)


def test_a_row_depends_on_its_number_alone_and_ends_with_its_first_eos(tiny_folder):
    from reference import reference

    # 8 rows of GPT-2, some of which end early
    many, few = (
        reference(tiny_folder("gpt2"), PROMPT, [LOVE], {**SAMPLING, "max_new_tokens": 30, "samples": samples})
        for samples in (8, 2)
    )
    rows = many["steered"]["samples"] + many["unsteered"]["samples"]
    assert few["steered"]["samples"] == many["steered"]["samples"][:2]
    assert len({tuple(row["ids"]) for row in rows}) > 8
    assert {row["finish"] for row in rows} == {"eos", "length"}
    eos = many["prompt"][0]  # one token is both for this model
    for row in rows:
        assert eos not in row["ids"][:-1]
        assert (row["finish"] == "eos") == (row["ids"][-1] == eos)
        assert row["finish"] == "eos" or len(row["ids"]) == 30


@pytest.mark.parametrize("arch", KINDS)
@pytest.mark.parametrize(
    ("position", "span"),
    [  # S = 9 with BOS, n = 3: BOS, "Love" and a pad
        ("front", (0, 3)),
        ("middle", (3, 6)),
        ("back", (6, 9)),
        ({"at": 5}, (5, 8)),
        ({"token": " friend"}, (6, 9)),
        ({"token": " went up"}, (2, 5)),
        ("every", (1, 9)),
    ],
)
def test_the_stream_is_before_plus_c_v_at_the_span_only(arch, position, span, loaded):
    import torch
    from reference import blocks, injected, placements, record

    model, tokenizer, names, front, prompt_ids = loaded(arch)
    assert len(prompt_ids) == 9
    (one,) = placements(model, tokenizer, names, front, prompt_ids, [{**LOVE, "position": position}])
    before = [record(model, prompt_ids, layer) for layer in range(5)]
    after = []
    with injected(model, [one]):
        handles = [  # these come after the injecting hook, so they see what enters the block
            block.register_forward_pre_hook(
                lambda block, args, kwargs: after.append((args[0] if args else kwargs["hidden_states"])[0]),
                with_kwargs=True,
            )
            for block in blocks(model)
        ]
        record(model, prompt_ids, 0)
    for handle in handles:
        handle.remove()
    expected = before[2].clone()
    expected[slice(*span)] += 3 * one["vector"]
    assert torch.equal(after[0], before[0]) and torch.equal(after[1], before[1])
    torch.testing.assert_close(after[2], expected)
    assert torch.equal(after[2][: span[0]], before[2][: span[0]])
    assert torch.equal(after[2][span[1] :], before[2][span[1] :])
    assert not torch.allclose(after[3], before[3])
    assert torch.equal(record(model, prompt_ids, 4), before[4])  # undone


def test_spans_by_hand():
    from reference import start

    # m - h with m = S // 2 and h = n // 2, which is not (S - n) // 2
    for n, size, first in ((3, 8, 3), (3, 9, 3), (2, 7, 2), (4, 9, 2)):
        assert start("middle", n, [0] * size, None) == first
    for position, first in (("front", 0), ("back", 5)):
        assert start(position, 3, [0] * 8, None) == first


def test_additions_of_one_layer_add_up_and_a_list_of_layers_is_one_addition_each(loaded):
    import torch
    from reference import injected, next_logits, placements

    model, tokenizer, names, front, prompt_ids = loaded("llama")

    def logits(*additions):
        with injected(model, placements(model, tokenizer, names, front, prompt_ids, additions)):
            return next_logits(model, prompt_ids)

    wedding = {"plus": " wedding", "minus": " ", "layer": 2, "coefficient": 1}
    both = logits(LOVE, wedding)
    assert not torch.allclose(both, logits(LOVE)) and not torch.allclose(both, logits(wedding))
    torch.testing.assert_close(both, logits(wedding, LOVE), atol=1e-4, rtol=1e-4)
    half, against = {**LOVE, "coefficient": 1.5}, {**LOVE, "coefficient": -3}
    torch.testing.assert_close(logits(half, half), logits(LOVE))
    torch.testing.assert_close(logits(LOVE, against), next_logits(model, prompt_ids))
    split = [{**LOVE, "layer": 1}, {**LOVE, "layer": 3}]
    assert torch.equal(logits({**LOVE, "layer": [1, 3]}), logits(*split))


def test_vectors_at_layer_0_are_differences_of_embeddings(loaded, embeddings):
    import torch
    from reference import combined, vector

    parts = loaded("gpt2")[:4]
    space, love, wedding, h, ate = embeddings("Ġ", "Love", "Ġwedding", "H", "ate")
    zero = torch.zeros_like(space)
    pair = {"plus": "Love", "minus": "Hate", "coefficient": 1}
    close = torch.testing.assert_close
    close(combined(*parts, pair, 0), torch.stack([zero, love - h, space - ate]))
    # Without padding Love is a position shorter, so the embedding of that position stays in the difference.
    before, position = parts[0].transformer.wpe.weight.data[1:3]
    last = love + before - ate - position
    close(combined(*parts, {**pair, "position": "every"}, 0), last[None])
    close(combined(*parts, {**pair, "pad": "none"}, 0), torch.stack([zero, love - h, -ate - position]))
    pairs = [pair, {"plus": " wedding", "minus": " "}]
    total = torch.stack([zero, love - h + wedding - space, space - ate])
    close(combined(*parts, {"pairs": pairs, "combine": "sum"}, 0), total)
    close(combined(*parts, {"pairs": pairs, "combine": "mean"}, 0), total / 2)
    close(
        combined(*parts, {"pairs": pairs, "combine": "sum", "position": "every"}, 0),
        (last + wedding - space)[None],
    )
    moved = vector(*parts, {**pair, "source_layer": 0, "match_norm": True}, 3)
    norms = combined(*parts, pair, 3).norm(dim=-1)
    close(moved.norm(dim=-1), norms)
    close(torch.cosine_similarity(moved[1], love - h, dim=0), torch.tensor(1.0))
    noise = vector(*parts, {**pair, "random": {"seed": 1}}, 3)
    close(noise.norm(dim=-1), norms)
    assert abs(torch.cosine_similarity(noise[1], combined(*parts, pair, 3)[1], dim=0)) < 0.5
    cut = vector(*parts, {**pair, "dims": 0.7}, 3)
    assert torch.equal(cut[:, :34], combined(*parts, pair, 3)[:, :34]) and not cut[:, 34:].any()


def test_a_vector_that_does_not_fit_or_does_nothing_is_an_error(loaded):
    from reference import placements

    model, tokenizer, names, front, prompt_ids = loaded("gpt2")

    def placed(size, **changes):
        return placements(model, tokenizer, names, front, prompt_ids[:size], [{**LOVE, **changes}])[0]

    with pytest.raises(ValueError, match="3 positions from 0 do not fit in 1"):
        placed(1)
    with pytest.raises(ValueError, match="do not fit"):
        placed(9, position={"at": 7})
    clipped = placed(9, position={"at": 7}, overflow="clip")
    assert clipped["span"] == (7, 9) and clipped["vector"].equal(placed(9)["vector"][:2])
    clipped = placed(2, position="back", overflow="clip")
    assert clipped["span"] == (0, 2) and clipped["vector"].equal(placed(9)["vector"][1:])
    with pytest.raises(ValueError, match="does nothing"):
        placed(9, minus="Love")
    placed(9, minus="Love", coefficient=0)


def test_draws_by_hand():
    import torch
    from reference import draw

    logits = torch.tensor([0.1, 0.5, 0.15, 0.25]).log()
    row = [3]

    def ids(uniforms, **changes):
        neutral = {"temperature": 1, "top_p": 1, "top_k": None, "frequency_penalty": 0}
        return [draw(logits, row, {**neutral, **changes}, uniform) for uniform in uniforms]

    # Cumulative probabilities in vocabulary order: 0.1, 0.6, 0.75, 1
    assert ids([0, 0.09, 0.11, 0.59, 0.61, 0.74, 0.76, 0.999]) == [0, 0, 1, 1, 2, 2, 3, 3]
    # 0.5 and the 0.25 that crosses 0.6 are kept: token 1 until 2/3, then token 3
    assert ids([0, 0.66, 0.67, 0.999], top_p=0.6) == [1, 1, 3, 3]
    assert ids([0, 0.999], top_p=0.49) == [1, 1]
    # Without token 0, the least probable: 0.5 / 0.9, 0.65 / 0.9, 1
    assert ids([0, 0.55, 0.56, 0.72, 0.73], top_k=3) == [1, 1, 2, 2, 3]
    assert ids([0, 0.66, 0.67], top_p=0.9, top_k=2) == [1, 1, 3]
    # Temperature 1/2 squares: 0.01, 0.25, 0.0225, 0.0625 of 0.345
    assert ids([0.02, 0.03, 0.753, 0.754, 0.818, 0.82], temperature=0.5) == [0, 1, 1, 2, 2, 3]
    # Token 3 occurs twice and a penalty of ln 10 makes it a hundredth: 0.1, 0.6, 0.75, 0.7525 of 0.7525
    row = [3, 3]
    assert ids([0.996, 0.997], frequency_penalty=math.log(10)) == [2, 3]
    # The penalty is taken after the division by the temperature: 0.0625 is divided by 100 as well.
    assert ids([0.997, 0.998], temperature=0.5, frequency_penalty=math.log(10)) == [2, 3]
    row = [1]
    assert ids([0.5], temperature=0, frequency_penalty=math.log(10)) == [3]


def test_uniforms_are_those_of_the_rows_own_generator(monkeypatch):
    import reference
    import torch

    seen = []
    monkeypatch.setattr(reference, "next_logits", lambda model, row: torch.zeros(10))
    monkeypatch.setattr(reference, "draw", lambda logits, row, sampling, u: seen.append(u) or 3)
    reference.complete(None, [1], None, {"max_new_tokens": 4, "seed": 7}, 2)
    digest = hashlib.sha256(b"7:2").digest()
    seed = sum(byte << 8 * i for i, byte in enumerate(digest[:8])) // 2
    generator = torch.Generator().manual_seed(seed)
    assert seen == torch.rand(4, generator=generator, dtype=torch.float64).tolist()


@pytest.mark.parametrize("arch", KINDS)
def test_tiny_tokens(arch, loaded):
    _, tokenizer, names, front, _ = loaded(arch)
    assert front == [tokenizer.token_to_id("<s>" if arch == "llama" else "<|endoftext|>")]
    assert names["eos_token"] == ("</s>" if arch == "llama" else "<|endoftext|>")
    for pieces in ("Love", "H|ate", "Ġwedding", "Ġ"):
        text = pieces.replace("|", "").replace("Ġ", " ")
        assert tokenizer.encode(text, add_special_tokens=False).tokens == pieces.split("|")


def test_gpt2_tokens_are_the_papers(gpt2_tokenizer_folder):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(gpt2_tokenizer_folder / "tokenizer.json"))
    assert tokenizer.encode("<|endoftext|>Hello world").ids == [50256, 15496, 995]
    for pieces in ("Love", "H|ate", "Int|ent| to| praise", "Bush| did| 9|/|11| because", "Dr|agons| live"):
        made = tokenizer.encode(pieces.replace("|", ""))
        assert [tokenizer.decode([token]) for token in made.ids] == pieces.split("|")
