"""Steer language models from the command line by activation addition (Turner et al. 2023).

The folder is the pipeline, in this order: recipe, tokens, plan, catalogue, model, residual, vectors,
sampling, generate; `run` calls each stage once, `report` shows what came out, `cli` is the edge.
"""

__version__ = "0.1.0"
