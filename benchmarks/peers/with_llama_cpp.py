"""llama-cpp-python on the quantised GGUF: a control vector, so one direction at every position and step.

`one at a time` uses its high-level API, which has one sequence; `batch` uses its low-level API, with a
sequence and a sampler per row, from one prefill of the prompt.
"""

import ctypes

import llama_cpp
import llama_cpp.llama_cpp as bindings
from protocol import GREEDY_TOKENS, serve, threads


def change_defaults(name: str, **values) -> None:
    """Set options for which `Llama` has no argument."""
    defaults = getattr(bindings, name)

    def changed():
        found = defaults()
        for field, value in values.items():
            setattr(found, field, value)
        return found

    setattr(bindings, name, changed)


def load(job):
    # Repacking for AMX makes 0.3.36 crash on this model; Q4_1 has no other repacking to lose.
    change_defaults("llama_model_default_params", use_extra_bufts=False)
    rows = max(job["samples"]) if job["variant"] == "batch" else 1
    length = len(job["prompt"]) + max(job["new_tokens"], GREEDY_TOKENS)
    change_defaults("llama_context_default_params", n_seq_max=rows, kv_unified=True)
    model = llama_cpp.Llama(
        job["gguf"],
        n_ctx=256 * (1 + rows * length // 256),
        n_threads=threads(),
        n_threads_batch=threads(),
        verbose=False,
    )
    arm = batch if job["variant"] == "batch" else one_at_a_time

    def work(job, samples, new_tokens, greedy):
        arms = []
        for direction in (None, job["direction"]):
            steer(model, job["layer"] - 1, direction)
            arms.append(arm(model, job, samples, new_tokens, greedy))
        for row in (row for arm in arms for row in arm):
            model.detokenize(row)
        return arms

    return work


def steer(model, layer: int, direction: list[float] | None) -> None:
    """Add the direction after one block; the buffer has a part of [width] for each block from 1."""
    width, depth = model.n_embd(), llama_cpp.llama_model_n_layer(model.model)
    values = (ctypes.c_float * (width * (depth - 1)))()
    if direction is not None:
        values[(layer - 1) * width : layer * width] = direction
    set_vector = getattr(llama_cpp, "llama_set_adapter_cvec", None) or llama_cpp.llama_apply_adapter_cvec
    data = values if direction is not None else None
    if set_vector(model.ctx, data, len(values), width, layer, layer):
        raise SystemExit("the control vector was refused")


def one_at_a_time(model, job, samples, new_tokens, greedy):
    draw = {"temp": 0.0} if greedy else {"temp": job["temperature"], "top_p": job["top_p"], "top_k": 0}
    rows = []
    for sample in range(samples):
        model.set_seed(job["seed"] + sample)
        tokens = model.generate(job["prompt"], min_p=0.0, repeat_penalty=1.0, reset=True, **draw)
        rows.append([next(tokens) for _ in range(new_tokens)])
    return rows


def batch(model, job, samples, new_tokens, greedy):
    context, prompt = model.ctx, job["prompt"]
    memory = llama_cpp.llama_get_memory(context)
    llama_cpp.llama_memory_clear(memory, True)
    samplers = [sampler(job, sample, greedy) for sample in range(samples)]
    slots = llama_cpp.llama_batch_init(max(samples, len(prompt)), 0, 1)
    put(slots, [(id, place, 0, place + 1 == len(prompt)) for place, id in enumerate(prompt)])
    decode(context, slots)
    for row in range(1, samples):
        llama_cpp.llama_memory_seq_cp(memory, 0, row, -1, -1)
    rows = [[] for _ in range(samples)]
    for step in range(new_tokens):
        for row, draw in enumerate(samplers):
            at = row if step else len(prompt) - 1
            rows[row].append(llama_cpp.llama_sampler_sample(draw, context, at))
        if step + 1 < new_tokens:
            put(slots, [(new[-1], len(prompt) + step, row, True) for row, new in enumerate(rows)])
            decode(context, slots)
    llama_cpp.llama_batch_free(slots)
    for draw in samplers:
        llama_cpp.llama_sampler_free(draw)
    return rows


def sampler(job, sample, greedy):
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    if greedy:
        links = [llama_cpp.llama_sampler_init_greedy()]
    else:
        links = [
            llama_cpp.llama_sampler_init_temp(job["temperature"]),
            llama_cpp.llama_sampler_init_top_p(job["top_p"], 1),
            llama_cpp.llama_sampler_init_dist(job["seed"] + sample),
        ]
    for link in links:
        llama_cpp.llama_sampler_chain_add(chain, link)
    return chain


def put(slots, entries) -> None:
    slots.n_tokens = len(entries)
    for index, (id, position, row, wanted) in enumerate(entries):
        slots.token[index], slots.pos[index], slots.logits[index] = id, position, wanted
        slots.n_seq_id[index], slots.seq_id[index][0] = 1, row


def decode(context, slots) -> None:
    if llama_cpp.llama_decode(context, slots):
        raise SystemExit("llama_decode failed")


serve(load, ("llama-cpp-python",))
