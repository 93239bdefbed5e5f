"""The Llama family: Llama, SmolLM2, Mistral, Qwen2 and Qwen3.

A block is an RMS norm, attention with rotated queries and keys, another norm, and a gated SiLU. Mistral and
Qwen may limit attention to a window, Qwen2 adds biases to queries, keys and values, and Qwen3 normalises
each head's queries and keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, silu

from steer_cli.networks.attention import Attention
from steer_cli.networks.checkpoint import Weights
from steer_cli.networks.config import Config, Keys, windows
from steer_cli.networks.network import NO_CHANGES, Changes, Plain
from steer_cli.networks.norms import rms_norm
from steer_cli.networks.products import Linear
from steer_cli.networks.rotary import Rotation, frequencies, rotation

_COMMON = Keys(
    counts=frozenset(
        {"hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size"}
        | {"max_position_embeddings"}
    ),
    numbers=frozenset({"rms_norm_eps"}),
    optional_counts=frozenset({"num_key_value_heads", "head_dim"}),
    flags=frozenset({"tie_word_embeddings"}),
    fixed={"hidden_act": ("silu",)},
    others=frozenset({"rope_parameters", "rope_theta", "rope_scaling"}),
)
_QWEN = _COMMON.also(
    optional_counts=frozenset({"sliding_window", "max_window_layers"}),
    flags=frozenset({"use_sliding_window"}),
    others=frozenset({"layer_types"}),
)
# model_type -> the config.json keys handled here.
KEYS: Mapping[str, Keys] = {
    "llama": _COMMON.also(flags=frozenset({"attention_bias", "mlp_bias"})),
    "mistral": _COMMON.also(optional_counts=frozenset({"sliding_window"})),
    "qwen2": _QWEN,
    "qwen3": _QWEN.also(flags=frozenset({"attention_bias"})),
}


def fault(values: Mapping[str, Any]) -> str | None:
    """Why this config is not handled here; None if it is."""
    if (said := KEYS[values["model_type"]].fault(values)) is not None:
        return said
    if values.get("use_sliding_window") and not values.get("layer_types"):
        return "use_sliding_window is given without layer_types"
    width, heads = values["hidden_size"], values["num_attention_heads"]
    groups, head_width = values.get("num_key_value_heads") or heads, values.get("head_dim") or width // heads
    if heads % groups or (width % heads and not values.get("head_dim")) or head_width % 2:
        return f"{heads} heads of {groups} groups and width {head_width} do not fit a width of {width}"
    return None


EMBEDDING = "model.embed_tokens.weight"


@dataclass(frozen=True)
class _Block:
    attention_norm: Tensor
    queries_keys_values: Linear  # one product, side by side
    query_norm: Tensor | None
    key_norm: Tensor | None
    attention_out: Linear
    feed_forward_norm: Tensor
    gate: Linear
    up: Linear
    down: Linear
    window: int | None


class Llama(Plain):
    """A network of the Llama family; see `Network`."""

    def __init__(self, config: Config, weights: Weights):
        self.depth, self.width = config["num_hidden_layers"], config["hidden_size"]
        self.vocabulary, self._epsilon = config["vocab_size"], config["rms_norm_eps"]
        self._heads = config["num_attention_heads"]
        self._groups = config.get("num_key_value_heads") or self._heads
        self._head_width = config.get("head_dim") or self.width // self._heads
        self.dtype, self.device = weights.dtype, weights.device
        self._embedding = weights.take(EMBEDDING, self.vocabulary, self.width)
        self._frequencies = frequencies(config.rope(), self._head_width).to(self.device)
        self._blocks = [
            self._read_block(config, weights, layer, window)
            for layer, window in enumerate(_windows_of(config, self.depth))
        ]
        self._norm = weights.take("model.norm.weight", self.width)
        self.linears = weights.linears
        self._head = weights.head("lm_head", self._embedding, EMBEDDING, config.flag("tie_word_embeddings"))

    def _read_block(self, config: Config, weights: Weights, layer: int, window: int | None) -> _Block:
        name, kind = f"model.layers.{layer}", config["model_type"]
        heads, groups = self._heads * self._head_width, self._groups * self._head_width
        inner = config["intermediate_size"]
        attention_bias = config.flag("attention_bias")
        read_bias = kind == "qwen2" or attention_bias
        per_head = kind == "qwen3"

        def norm(part: str, width: int) -> Tensor:
            return weights.take(f"{name}.{part}.weight", width)

        return _Block(
            attention_norm=norm("input_layernorm", self.width),
            queries_keys_values=weights.side_by_side(
                {
                    f"{name}.self_attn.q_proj": heads,
                    f"{name}.self_attn.k_proj": groups,
                    f"{name}.self_attn.v_proj": groups,
                },
                self.width,
                read_bias,
            ),
            query_norm=norm("self_attn.q_norm", self._head_width) if per_head else None,
            key_norm=norm("self_attn.k_norm", self._head_width) if per_head else None,
            attention_out=weights.linear(f"{name}.self_attn.o_proj", self.width, heads, attention_bias),
            feed_forward_norm=norm("post_attention_layernorm", self.width),
            gate=weights.linear(f"{name}.mlp.gate_proj", inner, self.width, config.flag("mlp_bias")),
            up=weights.linear(f"{name}.mlp.up_proj", inner, self.width, config.flag("mlp_bias")),
            down=weights.linear(f"{name}.mlp.down_proj", self.width, inner, config.flag("mlp_bias")),
            window=window,
        )

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        return embedding(ids, self._embedding)

    def run(
        self, stream: Tensor, start: int, stop: int, attention: Attention, changes: Changes = NO_CHANGES
    ) -> Tensor:
        turns = rotation(self._frequencies, attention.positions, self.dtype)
        for layer in range(start, stop):
            if layer in changes:
                stream = changes[layer](stream)
            block = self._blocks[layer]
            normed = self._normed(stream, block.attention_norm)
            stream = stream + self._attention(layer, block, normed, turns, attention)
            normed = self._normed(stream, block.feed_forward_norm)
            stream = stream + block.down(silu(block.gate(normed)).mul_(block.up(normed)))
        return stream

    def unembed(self, stream: Tensor) -> Tensor:
        return self._head(self._normed(stream, self._norm))

    def _attention(
        self, layer: int, block: _Block, stream: Tensor, turns: Rotation, attention: Attention
    ) -> Tensor:
        rows, positions = stream.shape[:2]
        each = block.queries_keys_values(stream).view(rows, positions, -1, self._head_width)
        values = each[:, :, -self._groups :]
        if block.query_norm is None or block.key_norm is None:
            turned = turns.turn(each[:, :, : -self._groups])  # queries and keys at once
        else:
            queries = self._normed(each[:, :, : self._heads], block.query_norm)
            keys = self._normed(each[:, :, self._heads : -self._groups], block.key_norm)
            turned = turns.turn(torch.cat([queries, keys], 2))
        seen = attention.attend(
            layer,
            turned[:, :, : self._heads].transpose(1, 2),
            turned[:, :, self._heads :].transpose(1, 2),
            values.transpose(1, 2),
            scale=self._head_width**-0.5,
            window=block.window,
        )
        return block.attention_out(seen.transpose(1, 2).reshape(rows, positions, -1))

    def _normed(self, stream: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(stream, weight, self._epsilon)


def _windows_of(config: Config, depth: int) -> list[int | None]:
    """How many positions each block sees; None for all."""
    kind = config["model_type"]
    if kind == "llama":
        return [None] * depth
    if kind == "mistral":
        return [config.get("sliding_window")] * depth
    window = config.get("sliding_window") if config.flag("use_sliding_window") else None
    return windows(config.get("layer_types") or ["full_attention"] * depth, window)
