"""Render chats with a model's template: a program of its own, which `chat` runs and whose time is limited.

A template is code that came with a model. Here it can reach nothing but the turns: jinja2's sandbox keeps it
from attributes and changes, and the system keeps it from memory, time and files. Standard input holds one
JSON object, standard output a pair for each chat: what became of it, and the text or the reason.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from datetime import datetime
from typing import Any

LONGEST = 20_000_000  # characters of a rendered chat; twice the longest turn


def main() -> None:
    """Answer what standard input asks."""
    asked = json.load(sys.stdin)
    sys.path[:0] = asked["path"]
    _limit(asked["seconds"], asked["bytes"])
    json.dump(_answers(asked), sys.stdout)


def _limit(seconds: int, most_bytes: int) -> None:
    with suppress(ImportError):  # there is no such module on Windows
        import resource

        limits = {"CPU": seconds, "AS": most_bytes, "FSIZE": 0, "CORE": 0}
        for name, most in limits.items():
            with suppress(ValueError, OSError):  # macOS refuses a limit of memory
                resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))


def _answers(asked: dict[str, Any]) -> list[tuple[str, str]]:
    environment, refused = _environment()
    try:
        template = environment.from_string(asked["template"])
    except Exception as error:  # of jinja2, or of Python's compiler
        return [("fault", _reason(error))] * len(asked["chats"])
    answers = []
    for chat in asked["chats"]:
        try:
            answers.append(("text", _text(template, chat, asked["tokens"])))
        except refused as error:
            answers.append(("refused", str(error)))
        except Exception as error:  # whatever an expression of the template raises
            answers.append(("fault", _reason(error)))
    return answers


def _text(template: Any, chat: list[dict[str, str]], tokens: dict[str, str]) -> str:
    """The rendered chat, up to the header of the answer."""
    # What transformers passes; a template tells apart what is None, empty or undefined.
    variables = {"messages": chat, "tools": None, "documents": None, "add_generation_prompt": True, **tokens}
    parts: list[str] = []
    length = 0
    for part in template.generate(**variables):
        length += len(part)
        if length > LONGEST:
            raise MemoryError
        parts.append(part)
    text = "".join(parts)
    text.encode()  # raises where there is half a character in it
    return text


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "it needs too much memory"
    line = getattr(error, "lineno", None)
    said = " ".join(str(error).split())[:200] or type(error).__name__
    return f"line {line}: {said}" if line else said


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # That of jinja2 writes HTML's signs as escapes.
    layout: dict[str, Any] = {"indent": indent, "separators": separators, "sort_keys": sort_keys}
    return json.dumps(value, ensure_ascii=ensure_ascii, **layout)


class _Dictionary:
    """`dict`, without the attributes of the class."""

    def __call__(self, *args: Any, **named: Any) -> dict:
        return dict(*args, **named)

    def fromkeys(self, *args: Any) -> dict:
        return dict.fromkeys(*args)


def _generation() -> type:
    from jinja2 import nodes
    from jinja2.ext import Extension

    class Generation(Extension):
        """`{% generation %}` marks what an assistant says, for training; here it is a plain block."""

        tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    return Generation


def _environment() -> tuple[Any, type[Exception]]:
    """The environment that transformers gives its templates, and what their `raise_exception` raises."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

    class Refused(jinja2.TemplateError):
        """The template does not accept the turns."""

    class Namespace(jinja2.utils.Namespace):
        """A namespace without names that begin with an underscore, which may lead out of the sandbox."""

        def __init__(*args: Any, **named: Any) -> None:
            self, *values = args  # so that a template may use the name `self`
            whole = dict(*values, **named)
            for name in whole:
                _check(name)
            jinja2.utils.Namespace.__init__(self, whole)

        def __setitem__(self, name: str, value: Any) -> None:
            _check(name)
            super().__setitem__(name, value)

    def _check(name: object) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"a namespace has no attribute {name!r}")

    def refuse(message: object = "") -> None:
        raise Refused(str(message))

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_generation(), "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(
        raise_exception=refuse,
        strftime_now=lambda format: datetime.now().strftime(format),
        namespace=Namespace,
        dict=_Dictionary(),
    )
    return environment, Refused


if __name__ == "__main__":
    main()
