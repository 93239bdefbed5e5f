"""steer: the work of `steer generate`, on a model that stays loaded.

Two things differ from the command: weights and tokenizer are read only once, and no row ends at EOS.
"""

import dataclasses
from pathlib import Path

# Imported first, as this starts the clock for the load time.
from protocol import serve, threads

RECIPE = Path(__file__).parent.parent / "recipe.yaml"


def load(job):
    import torch

    from steer_cli.api.questions import load_model, load_recipe
    from steer_cli.planning.plan import plan_recipe
    from steer_cli.run_plan import complete

    torch.set_num_threads(threads())
    model = load_model(job["model"], "float32", "cpu")

    def work(job, samples, new_tokens, greedy):
        temperature = 0.0 if greedy else job["temperature"]
        recipe = load_recipe(str(RECIPE), {"model": job["model"], "additions.0.layer": job["layer"]})
        recipe = recipe.with_sampling(
            samples=samples, max_new_tokens=new_tokens, temperature=temperature, top_p=job["top_p"]
        )
        facts = model.facts(recipe.bos)
        endless = dataclasses.replace(facts, tokenizer=dataclasses.replace(facts.tokenizer, eos=()))
        [comparison] = complete(model, plan_recipe(recipe, endless, new_tokens), score=False)
        return [[list(row.tokens) for row in arm] for arm in (comparison.unsteered, comparison.steered)]

    work(job, 1, 1, True)
    return work


serve(load, ("steer-cli", "torch"))
