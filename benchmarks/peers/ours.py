"""steer: what `steer generate` does behind its options, on a model that stays loaded.

Two things differ from the command: weights and tokenizer are read once, and no row ends at EOS.
"""

import dataclasses
import functools
from pathlib import Path

# First of all, as its import starts the clock of the load time.
from protocol import serve, threads

RECIPE = Path(__file__).parent.parent / "recipe.yaml"


def load(job):
    import torch

    from steer_cli import api
    from steer_cli.models import load as model
    from steer_cli.recipe.load import load as load_recipe
    from steer_cli.recipe.schema import Override

    torch.set_num_threads(threads())
    model.load = functools.cache(model.load)
    open_tokenizer = api.open_tokenizer

    @functools.cache
    def open_without_eos(*args):
        return dataclasses.replace(open_tokenizer(*args), eos=())

    api.open_tokenizer = open_without_eos

    def work(job, samples, new_tokens, greedy):
        sampling = {"samples": samples, "max_new_tokens": new_tokens}
        sampling |= {"temperature": 0.0 if greedy else job["temperature"], "top_p": job["top_p"]}
        wanted = {("model",): job["model"], ("additions", 0, "layer"): job["layer"]}
        wanted |= {("sampling", key): value for key, value in sampling.items()}
        changes = [Override(".".join(map(str, path)), path, value) for path, value in wanted.items()]
        hardware = api.Hardware(dtype="float32", device="cpu")
        [outcome] = api.generate(load_recipe(str(RECIPE), changes), hardware, score=False)
        return [[list(row.tokens) for row in arm] for arm in (outcome.unsteered, outcome.steered)]

    work(job, 1, 1, True)
    return work


serve(load, ("steer-cli", "torch", "transformers"))
