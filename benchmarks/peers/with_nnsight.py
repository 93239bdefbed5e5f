"""nnsight: add the vector to the block's input, at its positions, in the first pass of `generate`."""

import torch
from hugging_face import completions, load_network, load_tokenizer, prompts, settings, vector
from nnsight import LanguageModel
from protocol import serve


def load(job):
    network, tokenizer = load_network(job), load_tokenizer(job)
    model = LanguageModel(network, tokenizer=tokenizer)

    @torch.inference_mode()
    def work(job, samples, new_tokens, greedy):
        added = vector(job, network)
        config = settings(job, new_tokens, greedy)
        prompt = prompts(job, samples)
        with model.generate(prompt, generation_config=config):
            unsteered = model.generator.output.save()
        with model.generate(prompt, generation_config=config):
            stream = model.model.layers[job["layer"]].input.clone()
            stream[:, : len(added)] += added
            model.model.layers[job["layer"]].input = stream
            steered = model.generator.output.save()
        return [completions(job, unsteered, tokenizer), completions(job, steered, tokenizer)]

    return work


serve(load, ("nnsight", "torch", "transformers"))
