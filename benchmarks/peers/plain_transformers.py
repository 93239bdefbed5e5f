"""transformers: `generate` and a forward pre-hook, one run per arm, in one batch or one row at a time."""

import torch
from hugging_face import (
    blocks,
    completions,
    load_network,
    load_tokenizer,
    processors,
    prompts,
    settings,
    vector,
)
from protocol import serve


def load(job):
    network, tokenizer = load_network(job), load_tokenizer(job)
    block = blocks(network)[job["layer"]]

    @torch.inference_mode()
    def work(job, samples, new_tokens, greedy):
        added = vector(job, network)
        rows = 1 if job["variant"] == "one at a time" else samples

        def hook(_, args, kwargs):
            stream = args[0] if args else kwargs["hidden_states"]
            if stream.shape[1] == 1:  # a decode step; the prompt is longer
                return None
            changed = stream.clone()
            changed[:, : len(added)] += added
            return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": changed})

        def arm():
            new = []
            for _ in range(samples // rows):
                output = network.generate(
                    **prompts(job, rows),
                    generation_config=settings(job, new_tokens, greedy),
                    logits_processor=processors(job),
                )
                new += completions(job, output, tokenizer)
            return new

        unsteered = arm()
        handle = block.register_forward_pre_hook(hook, with_kwargs=True)
        try:
            return [unsteered, arm()]
        finally:
            handle.remove()

    return work


serve(load, ("torch", "transformers"))
