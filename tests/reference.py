"""Steered generation written out plainly, to compare the tool against.

It shares no line with `steer_cli` and none of its tricks: one row at a time, no cache, no batch, the whole
row again at every step, the whole vocabulary sorted at every draw. It knows nothing of recipe files:
additions and sampling are the plain dicts that such a file holds.
"""

import contextlib
import functools
import hashlib
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

# What a recipe that says nothing samples with: the settings of Turner et al. 2023.
SAMPLING = {
    "max_new_tokens": 50,
    "samples": 3,
    "temperature": 1.0,
    "top_p": 0.3,
    "top_k": None,
    "frequency_penalty": 1.0,
    "seed": 0,
}


def load(folder):
    """The float32 model of a local folder, its tokenizer, and the texts of its special tokens by name."""
    folder = Path(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    # Saved folders hold a special token either as its text or as a dict around it.
    names = {key: config.get(key) for key in ("bos_token", "eos_token")}
    names = {key: value["content"] if isinstance(value, dict) else value for key, value in names.items()}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), tokenizer, names


def single(tokenizer, text):
    """The id of a text that must be exactly one token."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if len(ids) != 1:
        raise ValueError(f"{text!r} is {len(ids)} tokens")
    return ids[0]


def special(tokenizer, text):
    """The id of a BOS or EOS: by its name in the vocabulary, or else as any text of one token."""
    known = tokenizer.token_to_id(text)
    return single(tokenizer, text) if known is None else known


def front_ids(tokenizer, names, bos):
    """What stands before every text: one BOS id, or nothing."""
    if bos == "none":
        return []
    return [special(tokenizer, (names["bos_token"] or names["eos_token"]) if bos == "auto" else bos)]


def tokens(tokenizer, front, text):
    return front + tokenizer.encode(text, add_special_tokens=False).ids


def blocks(model):
    stacks = (module for module in model.modules() if isinstance(module, torch.nn.ModuleList))
    return next(stack for stack in stacks if len(stack) == model.config.num_hidden_layers)


@torch.no_grad()
def record(model, ids, layer):
    """The stream entering block `layer`: [positions, width]."""
    if not ids:
        return torch.zeros(0, model.config.hidden_size)
    # hidden_states has one entry more than there are blocks: the output of the final norm, which enters none.
    if not 0 <= layer < len(blocks(model)):
        raise ValueError(f"layer {layer} of {len(blocks(model))}")
    streams = model(torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states
    return streams[layer][0].clone()


def way(addition):
    """Where an addition acts that acts at every position; None for one with a span."""
    position = addition.get("position")
    return "both" if position == "every" else position.get("every") if isinstance(position, dict) else None


def extended(rows, length):
    return torch.cat([rows, torch.zeros(length - len(rows), rows.shape[1])])


def combined(model, tokenizer, names, front, addition, layer):
    """plus - minus of every pair at `layer`, summed or averaged: [positions, width], before any rescaling."""
    pad = addition.get("pad", "space")
    if pad == "eos":
        pad_id = special(tokenizer, names["eos_token"])
    else:
        pad_id = None if pad == "none" else single(tokenizer, " " if pad == "space" else pad)
    differences = []
    for pair in addition.get("pairs") or [addition]:
        sides = [tokens(tokenizer, front, pair["plus"])]
        if pair.get("minus") is not None:
            sides.append(tokens(tokenizer, front, pair["minus"]))
        length = max(map(len, sides))
        # For `every` each text is read at its own last token, never at a pad.
        if pad_id is not None and not way(addition):
            sides = [ids + [pad_id] * (length - len(ids)) for ids in sides]
        rows = [record(model, ids, layer) for ids in sides]
        if way(addition):
            rows = [row[-1:] for row in rows]
        rows = [extended(row, max(map(len, rows))) for row in rows]
        differences.append(rows[0] - rows[1] if len(rows) == 2 else rows[0])
    length = max(map(len, differences))
    total = sum(extended(difference, length) for difference in differences)
    return total if addition.get("combine", "mean") == "sum" else total / len(differences)


def rescaled(rows, norms):
    """Each row with the norm asked for; a row of zeros has no direction and stays zero."""
    own = rows.norm(dim=-1, keepdim=True)
    return torch.where(own > 0, rows / own * norms, torch.zeros(()))


def vector(model, tokenizer, names, front, addition, layer, index=0):
    """The unscaled direction of one addition at one layer: [positions, width], one position for `every`.

    `index` is the addition's number in the recipe: every one has noise of its own.
    """
    source = addition.get("source_layer")
    rows = combined(model, tokenizer, names, front, addition, layer if source is None else source)
    if addition.get("match_norm"):
        at_layer = combined(model, tokenizer, names, front, addition, layer)
        rows = rescaled(rows, at_layer.norm(dim=-1, keepdim=True))
    if addition.get("random") is not None:
        seed = addition["random"].get("seed", 0)
        if index > 0:
            seed = int.from_bytes(hashlib.sha256(f"{seed}:{index}".encode()).digest()[:8], "little") >> 1
        generator = torch.Generator().manual_seed(seed)
        rows = rescaled(torch.randn(*rows.shape, generator=generator), rows.norm(dim=-1, keepdim=True))
    dims = addition.get("dims")
    kept = rows.shape[1] if dims is None else round(dims * rows.shape[1])
    rows = torch.cat([rows[:, :kept], torch.zeros_like(rows[:, kept:])], dim=1)
    if not rows.any() and addition.get("coefficient", 1) != 0:
        raise ValueError("does nothing: plus and minus are the same tokens")
    return rows


def start(position, n, prompt_ids, tokenizer):
    """Where a vector of n rows begins in the prompt, fitting or not."""
    size = len(prompt_ids)
    if isinstance(position, dict):
        if "at" in position:
            return position["at"]
        wanted = tokens(tokenizer, [], position["token"])
        found = [k for k in range(size) if prompt_ids[k : k + len(wanted)] == wanted]
        if not found:
            raise ValueError(f"{position['token']!r} is not in the prompt")
        return found[0]
    return {"front": 0, "back": size - n, "middle": size // 2 - n // 2}[position]


def placements(model, tokenizer, names, front, prompt_ids, additions):
    """Each addition at each of its layers: layer, coefficient, span, and the vector's rows in the span."""
    placed = []
    for index, addition in enumerate(additions):
        layer = addition["layer"]
        layers = layer if isinstance(layer, (list, tuple)) else [layer]
        for layer in layers:
            rows = vector(model, tokenizer, names, front, addition, layer, index)
            position, size = addition.get("position", "front"), len(prompt_ids)
            if way(addition):
                # Open at the end where generated tokens belong to it.
                spans = {"both": (len(front), None), "all": (0, None), "prompt": (len(front), size)}
                span = (spans | {"new": (size, None)})[way(addition)]
            else:
                first = start(position, len(rows), prompt_ids, tokenizer)
                span = (max(first, 0), min(first + len(rows), size))
                if addition.get("overflow", "error") == "error" and span != (first, first + len(rows)):
                    raise ValueError(f"{len(rows)} positions from {first} do not fit in {size}")
                if span[0] >= span[1]:
                    raise ValueError("nothing is left after clipping")
                rows = rows[span[0] - first : span[1] - first]
            coefficient = addition.get("coefficient", 1.0)
            placed.append({"layer": layer, "coefficient": coefficient, "span": span, "vector": rows})
    return placed


@contextlib.contextmanager
def injected(model, placed):
    """Inside, every forward pass over a whole row has coefficient * vector added at the spans."""

    def pre_hook(layer):
        def hook(block, args, kwargs):
            stream = args[0] if args else kwargs["hidden_states"]  # [1, positions, width]
            delta = torch.zeros_like(stream)
            for one in placed:
                if one["layer"] == layer:
                    delta[:, slice(*one["span"])] += one["coefficient"] * one["vector"]
            steered = stream + delta
            return ((steered, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": steered})

        return hook

    with contextlib.ExitStack() as undo:
        for layer in {one["layer"] for one in placed}:
            handle = blocks(model)[layer].register_forward_pre_hook(pre_hook(layer), with_kwargs=True)
            undo.callback(handle.remove)
        yield


@torch.no_grad()
def next_logits(model, row):
    return model(torch.tensor([row]), use_cache=False).logits[0, -1]  # [vocabulary]


def draw(logits, row, sampling, uniform):
    """One token id, by the inverse of the cumulative probabilities of the kept tokens in vocabulary order."""
    counts = torch.bincount(torch.tensor(row, dtype=torch.long), minlength=len(logits)).double()
    temperature, penalty = sampling["temperature"], sampling["frequency_penalty"]
    if temperature == 0:
        return int((logits.double() - penalty * counts).argmax())
    scores = logits.double() / temperature - penalty * counts
    probabilities, ids = scores.softmax(-1).sort(descending=True, stable=True)
    top_p, mass, kept = sampling["top_p"], 0.0, []
    for probability, token in zip(probabilities.tolist(), ids.tolist(), strict=True):
        kept.append((token, probability))
        mass += probability
        if top_p < 1 and mass >= top_p:
            break
    kept = sorted(kept[: sampling["top_k"]])
    total, cumulative = sum(probability for _, probability in kept), 0.0
    for token, probability in kept:
        cumulative += probability / total
        if cumulative > uniform:
            return token
    return kept[-1][0]  # rounding can leave the last cumulative probability a hair under 1


def once(pass_over, seen):
    """The same function, but no row runs twice: `seen` keeps what each has given."""

    def logits(model, row):
        key = tuple(row)
        if key not in seen:
            seen[key] = pass_over(model, row)
        return seen[key]

    return logits


def complete(model, prompt_ids, eos_id, sampling, sample, logits=None):
    seed = hashlib.sha256(f"{sampling['seed']}:{sample}".encode()).digest()[:8]
    generator = torch.Generator().manual_seed(int.from_bytes(seed, "little") >> 1)
    ids = []
    for _ in range(sampling["max_new_tokens"]):
        uniform = torch.rand((), generator=generator, dtype=torch.float64).item()
        row = prompt_ids + ids
        ids.append(draw((logits or next_logits)(model, row), row, sampling, uniform))
        if ids[-1] == eos_id:
            return {"ids": ids, "finish": "eos"}
    return {"ids": ids, "finish": "length"}


@functools.lru_cache(maxsize=7)
def kept(folder):
    """What `load` gives for a folder that does not change, and what unsteered rows have given."""
    return *load(folder), {}


def reference(folder, prompt, additions, sampling, bos="auto", arms=("unsteered", "steered")):
    """Every arm's completions of one prompt, and its logits of the first next token.

    Returns {arm: {"logits": [vocabulary], "samples": [{"ids", "finish"}, ...]}, ..., "prompt": ids,
    "additions": as `placements` gives them}. Raises ValueError where the tool reports an error.
    """
    sampling = {**SAMPLING, **sampling}
    model, tokenizer, names, unsteered = kept(Path(folder))
    front = front_ids(tokenizer, names, bos)
    prompt_ids = tokens(tokenizer, front, prompt)
    eos_id = special(tokenizer, names["eos_token"]) if names["eos_token"] else None
    placed = placements(model, tokenizer, names, front, prompt_ids, additions)
    result = {"prompt": prompt_ids, "additions": placed}
    for arm in arms:
        with injected(model, placed if arm == "steered" else []):
            logits = once(next_logits, {} if arm == "steered" else unsteered)
            numbers = range(sampling["samples"])
            samples = [complete(model, prompt_ids, eos_id, sampling, number, logits) for number in numbers]
            result[arm] = {"logits": logits(model, prompt_ids), "samples": samples}
    return result
