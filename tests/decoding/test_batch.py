"""Speed changes nothing: rows that share a batch, enter and leave it, give what each gives alone."""

import contextlib
import dataclasses
import json
import shutil

import pytest
import torch
from conftest import ARCHITECTURES
from reference import reference
from steer_cli.networks.packed import can_be_packed, packed, used, worth_packing
from tiny import LOVE, steer

from steer_cli import api
from steer_cli.activations.arms import arm_of
from steer_cli.activations.vectors import compute
from steer_cli.decoding import engine as batch
from steer_cli.decoding import kv_cache as slots
from steer_cli.decoding import step
from steer_cli.decoding.prefill import UNSTEERED, Job
from steer_cli.models.load import Model, load
from steer_cli.planning.placement import align_additions, place
from steer_cli.planning.tokens import open_tokenizer
from steer_cli.recipe.load import load as load_recipe
from steer_cli.recipe.schema import Sampling

torch.set_num_threads(1)

# Of different lengths, so that no two rows of a shared batch end at the same position.
PROMPTS = (
    "I hate you because",
    "I went up to my friend and said",
    "The ship sailed to Rome with a cargo of salt, wine and stone, and",
    "Love is all",
)
BLANK = Model("blank", torch.nn.Module(), torch.nn.ModuleList(), torch.device("cpu"), torch.float32, 0, 0)
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


def rows(outcomes):
    return [
        [(completion.tokens, completion.finish) for completion in (*outcome.unsteered, *outcome.steered)]
        for outcome in outcomes
    ]


@pytest.mark.parametrize("additions", [ADDITIONS, EVERY], ids=["front", "every"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_shared_batch_gives_what_the_reference_gives_alone(tiny_folder, tmp_path, arch, additions):
    folder = tiny_folder(arch)
    recipe = recipe_file(tmp_path, folder, additions)
    # Four rows are fewer than the 24 of this run: rows wait, enter as others end, and change places.
    outcomes = rows(api.generate(recipe, api.Hardware(device="cpu"), batch_rows=4))
    for prompt, got in zip(PROMPTS, outcomes, strict=True):
        plain = [addition.model_dump(exclude_none=True) for addition in recipe.additions]
        plain = [{key: value for key, value in addition.items() if key != "pairs"} for addition in plain]
        wanted = reference(folder, prompt, plain, SAMPLING)
        arms = [wanted[arm]["samples"] for arm in ("unsteered", "steered")]
        assert got == [(tuple(row["ids"]), row["finish"]) for arm in arms for row in arm]


@pytest.mark.parametrize("size", [1, 2, 3, 6, 24, 64])
def test_the_size_of_the_batch_changes_nothing(tiny_folder, tmp_path, size):
    recipe = recipe_file(tmp_path, tiny_folder("llama"), ADDITIONS)
    hardware = api.Hardware(device="cpu")
    assert rows(api.generate(recipe, hardware, batch_rows=size)) == rows(api.generate(recipe, hardware))


def test_many_prompts_come_in_order_and_a_few_at_a_time(tiny_folder, tmp_path):
    prompts = [f"I love the {word}" for word in ("ship", "cake", "city", "gate", "wind", "rain")] * 5
    recipe = recipe_file(tmp_path, tiny_folder("gpt2"), ADDITIONS, prompts, samples=1)
    outcomes = api.generate(recipe, api.Hardware(device="cpu"), batch_rows=4)
    first = next(outcomes)
    assert first.prompt == prompts[0], "the first result is there before the last prompt is run"
    assert [first.prompt, *(outcome.prompt for outcome in outcomes)] == prompts


def jobs_on(folder, additions, prompts):
    model, tokenizer = load(folder, folder.name, device="cpu"), open_tokenizer(folder)
    alignments = align_additions(additions, tokenizer, model.depth)
    vectors = compute(model, alignments)
    jobs = []
    for prompt in prompts:
        ids = tokenizer.prompt(prompt)
        arm = arm_of(model, place(alignments, tokenizer, ids, prompt), vectors, len(ids))
        jobs.append(Job(ids, (UNSTEERED, arm)))
    return model, tokenizer, jobs


@pytest.mark.parametrize("additions", [ADDITIONS, EVERY], ids=["front", "every"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_shape_that_a_gpu_needs_gives_the_same_rows(tiny_folder, tmp_path, arch, additions):
    # On a GPU every step runs all slots over the whole capacity; here the same shapes run on the CPU.
    recipe = recipe_file(tmp_path, tiny_folder(arch), additions)
    model, tokenizer, jobs = jobs_on(tiny_folder(arch), recipe, PROMPTS)
    longest = max(len(job.prompt) for job in jobs)
    results = [
        [
            done.rows
            for done in batch.generate(
                model, jobs, Sampling(**SAMPLING), tokenizer.eos, longest, 6, fixed=fixed
            )
        ]
        for fixed in (False, True)
    ]
    assert results[0] == results[1]


def test_a_row_longer_than_a_sliding_window(tiny_folder, tmp_path):
    # The window is made smaller than the row, so that the two kinds of block see different spans.
    folder = tmp_path / "narrow"
    shutil.copytree(tiny_folder("gemma3"), folder)
    config = json.loads((folder / "config.json").read_text())
    assert set(config["layer_types"]) == {"full_attention", "sliding_attention"}
    config["sliding_window"] = 6
    (folder / "config.json").write_text(json.dumps(config))
    recipe = recipe_file(tmp_path, folder, ADDITIONS, PROMPTS[2:3])
    (got,) = rows(api.generate(recipe, api.Hardware(device="cpu")))
    wanted = reference(
        folder, PROMPTS[2], [{"plus": "Love", "minus": "Hate", "layer": 1, "coefficient": 2}], SAMPLING
    )
    arms = [wanted[arm]["samples"] for arm in ("unsteered", "steered")]
    assert got == [(tuple(row["ids"]), row["finish"]) for arm in arms for row in arm]


def test_scoring_between_steps_is_not_steered(tiny_folder, tmp_path):
    # With `every`, vectors also act while decoding; scores are taken while other rows still decode.
    recipe = recipe_file(tmp_path, tiny_folder("llama"), EVERY, PROMPTS)
    hardware = api.Hardware(device="cpu")
    together = api.generate(recipe, hardware, score=True, batch_rows=2)
    alone = [next(api.generate(recipe.with_prompts([prompt]), hardware, score=True)) for prompt in PROMPTS]
    for shared, single in zip(together, alone, strict=True):
        for one, other in zip(shared.steered, single.steered, strict=True):
            assert one.mean_logprob == pytest.approx(other.mean_logprob, abs=1e-5)


@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_packed_weights_change_no_token_and_leave_no_trace(tiny_folder, tmp_path, arch):
    # Long enough, and with enough rows, for the weights to be packed where the machine can do it.
    recipe = recipe_file(tmp_path, tiny_folder(arch), ADDITIONS, max_new_tokens=36)
    model, tokenizer, jobs = jobs_on(tiny_folder(arch), recipe, PROMPTS)
    linears = [module for module in model.network.modules() if isinstance(module, torch.nn.Linear)]
    assert worth_packing(24, 32) and can_be_packed(model) == torch.backends.mkl.is_available()
    ids = torch.tensor([jobs[0].prompt])
    before = model.network(ids).logits
    sampling = Sampling(**{**SAMPLING, "max_new_tokens": 36})
    longest = max(len(job.prompt) for job in jobs)
    small, large = (
        [done.rows for done in batch.generate(model, jobs, sampling, tokenizer.eos, longest, size)]
        for size in (2, 24)
    )
    assert small == large
    assert not any("forward" in vars(linear) for linear in linears)
    assert torch.equal(model.network(ids).logits, before)


def test_weights_that_were_changed_are_packed_anew():
    torch.manual_seed(0)
    layer = torch.nn.Linear(48, 96)
    model = dataclasses.replace(BLANK, network=torch.nn.Sequential(layer))
    stream = torch.randn(16, 48)
    with torch.no_grad():
        once = packed(model, 16)
        assert packed(model, 16) is once
        layer.weight.mul_(2)
        torch.testing.assert_close(packed(model, 16)[layer,](stream), layer(stream), rtol=1e-5, atol=1e-6)


def test_a_later_job_may_act_on_new_tokens_where_the_first_does_not(tiny_folder, tmp_path):
    folder = tiny_folder("llama")
    kinds = [ADDITIONS, EVERY, EVERY.replace("layer: 1", "layer: 3"), ADDITIONS]
    alone, jobs = [], []
    for additions in kinds:
        model, tokenizer, [job] = jobs_on(folder, recipe_file(tmp_path, folder, additions), PROMPTS[:1])
        jobs.append(job)
        sampling, longest = Sampling(**SAMPLING), len(job.prompt)
        alone += [done.rows for done in batch.generate(model, [job], sampling, tokenizer.eos, longest)]
    for size in (2, 24):
        together = batch.generate(model, jobs, sampling, tokenizer.eos, longest, size)
        assert [done.rows for done in together] == alone


def test_packed_layers_multiply_as_the_plain_ones():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(48, 96), torch.nn.Linear(96, 32, bias=False))
    model = dataclasses.replace(BLANK, network=network)
    stream = torch.randn(16, 1, 48)
    with torch.no_grad():
        plain = network(stream), network(stream[:5])
        with used(packed(model, 16)):
            quick = network(stream), network(stream[:5])
    for one, other in zip(plain, quick, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.5])
def test_samples_run_as_one_row_until_they_draw_differently(tiny_folder, tmp_path, temperature):
    # Few rows, and a model whose step is not written out, so that each step is a pass that can be watched.
    folder = tiny_folder("gpt2")
    recipe = recipe_file(tmp_path, folder, ADDITIONS)
    model, tokenizer, [job] = jobs_on(folder, recipe, PROMPTS[:1])
    seen = []
    watch = model.network.get_input_embeddings().register_forward_pre_hook(
        lambda _, args: seen.append(tuple(args[0].shape))
    )
    sampling = Sampling(**{**SAMPLING, "temperature": temperature})
    (done,) = batch.generate(model, [job], sampling, tokenizer.eos, len(job.prompt))
    watch.remove()
    assert seen.pop(0) == (2, len(job.prompt)), "the prompt, for both arms"
    histories = [
        {(arm, row.ids[:drawn]) for arm, rows in enumerate(done.rows) for row in rows if len(row.ids) > drawn}
        for drawn in range(1, SAMPLING["max_new_tokens"])
    ]
    assert seen == [(len(different), 1) for different in histories if different]
    assert len(histories[0]) <= 2 if temperature == 0 else max(map(len, histories)) > 2


def test_a_long_cache_lies_otherwise_and_gives_the_same(tiny_folder, tmp_path, monkeypatch):
    hardware = api.Hardware(device="cpu")
    for arch in ARCHITECTURES:
        recipe = recipe_file(tmp_path, tiny_folder(arch), EVERY)
        short = rows(api.generate(recipe, hardware, batch_rows=8))
        with monkeypatch.context() as patch:
            patch.setattr(slots, "MOST_BY_POSITION", 0)
            assert rows(api.generate(recipe, hardware, batch_rows=8)) == short


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="nothing is packed here")
@pytest.mark.parametrize(
    ("changes", "packings"),
    [
        ({"temperature": 5.0, "top_p": 1.0}, [24]),  # the samples part at once
        ({"temperature": 0.0}, []),  # two rows to the end
        ({"temperature": 5.0, "top_p": 1.0, "max_new_tokens": 29}, []),
        ({"temperature": 5.0, "top_p": 1.0, "samples": 3}, []),
    ],
    ids=["apart", "greedy", "short", "few"],
)
def test_weights_are_packed_once_and_only_where_it_pays(
    tiny_folder, tmp_path, monkeypatch, changes, packings
):
    recipe = recipe_file(tmp_path, tiny_folder("llama"), ADDITIONS)
    model, _, jobs = jobs_on(tiny_folder("llama"), recipe, PROMPTS[:1])
    made = []
    monkeypatch.setattr(
        step, "packed", lambda model, rows, *more: made.append(rows) or packed(model, rows, *more)
    )
    sampling = Sampling(**{**SAMPLING, "samples": 12, "max_new_tokens": 40, **changes})
    list(batch.generate(model, jobs, sampling, (), len(jobs[0].prompt)))
    assert made == packings


@pytest.mark.parametrize("rows_together", [None, 1, 5])
@pytest.mark.parametrize("arms", [(1, 3, 2), (3, 1, 2, 1)])
def test_jobs_may_differ_in_the_number_of_their_arms(tiny_folder, arms, rows_together):
    one = steer(tiny_folder("gpt2"), LOVE)
    kinds = (UNSTEERED, one.arm, UNSTEERED)
    jobs = [Job(one.prompt, kinds[:count]) for count in arms]
    sampling = Sampling(samples=3, max_new_tokens=5, temperature=1.5, top_p=0.9)
    found = list(batch.generate(one.model, jobs, sampling, one.tokenizer.eos, len(one.prompt), rows_together))
    assert [finished.started.job for finished in found] == jobs
    expected = one.rows(3, max_new_tokens=5, temperature=1.5, top_p=0.9)
    for finished, count in zip(found, arms, strict=True):
        assert [list(rows) for rows in finished.rows] == [expected[0], expected[1], expected[0]][:count]


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
    graph._model, graph._slots, graph._tokens = BLANK, None, torch.zeros(2, dtype=torch.long)
    graph._graph, graph._layers, graph._refused = None, set(), False

    def failing(_):
        raise error

    graph._record = failing
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(step, "_forward", lambda *_: "plain")
    if refused:
        assert graph(torch.zeros(2, dtype=torch.long), {}, None) == "plain"
    else:
        with pytest.raises(RuntimeError) as caught:
            graph(torch.zeros(2, dtype=torch.long), {}, None)
        assert caught.value is error
