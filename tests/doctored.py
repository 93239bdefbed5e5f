"""Folders of models that somebody has doctored: each a function that damages a copy of a tiny GPT-2 or Llama.

FOLDERS must all be refused in one line; HARMLESS must run as if nothing were there.
"""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

Damage = Callable[[Path], None]
CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
DEEP = "[" * 100_000 + "]" * 100_000


def read(folder: Path, file: str = CONFIG) -> dict:
    return json.loads((folder / file).read_text(encoding="utf-8"))


def write(folder: Path, content: object, file: str = CONFIG) -> None:
    (folder / file).write_text(json.dumps(content), encoding="utf-8")


def config(file: str = CONFIG, **changed: Any) -> Damage:
    """Keys of a JSON file changed, or added."""
    return lambda folder: write(folder, {**read(folder, file), **changed}, file)


def without(key: str, file: str = CONFIG) -> Damage:
    return lambda folder: write(folder, {k: v for k, v in read(folder, file).items() if k != key}, file)


def content(file: str, text: str | bytes) -> Damage:
    return lambda folder: (folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())


def both(*damages: Damage) -> Damage:
    def damage(folder: Path) -> None:
        for each in damages:
            each(folder)

    return damage


# --- weights ------------------------------------------------------------------------------------------------


def tensors(change: Callable[[dict], dict]) -> Damage:
    """The tensors of model.safetensors changed."""

    def damage(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        # Copies: the file that is written is the one that was mapped.
        held = {key: tensor.clone() for key, tensor in load_file(folder / WEIGHTS).items()}
        save_file(change(held), folder / WEIGHTS, metadata={"format": "pt"})

    return damage


def drop(*parts: str) -> Damage:
    return tensors(lambda held: {k: v for k, v in held.items() if not any(part in k for part in parts)})


def rename(old: str, new: str) -> Damage:
    return tensors(lambda held: {k.replace(old, new): v for k, v in held.items()})


def shards(lose: bool = False, **weight_map: Any) -> Damage:
    """Two shards and their index; without the second, or with other names in the index."""

    def damage(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        held = {key: tensor.clone() for key, tensor in load_file(folder / WEIGHTS).items()}
        files = {key: f"model-{1 + number % 2}.safetensors" for number, key in enumerate(sorted(held))}
        for file in sorted({*files.values()}):
            some = {key: tensor for key, tensor in held.items() if files[key] == file}
            save_file(some, folder / file, metadata={"format": "pt"})
        (folder / WEIGHTS).unlink()
        if lose:
            files = {key: file for key, file in files.items() if "1" in file}
        write(folder, {"metadata": {}, "weight_map": {**files, **weight_map}}, INDEX)

    return damage


def pickled(folder: Path) -> None:
    import torch

    torch.save({}, folder / "pytorch_model.bin")


def header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def truncated(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size // 2)


MISSING = {
    "no tensors": tensors(lambda held: {"other": next(iter(held.values()))}),
    "one tensor lost": drop("h.2.mlp.c_fc.weight"),
    "a bias lost": drop("h.2.mlp.c_fc.bias"),
    "a block lost": drop("h.2."),
    "embeddings lost": drop("wte"),
    "last norm lost": drop("ln_f"),
    "keys renamed": rename("c_attn", "qkv"),
    "all keys under another prefix": tensors(lambda held: {f"inner.{k}": v for k, v in held.items()}),
    "no head": drop("lm_head"),
    "index lacks a shard": shards(lose=True),
    "more blocks than weights": config(n_layer=6),
    "fewer blocks than weights": config(n_layer=3),
    "one block": config(n_layer=1),
    "wider": config(n_embd=96),
    "more positions": config(n_positions=512),
    "larger vocabulary": config(vocab_size=600),
    "one tensor too many": tensors(
        lambda held: {**held, "h.0.more.weight": held["transformer.ln_f.weight"] + 1}
    ),
    "a tensor of another shape": tensors(
        lambda held: {k: v[:-1].clone() if k.endswith("ln_f.weight") else v for k, v in held.items()}
    ),
    "cross attention": config(add_cross_attention=True),
}


# --- what may be opened -------------------------------------------------------------------------------------


def moved_out(file: str) -> Damage:
    """The file lies beside the folder, and a link stands for it."""

    def damage(folder: Path) -> None:
        outside = folder.parent / f"outside-{file}"
        (folder / file).rename(outside)
        (folder / file).symlink_to(outside)

    return damage


def link(file: str, to: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        (folder / file).symlink_to(to)

    return damage


def pipe(file: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        os.mkfifo(folder / file)

    return damage


def directory(file: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        (folder / file).mkdir()

    return damage


ODD_NAMES = {
    "absolute": "/etc/passwd",
    "up": "../other/model.safetensors",
    "a folder": "sub/model.safetensors",
    "backslash": "..\\model.safetensors",
    "hidden": ".safetensors",
    "pickle": "pytorch_model.bin",
    "pickle called pt": "weights.pt",
    "no name": "",
    "NUL": "a\0.safetensors",
    "line break": "a\n.safetensors",
    "absent": "model-9.safetensors",
    "number": 5,
    "null": None,
    "list": ["model-1.safetensors"],
    "object": {"a": 1},
}
OPENED = {
    **{f"index names {what}": shards(extra=name) for what, name in ODD_NAMES.items()},
    "index names a pickle that is there": both(shards(extra="pytorch_model.bin"), pickled),
    "index without a map": both(shards(), content(INDEX, "{}")),
    "index with an empty map": both(shards(), content(INDEX, '{"weight_map": {}}')),
    "index with a list": both(shards(), content(INDEX, '{"weight_map": ["model-1.safetensors"]}')),
    "index that is no JSON": both(shards(), content(INDEX, "{")),
    "index that is a list": both(shards(), content(INDEX, "[]")),
    "index nested deeply": both(shards(), content(INDEX, DEEP)),
    "index with other weights": both(shards(), config(INDEX, transformers_weights="pytorch_model.bin")),
    "transformers_weights: pickle": both(pickled, config(transformers_weights="pytorch_model.bin")),
    "transformers_weights: up": config(transformers_weights="../x.safetensors"),
    "transformers_weights: the file itself": config(transformers_weights=WEIGHTS),
    "only a pickle": both(pickled, lambda folder: (folder / WEIGHTS).unlink()),
    "no weights": lambda folder: (folder / WEIGHTS).unlink(),
    "an adapter": lambda folder: write(folder, {"base_model_name_or_path": "gpt2"}, "adapter_config.json"),
    "distributed": lambda folder: (folder / "shard-00000-model-00001-of-00001.safetensors").touch(),
    **{
        f"{file} is {what}": how(file)
        for file in (CONFIG, TOKENIZER, WEIGHTS)
        for what, how in (
            ("a link out", moved_out),
            ("a loop", lambda file: link(file, file)),
            ("a link to nothing", lambda file: link(file, "nothing")),
            ("a pipe", pipe),
            ("a folder", directory),
            ("a device", lambda file: link(file, "/dev/zero")),
        )
    },
    "tokenizer_config is a link out": moved_out("tokenizer_config.json"),
    "generation_config is a pipe": pipe("generation_config.json"),
    "a shard is a link out": both(shards(), moved_out("model-1.safetensors")),
    "index is a link out": both(shards(), moved_out(INDEX)),
    "config of 100 MB": content(CONFIG, " " * 100_000_000 + "{}"),
    "weights empty": content(WEIGHTS, b""),
    "weights truncated": truncated,
    "weights with a huge header": content(WEIGHTS, struct.pack("<Q", 1 << 60)),
    "weights that are no JSON": content(WEIGHTS, header(b"{")),
    "weights nested deeply": content(WEIGHTS, header(DEEP.encode())),
    "weights that are a pickle": content(WEIGHTS, b"\x80\x04."),
    "weights of an unknown kind": content(
        WEIGHTS, header(b'{"a":{"dtype":"Q9","shape":[1],"data_offsets":[0,4]}}') + b"1234"
    ),
    "weights beyond the file": content(
        WEIGHTS, header(b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}') + b"1234"
    ),
}


# --- code paths ---------------------------------------------------------------------------------------------

KINDS = [
    *("bert", "t5", "mamba", "moshi", "xlm", "clip", "vit", "whisper", "rwkv"),
    *("deepseek_v4", "llama", "reformer", "xlnet"),
]
BITS = {"quant_method": "bitsandbytes", "load_in_4bit": True}
CODE = {
    **{
        f"quantised: {method}": config(quantization_config={"quant_method": method, "bits": 4})
        for method in ("gptq", "awq", "bitsandbytes", "fp8", "mxfp4", "unheard-of", "a\nb", 5, None)
    },
    "quantised by a text": config(quantization_config="gptq"),
    "quantised text part": config(text_config={"quantization_config": BITS}),
    "not causal": config(is_causal=False),
    "unknown model type with code": config(model_type="evil", auto_map={"AutoConfig": "evil.Config"}),
    "unknown model type": config(model_type="evil"),
    "model type is null": config(model_type=None),
    "model type is a number": config(model_type=5),
    "model type is a list": config(model_type=["gpt2"]),
    "no model type": without("model_type"),
    **{
        f"of another kind: {kind}": config(model_type=kind)
        for kind in (
            "bert",
            "t5",
            "mamba",
            "moshi",
            "xlm",
            "clip",
            "vit",
            "whisper",
            "rwkv",
            "deepseek_v4",
            "llama",
        )
    },
}
HARMLESS = {
    "kernels": config(_attn_implementation="kernels-community/flash-attn", use_kernels=True),
    "kernels by the public name": config(attn_implementation="evil/kernel"),
    "flash attention": config(attn_implementation="flash_attention_2"),
    "paged attention": config(
        _attn_implementation="paged|sdpa", _attn_implementation_internal="flex_attention"
    ),
    "experts": config(experts_implementation="evil/kernel", _experts_implementation="nothing"),
    "code that the type does not need": config(
        auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    ),
    "auto_map of the wrong kind": config(auto_map=5),
    "auto_map of another repository": config(auto_map={"AutoModelForCausalLM": "other/repo--evil.Model"}),
    "output of attentions": config(output_attentions=True, output_hidden_states=True),
    "torchscript": config(torchscript=True, return_dict=False),
    "fusion": config(fusion_config={"evil": True}, kernel_config={"evil": "x/y"}),
    "another configuration file": config(configuration_files=["config.4.0.0.json"]),
    "labels without end": config(num_labels=10**9),
    "quantised by null": config(quantization_config=None),
    "no cache": config(use_cache=False),
    "text_config: null": config(text_config=None),
    "a window that GPT-2 does not have": config(sliding_window=2, layer_types=["sliding_attention"] * 5),
    "shards": shards(),
    "buffers of old releases": tensors(
        lambda held: {
            **{k.removeprefix("transformer."): v for k, v in held.items()},
            "h.0.attn.bias": held["lm_head.weight"][:4, :4].clone()[None, None],
            "h.0.attn.masked_bias": held["lm_head.weight"][0, 0].clone(),
        }
    ),
}


# --- values of config.json ----------------------------------------------------------------------------------

VALUES = {
    **{
        f"{key}: {str(value)[:12]}": config(**{key: value})
        for key in ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size")
        for value in (0, -1, 7, "five", None, [5], 1.5, 10**12)
        if (key, value) not in (("n_positions", None), ("n_positions", 7))
    },
    "activation: unknown": config(activation_function="evil"),
    "activation: number": config(activation_function=5),
    "epsilon: text": config(layer_norm_epsilon="small"),
    "architectures and type differ": config(model_type="llama", architectures=["GPT2LMHeadModel"]),
    "config is empty": content(CONFIG, ""),
    "config is {}": content(CONFIG, "{}"),
    "config is a list": content(CONFIG, "[]"),
    "config is null": content(CONFIG, "null"),
    "config is no UTF-8": content(CONFIG, b'{"a": "\xff"}'),
    "config is binary": content(CONFIG, bytes(range(256))),
    "config nested deeply": content(CONFIG, DEEP),
    "config nested deeply inside": content(CONFIG, '{"model_type": ' + DEEP + "}"),
    "config with an endless number": content(CONFIG, '{"n_layer": ' + "9" * 5000 + "}"),
    "no config": lambda folder: (folder / CONFIG).unlink(),
    "depth unknown": without("n_layer"),
    "more positions under another name": config(max_position_embeddings=10**6),
    "two depths": config(num_hidden_layers=9),
}


# --- tokenizers ---------------------------------------------------------------------------------------------


def tokenizer(change: Callable[[dict], None]) -> Damage:
    def damage(folder: Path) -> None:
        held = read(folder, TOKENIZER)
        change(held)
        write(folder, held, TOKENIZER)

    return damage


def more_tokens(held: dict) -> None:
    held["model"]["vocab"].update({f"more{number}": 500 + number for number in range(200)})


def added_token(held: dict) -> None:
    held["added_tokens"].append(
        {
            "id": 700,
            "content": "friend",
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": False,
        }
    )
    held["model"]["vocab"]["friend"] = 700


def model(value: Any) -> Damage:
    return tokenizer(lambda held: held.update(model=value))


NAMES = "tokenizer_config.json"


def alone(**changed: Any) -> Damage:
    """Keys of config.json, and no generation_config.json that would overrule them."""
    return both(config(**changed), lambda folder: (folder / "generation_config.json").unlink())


TOKENIZERS = {
    "tokenizer larger than the embeddings": tokenizer(more_tokens),
    "a token beyond the embeddings": tokenizer(added_token),
    "embeddings smaller than the tokenizer": config(vocab_size=100),
    "BOS out of range": both(without("bos_token", NAMES), alone(bos_token_id=10_000)),
    "BOS negative": both(without("bos_token", NAMES), alone(bos_token_id=-1)),
    "BOS a text": both(without("bos_token", NAMES), alone(bos_token_id="x")),
    "EOS out of range": alone(eos_token_id=10_000),
    "EOS negative": alone(eos_token_id=-5),
    "EOS in a list out of range": alone(eos_token_id=[0, 10_000]),
    "EOS a list of lists": alone(eos_token_id=[[0]]),
    "EOS an object": alone(eos_token_id={"a": 1}),
    "EOS true": alone(eos_token_id=True),
    "EOS out of range for generation": lambda folder: write(
        folder, {"eos_token_id": 10_000}, "generation_config.json"
    ),
    "generation_config is a list": content("generation_config.json", "[]"),
    "generation_config nested deeply": content("generation_config.json", DEEP),
    "BOS named by a number": config(NAMES, bos_token=5),
    "BOS named by a list": config(NAMES, bos_token=["<s>"]),
    "EOS named by an odd object": config(NAMES, eos_token={"content": 5}),
    "tokenizer_config is a list": content(NAMES, "[]"),
    "tokenizer_config nested deeply": content(NAMES, DEEP),
    "special_tokens_map is a number": content("special_tokens_map.json", "5"),
    "no tokenizer": lambda folder: (folder / TOKENIZER).unlink(),
    "tokenizer empty": content(TOKENIZER, ""),
    "tokenizer {}": content(TOKENIZER, "{}"),
    "tokenizer nested deeply": content(TOKENIZER, DEEP),
    "tokenizer no UTF-8": content(TOKENIZER, b"\xff\xfe"),
    "tokenizer without a model": tokenizer(lambda held: held.pop("model")),
    "tokenizer with an unknown model": model({"type": "evil"}),
    "Unigram without tokens": model({"type": "Unigram", "unk_id": 5, "vocab": []}),
    "Unigram with one token": model({"type": "Unigram", "unk_id": None, "vocab": [["a", 0.0]]}),
    "WordPiece without the unknown token": model(
        {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {"a": 0},
        }
    ),
    "WordLevel without the unknown token": model(
        {"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"a": 0}}
    ),
    "merges of tokens that are not there": tokenizer(
        lambda held: held["model"].update(merges=[["xx", "yy"]])
    ),
    # These panic in Rust, as they are read or as they are used.
    "a map of characters that is none": tokenizer(
        lambda held: held.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"})
    ),
    "pieces of no length": tokenizer(
        lambda held: held.update(pre_tokenizer={"type": "FixedLength", "length": 0})
    ),
    "a decoder that strips more than there is": tokenizer(
        lambda held: held.update(decoder={"type": "Strip", "content": "a", "start": 9, "stop": 10**9})
    ),
    "a prefix longer than the tokens": tokenizer(
        lambda held: held["model"].update(continuing_subword_prefix="#" * 50)
    ),
    "ids that are negative": tokenizer(lambda held: held["model"]["vocab"].update(a=-1)),
    "ids that are texts": tokenizer(lambda held: held["model"]["vocab"].update(a="x")),
    "an id that overflows": tokenizer(lambda held: held["model"]["vocab"].update(a=2**40)),
    "a pattern that is none": tokenizer(
        lambda held: held.update(
            pre_tokenizer={
                "type": "Split",
                "pattern": {"Regex": "(((("},
                "behavior": "Isolated",
                "invert": False,
            }
        )
    ),
}

FOLDERS: dict[str, Damage] = {**MISSING, **OPENED, **CODE, **VALUES, **TOKENIZERS}
