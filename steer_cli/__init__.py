"""Steer language models by activation addition (Turner et al. 2023).

The folders form a pipeline: recipe, exchange, planning, networks, activations, decoding, models, measure,
exports, sweeps. `api` has the library's functions, `report` shows results, `cli` is the command line. Names
are loaded on first use, so that the import is instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from steer_cli.version import __version__

if TYPE_CHECKING:
    from steer_cli.api.held_model import steering
    from steer_cli.api.judging import score, tune
    from steer_cli.api.questions import (
        bake,
        export,
        generate,
        load_model,
        load_recipe,
        norms,
        perplexity,
        shift,
        sweep,
        vectors,
    )
    from steer_cli.errors import SteerError
    from steer_cli.measure.corpus import read_corpus
    from steer_cli.measure.evidence_files import read_choices
    from steer_cli.models.load import Model
    from steer_cli.recipe.schema import Addition, Recipe
    from steer_cli.sweeps.scan import scan

_HOMES = {
    **dict.fromkeys(("load_model", "load_recipe", "vectors", "generate", "shift"), "api.questions"),
    **dict.fromkeys(("norms", "perplexity", "sweep", "export", "bake"), "api.questions"),
    "steering": "api.held_model",
    **dict.fromkeys(("Recipe", "Addition"), "recipe.schema"),
    "read_corpus": "measure.corpus",
    "read_choices": "measure.evidence_files",
    "scan": "sweeps.scan",
    **dict.fromkeys(("score", "tune"), "api.judging"),
    "SteerError": "errors",
    "Model": "models.load",
}
__all__ = [
    "Addition",
    "Model",
    "Recipe",
    "SteerError",
    "__version__",
    "bake",
    "export",
    "generate",
    "load_model",
    "load_recipe",
    "norms",
    "perplexity",
    "read_choices",
    "read_corpus",
    "scan",
    "score",
    "shift",
    "steering",
    "sweep",
    "tune",
    "vectors",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'steer_cli' has no attribute {name!r}")
    module = import_module(f"steer_cli.{_HOMES[name]}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
