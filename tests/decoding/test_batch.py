"""Speed changes nothing: rows that share a batch, enter and leave it, give what each gives alone."""

import contextlib
import json
import shutil
from functools import cache
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from conftest import ARCHITECTURES
from reference import reference
from tiny import LOVE, drawn, embedding, open_model, steer

from steer_cli.activations.arms import UNSTEERED, Steering
from steer_cli.activations.vectors import compute
from steer_cli.api import questions as api
from steer_cli.decoding import kv_cache, step
from steer_cli.decoding.engine import decode
from steer_cli.decoding.request import Request
from steer_cli.models.hardware import Hardware
from steer_cli.models.load import load
from steer_cli.models.located import Located
from steer_cli.models.resolve import locate
from steer_cli.networks.attention import Causal
from steer_cli.networks.fastest import GRID, Fastest, Step
from steer_cli.networks.products import PLAIN, Linear, Way, available, mkl_packs
from steer_cli.planning.placement import align_additions, place
from steer_cli.planning.plan import plan_recipe
from steer_cli.planning.tokens import open_tokenizer
from steer_cli.recipe.load import load as load_recipe
from steer_cli.recipe.sampling import Sampling

torch.set_num_threads(1)

# Of different lengths, so that no two rows of a shared batch end at the same position.
PROMPTS = (
    "I hate you because",
    "I went up to my friend and said",
    "The ship sailed to Rome with a cargo of salt, wine and stone, and",
    "Love is all",
)
SAMPLING = {"max_new_tokens": 12, "samples": 3, "temperature": 1.5, "top_p": 0.9, "seed": 7}


def recipe_file(folder, model, additions, prompts=PROMPTS, **sampling):
    file = folder / "recipe.yaml"
    file.write_text(
        f"model: {model}\nprompts: {list(prompts)!r}\nadditions: {additions}\n"
        f"sampling: { {**SAMPLING, **sampling} }\n".replace("'", '"')
    )
    return load_recipe(str(file))


ADDITIONS = "[{plus: Love, minus: Hate, layer: 1, coefficient: 2}]"
EVERY = "[{plus: Love, minus: Hate, layer: 1, coefficient: 0.2, position: every}]"


@cache
def opened(name):
    return load(locate(name), Hardware(device="cpu"))


def generate(recipe, **more):
    model = opened(recipe.model)
    plan = plan_recipe(recipe, model.facts(recipe.bos), recipe.sampling.max_new_tokens)
    return api.complete(model, plan, **{"score": False, **more})


def rows(outcomes):
    return [
        [(completion.tokens, completion.finish) for completion in (*outcome.unsteered, *outcome.steered)]
        for outcome in outcomes
    ]


# After the prompt, a vector at its front is in the cache alone: a plain network and an adapted one prove it.
SHARED = [pytest.param(arch, EVERY, id=f"{arch}-every") for arch in ARCHITECTURES]
SHARED += [pytest.param(arch, ADDITIONS, id=f"{arch}-front") for arch in ("llama", "gemma3_adapted")]


@pytest.mark.parametrize(("arch", "additions"), SHARED)
def test_a_shared_batch_gives_what_the_reference_gives_alone(tiny_folder, tmp_path, arch, additions):
    folder = tiny_folder(arch)
    recipe = recipe_file(tmp_path, folder, additions)
    # Four rows are fewer than the 24 of this run: rows wait, enter as others end, and change places.
    outcomes = rows(generate(recipe, batch_rows=4))
    for prompt, got in zip(PROMPTS, outcomes, strict=True):
        plain = [addition.model_dump(exclude_none=True) for addition in recipe.additions]
        plain = [{key: value for key, value in addition.items() if key != "pairs"} for addition in plain]
        wanted = reference(folder, prompt, plain, SAMPLING)
        arms = [wanted[arm]["samples"] for arm in ("unsteered", "steered")]
        assert got == [(tuple(row["ids"]), row["finish"]) for arm in arms for row in arm]


@pytest.mark.parametrize("size", [1, 2, 3, 6, 24, 64])
def test_the_size_of_the_batch_changes_nothing(tiny_folder, tmp_path, size):
    recipe = recipe_file(tmp_path, tiny_folder("llama"), ADDITIONS)
    assert rows(generate(recipe, batch_rows=size)) == rows(generate(recipe))


def test_many_prompts_come_in_order_and_a_few_at_a_time(tiny_folder, tmp_path):
    prompts = [f"I love the {word}" for word in ("ship", "cake", "city", "gate", "wind", "rain")] * 5
    recipe = recipe_file(tmp_path, tiny_folder("gpt2"), ADDITIONS, prompts, samples=1)
    outcomes = generate(recipe, batch_rows=4)
    first = next(outcomes)
    assert first.prompt == prompts[0], "the first result is there before the last prompt is run"
    assert [first.prompt, *(outcome.prompt for outcome in outcomes)] == prompts


def requests_on(folder, recipe, prompts):
    network, tokenizer = open_model(folder).network, open_tokenizer(folder)
    alignments = align_additions(recipe, tokenizer, network.depth)
    steering = Steering(alignments, tuple(compute(network, alignments)))
    requests = []
    for prompt in prompts:
        ids = tokenizer.prompt(prompt)
        requests.append(Request(ids, (UNSTEERED, steering.on(place(alignments, tokenizer, ids, prompt)))))
    return network, tokenizer, requests


def arms_of(finished):
    """What the arms of each request drew."""
    return [[drawn(arm) for arm in done.arms] for done in finished]


@pytest.mark.parametrize(("arch", "additions"), SHARED)
def test_the_shape_that_a_gpu_needs_gives_the_same_rows(tiny_folder, tmp_path, arch, additions):
    # On a GPU every step runs all slots over the whole capacity; here the same shapes run on the CPU.
    recipe = recipe_file(tmp_path, tiny_folder(arch), additions)
    network, tokenizer, requests = requests_on(tiny_folder(arch), recipe, PROMPTS)
    longest = max(len(request.prompt) for request in requests)
    settings = (Sampling(**SAMPLING), tokenizer.eos, longest, 6)
    results = [arms_of(decode(network, requests, *settings, fixed=fixed)) for fixed in (False, True)]
    assert results[0] == results[1]


@pytest.mark.parametrize("arch", ["gemma3", "gemma3_adapted"])
def test_a_row_longer_than_a_sliding_window(arch, tiny_folder, tmp_path):
    # The window is made smaller than the row, so that the two kinds of block see different spans.
    folder = tmp_path / "narrow"
    shutil.copytree(tiny_folder(arch), folder)
    config = json.loads((folder / "config.json").read_text())
    assert set(config["layer_types"]) == {"full_attention", "sliding_attention"}
    config["sliding_window"] = 6
    (folder / "config.json").write_text(json.dumps(config))
    recipe = recipe_file(tmp_path, folder, ADDITIONS, PROMPTS[2:3])
    (got,) = rows(generate(recipe))
    wanted = reference(
        folder, PROMPTS[2], [{"plus": "Love", "minus": "Hate", "layer": 1, "coefficient": 2}], SAMPLING
    )
    arms = [wanted[arm]["samples"] for arm in ("unsteered", "steered")]
    assert got == [(tuple(row["ids"]), row["finish"]) for arm in arms for row in arm]


@pytest.mark.parametrize("arch", ["llama", "llama_adapted"])
def test_scoring_between_steps_is_not_steered(arch, tiny_folder, tmp_path):
    # With `every`, vectors also act while decoding; scores are taken while other rows still decode.
    recipe = recipe_file(tmp_path, tiny_folder(arch), EVERY, PROMPTS)
    together = generate(recipe, score=True, batch_rows=2)
    alone = [next(generate(recipe.with_prompts([prompt]), score=True)) for prompt in PROMPTS]
    for shared, single in zip(together, alone, strict=True):
        for one, other in zip(shared.steered, single.steered, strict=True):
            assert one.mean_logprob == pytest.approx(other.mean_logprob, abs=1e-5)


def laid_out(folder, way=PLAIN, packs=()):
    """A network of its own whose products are all made in one way."""
    found = Fastest({rows: Step(way, rows) for rows in GRID}, packs)
    with patch("steer_cli.models.load.fastest", lambda *_: found):
        return load(Located(folder.name, folder), Hardware(device="cpu")).network


WAYS = [*available(torch.float32), *[Way("mkl")] * mkl_packs(torch.float32)]


@pytest.mark.parametrize("way", WAYS, ids=[way.name for way in WAYS])
@pytest.mark.parametrize("arch", ["llama", "gemma3", "gpt2"])
def test_no_way_of_multiplying_changes_a_token(arch, way, tiny_folder, tmp_path):
    # Long enough, and with enough rows, for the weights to be packed where the machine can do it.
    recipe = recipe_file(tmp_path, tiny_folder(arch), ADDITIONS, max_new_tokens=36)
    _, tokenizer, requests = requests_on(tiny_folder(arch), recipe, PROMPTS)
    packs = (8, 32) if way.name == "mkl" else ()
    plain = laid_out(tiny_folder(arch))
    network = laid_out(tiny_folder(arch), PLAIN if packs else way, packs)
    sampling = Sampling(**{**SAMPLING, "max_new_tokens": 36})
    longest = max(len(request.prompt) for request in requests)
    wanted, small, large = (
        arms_of(decode(each, requests, sampling, tokenizer.eos, longest, size))
        for each, size in ((plain, 24), (network, 2), (network, 24))
    )
    assert small == wanted and large == wanted
    assert {each._packed is not None for each in network.linears} == {bool(packs)}
    ids, attention = torch.tensor([requests[0].prompt]), Causal(len(requests[0].prompt))
    with torch.inference_mode():
        found, expected = (each.next_logits(ids, attention) for each in (network, plain))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", ["llama", "llama_adapted"])
def test_a_later_request_may_act_on_new_tokens_where_the_first_does_not(arch, tiny_folder, tmp_path):
    folder = tiny_folder(arch)
    kinds = [ADDITIONS, EVERY, EVERY.replace("layer: 1", "layer: 3"), ADDITIONS]
    alone, requests = [], []
    for additions in kinds:
        recipe = recipe_file(tmp_path, folder, additions)
        network, tokenizer, [request] = requests_on(folder, recipe, PROMPTS[:1])
        requests.append(request)
        settings = (Sampling(**SAMPLING), tokenizer.eos, len(request.prompt))
        alone += arms_of(decode(network, [request], *settings))
    for size in (2, 24):
        assert arms_of(decode(network, requests, *settings, size)) == alone


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("arch", ["gpt2", "llama_adapted"])
def test_samples_run_as_one_row_until_they_draw_differently(
    arch, tiny_folder, tmp_path, temperature, monkeypatch
):
    recipe = recipe_file(tmp_path, tiny_folder(arch), ADDITIONS)
    network, tokenizer, [request] = requests_on(tiny_folder(arch), recipe, PROMPTS[:1])
    # Where more rows are faster than fewer, a layout would run more.
    monkeypatch.setattr(network, "layout", None, raising=False)
    sampling = Sampling(**{**SAMPLING, "temperature": temperature})
    with embedding(network) as seen:
        (done,) = decode(network, [request], sampling, tokenizer.eos, len(request.prompt))
    assert seen.pop(0) == (2, len(request.prompt)), "the prompt, for both arms"
    histories = [
        {(arm, row.ids[:count]) for arm, rows in enumerate(done.arms) for row in rows if len(row.ids) > count}
        for count in range(1, SAMPLING["max_new_tokens"])
    ]
    assert seen == [(len(different), 1) for different in histories if different]
    assert len(histories[0]) <= 2 if temperature == 0 else max(map(len, histories)) > 2


def test_a_long_cache_lies_otherwise_and_gives_the_same(tiny_folder, tmp_path, monkeypatch):
    for arch in ARCHITECTURES:
        recipe = recipe_file(tmp_path, tiny_folder(arch), EVERY)
        short = rows(generate(recipe, batch_rows=8))
        with monkeypatch.context() as patch:
            patch.setattr(kv_cache, "MOST_BY_POSITION", 0)
            assert rows(generate(recipe, batch_rows=8)) == short


@pytest.mark.skipif(not mkl_packs(torch.float32), reason="nothing is packed here")
@pytest.mark.parametrize(
    ("changes", "packings"),
    [
        ({"temperature": 5.0, "top_p": 1.0}, [32]),  # the samples part at once
        ({"temperature": 0.0}, []),  # two rows to the end
        ({"temperature": 5.0, "top_p": 1.0, "max_new_tokens": 29}, []),
        ({"temperature": 5.0, "top_p": 1.0, "samples": 3}, []),
    ],
    ids=["apart", "greedy", "short", "few"],
)
def test_weights_are_packed_once_and_only_where_it_pays(
    tiny_folder, tmp_path, monkeypatch, changes, packings
):
    folder = tiny_folder("llama")
    recipe = recipe_file(tmp_path, folder, ADDITIONS)
    _, _, requests = requests_on(folder, recipe, PROMPTS[:1])
    network, made = laid_out(folder, packs=(32,)), []
    pack_for = Linear.pack_for
    monkeypatch.setattr(Linear, "pack_for", lambda each, rows: made.append(rows) or pack_for(each, rows))
    sampling = Sampling(**{**SAMPLING, "samples": 12, "max_new_tokens": 40, **changes})
    list(decode(network, requests, sampling, (), len(requests[0].prompt)))
    assert made == packings * len(network.linears)


@pytest.mark.parametrize("rows_together", [None, 1, 5])
@pytest.mark.parametrize("arms", [(1, 3, 2), (3, 1, 2, 1)])
@pytest.mark.parametrize("arch", ["gpt2", "llama_adapted"])
def test_requests_may_differ_in_the_number_of_their_arms(arch, tiny_folder, arms, rows_together):
    one = steer(tiny_folder(arch), LOVE)
    kinds = (UNSTEERED, one.arm, UNSTEERED)
    requests = [Request(one.prompt, kinds[:count]) for count in arms]
    sampling = Sampling(samples=3, max_new_tokens=5, temperature=1.5, top_p=0.9)
    settings = (sampling, one.tokenizer.eos, len(one.prompt), rows_together)
    found = list(decode(one.network, requests, *settings))
    assert [finished.started.request for finished in found] == requests
    unsteered, steered = map(drawn, one.rows(3, max_new_tokens=5, temperature=1.5, top_p=0.9))
    for got, count in zip(arms_of(found), arms, strict=True):
        assert got == [unsteered, steered, unsteered][:count]


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (RuntimeError("CUDA error: operation not permitted when stream is capturing"), True),
        (
            RuntimeError("Cannot copy between CPU and CUDA tensors in CUDA graph capture unless pinned"),
            True,
        ),
        (torch.OutOfMemoryError("CUDA out of memory while capturing"), False),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
    ],
)
def test_only_what_a_capture_refuses_is_run_without_a_graph(error, refused, monkeypatch):
    graph = object.__new__(step._Graph)
    graph._network = SimpleNamespace(device=torch.device("cpu"))
    graph._cache = SimpleNamespace(forget_masks=lambda: None)
    graph._tokens = torch.zeros(2, dtype=torch.long)
    graph._graph, graph._layers, graph._refused = None, set(), False

    def failing(_):
        raise error

    graph._record = failing
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(step, "run_step", lambda *_: "plain")
    if refused:
        assert graph(torch.zeros(2, dtype=torch.long), {}) == "plain"
    else:
        with pytest.raises(RuntimeError) as caught:
            graph(torch.zeros(2, dtype=torch.long), {})
        assert caught.value is error
