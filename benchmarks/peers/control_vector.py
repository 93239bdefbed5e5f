"""llama.cpp with a control vector read from a .gguf file as its own loader reads it.

A JSON job on standard input: the model's `gguf`, the `vector` file, `prompts` as ids, and `new_tokens`.
Writes to `output`, an .npz file, for each arm the logits after every prompt, [prompts, vocabulary], and the
steered greedy tokens, [prompts, tokens]. The arms are unsteered, steered, and off: the same vector, one
block later.
"""

import ctypes
import json
import sys

import llama_cpp
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader


def control_vector(file: str, width: int) -> np.ndarray:
    """As `common_control_vector_load_one` does: a row for each block from 1 on; other files are refused."""
    blocks = np.zeros((0, width), np.float32)
    for tensor in GGUFReader(file).tensors:
        kind, _, block = tensor.name.partition(".")
        if kind != "direction" or not block.isdigit() or int(block) < 1:
            raise SystemExit(f"llama.cpp takes no tensor {tensor.name}")
        if tensor.tensor_type != GGMLQuantizationType.F32 or list(tensor.shape) != [width]:
            raise SystemExit(f"llama.cpp takes no {tensor.tensor_type.name} of shape {list(tensor.shape)}")
        missing = int(block) - len(blocks)
        blocks = np.concatenate([blocks, np.zeros((max(0, missing), width), np.float32)])
        blocks[int(block) - 1] += tensor.data
    return blocks


def steer(model: llama_cpp.Llama, blocks: np.ndarray | None) -> None:
    width, depth = model.n_embd(), llama_cpp.llama_model_n_layer(model.model)
    if blocks is None:
        failed = llama_cpp.llama_set_adapter_cvec(model.ctx, None, 0, width, 1, depth)
    else:
        values = np.ascontiguousarray(blocks.reshape(-1), np.float32)
        data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        failed = llama_cpp.llama_set_adapter_cvec(model.ctx, data, values.size, width, 1, depth)
    if failed:
        raise SystemExit("llama.cpp refused the control vector")


def run(model: llama_cpp.Llama, prompt: list[int], new_tokens: int) -> tuple[np.ndarray, list[int]]:
    """The logits after a prompt, and the greedy tokens that follow."""
    model.reset()
    model.eval(prompt)
    first = logits = last_logits(model)
    tokens: list[int] = []
    while len(tokens) < new_tokens:
        tokens.append(int(logits.argmax()))
        model.eval(tokens[-1:])
        logits = last_logits(model)
    return first, tokens


def last_logits(model: llama_cpp.Llama) -> np.ndarray:
    values = llama_cpp.llama_get_logits_ith(model.ctx, -1)
    return np.ctypeslib.as_array(values, (model.n_vocab(),)).copy()


def main() -> None:
    job = json.load(sys.stdin)
    # Repacking for AMX makes 0.3.36 crash on this model; Q4_1 has no other repacking to lose.
    defaults = llama_cpp.llama_cpp.llama_model_default_params

    def without_repacking():
        found = defaults()
        found.use_extra_bufts = False
        return found

    llama_cpp.llama_cpp.llama_model_default_params = without_repacking
    model = llama_cpp.Llama(job["gguf"], n_ctx=256, n_threads=1, n_threads_batch=1, verbose=False)
    blocks = control_vector(job["vector"], model.n_embd())
    arms = {"unsteered": None, "steered": blocks, "off": np.concatenate([blocks[:1] * 0, blocks])}
    found = {}
    for arm, vector in arms.items():
        steer(model, vector)
        new_tokens = job["new_tokens"] if arm == "steered" else 0
        rows = [run(model, prompt, new_tokens) for prompt in job["prompts"]]
        found[f"{arm} logits"] = np.array([logits for logits, _ in rows])
        found[f"{arm} tokens"] = np.array([tokens for _, tokens in rows])
    np.savez(job["output"], version=llama_cpp.__version__, **found)


main()
