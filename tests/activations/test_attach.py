"""`steer.steering` on a model that the user holds: what transformers generates is what steer would."""

import pytest
import torch
from held import OTHER, PROMPT, Held, recipe, until_end, within

import steer_cli as steer
from steer_cli.errors import PlanError, TokenError, VectorError

KINDS = ("gpt2", "llama", "gemma3", "gpt_neox")
POSITIONS = ("front", "back", {"at": 4}, "every")


@pytest.fixture(params=KINDS)
def held(request, tiny_folder):
    return Held(tiny_folder(request.param))


@pytest.mark.parametrize("position", POSITIONS, ids=str)
def test_greedy_text_is_that_of_steer(held, position):
    wanted = recipe(position)
    (run,) = steer.generate(steer.load_model(str(held.folder), device="cpu"), wanted)
    eos = held.tokenizer.eos_token_id
    unsteered, steered = (until_end(torch.tensor(arm[0].tokens), eos) for arm in (run.unsteered, run.steered))
    assert held.generate(PROMPT) == [unsteered]
    with within(held, wanted):
        assert held.generate(PROMPT) == [steered]
        assert held.generate(PROMPT, use_cache=False) == [steered]
    assert steered != unsteered


@pytest.mark.parametrize("position", POSITIONS, ids=str)
def test_a_padded_row_gets_what_it_gets_alone(held, position):
    with within(held, recipe(position)):
        alone = [held.generate(text)[0] for text in (PROMPT, OTHER)]
        assert held.generate(PROMPT, OTHER) == alone
        # One pass with padding on the right: positions are counted from a row's own first token.
        batch, ends = held.batch(PROMPT, OTHER, side="right"), [len(held.ids(t)) for t in (PROMPT, OTHER)]
        with torch.no_grad():
            rows = held.model(**batch).logits
        for row, end, text in zip(rows, ends, (PROMPT, OTHER), strict=True):
            torch.testing.assert_close(row[:end], held.logits(text)[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("position", ["front", "every"])
def test_the_scores_of_beams_are_those_of_steered_passes(held, position):
    options = {"num_beams": 3, "num_return_sequences": 3, "do_sample": False, "max_new_tokens": 6}
    options |= {"return_dict_in_generate": True, "output_scores": True, "length_penalty": 0.0}
    batch = held.batch(PROMPT)
    start = batch["input_ids"].shape[1]
    plain = held.model.generate(**batch, **options, pad_token_id=0, eos_token_id=-1)
    with within(held, recipe(position)):
        made = held.model.generate(**batch, **options, pad_token_id=0, eos_token_id=-1)
        for row, score in zip(made.sequences, made.sequences_scores, strict=True):
            # `front` acts on the same tokens of the longer row, `every` on all of it.
            with torch.no_grad():
                logits = held.model(input_ids=row[None]).logits[0, start - 1 : -1]
            sum_of_row = logits.log_softmax(-1).gather(1, row[start:, None]).sum()
            torch.testing.assert_close(score, sum_of_row, atol=1e-3, rtol=1e-3)
    assert made.sequences.tolist() != plain.sequences.tolist()


def test_it_is_undone_on_exit_and_after_an_exception(held):
    before, hooks = held.logits(PROMPT, OTHER), held.hooks()
    with within(held, recipe()):
        assert held.hooks() > hooks
        assert not torch.equal(held.logits(PROMPT, OTHER), before)
    assert held.hooks() == hooks and torch.equal(held.logits(PROMPT, OTHER), before)
    with pytest.raises(KeyboardInterrupt), within(held, recipe("every")):
        held.generate(PROMPT)
        raise KeyboardInterrupt
    with pytest.raises(PlanError), within(held, recipe({"at": 200})):
        held.logits(PROMPT)
    assert held.hooks() == hooks and torch.equal(held.logits(PROMPT, OTHER), before)


def test_a_row_without_bos_is_an_error(held):
    ids = torch.tensor([held.ids(PROMPT)[1:]])
    with within(held, recipe()), pytest.raises(PlanError, match="does not begin with BOS"):
        held.model(input_ids=ids)
    # Said so in the recipe, it is none; `front` then acts on its first tokens.
    before = held.model(input_ids=ids).logits
    with within(held, recipe().model_copy(update={"bos": "none"})):
        assert not torch.equal(held.model(input_ids=ids).logits, before)


def test_a_span_that_does_not_fit_a_row_is_an_error(held):
    with within(held, recipe({"at": 8})), pytest.raises(PlanError, match="8"):
        held.generate(PROMPT)  # 9 tokens, and the vector has 3
    with within(held, recipe()), pytest.raises(PlanError):
        held.generate(OTHER, "I")


def test_an_addition_that_does_nothing_is_an_error(held):
    with pytest.raises(PlanError, match="does nothing"), within(held, recipe(minus="Love")):
        pass
    # Rounded away in the stream: found in the pass.
    with within(held, recipe(coefficient=1e-12)), pytest.raises(VectorError):
        held.logits(PROMPT)
    with within(held, recipe(coefficient=0)):
        held.logits(PROMPT)


def test_a_pass_without_ids_is_an_error(held):
    stream = held.model.get_input_embeddings()(torch.tensor([held.ids(PROMPT)]))
    with within(held, recipe()), pytest.raises(PlanError, match="input_ids"):
        held.model(inputs_embeds=stream)


@pytest.mark.parametrize("operation", ["add", "ablate"])
@pytest.mark.parametrize("way", ["prompt", "new", "both", "all"])
def test_every_way_and_operation_is_what_steer_does_also_in_a_padded_batch(held, way, operation):
    wanted = [
        recipe({"every": way}, prompt, operation=operation, coefficient=1, layer=[1, 3])
        for prompt in (PROMPT, OTHER)
    ]
    model, eos = steer.load_model(str(held.folder), device="cpu"), held.tokenizer.eos_token_id
    runs = [steer.generate(model, one)[0] for one in wanted]
    with within(held, wanted[0]):
        made = held.generate(PROMPT, OTHER)
    assert made == [until_end(torch.tensor(run.steered[0].tokens), eos) for run in runs]


def test_new_tokens_alone_must_come_and_change(held):
    before = held.logits(PROMPT)
    new = {"every": "new"}
    with pytest.raises(PlanError, match="did nothing: no pass had new tokens"), within(held, recipe(new)):
        assert torch.equal(held.logits(PROMPT), before)
    with (
        pytest.raises(PlanError, match="without a KV cache they cannot be told from the prompt"),
        within(held, recipe(new)),
    ):
        held.model(**held.batch(PROMPT), use_cache=False)
    with pytest.raises(VectorError, match="nothing"), within(held, recipe(new, coefficient=1e-20)):
        held.generate(PROMPT)
    with within(held, recipe(new)):  # nothing has run
        pass


# ---- chats


class Chatty(Held):
    """A model whose tokenizer has a chat template, which begins with another token than BOS."""

    template = (
        "{% for turn in messages %}{{ '<|im_start|>' + turn.role + '\\n' + turn.content + '<|im_end|>\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )

    def __init__(self, folder):
        super().__init__(folder)
        # Tokens that the tiny models have anyway, made special.
        named = {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
        self.tokenizer.add_special_tokens(named)
        assert len(self.tokenizer) <= 512
        self.tokenizer.chat_template = self.template

    def ids(self, text):
        turns = [{"role": "user", "content": text}]
        return self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)


def asked(text):
    return {"chat": [{"role": "user", "content": text}]}


PERSONA = {
    "plus": {"chat": [{"role": "system", "content": "Love"}, {"role": "user", "content": "I"}]},
    "minus": {"chat": [{"role": "system", "content": "Hate"}, {"role": "user", "content": "I"}]},
}


@pytest.mark.parametrize("bos", ["auto", "none"])
@pytest.mark.parametrize("texts", [{}, PERSONA], ids=["texts", "persona"])
def test_rows_that_are_chats_are_steered_as_the_tool_would(texts, bos, tiny_folder, tmp_path):
    held = Chatty(tiny_folder("llama"))
    held.tokenizer.save_pretrained(tmp_path)
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((held.folder / file).read_bytes())
    additions = {"position": "every", **texts}
    of_chats = recipe(**additions, prompt=asked(PROMPT)).model_copy(update={"bos": bos})
    [run] = steer.generate(steer.load_model(str(tmp_path)), of_chats)
    plain = held.generate(PROMPT, OTHER)
    with steer.steering(held.model, of_chats, held.tokenizer):
        together = held.generate(PROMPT, OTHER)
        alone = [*held.generate(PROMPT), *held.generate(OTHER)]
    assert together == alone
    assert together[0] == until_end(torch.tensor(run.steered[0].tokens), held.tokenizer.eos_token_id)
    assert together[0] != plain[0]
    assert held.generate(PROMPT, OTHER) == plain


def test_without_a_template_a_row_begins_with_bos(tiny_folder):
    held = Chatty(tiny_folder("llama"))
    with steer.steering(held.model, recipe(), held.tokenizer):
        held.logits(PROMPT)
    row, held.tokenizer.chat_template = torch.tensor([held.ids(PROMPT)]), None
    with (
        steer.steering(held.model, recipe(), held.tokenizer),
        pytest.raises(PlanError, match="does not begin with BOS"),
    ):
        held.model(row)
    with (
        pytest.raises(TokenError, match="the model has no chat template"),
        steer.steering(held.model, recipe(**PERSONA), held.tokenizer),
    ):
        pass


# ---- relative coefficients


@pytest.mark.parametrize("position", ["front", "every", {"every": "new"}, {"every": "all"}], ids=str)
def test_relative_coefficients_are_those_of_each_row_also_in_padded_batches(held, position):
    wanted = [
        recipe(position, prompt, coefficient={"relative": 0.8}, layer=[1, 3]) for prompt in (PROMPT, OTHER)
    ]
    model, eos = steer.load_model(str(held.folder), device="cpu"), held.tokenizer.eos_token_id
    runs = [steer.generate(model, one)[0] for one in wanted]
    before, hooks = held.logits(PROMPT, OTHER), held.hooks()
    with within(held, wanted[0]):
        made = held.generate(PROMPT, OTHER)
    assert made == [until_end(torch.tensor(run.steered[0].tokens), eos) for run in runs]
    assert made != [until_end(torch.tensor(run.unsteered[0].tokens), eos) for run in runs]
    assert held.hooks() == hooks and torch.equal(held.logits(PROMPT, OTHER), before)


def test_relative_beams_are_those_of_the_number_that_the_receipt_shows(held):
    relative = recipe("every", coefficient={"relative": 0.8})
    [run] = steer.generate(steer.load_model(str(held.folder), device="cpu"), relative)
    plain = recipe("every", coefficient=run.receipts[0].placement.coefficient)
    made = []
    for wanted in (relative, plain):
        with within(held, wanted):
            made.append(held.generate(PROMPT, OTHER, num_beams=3)[0])
    assert made[0] == made[1]


def test_a_relative_coefficient_needs_the_prompt_that_its_new_tokens_follow(held):
    with within(held, recipe("every", coefficient={"relative": 0.8})), torch.no_grad():
        first = held.model(**held.batch(PROMPT), use_cache=True).past_key_values
        held.model(**held.batch(OTHER), use_cache=True)
        with pytest.raises(PlanError, match="goes on from another KV cache"):
            held.model(input_ids=torch.tensor([[5]]), past_key_values=first)
