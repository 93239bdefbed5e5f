"""A model's chat template, and the texts that it makes of chats.

The template is rendered as transformers does, but in a process that has little memory and time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from steer_cli.errors import TokenError
from steer_cli.planning import chat_sandbox
from steer_cli.planning.json_file import MOST_BYTES, read_object, read_text
from steer_cli.recipe.chat import Chat
from steer_cli.recipe.quoting import Path as Steps
from steer_cli.recipe.quoting import dotted, show
from steer_cli.recipe.schema import Recipe

FILE = "chat_template.jinja"
LONGEST_TEMPLATE = 500_000  # characters; the largest known have a tenth of it
SECONDS, WAITING, MEMORY = 3, 10, 1 << 30  # of computing, in all, and bytes; a template needs milliseconds
CHATS_PER_SECOND = 200  # at the least
LONGEST_REASON = 160  # characters of what a template says


@dataclass(frozen=True)
class Template:
    """A chat template, where it stands, and the texts of the special tokens by the names it has for them."""

    source: str
    place: str
    tokens: Mapping[str, str]


def folder_template(folder: Path) -> Template | None:
    """The chat template of a model's folder; None if it has none.

    Raises:
        TokenError: a file cannot be read, or holds something else.
    """
    place = folder / FILE
    try:
        alone = read_text(place, 4 * LONGEST_TEMPLATE) if os.path.lexists(place) else None
        place = folder / "special_tokens_map.json"
        named = read_object(place, MOST_BYTES)
        place = folder / "tokenizer_config.json"
        config = read_object(place, MOST_BYTES)
    except ValueError as error:
        raise TokenError(f"{place}: {error}") from None
    source = config.get("chat_template") if alone is None else alone
    stated = named | config
    more = stated.get("extra_special_tokens")  # of a kind of model, by their names
    stated |= more if isinstance(more, dict) else {}
    tokens = {key: _token(value) for key, value in stated.items() if key.endswith("_token")}
    kept = {key: token for key, token in tokens.items() if token is not None}
    return made_template(source, str(folder / FILE if alone is not None else place), kept)


def made_template(source: object, place: str, tokens: Mapping[str, str]) -> Template | None:
    """A template of a text, or of several by their names, of which `default` is taken; None of None.

    Raises:
        TokenError: it is none of them, or too long.
    """
    if source is None:
        return None
    if isinstance(source, list):  # as tokenizer_config.json holds several
        entries = [entry for entry in source if isinstance(entry, dict)]
        source = {str(entry.get("name")): entry.get("template") for entry in entries}
    if isinstance(source, Mapping):
        if "default" not in source:
            names = ", ".join(map(show, source)) or "none"
            raise TokenError(f"{place}: chat_template: none is named default; it has {names}")
        source = source["default"]
    if not isinstance(source, str):
        raise TokenError(f"{place}: chat_template: not a text")
    if len(source) > LONGEST_TEMPLATE:
        raise TokenError(f"{place}: chat_template: {len(source)} characters, more than {LONGEST_TEMPLATE}")
    return Template(source, place, tokens)


def _token(value: Any) -> str | None:
    # Older releases of transformers save special tokens as objects.
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def chats_of(recipe: Recipe) -> dict[Chat, str]:
    """All chats of a recipe, and what errors call the place of each."""
    places: dict[Chat, str] = {}
    for path, text in _texts(recipe):
        if isinstance(text, Chat):
            place = recipe.change_of(*path) or f"{recipe.label}: {dotted(path)}"
            places.setdefault(text, place)
    return places


def _texts(recipe: Recipe) -> Iterator[tuple[Steps, str | Chat | None]]:
    yield ("prompt",), recipe.prompt
    yield from ((("prompts", number), prompt) for number, prompt in enumerate(recipe.prompts))
    for index, addition in enumerate(recipe.additions):
        for number, pair in enumerate(addition.all_pairs):
            within: Steps = ("pairs", number) if addition.pairs else ()
            for side, text in (("plus", pair.plus), ("minus", pair.minus)):
                yield ("additions", index, *within, side), text


@dataclass
class Renderer:
    """Makes texts of chats with one model's template, each text once.

    `template` reads the template, when there is a chat; `model` is what errors call the model.
    """

    template: Callable[[], Template | None] = lambda: None
    model: str = ""
    backend: Backend | None = None
    texts: dict[Chat, str] = field(default_factory=dict)

    def render(self, chats: Mapping[Chat, str]) -> None:
        """Put each chat's text, up to the header of the answer, into `texts`. Each call starts a process.

        Args:
            chats: with the place of each, for errors.

        Raises:
            TokenError: there is no template, it refuses a chat or is at fault, or it takes too long.
        """
        new = {chat: place for chat, place in chats.items() if chat not in self.texts}
        if not new:
            return
        template = self.template()
        if template is None:
            raise TokenError(
                f"{next(iter(new.values()))}: a chat, but the model has no chat template; write a text, take "
                f"a model made for chats, or put its {FILE} into {self.model}"
            )
        if self.backend is not None:
            # As transformers does: what the model's files name as special is special.
            named = (
                token for token in template.tokens.values() if self.backend.token_to_id(token) is not None
            )
            self.backend.add_special_tokens([*named])
        self.texts |= _texts_by(template, new)


def _texts_by(template: Template, chats: Mapping[Chat, str]) -> dict[Chat, str]:
    """The text of each chat; see `Renderer`."""
    texts = {}
    answers = _run(template, [chat.record()["chat"] for chat in chats])
    for (chat, place), (kind, answer) in zip(chats.items(), answers, strict=True):
        if kind == "refused":
            reason = show(" ".join(answer.split()), LONGEST_REASON)
            raise TokenError(f"{place}: the model's chat template refuses it: {reason}; change the turns")
        if kind != "text":
            raise TokenError(
                f"{place}: the model's chat template cannot be used: {answer}; correct {template.place}"
            )
        texts[chat] = answer
    return texts


def _run(template: Template, chats: list[list[dict[str, str]]]) -> list[tuple[str, str]]:
    # -I and -S: nothing but jinja2 is imported, wherever the command runs.
    command = [sys.executable, "-I", "-S", "-B", chat_sandbox.__file__]
    found = [find_spec(name) for name in ("jinja2", "markupsafe")]
    if not all(found):
        raise TokenError("chat template: needs jinja2; install it with: pip install jinja2")
    seconds = SECONDS + len(chats) // CHATS_PER_SECOND
    asked = {
        "path": sorted({str(Path(spec.origin).parents[1]) for spec in found if spec and spec.origin}),
        "template": template.source,
        "tokens": dict(template.tokens),
        "chats": chats,
        "seconds": seconds,
        "bytes": MEMORY,
    }
    remedy = f"correct {template.place}"
    try:
        done = subprocess.run(
            command,
            input=json.dumps(asked).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=WAITING + seconds - SECONDS,
            check=True,
        )
        return json.loads(done.stdout)
    except OSError as error:
        raise TokenError(f"chat template: {sys.executable} cannot be started: {error.strerror}") from None
    except (subprocess.SubprocessError, ValueError):
        raise TokenError(
            f"{template.place}: the chat template takes too much time or memory, or cannot be run; {remedy}"
        ) from None
