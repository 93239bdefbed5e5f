"""A decoding step of the Llama family, written out: the same arithmetic as the network's own, in fewer calls.

For a batch of a few rows on a CPU, a fifth of a step of transformers is Python between the products. This
module does not know what is added to the stream, or why.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from steer_cli.model import Model
from steer_cli.packed import Layers, Product
from steer_cli.slots import Slots

# Networks whose blocks are: norm, attention with rotated queries and keys, norm, gated SiLU; nothing else.
FAMILY = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"}


def can_be_lean(model: Model) -> bool:
    """Whether `LeanStep` knows this network; at other precisions than float32 norms would round otherwise."""
    config = model.network.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return (
        type(model.network).__name__ in FAMILY
        and len(kinds) == 1  # one mask for all blocks
        and model.dtype == torch.float32
        and model.device.type == "cpu"
        and getattr(config, "hidden_act", None) == "silu"
        and not hasattr(model.network, "hf_device_map")
    )


def read_together(model: Model) -> list[Layers]:
    """The layers of each block that read the same stream and whose outputs are used as one."""
    attentions = [block.self_attn for block in model.network.get_decoder().layers]
    return [(attention.q_proj, attention.k_proj, attention.v_proj) for attention in attentions]


class LeanStep:
    """Tokens [rows] -> logits [rows, vocabulary] of the slots in use.

    Args:
        products: quicker products of layers than their own, where there are any.
    """

    def __init__(self, model: Model, slots: Slots, products: Mapping[Layers, Product]):
        decoder, config = model.network.get_decoder(), model.network.config
        self._slots = slots
        self._embedding = model.network.get_input_embeddings().weight
        self._rotary = decoder.rotary_emb
        self._epsilon = torch.tensor([config.rms_norm_eps])
        self._heads, self._groups = config.num_attention_heads, config.num_key_value_heads
        self._width = decoder.layers[0].self_attn.head_dim  # of a head
        self._norm = decoder.norm.weight

        def product(*layers: nn.Linear) -> Product:
            if layers in products:
                return products[layers]
            if len(layers) == 1:
                return layers[0].forward
            parts = [product(layer) for layer in layers]
            return lambda stream: torch.cat([part(stream) for part in parts], -1)

        self._head = product(model.network.get_output_embeddings())
        self._blocks = [
            (
                block.input_layernorm.weight,
                product(*layers),
                product(block.self_attn.o_proj),
                block.post_attention_layernorm.weight,
                *map(product, (block.mlp.gate_proj, block.mlp.up_proj, block.mlp.down_proj)),
            )
            for block, layers in zip(decoder.layers, read_together(model), strict=True)
        ]

    def __call__(self, tokens: Tensor, deltas: Mapping[int, Tensor]) -> Tensor:
        """A step; `deltas` is layer -> what is added to the stream that enters it, [rows, width]."""
        slots, rows = self._slots, len(tokens)
        mask = None if slots.hides_nothing else slots.mask(torch.float32)
        stream = functional.embedding(tokens, self._embedding)  # [rows, width]
        cosine, sine = self._rotation(stream)
        heads = (rows, self._groups, self._heads // self._groups, self._width)
        for layer, (norm, queries_keys_values, out, norm_2, gate, up, down) in enumerate(self._blocks):
            if layer in deltas:
                stream = stream + deltas[layer]
            normed = self._normed(stream, norm)
            each = queries_keys_values(normed).view(rows, -1, self._width)  # [rows, heads, width]
            turned = self._turned(each[:, : -self._groups], cosine, sine)
            keys, values = slots.append(layer, turned[:, self._heads :], each[:, -self._groups :])
            # The query heads that share a key are laid out as if they were positions: no key is copied.
            seen = functional.scaled_dot_product_attention(
                turned[:, : self._heads].reshape(heads), keys, values, attn_mask=mask
            )
            stream = stream + out(seen.reshape(rows, -1))
            normed = self._normed(stream, norm_2)
            stream = stream + down(functional.silu(gate(normed)).mul_(up(normed)))
        return self._head(self._normed(stream, self._norm))

    def _normed(self, stream: Tensor, weight: Tensor) -> Tensor:
        # The mean square by way of the length: fewer calls than torch's own rms_norm makes on a CPU.
        length = torch.linalg.vector_norm(stream, dim=-1, keepdim=True)
        scale = torch.addcmul(self._epsilon, length, length, value=1 / stream.shape[-1]).rsqrt_()
        return (stream * scale).mul_(weight)

    def _rotation(self, stream: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine for each row's new position, [rows, 1, width], half the sines negative."""
        cosine, sine = self._rotary(stream, self._slots.lengths[: len(stream), None])
        first, second = sine.chunk(2, -1)
        return cosine, torch.cat([-first, second], -1)

    def _turned(self, heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Rotary position embedding of [rows, heads, width]."""
        # Swapping the halves is what transformers' rotate_half does, but for the sign, which the sine has.
        return torch.addcmul(heads * cosine, heads.roll(self._width // 2, -1), sine)
