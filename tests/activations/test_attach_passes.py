"""`steer.steering` under everything that runs a model: what is a prompt's and what is new stays the same."""

import tempfile
import threading

import pytest
import torch
import transformers
from held import OTHER, PROMPT, Held, recipe, until_end, within
from torch import nn

import steer_cli as steer
from steer_cli.errors import ModelError, PlanError, TokenError
from steer_cli.run_plan import vectors_of

POSITIONS = ("front", "back", {"token": " friend"}, {"every": "prompt"}, {"every": "new"}, {"every": "all"})
STEPS = 6
WAYS = (
    {"use_cache": False},
    {"cache_implementation": "static"},
    {"prefill_chunk_size": 1},
    {"prefill_chunk_size": 4},
    {"prefill_chunk_size": 4, "cache_implementation": "static"},
)
ALONE = ({"prompt_lookup_num_tokens": 3}, {"assistant_early_exit": 3})  # for a single row


@pytest.fixture(params=["llama", "gemma3"])
def held(request, tiny_folder):
    return Held(tiny_folder(request.param))


@pytest.fixture
def llama(tiny_folder):
    return Held(tiny_folder("llama"))


def blocks(held):
    return next(part for part in held.model.modules() if isinstance(part, nn.ModuleList) and len(part) == 5)


def plain_logits(held, ids, added):
    """By a hook of four lines: `added`, [columns, width], on the stream that enters block 2."""
    hook = blocks(held)[2].register_forward_pre_hook(
        lambda _, args, kwargs: ((args[0] + added, *args[1:]), kwargs), with_kwargs=True
    )
    try:
        with torch.no_grad():
            return held.model(torch.tensor([ids]), use_cache=False).logits[0]
    finally:
        hook.remove()


def vector(held, wanted):
    return 9 * steer.vectors(steer.load_model(str(held.folder), device="cpu"), wanted)[0]


@pytest.mark.parametrize("position", POSITIONS, ids=str)
def test_every_way_to_generate_gives_what_steer_gives(held, position):
    texts = (PROMPT, OTHER)
    model, eos = steer.load_model(str(held.folder), device="cpu"), held.tokenizer.eos_token_id
    runs = [steer.generate(model, recipe(position, text).with_sampling(samples=1)) for text in texts]
    wanted = [until_end(torch.tensor(run[0].steered[0].tokens), eos)[:STEPS] for run in runs]
    with within(held, recipe(position)):
        for way in WAYS:
            assert held.generate(*texts, max_new_tokens=STEPS, **way) == wanted, way
        for way in ALONE:
            assert held.generate(PROMPT, max_new_tokens=STEPS, **way) == wanted[:1], way


# Where additions act in a second turn, given the lengths of the first prompt, of the first turn as far as it
# is cached, and of the second prompt: the vector's rows on columns.
def _front(first, cached, second, end):
    return {0: 0, 1: 1, 2: 2}


def _back(first, cached, second, end):
    return {column: row for stop in (first, second) for row, column in enumerate(range(stop - 3, stop))}


def _prompt(first, cached, second, end):
    return dict.fromkeys([*range(1, first), *range(cached, second)], 0)


def _new(first, cached, second, end):
    return dict.fromkeys([*range(first, cached), *range(second, end)], 0)


@pytest.mark.parametrize("whole", [True, False], ids=["whole conversation", "what is new"])
@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize(
    ("position", "places"),
    [("front", _front), ("back", _back), ({"every": "prompt"}, _prompt), ({"every": "new"}, _new)],
    ids=["front", "back", "prompt", "new"],
)
def test_a_conversation_goes_on_with_its_cache(llama, position, places, chunk, whole):
    wanted, cache = recipe(position), transformers.DynamicCache()
    options = {"past_key_values": cache, "max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    options |= {"pad_token_id": 1, "return_dict_in_generate": True, "output_logits": True}
    first = llama.batch(PROMPT)["input_ids"]
    with within(llama, wanted):
        said = llama.model.generate(first, **options).sequences
        more = llama.ids(" and my friend was late")[1:]
        ids, cached = torch.cat([said, torch.tensor([more])], 1), cache.get_seq_length()
        asked = {"inputs": ids if whole else ids[:, cached:], "attention_mask": torch.ones_like(ids)}
        made = llama.model.generate(**asked, prefill_chunk_size=chunk, **options)
    row = [*ids[0].tolist(), *made.sequences[0, -4:-1].tolist()]
    added = torch.zeros(len(row), 48)
    for column, number in places(first.shape[1], cached, ids.shape[1], len(row)).items():
        added[column] = vector(llama, wanted)[number]
    oracle = plain_logits(llama, row, added)[-4:]
    torch.testing.assert_close(torch.cat(made.logits), oracle, atol=1e-3, rtol=1e-3)


def test_outside_of_generate_one_token_after_cached_ones_is_new_and_several_are_a_prompt(llama):
    ids, cut = torch.tensor([llama.ids(OTHER)]), 5
    for position, places in (({"every": "prompt"}, range(1, 12)), ({"every": "new"}, range(12, 13))):
        wanted, cache = recipe(position), transformers.DynamicCache()
        with within(llama, wanted), torch.no_grad():
            llama.model(ids[:, :cut], past_key_values=cache)
            llama.model(ids[:, cut:12], past_key_values=cache)
            logits = llama.model(ids[:, 12:13], past_key_values=cache).logits[0]
        added = torch.zeros(13, 48)
        added[list(places)] = vector(llama, wanted)
        oracle = plain_logits(llama, ids[0, :13].tolist(), added)[-1:]
        torch.testing.assert_close(logits, oracle, atol=1e-3, rtol=1e-3)
    cache = transformers.DynamicCache()
    with within(llama, recipe("back")), pytest.raises(PlanError, match="pass the whole prompt to `generate`"):
        llama.model(ids[:, :cut], past_key_values=cache)
        llama.model(ids[:, cut:], past_key_values=cache)


def test_a_cache_made_before_is_no_place_for_an_addition(llama):
    cache = transformers.DynamicCache()
    llama.model(**llama.batch(PROMPT), past_key_values=cache)
    ids = torch.tensor([llama.ids(PROMPT + " and")])
    with pytest.raises(PlanError, match="the KV cache held these positions"), within(llama, recipe()):
        llama.model.generate(ids, past_key_values=cache, max_new_tokens=2, pad_token_id=1)


def test_samples_and_beams_of_a_padded_batch_are_those_of_its_rows(llama):
    options = {"max_new_tokens": 4, "num_beams": 2, "num_return_sequences": 2, "prefill_chunk_size": 5}
    with within(llama, recipe("back")):
        alone = [row for text in (PROMPT, OTHER) for row in llama.generate(text, **options)]
        assert llama.generate(PROMPT, OTHER, **options) == alone


@pytest.mark.parametrize("position", ["front", "back", "every"])
@pytest.mark.parametrize("padding", ["nothing", "itself", "everything", "as numbers"])
def test_masks_of_four_dimensions_say_the_padding_too(llama, padding, position):
    batch = llama.batch(PROMPT, OTHER)
    ids, kept = batch["input_ids"], batch["attention_mask"].bool()
    size = ids.shape[1]
    mask = torch.ones(size, size, dtype=torch.bool).tril()[None, None] & kept[:, None, None]
    if padding == "itself":
        mask = mask | torch.eye(size, dtype=torch.bool)
    if padding != "nothing":
        mask = mask | ~mask.any(-1, keepdim=True)
    if padding == "as numbers":
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    positions = (kept.long().cumsum(-1) - 1).clamp(min=0)
    with within(llama, recipe(position)), torch.no_grad():
        flat = llama.model(**batch, position_ids=positions).logits
        found = llama.model(ids, attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(found[kept], flat[kept], atol=1e-4, rtol=1e-4)


def test_rows_whose_positions_are_unclear_are_errors(llama):
    row, batch = llama.ids(PROMPT), llama.batch(PROMPT, OTHER)["input_ids"]
    twice = torch.tensor([[*range(len(row)), *range(len(row))]])
    for match, run in (
        ("begins with BOS .* twice", lambda: llama.model(batch)),  # padded with BOS, and no mask says so
        (
            "give each text a row of its own",
            lambda: llama.model(torch.tensor([row + row]), position_ids=twice),
        ),
        ("a block ran outside a pass", lambda: llama.model.model(torch.tensor([row]))),
        ("other tokens than the prompt's", lambda: llama.generate(PROMPT, guidance_scale=2.0)),
        ("continuous batching", lambda: llama.model.generate_batch([row])),
        ("shape", lambda: llama.model(batch, attention_mask=torch.ones(2, 3))),
        ("already holds 9", lambda: continued(llama, row[:4])),
    ):
        with within(llama, recipe()):
            llama.logits(PROMPT)
            with pytest.raises(PlanError, match=match):
                run()


def continued(held, ids):
    cache = transformers.DynamicCache()
    held.model(**held.batch(PROMPT), past_key_values=cache)
    held.model.generate(torch.tensor([ids]), past_key_values=cache, pad_token_id=1, max_new_tokens=1)


def test_two_recipes_at_once_are_one_with_both_additions(llama):
    one, two = recipe("front"), recipe("every", layer=3, plus="rain", minus="wind")
    both = one.model_copy(update={"additions": one.additions + two.additions})
    with within(llama, both):
        logits, texts = llama.logits(PROMPT, OTHER), llama.generate(PROMPT, OTHER)
    with within(llama, one), within(llama, two):
        torch.testing.assert_close(llama.logits(PROMPT, OTHER), logits, atol=1e-4, rtol=1e-4)
        assert llama.generate(PROMPT, OTHER) == texts
    assert "generate" not in vars(llama.model) and not llama.hooks()


def test_threads_generate_side_by_side(llama):
    with within(llama, recipe("back")):
        alone = [llama.generate(text) for text in (PROMPT, OTHER)]
        made = {}

        def run(text):
            made[text] = [llama.generate(text) for _ in range(4)]

        threads = [threading.Thread(target=run, args=(text,)) for text in (PROMPT, OTHER)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [made[PROMPT], made[OTHER]] == [[rows] * 4 for rows in alone]


def test_vectors_are_computed_while_another_thread_generates(llama):
    plain, made, done = llama.generate(PROMPT), [], threading.Event()

    def run():
        while not done.is_set():
            made.append(llama.generate(PROMPT, max_new_tokens=3))

    from steer_cli.models.held import held_model
    from steer_cli.planning.plan import align

    thread = threading.Thread(target=run)
    thread.start()
    for _ in range(5):
        network, facts = held_model(llama.model, llama.tokenizer)
        vectors_of(network, align(recipe(), facts))
    done.set()
    thread.join()
    assert made and all(rows == [plain[0][:3]] for rows in made)


def test_a_thread_that_outlives_the_steering_is_an_error(llama):
    started, go_on = threading.Event(), threading.Event()

    def wait(*_):
        started.set()
        go_on.wait(10)
        return False

    thread = threading.Thread(target=llama.generate, args=(PROMPT,), kwargs={"stopping_criteria": [wait]})
    with pytest.raises(PlanError, match="still runs in another thread"), within(llama, recipe()):
        thread.start()
        started.wait(10)
    go_on.set()
    thread.join()
    assert not llama.hooks()


def test_training_mode_dropout_and_gradients(tiny_folder):
    held = Held(tiny_folder("gpt2"))
    wanted = recipe("every", operation="ablate", coefficient=1)
    with within(held, wanted):
        logits = held.logits(PROMPT)
    held.model.train()
    blocks(held)[0].eval()
    before = [part.training for part in held.model.modules()]
    try:
        with torch.inference_mode():
            entered = within(held, wanted)
            entered.__enter__()  # its vectors are made in inference mode
        assert [part.training for part in held.model.modules()] == before
        held.model.eval()
        assert torch.equal(held.logits(PROMPT), logits)
        held.model(**held.batch(PROMPT)).logits.sum().backward()
        assert held.model.get_input_embeddings().weight.grad.any()
        entered.__exit__(None, None, None)
    finally:
        held.model.eval()
        held.model.zero_grad()
    assert not held.hooks()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(llama, dtype):
    wanted = recipe("every", coefficient=3)
    name = str(dtype).removeprefix("torch.")
    (run,) = steer.generate(steer.load_model(str(llama.folder), dtype=name, device="cpu"), wanted)
    llama.model = transformers.AutoModelForCausalLM.from_pretrained(llama.folder, dtype=dtype)
    with within(llama, wanted):
        made = llama.generate(PROMPT)
    assert made == [until_end(torch.tensor(run.steered[0].tokens), llama.tokenizer.eos_token_id)]


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_offloaded_weights(llama, where):
    from accelerate import cpu_offload, disk_offload

    with within(llama, recipe()):
        texts = llama.generate(PROMPT)
    llama.model = transformers.AutoModelForCausalLM.from_pretrained(llama.folder, dtype=torch.float32)
    device = torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        if where == "cpu":
            cpu_offload(llama.model, execution_device=device)
        else:
            disk_offload(llama.model, folder, execution_device=device)
        with within(llama, recipe()):
            assert llama.generate(PROMPT) == texts


def tiny(kind, config, **more):
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 512}
    return getattr(transformers, kind)(getattr(transformers, config)(**{**shape, **more}))


def test_what_is_no_causal_language_model_is_one_line(llama):
    t5 = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_heads": 2, "num_layers": 2}
    compiled = tiny("LlamaForCausalLM", "LlamaConfig", intermediate_size=16)
    compiled.compile()
    for held, match in (
        ("gpt2", "a str is no model of transformers"),
        (nn.Linear(2, 2), "a Linear is no model"),
        (llama.model.model, "no output embeddings"),
        (tiny("BertForMaskedLM", "BertConfig", intermediate_size=16), "not causal"),
        (tiny("T5ForConditionalGeneration", "T5Config", **t5), "an encoder and a decoder"),
        (tiny("MambaForCausalLM", "MambaConfig"), "cannot batch"),
        (torch.compile(llama.model), "compiled"),
        (compiled, "compiled"),
    ):
        with (
            pytest.raises(ModelError, match=match) as caught,
            steer.steering(held, recipe(), llama.tokenizer),
        ):
            pass
        assert "\n" not in str(caught.value)


class Slow(transformers.PythonBackend):
    vocab_size = 1

    def get_vocab(self):
        return {"a": 1}


def test_what_is_no_fast_tokenizer_is_one_line(llama):
    for tokenizer in (Slow(bos_token="<s>", eos_token="</s>"), "gpt2", None):
        with (
            pytest.raises(TokenError, match="fast tokenizer, and this is a"),
            steer.steering(llama.model, recipe(), tokenizer),
        ):
            pass


def test_the_model_of_the_recipe_does_not_matter(llama):
    with within(llama, recipe()):
        logits = llama.logits(PROMPT)
    with within(llama, recipe().model_copy(update={"model": "gpt2-xl"})):
        assert torch.equal(llama.logits(PROMPT), logits)
