"""Read YAML text into plain values, keeping the line of each.

Plain scalars follow YAML 1.2, so `plus: Yes` and `minus: No` stay words and 12:30 is not a number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from steer_cli.errors import RecipeError
from steer_cli.recipe.quoting import Path, dotted

# JSON writes a character above U+FFFF as two escapes.
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def _joined(pair: re.Match) -> str:
    return pair[0].encode("utf-16", "surrogatepass").decode("utf-16")


class _Loader(yaml.SafeLoader):
    """A safe loader that follows YAML 1.2 for plain scalars and refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(
                None, None, f"not a mapping ({node.tag})", node.start_mark
            )
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value!r} is written twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            # An explicit tag, or a number with more digits than Python reads.
            fault = (
                "a number with too many digits"
                if "digits" in str(error)
                else f"{_one_line(error)} ({node.tag})"
            )
            raise yaml.constructor.ConstructorError(None, None, fault, node.start_mark) from None

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        node.value = _PAIR.sub(_joined, node.value)
        return node

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> str:
        text = super().construct_scalar(node)
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise yaml.constructor.ConstructorError(
                None, None, "half a character (a lone surrogate)", node.start_mark
            )
        return text


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?(?:0|[1-9][0-9]*)$", list("-+0123456789")),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", list("-+.0123456789")),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", list("-+.")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


_NOT_TEXT = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float")}


@dataclass(frozen=True)
class Override:
    """A value that replaces one in the document; errors call it `label`."""

    label: str
    path: Path
    value: Any
    text: str = ""  # the value as written
    assignment: str = ""  # KEY=VALUE if the change is part of the recipe's digest


@dataclass(frozen=True)
class Document:
    """Plain values and where each was set: `source:line`, or the label of a change."""

    source: str
    values: Any
    node: yaml.Node | None = None
    overrides: tuple[Override, ...] = field(default=())

    def place(self, path: Path) -> str:
        """Where the value at `path` was written, or else the nearest parent that was; and the path."""
        for override in reversed(self.overrides):
            shared = min(len(override.path), len(path))
            if path and override.path[:shared] == path[:shared]:
                return f"{override.label}: {dotted(path)}"
        return f"{self.source}:{self._find(path)[0]}: {dotted(path) or 'the document'}"

    def written(self, path: Path) -> str | None:
        """The text of a plain value as written, before YAML turned it into a number or flag."""
        for override in reversed(self.overrides):
            if override.path == path:
                return override.text
        _, node = self._find(path)
        return node.value if isinstance(node, yaml.ScalarNode) else None

    def _find(self, path: Path) -> tuple[int, yaml.Node | None]:
        """Line and node of a path; the nearest parent's line and no node if it was not written."""
        node, line = self.node, 1
        if node is not None:
            line = node.start_mark.line + 1
        for step in path:
            found = None
            if isinstance(node, yaml.MappingNode):
                found = next(((key, value) for key, value in node.value if key.value == step), None)
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
                found = (node.value[step], node.value[step])
            if found is None:
                return line, None
            line, node = found[0].start_mark.line + 1, found[1]
        return line, node


def parse(text: str, source: str) -> Document:
    """Read YAML text.

    Raises:
        RecipeError: the text is not one YAML document, or writes a key twice; the message names the line.
    """
    try:
        # The constructor already reads the text and refuses control characters.
        loader = _Loader(text)
        node = loader.get_single_node()
        _check_keys(node, source)
        values = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise RecipeError(
            [f"{source}{line}: not readable as YAML: {_one_line(error.problem or error.context)}"]
        ) from None
    except yaml.reader.ReaderError as error:
        raise RecipeError([_forbidden(error, text, source)]) from None
    except RecursionError:
        raise RecipeError([f"{source}: not readable as YAML: nested too deeply"]) from None
    return Document(source, values, node)


def check_characters(text: str, source: str) -> None:
    """Raise RecipeError if the text contains a control character, which YAML forbids; names the line."""
    try:
        yaml.reader.Reader(text)
    except yaml.reader.ReaderError as error:
        raise RecipeError([_forbidden(error, text, source)]) from None


def _forbidden(error: yaml.reader.ReaderError, text: str, source: str) -> str:
    line = text.count("\n", 0, error.position) + 1
    code = error.character if isinstance(error.character, int) else ord(error.character)
    return f"{source}:{line}: not readable as YAML: the character #x{code:04x} is not allowed"


def _check_keys(root: yaml.Node | None, source: str) -> None:
    """Refuse keys that YAML reads as a number, a flag or null: the format's keys are text."""
    waiting: list[tuple[yaml.Node | None, Path]] = [(root, ())]
    seen: set[int] = set()
    while waiting:
        node, path = waiting.pop()
        if id(node) in seen:  # an alias, which may lead back to its own parent
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += [(value, (*path, index)) for index, value in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag in _NOT_TEXT:
                    line, where = key.start_mark.line + 1, dotted((*path, key.value))
                    raise RecipeError([f'{source}:{line}: {where}: keys are text; quote it: "{key.value}"'])
                waiting.append((value, (*path, getattr(key, "value", ""))))


# Quotes exactly the words that the loader would not read as text.
_Dumper = type("_Dumper", (yaml.SafeDumper,), {"yaml_implicit_resolvers": _Loader.yaml_implicit_resolvers})


def _one_line(message: object) -> str:
    return " ".join(str(message).split())[:200]
