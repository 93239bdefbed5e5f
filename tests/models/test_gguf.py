"""A user's own .gguf file: converted and run, or one line that says why it is not."""

import json
import os
import random

import pytest

TOKENS = [*map(chr, range(33, 122)), "ab", "<s>"]
WIDTH, INNER = 8, 16
BLOCK = {
    **{f"attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")},
    **{"ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER)},
    **{"attn_norm": (WIDTH,), "ffn_norm": (WIDTH,)},
}


def write_gguf(path, without=(), blocks=1, template=None):
    """A Llama of one block, whose header may claim more, and which may lack tensors or have a template."""
    import gguf
    import numpy

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // 2)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([1] * (len(TOKENS) - 1) + [3])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(len(TOKENS) - 1)
    writer.add_eos_token_id(len(TOKENS) - 1)
    if template is not None:
        writer.add_chat_template(template)
    shapes = {"token_embd": (len(TOKENS), WIDTH), "output": (len(TOKENS), WIDTH), "output_norm": (WIDTH,)}
    shapes |= {f"blk.0.{name}": shape for name, shape in BLOCK.items()}
    draw = numpy.random.default_rng(0)
    for name, shape in shapes.items():
        if name not in without:
            writer.add_tensor(f"{name}.weight", draw.standard_normal(shape).astype(numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def steered(command, recipe_file, tmp_path, monkeypatch):
    """A function: a .gguf file -> what `steer generate` answers, from an empty cache."""
    monkeypatch.setenv("STEER_HOME", str(tmp_path / "home"))
    addition = {"plus": "ab", "minus": "c", "layer": 0, "pad": "none"}
    sampling = {"max_new_tokens": 2, "samples": 1}

    def run(path):
        recipe = recipe_file(path, addition, prompt="abcabc", sampling=sampling)
        return command("generate", recipe, "--jsonl")

    return run


def test_a_gguf_is_converted_and_steered(steered, tmp_path):
    write_gguf(tmp_path / "own.gguf")
    code, out, err = steered(tmp_path / "own.gguf")
    assert code == 0, err
    assert json.loads(out)["model"] == str(tmp_path / "own.gguf")
    assert f"converting {tmp_path / 'own.gguf'}, once" in err


def test_a_gguf_brings_its_chat_template(command, recipe_file, tmp_path, monkeypatch):
    monkeypatch.setenv("STEER_HOME", str(tmp_path / "home"))
    write_gguf(
        tmp_path / "own.gguf",
        template="{{ bos_token }}{% for turn in messages %}a{{ turn.content }}b{% endfor %}",
    )
    recipe = recipe_file(tmp_path / "own.gguf", {"plus": "c", "layer": 0, "pad": "none"})
    code, out, err = command("table", recipe, "--chat", "xy", "--jsonl")
    assert code == 0, err
    assert json.loads(out)["rows"][0]["tokens"] == ["<s>", "a", "x", "y", "b"]


def refused(answer, path) -> str:
    code, out, err = answer
    *notes, error = err.splitlines()
    assert (code, out) == (1, ""), err
    assert all(note.startswith("converting ") for note in notes)
    assert error.startswith(f"error: {path}: "), error
    return error


def test_a_short_or_damaged_file_is_one_line(steered, tmp_path):
    path = tmp_path / "own.gguf"
    write_gguf(path)
    whole = path.read_bytes()
    draw = random.Random(0)
    cuts = [
        whole[:size]
        for size in (0, 3, 4, 7, 8, 15, 20, 24, *(draw.randrange(30, len(whole)) for _ in range(15)))
    ]
    for content in cuts:
        path.write_bytes(content)
        refused(steered(path), path)
    for _ in range(40):
        changed = bytearray(whole)
        changed[draw.randrange(4, 3000)] = draw.randrange(256)
        path.write_bytes(changed)
        code, _, err = steered(path)
        # Some changes leave a model, only another one.
        assert code in (0, 1) and err.count("error: ") == code, err
    assert not list((tmp_path / "home" / "staging").rglob("*"))


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ({"without": ["blk.0.attn_q"]}, "missing from the files: 'model.layers.0.self_attn.q_proj.weight"),
        ({"without": ["token_embd"]}, "missing from the files: 'model.embed_tokens.weight"),
        ({"blocks": 2}, "missing from the files: 'model.layers.1"),
    ],
)
def test_missing_tensors_are_not_made_up(faults, said, steered, tmp_path):
    path = tmp_path / "own.gguf"
    write_gguf(path, **faults)
    assert said in refused(steered(path), path)


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")
def test_a_loop_of_links_is_one_line(steered, tmp_path):
    (tmp_path / "own.gguf").symlink_to(tmp_path / "own.gguf")
    assert "symbolic links" in refused(steered(tmp_path / "own.gguf"), tmp_path / "own.gguf")


@pytest.mark.skipif(os.name == "nt", reason="links and homes of POSIX")
@pytest.mark.parametrize("home", ["~no-such-user/x", "LOOP"])
def test_a_home_that_is_nowhere_is_one_line(home, command, steered, tmp_path, monkeypatch):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    write_gguf(tmp_path / "own.gguf")
    monkeypatch.setenv("STEER_HOME", home.replace("LOOP", str(tmp_path / "loop")))
    for answer in (
        steered(tmp_path / "own.gguf"),
        command("models", "pull", "smollm2-135m"),
        command("table", "love-hate"),
    ):
        code, out, err = answer
        assert (code, out, err.count("\n")) == (1, "", 1), err
        assert err.startswith("error: ") and ("STEER_HOME" in err)
