"""Additions of every kind in one recipe: transformers, with a hook per block, says what must come out."""

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import by_transformers

import steer_cli as steer
from steer_cli.errors import RecipeError
from steer_cli.exchange.steer_file import write_vectors
from steer_cli.networks.refusals import find_blocks

torch.set_num_threads(1)
TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}{{ turn.role + ': ' + turn.content + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
PROMPT = {"chat": [{"role": "user", "content": "I went up to my friend and said"}]}
KINDS = ("llama", "gpt2", "gemma3_adapted")
LAYERS = (1, 3, 2, 2, 1, 3)  # of the vectors, in the order of the recipe
NEW = 10


def chat(system):
    return {"chat": [{"role": "system", "content": system}, {"role": "user", "content": "my friend"}]}


ADDITIONS = [
    {
        "plus": chat("Love"),
        "minus": chat("Hate"),
        "layer": [1, 3],
        "coefficient": 2,
        "position": {"every": "new"},
    },
    {
        "texts": {"plus": ["Love wins", "the best wedding"], "minus": ["I hate you", "the ship", "salt"]},
        "read": "mean",
        "layer": 2,
        "coefficient": 3,
        "position": "every",
    },
    {"vector": "stored.safetensors", "operation": "ablate", "coefficient": 1, "position": {"every": "all"}},
    {"plus": "Love", "minus": "Hate", "layer": 1, "coefficient": 2, "match_norm": True, "dims": 0.5},
    {
        "pairs": [{"plus": "the wedding", "minus": "the ship"}, {"plus": "cake", "minus": "stone"}],
        "combine": "pca",
        "random": {"seed": 3},
        "layer": 3,
        "coefficient": -1,
        "position": {"every": "prompt"},
    },
]


@pytest.fixture(params=KINDS)
def folder(request, tiny_folder, tmp_path, monkeypatch):
    shutil.copytree(tiny_folder(request.param), tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model(folder):
    model = steer.load_model(str(folder), device="cpu")
    noise = torch.randn(1, model.network.width, generator=torch.Generator().manual_seed(0))
    write_vectors(Path("stored.safetensors"), {(2, 0): noise.numpy()}, {})
    return model


def recipe(additions=ADDITIONS, **more):
    sampling = {"temperature": 0, "frequency_penalty": 0, "max_new_tokens": NEW, "samples": 1}
    return steer.Recipe(prompt=PROMPT, additions=additions, sampling=sampling, **more)


class Reference:
    """transformers without a cache, and what the recipe means written down once more."""

    def __init__(self, folder, vectors):
        from transformers import AutoTokenizer

        self.model = by_transformers(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.vectors = vectors
        turns = PROMPT["chat"]
        self.prompt = self.tokenizer.apply_chat_template(
            turns, chat_template=TEMPLATE, add_generation_prompt=True, return_dict=False
        )

    def changed(self, layer, stream):
        chats_1, chats_3, lists, stored, pair, noise = self.vectors
        end, total = len(self.prompt), torch.zeros_like(stream)
        if layer in (1, 3):
            total[:, end:] += 2 * (chats_1 if layer == 1 else chats_3)
        if layer == 2:
            total[:, 1:] += 3 * lists
        if layer == 1:
            total[:, : len(pair)] += 2 * pair
        if layer == 3:
            total[:, 1:end] -= noise
        stream = stream + total
        if layer == 2:
            unit = stored[0].double() / stored[0].double().norm()
            stream = (stream.double() - (stream.double() @ unit)[..., None] * unit).float()
        return stream

    @torch.no_grad()
    def logits(self, ids, steered=True):
        hooks = [
            block.register_forward_pre_hook(
                lambda _, args, kwargs, layer=layer: ((self.changed(layer, args[0]), *args[1:]), kwargs),
                with_kwargs=True,
            )
            for layer, block in enumerate(find_blocks(self.model, 5, "tiny"))
            if steered
        ]
        try:
            return self.model(torch.tensor([ids]), use_cache=False).logits[0]
        finally:
            for hook in hooks:
                hook.remove()

    def greedy(self, steered):
        ids = list(self.prompt)
        while len(ids) < len(self.prompt) + NEW:
            ids.append(int(self.logits(ids, steered)[-1].argmax()))
        return ids[len(self.prompt) :]


def test_all_kinds_together_are_what_hooks_make_of_them(folder, model):
    vectors = steer.vectors(model, recipe())
    assert len(vectors) == len(LAYERS)
    reference = Reference(folder, vectors)
    (run,) = steer.generate(model, recipe())
    for arm, steered in ((run.unsteered, False), (run.steered, True)):
        wanted = reference.greedy(steered)
        assert list(arm[0].tokens) == wanted[: len(arm[0].tokens)]
    assert run.unsteered[0].tokens != run.steered[0].tokens
    assert {receipt.placement.layer for receipt in run.receipts} == {1, 2, 3}


def test_measurements_take_all_kinds_that_act_on_texts(folder, model):
    """All but {every: new}, which measurements of texts refuse."""
    acting = recipe(ADDITIONS[1:])
    none = torch.zeros(1, model.network.width)
    reference = Reference(folder, [none, none, *steer.vectors(model, acting)])
    logs = [
        reference.logits(reference.prompt, steered)[-1].double().log_softmax(-1) for steered in (True, False)
    ]
    kl = float((logs[0].exp() * (logs[0] - logs[1])).sum())
    assert steer.shift(model, acting).kl == pytest.approx(kl, rel=1e-3)
    assert all(norms.records() for norms in steer.norms(model, acting))
    corpus = Path("corpus.txt")
    corpus.write_text("The bride wore white.\nWe danced at the wedding.\n")
    assert steer.perplexity(model, recipe(ADDITIONS[3:4]), [steer.read_corpus(str(corpus))]).records()
    points = list(steer.sweep(model, acting, layers="2", coefficients="0.5,1", measures=["kl"]))
    assert len(points) == 2 and points[0].kl != points[1].kl
    assert len(steer.scan(model, acting, coefficients="0,1,2")[0].points) == 4


def test_a_stored_vector_steers_as_the_texts_that_it_was_made_of(model):
    texts = ADDITIONS[1]
    (vector,) = steer.vectors(model, recipe([texts]))
    write_vectors(Path("lists.safetensors"), {(2, 0): vector.numpy()}, {})
    stored = {"vector": "lists.safetensors", "coefficient": 3, "position": "every"}
    one, other = (steer.generate(model, recipe([addition]))[0] for addition in (texts, stored))
    assert one.steered[0].tokens == other.steered[0].tokens
    pair = {**ADDITIONS[3], "layer": 2}
    cancelled = recipe([texts, {**stored, "coefficient": -3}, pair])
    alone = steer.generate(model, recipe([pair]))[0]
    assert steer.generate(model, cancelled)[0].steered[0].tokens == alone.steered[0].tokens


def test_the_first_token_of_a_chat_is_in_no_mean(folder, model):
    """Whatever stands there: here `bos: none`, and a template that puts BOS in front all the same."""
    addition = {**ADDITIONS[0], "layer": 2, "position": "every", "read": "mean"}
    vectors = [steer.vectors(model, recipe([addition], bos=bos))[0] for bos in ("auto", "none")]
    torch.testing.assert_close(*vectors, rtol=0, atol=0)


def test_prompts_of_another_kind_are_one_line(model):
    for prompts in ([5], [{1: 2}], [[{"role": "user", "content": "Hi"}]]):
        with pytest.raises(RecipeError) as raised:
            steer.generate(model, recipe(), prompts=prompts)
        assert "\n" not in str(raised.value)


def test_a_sweep_may_give_a_stored_vector_its_position(folder, model, monkeypatch):
    stored = recipe([{"vector": "stored.safetensors", "coefficient": 2, "position": "every"}])
    front = stored.model_copy(
        update={"additions": (stored.additions[0].model_copy(update={"position": "front"}),)}
    )
    [point] = steer.sweep(model, front, layers="2", positions="every", measures=["kl"])
    assert point.kl[0].kl == pytest.approx(steer.shift(model, stored).kl, rel=1e-4)


def test_a_later_version_of_the_format_is_refused(model):
    later = {"format": "steer", "version": "2"}
    save_file({"layer.2": torch.ones(1, model.network.width)}, "later.safetensors", later)
    with pytest.raises(steer.SteerError, match="reads version 1"):
        steer.vectors(model, recipe([{"vector": "later.safetensors", "position": "every"}]))


def test_records_name_the_files_that_vectors_come_from(folder, model):
    stored = recipe([{"vector": "stored.safetensors", "coefficient": 2, "position": "every"}])
    file = {
        "file": "stored.safetensors",
        "sha256": hashlib.sha256(Path("stored.safetensors").read_bytes()).hexdigest(),
    }
    assert next(iter(steer.shift(model, stored).records()))["files"] == {"additions.0.vector": file}
    assert next(iter(next(iter(steer.norms(model, stored))).records()))["files"] == {"vector": file}
    Path("corpus.txt").write_text("The bride wore white.\nWe danced at the wedding.\n")
    [front] = [ADDITIONS[3]]
    found = steer.perplexity(model, recipe([front]), [steer.read_corpus("corpus.txt")])
    assert all("files" not in record for record in found.records())
