"""repeng: one direction of [width], added after the previous block, at every position and step."""

import torch
from hugging_face import completions, load_network, load_tokenizer, processors, prompts, settings, vector
from protocol import serve
from repeng import ControlModel


def load(job):
    network, tokenizer = load_network(job), load_tokenizer(job)
    before = job["layer"] - 1
    controlled = ControlModel(network, [before])

    @torch.inference_mode()
    def work(job, samples, new_tokens, greedy):
        controlled.reset()
        direction = vector(job, network)[-1]

        def arm():
            output = controlled.generate(
                **prompts(job, samples),
                generation_config=settings(job, new_tokens, greedy),
                logits_processor=processors(job),
            )
            return completions(job, output, tokenizer)

        unsteered = arm()
        controlled.set_raw_control({before: direction})
        return [unsteered, arm()]

    return work


serve(load, ("repeng", "torch", "transformers"))
