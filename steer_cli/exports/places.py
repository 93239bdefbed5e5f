"""Where a network can hold a constant: the bias that a block adds to the stream last, by family.

Layer L is what block L - 1 puts out, so a constant at layer L goes into that block's last bias. Layer 0 is
what the embeddings put out: a constant there goes into every row of a table that they add.

A wrong line cannot make a wrong model: what is written is compared with the steered network before it is
published.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from steer_cli.networks import llama
from steer_cli.networks.refusals import NOT_BATCHED
from steer_cli.recipe.quoting import show

HEADS = ("lm_head.weight", "embed_out.weight")
_MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")


@dataclass(frozen=True)
class Family:
    """Names of a family's weights.

    Args:
        blocks: what the names of a block's weights begin with, before its number.
        last: the linear layer of a block whose bias reaches the stream unchanged.
        start: the table whose rows the stream begins with.
        tokens: whether that is the table of token embeddings, which the head may share.
        switch: the key of config.json without which these linear layers have no biases.
        switched: the linear layers of a block that get biases with that key.
        needs: keys that must have this value, or be absent if it is their default.
    """

    blocks: str
    last: str
    start: str
    tokens: bool = True
    switch: str = ""
    switched: tuple[str, ...] = ()
    needs: Mapping[str, Any] = field(default_factory=dict)


def _like_llama(switch: str = "mlp_bias", switched: tuple[str, ...] = _MLP, **needs: Any) -> Family:
    return Family(
        "model.layers", switched[-1], "model.embed_tokens.weight", True, switch, switched, dict(needs)
    )


def _like_gpt2(last: str) -> Family:
    return Family("transformer.h", last, "transformer.wpe.weight", tokens=False)


FAMILIES: Mapping[str, Family] = {
    "gpt2": _like_gpt2("mlp.c_proj"),
    "gpt_bigcode": _like_gpt2("mlp.c_proj"),
    "gptj": Family("transformer.h", "mlp.fc_out", "transformer.wte.weight"),
    "codegen": Family("transformer.h", "mlp.fc_out", "transformer.wte.weight"),
    "gpt_neox": Family("gpt_neox.layers", "mlp.dense_4h_to_h", "gpt_neox.embed_in.weight"),
    "opt": Family(
        *("model.decoder.layers", "fc2", "model.decoder.embed_positions.weight"),
        tokens=False,
        needs={"do_layer_norm_before": True},  # otherwise a norm follows
    ),
    "biogpt": Family("biogpt.layers", "fc2", "biogpt.embed_positions.weight", tokens=False),
    "phi": Family("model.layers", "mlp.fc2", "model.embed_tokens.weight"),
    "persimmon": Family("model.layers", "mlp.dense_4h_to_h", "model.embed_tokens.weight"),
    "falcon": Family(
        *("transformer.h", "mlp.dense_4h_to_h", "transformer.word_embeddings.weight", True, "bias"),
        ("self_attention.query_key_value", "self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    ),
    # Attention and MLP of these stand side by side, so the attention's last bias reaches the stream too.
    "cohere": _like_llama("attention_bias", _ATTENTION),
    "cohere2": _like_llama("attention_bias", _ATTENTION),
    "llama": _like_llama(),
    "smollm3": _like_llama(),
    "seed_oss": _like_llama(),
    "granite": _like_llama(residual_multiplier=1.0),
    "ernie4_5": _like_llama("use_bias", (*_ATTENTION, *_MLP)),
    "arcee": _like_llama(switched=("mlp.up_proj", "mlp.down_proj")),
    "nemotron": _like_llama(switched=("mlp.up_proj", "mlp.down_proj")),
    "starcoder2": _like_llama("use_bias", (*_ATTENTION, "mlp.c_fc", "mlp.c_proj")),
}

_NORM_AFTER = "a norm follows the MLP in each block, so that no bias reaches the stream as it is"
REASONS = {
    **dict.fromkeys(("gemma2", "gemma3_text", "gemma3", "olmo2", "olmo3", "glm4", "exaone4"), _NORM_AFTER),
    **dict.fromkeys(
        ("qwen3", "gemma", "phi3", "mixtral", "olmo"),
        "what its blocks add to the stream last has no bias",
    ),
    "bitnet": "its blocks end with a product that has no bias",
}


@dataclass(frozen=True)
class Places:
    """Where the constants of one model go.

    Args:
        config: its config.json, as it has to be.
        layers: layer -> the name of the tensor that the constant is added to, or made for.
        zeros: biases of zeros that the network then asks for as well; a constant may be among them.
            Each is named beside its weight.
    """

    config: dict[str, Any]
    layers: dict[int, str]
    zeros: dict[str, str]  # name of a bias -> name of the weight beside it


def places(config: Mapping[str, Any], names: Collection[str], layers: Collection[int], depth: int) -> Places:
    """Where constants at these layers go.

    Args:
        config: the content of config.json.
        names: all tensors of the checkpoint.

    Raises:
        ValueError: there is no place; the message says why.
    """
    kind = str(config.get("model_type") or "")
    as_llama = _as_llama(config)
    written = dict(config if as_llama is None else as_llama)
    family = FAMILIES.get(str(written.get("model_type")))
    if family is None or kind in NOT_BATCHED:
        raise ValueError(REASONS.get(kind, f"steer knows no place for a constant in {show(kind)}"))
    for key, value in family.needs.items():
        if config.get(key, value) != value:
            raise ValueError(
                f"its config.json says {key}: {show(config[key])}, so no bias reaches the stream"
            )
    missing = {}
    for block in range(depth):
        # A Llama with biases in its attention has one more than Qwen2.
        for linear in (*family.switched, *(["self_attn.o_proj"] if kind == "qwen2" else [])):
            weight = _stored(f"{family.blocks}.{block}.{linear}.weight", names)
            if _bias(weight) not in names:
                missing[_bias(weight)] = weight
    found = {layer: _name(family, config, names, layer, missing) for layer in sorted(layers)}
    if any(name in missing for name in found.values()):
        written[family.switch] = True
    elif as_llama is None:
        missing = {}
    return Places(written, found, missing if written.get(family.switch) else {})


def _name(
    family: Family, config: Mapping[str, Any], names: Collection[str], layer: int, missing: Mapping[str, str]
) -> str:
    """The tensor that holds what is added at a layer."""
    if layer == 0:
        return _start(family, config, names)
    weight = _stored(f"{family.blocks}.{layer - 1}.{family.last}.weight", names)
    bias = _bias(weight)
    if bias not in names and bias not in missing:
        raise ValueError(f"its files hold no {bias}")
    return bias


def _bias(weight: str) -> str:
    return weight.removesuffix("weight") + "bias"


def _start(family: Family, config: Mapping[str, Any], names: Collection[str]) -> str:
    tied = config.get("tie_word_embeddings") is True or not any(head in names for head in HEADS)
    if family.tokens and tied:
        raise ValueError(
            "layer 0 is the token embeddings alone, which its head shares, so a constant has no place there; "
            "choose a layer from 1 on"
        )
    return _stored(family.start, names)


def _stored(name: str, names: Collection[str]) -> str:
    """A tensor's name in the files; older ones leave out the prefix.

    Raises:
        ValueError: there is no such tensor.
    """
    short = name.partition(".")[2]
    if name not in names and short not in names:
        raise ValueError(f"its files hold no {name}")
    return name if name in names else short


def _as_llama(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The config.json of a Llama that is the same network as this Mistral or Qwen2; None if there is none.

    Raises:
        ValueError: its attention has windows, which Llama's has not.
    """
    kind = config.get("model_type")
    if kind not in ("mistral", "qwen2"):
        return None
    no_place = "its MLP has no biases, and it cannot be written as a Llama, which may have them: "
    if (fault := llama.fault(config)) is not None:
        raise ValueError(f"{no_place}{fault}")
    if "num_key_value_heads" not in config:  # of which the kinds have different defaults
        raise ValueError(f"{no_place}its config.json does not state num_key_value_heads")
    windows = (
        config.get("sliding_window", True) if kind == "mistral" else config.get("use_sliding_window")
    ) or "sliding_attention" in (config.get("layer_types") or ())
    if windows:
        raise ValueError(f"{no_place}its attention has windows")
    known = llama.KEYS["llama"].known
    kept = {key: value for key, value in config.items() if key in known}
    biased = {"attention_bias": True} if kind == "qwen2" else {}
    return {**kept, "model_type": "llama", "architectures": ["LlamaForCausalLM"], "mlp_bias": True, **biased}
