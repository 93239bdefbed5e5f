"""steering-vectors: one direction of [width], added after the previous block, at every position and step."""

import torch
from hugging_face import completions, load_network, load_tokenizer, processors, prompts, settings, vector
from protocol import serve
from steering_vectors import SteeringVector


def load(job):
    network, tokenizer = load_network(job), load_tokenizer(job)

    @torch.inference_mode()
    def work(job, samples, new_tokens, greedy):
        steering = SteeringVector({job["layer"] - 1: vector(job, network)[-1]})

        def arm():
            output = network.generate(
                **prompts(job, samples),
                generation_config=settings(job, new_tokens, greedy),
                logits_processor=processors(job),
            )
            return completions(job, output, tokenizer)

        unsteered = arm()
        with steering.apply(network):
            return [unsteered, arm()]

    return work


serve(load, ("steering-vectors", "torch", "transformers"))
