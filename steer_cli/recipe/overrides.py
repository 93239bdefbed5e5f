"""Replace values of a document, written as KEY=VALUE or given by a program."""

from __future__ import annotations

import json
from typing import Any

import yaml

from steer_cli.errors import RecipeError
from steer_cli.recipe.quoting import Path, dotted, show
from steer_cli.recipe.yaml_source import Document, Override, _Loader, _one_line, parse

# Keys whose number a mapping may replace: additions.0.coefficient.relative=0.8.
NUMBER_OR_MAPPING = (("coefficient",),)


def parse_override(assignment: str, label: str | None = None) -> Override:
    """Parse a change such as `additions.0.coefficient=3`. A value that starts with [ { " or ' is YAML.

    Args:
        label: the name of the change in errors; by default "set KEY=VALUE".

    Raises:
        RecipeError: there is no `=`, or the value cannot be read.
    """
    label = f"set {assignment}" if label is None else label
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise RecipeError([f"{label}: write KEY=VALUE, such as additions.0.coefficient=3"])
    path = tuple(int(step) if step.isdecimal() and len(step) < 9 else step for step in key.strip().split("."))
    if text.lstrip()[:1] in tuple("[{\"'"):
        return Override(label, path, parse(text, label).values, text, assignment)
    # Any other text is a plain scalar, even if it contains a colon, so sentences need no extra quotes.
    node = yaml.ScalarNode(_Loader("").resolve(yaml.ScalarNode, text, (True, False)), text)
    try:
        return Override(label, path, _Loader("").construct_object(node), text, assignment)
    except yaml.MarkedYAMLError as error:
        raise RecipeError([f"{label}: {_one_line(error.problem)}"]) from None


def value_override(path: str, value: Any) -> Override:
    """An override of the value at a path such as `additions.0.coefficient`."""
    steps = tuple(int(step) if step.isdecimal() and len(step) < 9 else step for step in path.split("."))
    written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return Override("changes", steps, value, str(value), f"{path}={written}")


def override(document: Document, changes: list[Override]) -> Document:
    """A copy of the document with the changes applied in order.

    Raises:
        RecipeError: a path leads through a missing entry or a value without entries.
    """
    values = document.values
    for change in changes:
        values = _replaced(values, change.path, change, ())
    return Document(document.source, values, document.node, document.overrides + tuple(changes))


def _replaced(values: Any, path: Path, change: Override, above: Path) -> Any:
    if not path:
        return change.value
    step, rest = path[0], path[1:]
    if isinstance(values, list):
        if not isinstance(step, int) or step >= len(values):
            where = ".".join(map(str, above))
            raise RecipeError(
                [f"{change.label}: {where} has entries 0 to {len(values) - 1}, and no entry {step!r}"]
            )
        return [_replaced(v, rest, change, (*above, step)) if i == step else v for i, v in enumerate(values)]
    if isinstance(values, dict) or values is None or above[-1:] in NUMBER_OR_MAPPING:
        values = values if isinstance(values, dict) else {}
        return {**values, step: _replaced(values.get(step), rest, change, (*above, step))}
    raise RecipeError([f"{change.label}: {dotted(above)} is {show(values)}, which has no entry {step!r}"])
