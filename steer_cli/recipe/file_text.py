"""A recipe -> the text of a file that reads back as the same recipe, laid out like those that ship."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any

import yaml
from pydantic import BaseModel

from steer_cli.recipe.schema import Addition, Recipe
from steer_cli.recipe.yaml_source import _Dumper

# Keys come in the order of the schema, after these.
FIRST = ("name", "description", "source", "measured")
# Keys that a reader looks for, even where their values are the defaults.
READ = ("name", "model", "sampling", "coefficient", "position")
# Keys of which a list or a mapping stands on one line.
ON_ONE_LINE = ("layer", "coefficient", "position", "random", "sampling", "vector")
WIDTH = 110  # columns; `sampling` with all of its keys stands on one line


class _FileDumper(_Dumper):
    """Indents lists below their keys."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
        return super().increase_indent(flow, False)


class _Line(dict):
    """A mapping that is written on one line."""


class _LineList(list):
    """A list that is written on one line."""


_FileDumper.add_representer(
    _Line, lambda dumper, value: dumper.represent_mapping("tag:yaml.org,2002:map", value, flow_style=True)
)
_FileDumper.add_representer(
    _LineList,
    lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True),
)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Texts with spaces at an end, or with line breaks, in double quotes: other quotes fold some breaks."""
    style = None if text and text == text.strip() and text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_FileDumper.add_representer(str, _text)


def as_values(recipe: Recipe) -> dict[str, Any]:
    """A recipe as a file holds it: without defaults, except for those that a reader looks for."""
    values = _kept(recipe)
    values["additions"] = [_kept(addition) for addition in recipe.additions]
    ahead = {key: values[key] for key in FIRST if key in values}
    return ahead | values


def as_file(recipe: Recipe) -> str:
    """The text of the recipe's file."""
    values = {key: _laid_out(key, value) for key, value in as_values(recipe).items()}
    return yaml.dump(values, Dumper=_FileDumper, sort_keys=False, allow_unicode=True, width=WIDTH)


def identified_by_file(recipe: Recipe) -> Recipe:
    """The recipe with the digest of the file that `as_file` would write."""
    recipe = recipe.model_copy()
    recipe._sha256 = hashlib.sha256(as_file(recipe).encode()).hexdigest()
    return recipe


def _kept(part: Recipe | Addition) -> dict[str, Any]:
    fields = type(part).model_fields
    return {
        fields[key].alias or key: _plain(key, value)
        for key, value in part
        if key in READ
        or fields[key].is_required()
        or value != fields[key].get_default(call_default_factory=True)
    }


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _plain(key, value.model_dump(exclude_none=True))
    if isinstance(value, tuple):
        return [_plain(key, entry) for entry in value]
    if isinstance(value, dict):
        return {name: _plain(name, entry) for name, entry in value.items()}
    if key in ("coefficient", "relative") and isinstance(value, float) and value.is_integer():
        return int(value)  # as a person writes it
    return value


def _laid_out(key: str, value: Any) -> Any:
    """The same values, with the mark of those that are written on one line."""
    if key == "count":
        return {label: _LineList(words) for label, words in value.items()}
    if isinstance(value, dict):
        inner = {name: _laid_out(name, entry) for name, entry in value.items()}
        return _Line(inner) if key in ON_ONE_LINE else inner
    if isinstance(value, list):
        return _LineList(value) if key in ON_ONE_LINE else [_laid_out("", entry) for entry in value]
    return value


# What a file says of its recipe, and the keys whose change makes it untrue.
_STALE = {
    "measured": {"model", "additions", "prompt", "prompts"},
    "description": {"model", "additions"},
    "source": {"additions"},
}


def without_stale(recipe: Recipe, changed: Collection[str]) -> Recipe:
    """A recipe without what its file says of it and no longer holds, now that these keys have changed."""
    gone = [key for key, causes in _STALE.items() if key not in changed and causes & {*changed}]
    return recipe.model_copy(update=dict.fromkeys(gone, "")) if gone else recipe
