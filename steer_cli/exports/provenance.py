"""What a file of vectors says of the recipe and the model that it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steer_cli.errors import VectorFileError
from steer_cli.exchange.stored import StoredVectors, read_vectors
from steer_cli.planning.alignment import Alignment
from steer_cli.recipe.file_text import as_file, as_values, identified_by_file
from steer_cli.recipe.named_files import located
from steer_cli.recipe.schema import Recipe
from steer_cli.recipe.sources import VectorFile
from steer_cli.version import __version__

if TYPE_CHECKING:
    from steer_cli.models.load import Model


def provenance(recipe: Recipe, model: Model) -> dict[str, str]:
    """The recipe, its digest, the model and steer's version, as texts by their names."""
    said = {
        "model": model.name,
        "revision": model.located.revision,
        "dtype": model.dtype,
        "steer_version": __version__,
        "recipe": as_file(recipe),
        "recipe_sha256": digest_of(recipe),
    }
    # The name of a folder need not be UTF-8.
    return {
        key: text.encode(errors="backslashreplace").decode() for key, text in said.items() if text is not None
    }


def digest_of(recipe: Recipe) -> str:
    """The digest that records have; of a recipe made in Python, that of the file that would be saved."""
    return recipe.sha256 or identified_by_file(recipe).sha256


def stated_additions(recipe: Recipe) -> str:
    """What a recipe says of how each of its vectors is used, as JSON."""
    additions: list[dict[str, Any]] = as_values(recipe)["additions"]
    uses = [
        {
            "position": addition["position"],
            "coefficient": addition["coefficient"],
            "operation": addition.get("operation", "add"),
        }
        for addition in additions
    ]
    return json.dumps(uses, ensure_ascii=False)


def only_source(recipe: Recipe, alignments: Sequence[Alignment]) -> StoredVectors | None:
    """The file that all vectors of a recipe come from; None where there is none, or several."""
    digests = {alignment.stored.sha256 if alignment.stored else None for alignment in alignments}
    vector = recipe.additions[0].vector
    if len(digests) > 1 or vector is None:
        return None
    name = vector.file if isinstance(vector, VectorFile) else vector
    try:
        found = read_vectors(located(recipe, name), recipe.additions[0].origin)
    except VectorFileError:  # it was read before, and has changed since
        return None
    return found if found.sha256 in digests else None


def same_model(said: Mapping[str, str], stated: Mapping[str, str]) -> bool:
    """Whether a file, which says `stated`, is of the model of a provenance."""
    return all(said.get(key) == stated.get(key) for key in ("model", "revision"))
