"""Gemma 3, text: norms before and after attention and feed-forward, windows in most blocks, a gated GELU.

Norms multiply by 1 + weight, embeddings are scaled by sqrt(width), and blocks with a window use rotary
frequencies different from those of blocks that see all positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, gelu

from steer_cli.networks.attention import Attention
from steer_cli.networks.checkpoint import Weights
from steer_cli.networks.config import Config, Keys, windows
from steer_cli.networks.network import NO_CHANGES, Changes, Plain
from steer_cli.networks.norms import rms_norm
from steer_cli.networks.products import Linear
from steer_cli.networks.rotary import Rotation, frequencies, rotation

KEYS = Keys(
    counts=frozenset(
        {"hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "head_dim"}
        | {"num_key_value_heads", "vocab_size", "max_position_embeddings", "sliding_window"}
    ),
    numbers=frozenset({"rms_norm_eps", "query_pre_attn_scalar"}),
    optional_counts=frozenset({"sliding_window_pattern", "_sliding_window_pattern"}),
    flags=frozenset({"attention_bias", "tie_word_embeddings"}),
    fixed={
        "hidden_activation": ("gelu_pytorch_tanh",),
        "final_logit_softcapping": (None,),
        "attn_logit_softcapping": (None,),
        "use_bidirectional_attention": (None, False),
    },
    others=frozenset(
        {"layer_types", "rope_parameters", "rope_theta", "rope_scaling", "rope_local_base_freq"}
    ),
)


def fault(values: Mapping[str, Any]) -> str | None:
    """Why this config is not handled here; None if it is."""
    if (said := KEYS.fault(values)) is not None:
        return said
    if not values.get("layer_types") and not _pattern(values):
        return "layer_types is not given"
    if values["num_attention_heads"] % values["num_key_value_heads"] or values["head_dim"] % 2:
        return "its heads do not fit their groups"
    return None


def _pattern(values: Mapping[str, Any]) -> int | None:
    return values.get("sliding_window_pattern") or values.get("_sliding_window_pattern")


EMBEDDING = "model.embed_tokens.weight"


@dataclass(frozen=True)
class _Block:
    attention_norm: Tensor
    queries_keys_values: Linear  # one product, side by side
    query_norm: Tensor
    key_norm: Tensor
    attention_out: Linear
    attention_out_norm: Tensor
    feed_forward_norm: Tensor
    gate: Linear
    up: Linear
    down: Linear
    feed_forward_out_norm: Tensor
    window: int | None


class Gemma3(Plain):
    """A Gemma 3 network; see `Network`."""

    def __init__(self, config: Config, weights: Weights):
        self.depth, self.width = config["num_hidden_layers"], config["hidden_size"]
        self.vocabulary, self._epsilon = config["vocab_size"], config["rms_norm_eps"]
        self._heads, self._groups = config["num_attention_heads"], config["num_key_value_heads"]
        self._head_width, self._scale = config["head_dim"], config["query_pre_attn_scalar"] ** -0.5
        self.dtype, self.device = weights.dtype, weights.device
        self._embedding = weights.take(EMBEDDING, self.vocabulary, self.width)
        # In the precision of the weights, as in training.
        self._embedding_scale = torch.tensor(self.width**0.5, dtype=self.dtype, device=self.device)
        self._frequencies = {
            windowed: frequencies(_rope(config, windowed), self._head_width).to(self.device)
            for windowed in (False, True)
        }
        kinds = config.get("layer_types") or [
            "sliding_attention" if (layer + 1) % (_pattern(config.values) or 1) else "full_attention"
            for layer in range(self.depth)
        ]
        self._blocks = [
            self._read_block(config, weights, layer, window)
            for layer, window in enumerate(windows(kinds, config["sliding_window"]))
        ]
        self._norm = self._read_norm(weights, "model.norm", self.width)
        tied = config.get("tie_word_embeddings", True)  # Gemma's files omit the key
        self.linears = weights.linears
        self._head = weights.head("lm_head", self._embedding, EMBEDDING, tied)

    def _read_block(self, config: Config, weights: Weights, layer: int, window: int | None) -> _Block:
        name, width, inner = f"model.layers.{layer}", self.width, config["intermediate_size"]
        heads, groups = self._heads * self._head_width, self._groups * self._head_width
        bias = config.flag("attention_bias")
        sides = {"q_proj": heads, "k_proj": groups, "v_proj": groups}
        return _Block(
            attention_norm=self._read_norm(weights, f"{name}.input_layernorm", width),
            queries_keys_values=weights.side_by_side(
                {f"{name}.self_attn.{side}": count for side, count in sides.items()}, width, bias
            ),
            query_norm=self._read_norm(weights, f"{name}.self_attn.q_norm", self._head_width),
            key_norm=self._read_norm(weights, f"{name}.self_attn.k_norm", self._head_width),
            attention_out=weights.linear(f"{name}.self_attn.o_proj", width, heads, bias),
            attention_out_norm=self._read_norm(weights, f"{name}.post_attention_layernorm", width),
            feed_forward_norm=self._read_norm(weights, f"{name}.pre_feedforward_layernorm", width),
            gate=weights.linear(f"{name}.mlp.gate_proj", inner, width, bias=False),
            up=weights.linear(f"{name}.mlp.up_proj", inner, width, bias=False),
            down=weights.linear(f"{name}.mlp.down_proj", width, inner, bias=False),
            feed_forward_out_norm=self._read_norm(weights, f"{name}.post_feedforward_layernorm", width),
            window=window,
        )

    def _read_norm(self, weights: Weights, name: str, width: int) -> Tensor:
        """The norm's factors in float32: 1 + weight in half precision would lose the weight's last bits."""
        return 1.0 + weights.take(f"{name}.weight", width).float()

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        return embedding(ids, self._embedding) * self._embedding_scale

    def run(
        self, stream: Tensor, start: int, stop: int, attention: Attention, changes: Changes = NO_CHANGES
    ) -> Tensor:
        turns = {
            windowed: rotation(radians, attention.positions, self.dtype)
            for windowed, radians in self._frequencies.items()
        }
        for layer in range(start, stop):
            if layer in changes:
                stream = changes[layer](stream)
            block = self._blocks[layer]
            normed = self._normed(stream, block.attention_norm)
            seen = self._attention(layer, block, normed, turns[block.window is not None], attention)
            stream = stream + self._normed(seen, block.attention_out_norm)
            normed = self._normed(stream, block.feed_forward_norm)
            inner = gelu(block.gate(normed), approximate="tanh").mul_(block.up(normed))
            stream = stream + self._normed(block.down(inner), block.feed_forward_out_norm)
        return stream

    def unembed(self, stream: Tensor) -> Tensor:
        return self._head(self._normed(stream, self._norm))

    def _attention(
        self, layer: int, block: _Block, stream: Tensor, turns: Rotation, attention: Attention
    ) -> Tensor:
        rows, positions = stream.shape[:2]
        each = block.queries_keys_values(stream).view(rows, positions, -1, self._head_width)
        queries, keys, values = each.split([self._heads, self._groups, self._groups], 2)
        queries = turns.turn(self._normed(queries, block.query_norm))
        keys = turns.turn(self._normed(keys, block.key_norm))
        seen = attention.attend(
            layer,
            queries.transpose(1, 2),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            scale=self._scale,
            window=block.window,
        )
        return block.attention_out(seen.transpose(1, 2).reshape(rows, positions, -1))

    def _normed(self, stream: Tensor, factors: Tensor) -> Tensor:
        return rms_norm(stream.float(), factors, self._epsilon).to(stream)


def _rope(config: Config, windowed: bool) -> dict[str, Any]:
    """The rotary parameters of blocks with a window, or of those without."""
    if config.get("rope_parameters"):
        return config.rope("sliding_attention" if windowed else "full_attention")
    if windowed:
        return {"rope_type": "default", "rope_theta": config.get("rope_local_base_freq", 10_000.0)}
    return {**config.rope(), "rope_theta": config.get("rope_theta", 1_000_000.0)}
