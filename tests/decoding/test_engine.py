"""Completions, token for token, against `reference.py`.

The reference runs the whole row again at every step, without a cache and a row at a time, and knows nothing
of batches: agreeing with it is what proves that cached decoding of one batch is right.
"""

import json
import shutil
from dataclasses import replace
from functools import cache
from string import ascii_letters

import pytest
import torch
from conftest import ARCHITECTURES
from reference import reference
from tiny import (
    LOVE,
    POSITIONS,
    PROMPT,
    by_transformers,
    drawn,
    embedding,
    hidden_states,
    open_model,
    plain_logits,
    recipe_of,
    steer,
)

from steer_cli.activations.arms import UNSTEERED
from steer_cli.api.questions import complete
from steer_cli.decoding.engine import MOST_ROWS, decode
from steer_cli.decoding.prefill import prefill
from steer_cli.decoding.request import Request
from steer_cli.errors import PlanError, SteerError
from steer_cli.measure.logprob import mean_logprobs
from steer_cli.models.hardware import Hardware
from steer_cli.models.load import Model, load
from steer_cli.models.located import Located
from steer_cli.models.resolve import locate
from steer_cli.networks.attention import Causal
from steer_cli.planning.plan import plan_recipe
from steer_cli.planning.tokens import open_tokenizer
from steer_cli.recipe.load import load as load_recipe
from steer_cli.recipe.sampling import Sampling

every_architecture = pytest.mark.parametrize("arch", ARCHITECTURES)
SAMPLING = {"max_new_tokens": 12, "samples": 3, "top_p": 0.9, "frequency_penalty": 0.5, "seed": 4}
GREEDY = {"temperature": 0.0, "frequency_penalty": 0.0}


def tokens_of(samples):
    return [tuple(sample["ids"]) for sample in samples], [sample["finish"] for sample in samples]


def agrees(rows, samples):
    return ([row.ids for row in rows], [row.finish for row in rows]) == tokens_of(samples)


@cache
def opened(name):
    """A model by name, as a command opens it."""
    return load(locate(name), Hardware(device="cpu"))


@pytest.fixture
def run(tmp_path):
    """A function: a folder and the values of a recipe -> the outcome of each prompt, by way of a file."""

    def outcomes(folder, *additions, score=False, **keys):
        keys = {"prompt": PROMPT, "sampling": SAMPLING, **keys}
        if "prompts" in keys:
            del keys["prompt"]
        written = {"model": str(folder), "additions": list(additions), **keys}
        file = tmp_path / "recipe.yaml"
        file.write_text(json.dumps(written), encoding="utf-8")  # JSON is YAML too
        recipe, model = load_recipe(str(file)), opened(str(folder))
        plan = plan_recipe(recipe, model.facts(recipe.bos), recipe.sampling.max_new_tokens)
        return list(complete(model, plan, score=score))

    return outcomes


def ids_of(completions):
    return [completion.tokens for completion in completions]


def same_as_reference(outcome, result):
    for arm in ("unsteered", "steered"):
        ids, finishes = tokens_of(result[arm]["samples"])
        made = getattr(outcome, arm)
        assert ids_of(made) == ids, arm
        assert [completion.finish for completion in made] == finishes


# --- one prompt, one batch


@every_architecture
@pytest.mark.parametrize("position", POSITIONS)
def test_both_arms_are_the_references_token_for_token(arch, position, tiny_folder):
    folder, addition = tiny_folder(arch), {**LOVE, "position": position}
    one = steer(folder, addition)
    start = one.prefilled()
    sampling = {**SAMPLING, "seed": 4 + POSITIONS.index(position) % 2}
    result = reference(folder, PROMPT, [addition], sampling)
    unsteered, steered = one.rows(**sampling)
    assert agrees(unsteered, result["unsteered"]["samples"])
    assert agrees(steered, result["steered"]["samples"])
    assert drawn(steered) != drawn(unsteered)
    for arm, name in enumerate(("unsteered", "steered")):
        torch.testing.assert_close(start.logits[arm], result[name]["logits"], atol=1e-4, rtol=1e-4)


@every_architecture
@pytest.mark.parametrize("position", ["front", "every"])
def test_coefficient_0_is_unsteered(arch, position, tiny_folder):
    one = steer(tiny_folder(arch), {**LOVE, "coefficient": 0, "position": position})
    start = one.prefilled()
    torch.testing.assert_close(start.logits[0], start.logits[1])
    unsteered, steered = one.rows(20, max_new_tokens=30, top_p=0.9)
    assert drawn(steered) == drawn(unsteered)
    assert len({row.ids for row in unsteered}) > 10


@every_architecture
def test_greedy_is_that_of_transformers(arch, tiny_folder):
    greedy(tiny_folder(arch), 100)


def test_greedy_of_the_real_model_is_that_of_transformers(real_folder):
    greedy(real_folder, 40)


def greedy(folder, tokens):
    network, oracle = open_model(folder).network, by_transformers(folder)
    ids = open_tokenizer(folder).prompt(PROMPT)
    row = torch.tensor([ids])
    ends = oracle.generation_config.eos_token_id
    oracle.generation_config.eos_token_id = None  # as many tokens, whatever they are
    made = oracle.generate(row, attention_mask=torch.ones_like(row), do_sample=False, max_new_tokens=tokens)
    oracle.generation_config.eos_token_id = ends
    sampling = Sampling(**GREEDY, max_new_tokens=tokens, samples=1)
    (finished,) = decode(network, [Request(ids, (UNSTEERED,))], sampling, (), len(ids))
    ((mine,),) = finished.arms
    assert drawn([mine]) == [(tuple(made[0, len(ids) :].tolist()), "length")]
    assert len(mine.ids) == tokens


@every_architecture
@pytest.mark.parametrize("position", ["front", "every"])
def test_greedy_steered_for_60_tokens(arch, position, tiny_folder):
    """Long enough for a slip in the cache to show."""
    addition, sampling = {**LOVE, "position": position}, {**GREEDY, "max_new_tokens": 60, "samples": 1}
    one = steer(tiny_folder(arch), addition)
    result = reference(tiny_folder(arch), PROMPT, [addition], sampling)
    for rows, arm in zip(one.rows(**sampling), ("unsteered", "steered"), strict=True):
        assert agrees(rows, result[arm]["samples"])


@pytest.mark.parametrize("arch", ["gemma3", "gemma3_adapted"])
@pytest.mark.parametrize(("words", "new"), [(185, 22), (215, 8)])
@pytest.mark.parametrize("position", ["front", "every"])
def test_beyond_a_sliding_window(words, new, position, arch, tiny_folder):
    """Gemma's lower blocks look 200 positions back: it is passed while decoding, or in the prompt already."""
    folder, addition = tiny_folder(arch), {**LOVE, "position": position}
    prompt = " wedding" * words
    one = steer(folder, addition, prompt=prompt)
    assert len(one.prompt) == words + 1
    sampling = {**SAMPLING, "max_new_tokens": new, "samples": 2}
    result = reference(folder, prompt, [addition], sampling)
    rows = one.rows(**sampling)
    for arm, name in enumerate(("unsteered", "steered")):
        assert agrees(rows[arm], result[name]["samples"])
    for scored, row in zip(scores(one, rows[1]), rows[1], strict=True):
        assert scored == pytest.approx(mean_by_hand(one.folder, one.prompt, row.ids), abs=1e-4)


def scores(one, rows):
    start = one.prefilled()
    return mean_logprobs(one.network, start.prefixes[0], start.logits[0], [row.ids for row in rows])


def mean_by_hand(folder, prompt, ids):
    """The whole row in one plain pass."""
    logits = plain_logits(folder, [*prompt, *ids])[len(prompt) - 1 : -1]
    scores = logits.double().log_softmax(-1)
    return scores.gather(1, torch.tensor(ids)[:, None]).mean().item()


@every_architecture
@pytest.mark.parametrize("position", ["front", "every"])
def test_mean_logprob_is_that_of_a_plain_pass_over_the_whole_row(arch, position, tiny_folder):
    one = steer(tiny_folder(arch), {**LOVE, "position": position})
    rows = [row for arm in one.rows(**{**SAMPLING, "samples": 6}) for row in arm]
    # In any order and of any length, and twice the same.
    rows += [replace(rows[0], ids=rows[0].ids[:1]), rows[0]]
    made = scores(one, rows)
    for score, row in zip(made, rows, strict=True):
        assert score == pytest.approx(mean_by_hand(one.folder, one.prompt, row.ids), abs=1e-4)
    assert made[0] == made[-1]


def test_mean_logprob_in_parts(tiny_folder, monkeypatch):
    one = steer(tiny_folder("llama"), LOVE)
    rows = one.rows(**{**SAMPLING, "samples": 6})[0]
    whole = scores(one, rows)
    monkeypatch.setattr("steer_cli.measure.logprob.HELD_LOGITS", 2 * 512 * 12)
    assert scores(one, rows) == pytest.approx(whole, abs=1e-5)


def test_mean_logprob_in_half_precision_is_taken_in_full(tiny_folder):
    """Log probabilities of bfloat16 have two digits; only the logits should be that coarse."""
    folder = tiny_folder("llama")
    network, ids = open_model(folder, "bfloat16").network, open_tokenizer(folder).prompt(PROMPT)
    with torch.inference_mode():
        logits = network.next_logits(torch.tensor([ids]), Causal(len(ids), keep=True))[0]
    assert logits.dtype == torch.bfloat16
    (start,) = prefill(network, [Request(ids, (UNSTEERED,))])
    rows = [(token,) for token in range(512)]
    made = torch.tensor(mean_logprobs(network, start.prefixes[0], start.logits[0], rows))
    torch.testing.assert_close(made, logits.float().log_softmax(-1), atol=1e-4, rtol=1e-4)


@every_architecture
@pytest.mark.parametrize("position", ["front", "every"])
def test_decoding_knows_the_logprob_of_unsteered_rows(arch, position, tiny_folder):
    """Their logits are the unsteered model's: the log-softmax of one full pass over the whole row."""
    one = steer(tiny_folder(arch), {**LOVE, "position": position})
    settings = {**SAMPLING, "samples": 12, "top_p": 0.95}
    end = one.rows(**settings, eos=())[0][0].ids[5]
    unsteered, steered = one.rows(**settings, eos=(end,))
    assert unsteered[0].finish == "eos"
    for row in unsteered:
        by_hand = mean_by_hand(one.folder, one.prompt, row.ids) * len(row.ids)
        assert row.logprob == pytest.approx(by_hand, abs=1e-3, rel=1e-5)
    assert {row.logprob for row in steered} == {None}


@every_architecture
def test_a_row_ends_at_its_first_eos_or_at_the_last_step(arch, tiny_folder):
    one = steer(tiny_folder(arch), LOVE)
    eos = one.tokenizer.eos
    rows = [row for arm in one.rows(40, max_new_tokens=40, top_p=0.95) for row in arm]
    assert {row.finish for row in rows} == {"eos", "length"}
    for row in rows:
        assert not set(row.ids[:-1]) & set(eos)
        assert (row.finish == "eos") == (row.ids[-1] in eos)
        assert row.finish == "eos" or len(row.ids) == 40


def test_an_eos_in_the_last_step_is_an_eos(tiny_folder):
    one = steer(tiny_folder("gpt2"), LOVE)
    long = one.rows(40, max_new_tokens=40, top_p=0.95)
    ended = next(row for row in long[1] if row.finish == "eos" and len(row.ids) > 1)
    exactly, short = (
        one.rows(40, max_new_tokens=steps, top_p=0.95)[1] for steps in (len(ended.ids), len(ended.ids) - 1)
    )
    index = long[1].index(ended)
    assert exactly[index] == ended
    assert drawn(short)[index] == (ended.ids[:-1], "length")


@pytest.mark.parametrize("arch", ["gpt2", "llama_adapted"])
def test_decoding_stops_when_every_row_has_ended(arch, tiny_folder):
    one = steer(tiny_folder(arch), LOVE)
    with embedding(one.network) as passes:
        rows = one.rows(2, eos=range(512), max_new_tokens=50)
    assert len(passes) == 1  # the prompt
    assert all(len(row.ids) == 1 and row.finish == "eos" for arm in rows for row in arm)


# --- whole runs, from a recipe file


MANY = {
    "two layers": [LOVE, {"plus": " wedding", "minus": " ", "layer": 4, "coefficient": 2}],
    "a list of layers": [{**LOVE, "layer": [1, 3]}],
    "two of one layer": [LOVE, {**LOVE, "position": "back", "coefficient": -2}],
    "front and every": [LOVE, {**LOVE, "position": "every", "coefficient": 0.5}],
    "every at two layers": [{**LOVE, "layer": [1, 4], "position": "every", "coefficient": 0.7}],
    "mean of pairs": [
        {"pairs": [{"plus": "Love", "minus": "Hate"}, {"plus": "I"}], "layer": 2, "coefficient": 2}
    ],
    "sum of pairs": [
        {
            "pairs": [{"plus": "Love", "minus": "Hate"}, {"plus": " wedding", "minus": "ship and"}],
            "combine": "sum",
            "layer": 2,
        }
    ],
    "every of pairs": [
        {
            "pairs": [{"plus": "Love", "minus": "Hate"}, {"plus": " wedding", "minus": "ship and"}],
            "layer": 2,
            "position": "every",
        }
    ],
    "matched norm": [{**LOVE, "layer": 4, "source_layer": 0, "match_norm": True}],
    "source layer": [{**LOVE, "layer": 1, "source_layer": 3}],
    "dims": [{**LOVE, "dims": 0.7}],
    "random": [{**LOVE, "random": {"seed": 3}}],
    "random, cut, matched": [
        {**LOVE, "layer": 3, "source_layer": 1, "match_norm": True, "dims": 0.3, "random": {"seed": 1}}
    ],
    "no pads": [{**LOVE, "pad": "none"}],
    "no pads, every": [{**LOVE, "pad": "none", "position": "every"}],
    "eos pads": [{**LOVE, "pad": "eos"}],
    "pads of a word": [{**LOVE, "pad": " wedding", "position": "back"}],
    "no minus": [{"plus": "Love", "layer": 2, "coefficient": 2}],
    "empty minus": [{"plus": "I talk about", "minus": "", "layer": 2, "coefficient": 2}],
    "clipped at the end": [{**LOVE, "position": {"at": 7}, "overflow": "clip"}],
    "two randoms": [{**LOVE, "random": {"seed": 3}}, {**LOVE, "layer": 1, "random": {"seed": 3}}],
}


@pytest.mark.parametrize("name", MANY)
@pytest.mark.parametrize("bos", ["auto", "none"])
def test_a_recipe_is_the_reference(name, bos, tiny_folder, run):
    arch = ARCHITECTURES[list(MANY).index(name) % len(ARCHITECTURES)]
    folder, additions = tiny_folder(arch), MANY[name]
    if bos == "none":
        additions = [
            {**one, "position": {"at": 6}} if "overflow" in one else one for one in additions
        ]  # a position less
    (outcome,) = run(folder, *additions, bos=bos)
    result = reference(folder, PROMPT, additions, SAMPLING, bos=bos)
    same_as_reference(outcome, result)
    assert ids_of(outcome.steered) != ids_of(outcome.unsteered)
    size = len(result["prompt"])
    spans = [(receipt.placement.start, receipt.placement.end) for receipt in outcome.receipts]
    assert spans == [(start, end or size) for start, end in (one["span"] for one in result["additions"])]
    for receipt, one in zip(outcome.receipts, result["additions"], strict=True):
        norms = one["vector"].norm(dim=-1).expand(len(receipt.vector))
        assert receipt.vector == pytest.approx(norms.tolist(), abs=1e-3, rel=1e-4)


@pytest.mark.parametrize("position", ["back", "middle"])
def test_a_clipped_recipe_on_a_prompt_shorter_than_the_vector(position, tiny_folder, run):
    addition = {**LOVE, "position": position, "overflow": "clip"}
    for prompt in ("I", ""):
        if position == "middle" and not prompt:
            continue  # only the row of BOS would be left, an error
        (outcome,) = run(tiny_folder("llama"), addition, prompt=prompt)
        same_as_reference(outcome, reference(tiny_folder("llama"), prompt, [addition], SAMPLING))


@every_architecture
def test_every_acts_on_a_prompt_of_bos_alone(arch, tiny_folder, run):
    addition = {**LOVE, "position": "every", "coefficient": 6}
    (outcome,) = run(tiny_folder(arch), addition, prompt="")
    same_as_reference(outcome, reference(tiny_folder(arch), "", [addition], SAMPLING))
    assert ids_of(outcome.steered) != ids_of(outcome.unsteered)
    # The first token is drawn before there is anything to act on.
    assert [ids[0] for ids in ids_of(outcome.steered)] == [ids[0] for ids in ids_of(outcome.unsteered)]
    assert outcome.receipts[0].ratio == ()


def test_a_one_token_prompt_is_an_error(tiny_folder, run):
    with pytest.raises(PlanError, match=r"covers 3 positions.* has 1 "):
        run(tiny_folder("gpt2"), LOVE, prompt="")


@pytest.mark.parametrize("arch", ["gpt2", "gemma3", "gemma3_adapted"])
def test_a_sample_does_not_depend_on_how_many_there_are(arch, tiny_folder, run):
    """35 samples of two arms are more rows than decode together; 33 too, 5 are not."""
    assert 2 * 5 < MOST_ROWS["cpu"] < 2 * 33
    folder, sampling = tiny_folder(arch), {**SAMPLING, "top_p": 0.95}
    (many,) = run(folder, LOVE, sampling={**sampling, "samples": 35}, score=True)
    assert len(many.unsteered) == len(many.steered) == 35
    for samples in (1, 5, 33):
        (few,) = run(folder, LOVE, sampling={**sampling, "samples": samples}, score=True)
        for arm in ("unsteered", "steered"):
            long, short = getattr(many, arm), getattr(few, arm)
            assert ids_of(short) == ids_of(long)[:samples]
            assert [one.text for one in short] == [one.text for one in long[:samples]]
            scores = [[one.mean_logprob for one in part] for part in (short, long[:samples])]
            assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    assert len(set(ids_of(many.unsteered))) > 30


def test_the_last_of_many_samples_is_the_references(tiny_folder, run):
    """Those beyond a full batch enter as others end."""
    (outcome,) = run(tiny_folder("gpt2"), LOVE, sampling={**SAMPLING, "samples": 34})
    same_as_reference(outcome, reference(tiny_folder("gpt2"), PROMPT, [LOVE], {**SAMPLING, "samples": 34}))


def test_a_prompt_does_not_depend_on_the_others(tiny_folder, run):
    prompts = ["The wedding of my friend", PROMPT, "I hate you because you are late"]
    together = run(tiny_folder("llama"), LOVE, prompts=prompts)
    assert [outcome.prompt for outcome in together] == prompts
    for outcome in together:
        (alone,) = run(tiny_folder("llama"), LOVE, prompt=outcome.prompt)
        assert (alone.unsteered, alone.steered) == (outcome.unsteered, outcome.steered)


def test_steps_do_not_depend_on_how_many_there_are(tiny_folder, run):
    (short,), (long,) = (
        run(tiny_folder("gptj"), LOVE, sampling={**SAMPLING, "max_new_tokens": steps}) for steps in (4, 20)
    )
    for arm in ("unsteered", "steered"):
        assert ids_of(getattr(short, arm)) == [ids[:4] for ids in ids_of(getattr(long, arm))]


def test_text_is_the_completion_alone_and_its_words_are_counted(tiny_folder, run):
    folder = tiny_folder("gpt2")
    (outcome,) = run(
        folder, LOVE, sampling={**SAMPLING, "samples": 20, "max_new_tokens": 30}, count={"w": ["a", "I"]}
    )
    tokenizer = open_tokenizer(folder)
    found = 0
    for one in outcome.unsteered + outcome.steered:
        ended = one.finish == "eos"
        assert one.text == tokenizer.decode(one.tokens[:-1] if ended else one.tokens)
        assert "<|endoftext|>" not in one.text and one.mean_logprob is None
        words = "".join(c if c.isalnum() or c == "_" else " " for c in one.text).lower().split()
        assert one.counts == {"w": words.count("a") + words.count("i")}
        found += one.counts["w"]
    assert found
    assert "".join(outcome.pieces) == "<|endoftext|>" + PROMPT


def test_a_row_ends_at_any_of_several_eos_tokens(tiny_folder, tmp_path, run):
    (plain,) = run(tiny_folder("gpt2"), LOVE)
    row = next(ids for ids in ids_of(plain.steered) if len(ids) > 3)
    folder = tmp_path / "two-ends"
    shutil.copytree(tiny_folder("gpt2"), folder)
    file = folder / "generation_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(
        json.dumps({**config, "eos_token_id": [config["eos_token_id"], row[2]]}), encoding="utf-8"
    )
    (outcome,) = run(folder, LOVE)
    index = ids_of(plain.steered).index(row)
    end = row.index(row[2])
    assert outcome.steered[index].tokens == row[: end + 1]
    assert outcome.steered[index].finish == "eos"


@pytest.mark.parametrize("arch", ["gpt2", "llama_adapted"])
def test_the_token_that_begins_documents_ends_a_row_too(arch, tiny_folder):
    """As of the default model, whose own EOS is another: the next document would begin there."""
    folder, settings = tiny_folder(arch), {**SAMPLING, "samples": 12, "temperature": 1.5}
    network = open_model(folder).network

    def without_it(located):
        tokenizer = located.facts().tokenizer
        prompt = tokenizer.prompt(PROMPT)
        requests = [Request(prompt, (UNSTEERED,))]
        (done,) = decode(network, requests, Sampling(**settings), open_tokenizer(folder).eos, len(prompt))
        return tokenizer.bos, [row.ids for row in done.arms[0]]

    # One that some rows come to.
    for located in (Located(arch, folder, bos=letter) for letter in ascii_letters):
        first, rows = without_it(located)
        if any(first in ids[:-1] for ids in rows):
            break
    assert located.facts().tokenizer.eos == (*open_tokenizer(folder).eos, first)
    recipe = recipe_of(LOVE, sampling=settings)
    plan = plan_recipe(recipe, Model(located, network).facts(), SAMPLING["max_new_tokens"])
    (outcome,) = complete(Model(located, network), plan, score=False)
    for made, ids in zip(outcome.unsteered, rows, strict=True):
        end = ids.index(first) + 1 if first in ids else len(ids)
        assert made.tokens == ids[:end]
        assert made.finish == "eos" or first not in ids
    assert any(len(made.tokens) < len(ids) for made, ids in zip(outcome.unsteered, rows, strict=True))


def test_the_default_model_ends_a_row_at_either_of_its_eos():
    tokenizer = opened("smollm2-135m").facts().tokenizer
    backend = tokenizer.backend
    assert set(tokenizer.eos) == {backend.token_to_id("<|im_end|>"), backend.token_to_id("<|endoftext|>")}


@every_architecture
def test_the_context_can_be_filled_and_not_overrun(arch, tiny_folder, run):
    full = 256 - 9
    for sampling, fits in (({"max_new_tokens": full}, True), ({"max_new_tokens": full + 1}, False)):
        sampling = {**GREEDY, "samples": 1, **sampling}
        if fits:
            rows = steer(tiny_folder(arch), {**LOVE, "position": "every"}).rows(**sampling, eos=())
            assert [len(row.ids) for arm in rows for row in arm] == [full, full]
        else:
            with pytest.raises(PlanError, match=r"9 tokens and 248 new ones are more than the 256 of"):
                run(tiny_folder(arch), LOVE, sampling=sampling)


@pytest.mark.parametrize("changes", [{"position": "every"}, {"overflow": "clip"}])
def test_a_text_longer_than_the_context_is_an_error(changes, tiny_folder, run):
    """Neither of these asks for a prompt that is as long; GPT-2 has no positions for such a text."""
    long = {"plus": "wine salt " * 200, "minus": " ", "layer": 2, **changes}
    with pytest.raises(SteerError, match="256"):
        run(tiny_folder("gpt2"), long)


def test_scores_of_a_run_are_by_the_unsteered_model(tiny_folder, run):
    folder = tiny_folder("gpt_neox")
    (outcome,) = run(folder, {**LOVE, "position": "every"}, score=True)
    ids = open_tokenizer(folder).prompt(PROMPT)
    for one in outcome.unsteered + outcome.steered:
        assert one.mean_logprob == pytest.approx(mean_by_hand(folder, ids, one.tokens), abs=1e-4)


def test_two_runs_are_the_same_to_the_last_digit(tiny_folder, run):
    first, second = (run(tiny_folder("llama"), LOVE, score=True) for _ in range(2))
    assert first == second


def test_the_real_model_is_the_reference(real_folder, run):
    """Six tokens of the default recipe's kind; its BOS and EOS are those of the catalogue."""
    addition = {"plus": " wedding", "minus": " ", "layer": 16, "coefficient": 2}
    sampling = {"max_new_tokens": 6, "samples": 1, "seed": 1}
    (outcome,) = run("smollm2-135m", addition, sampling=sampling, score=True)
    result = reference(real_folder, PROMPT, [addition], sampling, bos="<|endoftext|>")
    same_as_reference(outcome, result)
    assert ids_of(outcome.steered) != ids_of(outcome.unsteered)
    for one in outcome.unsteered + outcome.steered:
        by_hand = mean_by_hand(real_folder, tuple(result["prompt"]), one.tokens)
        assert one.mean_logprob == pytest.approx(by_hand, abs=1e-4)
    stream = hidden_states(real_folder, result["prompt"])[16]
    assert outcome.receipts[0].stream == pytest.approx(stream[:2].norm(dim=-1).tolist(), rel=1e-3)
