"""GPT-2: learned positions, layer norms with biases, one product for queries, keys and values, a GELU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.functional import embedding, gelu, layer_norm

from steer_cli.networks.attention import Attention
from steer_cli.networks.checkpoint import Weights
from steer_cli.networks.config import Config, Keys
from steer_cli.networks.network import NO_CHANGES, Changes, Plain
from steer_cli.networks.products import Linear

KEYS = Keys(
    counts=frozenset({"n_embd", "n_layer", "n_head", "n_positions", "vocab_size"}),
    numbers=frozenset({"layer_norm_epsilon"}),
    optional_counts=frozenset({"n_inner", "n_ctx"}),
    # reorder_and_upcast_attn only changes the order of rounding in half precision.
    flags=frozenset(
        {"scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"}
        | {"tie_word_embeddings"}
    ),
    fixed={"activation_function": ("gelu_new", "gelu_pytorch_tanh"), "add_cross_attention": (False,)},
    # Keys of heads for other tasks.
    others=frozenset(
        {"summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"}
        | {"summary_first_dropout"}
    ),
)


def fault(values: Mapping[str, Any]) -> str | None:
    """Why this config is not handled here; None if it is."""
    if (said := KEYS.fault(values)) is not None:
        return said
    return "its heads do not fit its width" if values["n_embd"] % values["n_head"] else None


EMBEDDING = "transformer.wte.weight"


@dataclass(frozen=True)
class _Norm:
    weight: Tensor
    bias: Tensor
    epsilon: float

    def __call__(self, stream: Tensor) -> Tensor:
        return layer_norm(stream, self.weight.shape, self.weight, self.bias, self.epsilon)


@dataclass(frozen=True)
class _Block:
    attention_norm: _Norm
    queries_keys_values: Linear  # one product, side by side
    attention_out: Linear
    feed_forward_norm: _Norm
    up: Linear
    down: Linear
    scale: float  # multiplies the products of queries and keys


class GPT2(Plain):
    """A GPT-2 network; see `Network`."""

    norms_remove_mean = True

    def __init__(self, config: Config, weights: Weights):
        self.depth, self.width = config["n_layer"], config["n_embd"]
        self.vocabulary, self._heads = config["vocab_size"], config["n_head"]
        self.dtype, self.device = weights.dtype, weights.device
        self._epsilon = config["layer_norm_epsilon"]
        self._embedding = weights.take(EMBEDDING, self.vocabulary, self.width)
        self._positions = weights.take("transformer.wpe.weight", config["n_positions"], self.width)
        self._blocks = [self._read_block(config, weights, layer) for layer in range(self.depth)]
        self._norm = self._read_norm(weights, "transformer.ln_f")
        # GPT-2's files omit the key.
        tied = config.get("tie_word_embeddings", True)
        self.linears = weights.linears
        self._head = weights.head("lm_head", self._embedding, EMBEDDING, tied)

    def _read_block(self, config: Config, weights: Weights, layer: int) -> _Block:
        name, width = f"transformer.h.{layer}", self.width
        inner = config.get("n_inner") or 4 * width
        scale = (width // self._heads) ** -0.5 if config.get("scale_attn_weights", True) else 1.0
        by_layer = config.flag("scale_attn_by_inverse_layer_idx")

        def read(part: str, outputs: int, inputs: int) -> Linear:
            return weights.linear(f"{name}.{part}", outputs, inputs, bias=True, turned=True)

        return _Block(
            attention_norm=self._read_norm(weights, f"{name}.ln_1"),
            queries_keys_values=read("attn.c_attn", 3 * width, width),
            attention_out=read("attn.c_proj", width, width),
            feed_forward_norm=self._read_norm(weights, f"{name}.ln_2"),
            up=read("mlp.c_fc", inner, width),
            down=read("mlp.c_proj", width, inner),
            scale=scale / (layer + 1) if by_layer else scale,
        )

    def _read_norm(self, weights: Weights, name: str) -> _Norm:
        weight, bias = (weights.take(f"{name}.{side}", self.width) for side in ("weight", "bias"))
        return _Norm(weight, bias, self._epsilon)

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        return embedding(ids, self._embedding) + embedding(positions, self._positions)

    def run(
        self, stream: Tensor, start: int, stop: int, attention: Attention, changes: Changes = NO_CHANGES
    ) -> Tensor:
        for layer in range(start, stop):
            if layer in changes:
                stream = changes[layer](stream)
            block = self._blocks[layer]
            stream = stream + self._attention(layer, block, block.attention_norm(stream), attention)
            inner = block.up(block.feed_forward_norm(stream))
            stream = stream + block.down(gelu(inner, approximate="tanh"))
        return stream

    def unembed(self, stream: Tensor) -> Tensor:
        return self._head(self._norm(stream))

    def _attention(self, layer: int, block: _Block, stream: Tensor, attention: Attention) -> Tensor:
        rows, positions = stream.shape[:2]
        each = block.queries_keys_values(stream).view(rows, positions, 3, self._heads, -1)
        queries, keys, values = each.permute(2, 0, 3, 1, 4)
        seen = attention.attend(layer, queries, keys, values, scale=block.scale, window=None)
        return block.attention_out(seen.transpose(1, 2).reshape(rows, positions, -1))
