"""A decoding step of the Llama family, written out: the same function as the network's own, in fewer calls.

For a batch of a few rows on a CPU, a fifth of a step of transformers is Python between the products. This
module does not know what is added to the stream, or why.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from steer_cli.decoding.kv_cache import Slots
from steer_cli.models.load import Model
from steer_cli.networks.packed import Layers, Product, plain

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


def readers(model: Model) -> dict[Layers, Tensor]:
    """The layers of the blocks that read a normed stream, those whose outputs are used as one together, and
    the weights of that norm.
    """
    read: dict[Layers, Tensor] = {}
    for block in model.network.get_decoder().layers:
        attention, norm = block.self_attn, block.post_attention_layernorm.weight
        read[attention.q_proj, attention.k_proj, attention.v_proj] = block.input_layernorm.weight
        read |= {(block.mlp.gate_proj,): norm, (block.mlp.up_proj,): norm}
    return read


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
        scales = readers(model)

        def product(*layers: nn.Linear) -> Product:
            return products.get(layers) or plain(layers, scales.get(layers))

        self._head = product(model.network.get_output_embeddings())
        self._blocks = [
            (
                product(block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj),
                product(block.self_attn.o_proj),
                product(block.mlp.gate_proj),
                product(block.mlp.up_proj),
                product(block.mlp.down_proj),
            )
            for block in decoder.layers
        ]

    def __call__(self, tokens: Tensor, deltas: Mapping[int, Tensor]) -> Tensor:
        """A step; `deltas` is layer -> what is added to the stream that enters it, [rows, width]."""
        slots, rows = self._slots, len(tokens)
        mask = None if slots.hides_nothing else slots.mask(torch.float32)
        stream = functional.embedding(tokens, self._embedding)  # [rows, width]
        cosine, sine = self._rotation(stream)
        heads = (rows, self._groups, self._heads // self._groups, self._width)
        for layer, (queries_keys_values, out, gate, up, down) in enumerate(self._blocks):
            if layer in deltas:
                stream = stream + deltas[layer]
            each = queries_keys_values(self._normed(stream)).view(rows, -1, self._width)
            turned = self._turned(each[:, : -self._groups], cosine, sine)
            keys, values = slots.append(layer, turned[:, self._heads :], each[:, -self._groups :])
            # The query heads that share a key are laid out as if they were positions: no key is copied.
            seen = functional.scaled_dot_product_attention(
                turned[:, : self._heads].reshape(heads), keys, values, attn_mask=mask
            )
            stream = stream + out(seen.reshape(rows, -1))
            normed = self._normed(stream)
            stream = stream + down(functional.silu(gate(normed)).mul_(up(normed)))
        return self._head(self._normed(stream).mul_(self._norm))

    def _normed(self, stream: Tensor) -> Tensor:
        """RMS norm, but for its weights, which are in the products (those of the last norm are not)."""
        # The mean square by way of the length: fewer calls than torch's own rms_norm makes on a CPU.
        length = torch.linalg.vector_norm(stream, dim=-1, keepdim=True)
        return stream * torch.addcmul(self._epsilon, length, length, value=1 / stream.shape[-1]).rsqrt_()

    def _rotation(self, stream: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine for each row's new position, [rows, 1, width], half the sines negative."""
        cosine, sine = self._rotary(stream, self._slots.lengths[: len(stream), None])
        first, second = sine.chunk(2, -1)
        return cosine, torch.cat([-first, second], -1)

    def _turned(self, heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Rotary position embedding of [rows, heads, width]."""
        # Swapping the halves is what transformers' rotate_half does, but for the sign, which the sine has.
        return torch.addcmul(heads * cosine, heads.roll(self._width // 2, -1), sine)
