"""A chat in the place of a text: turns, which the model's own template makes into tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from steer_cli.errors import RecipeError
from steer_cli.recipe import bounds
from steer_cli.recipe.part import PARTS, Part
from steer_cli.recipe.quoting import show


class Turn(Part):
    """What one side of a chat says."""

    role: Annotated[
        bounds.Word,
        Field(description="who speaks, as the model's template calls it: system, user, assistant"),
    ]
    content: Annotated[bounds.Text, Field(description="what is said")]


class Chat(Part):
    """Turns of a chat, after which the model answers; `continue` starts its answer."""

    chat: Annotated[
        tuple[Turn, ...],
        Field(strict=False, min_length=1, description="turns such as {role: user, content: Hello}"),
    ]
    continuation: Annotated[
        bounds.Text | None, Field(alias="continue", description="how the answer starts")
    ] = None

    def __init__(self, /, **values: Any) -> None:
        """`continue` is a keyword of Python, so `continuation` is another name for it here."""
        if "continuation" in values and "continue" not in values:
            values["continue"] = values.pop("continuation")
        super().__init__(**values)

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # see Part

    @property
    def text(self) -> str:
        """What the model answers, for screens and records: the user's last turn, and the answer's start."""
        asked = [turn.content for turn in self.chat if turn.role == "user"] or [self.chat[-1].content]
        return f"{asked[-1]}\n{self.continuation}" if self.continuation else asked[-1]

    def said_by(self, role: str) -> str:
        """All that one side says, turn by turn."""
        return "\n\n".join(turn.content for turn in self.chat if turn.role == role)

    def record(self) -> dict[str, Any]:
        """The keys of the chat in records: those of a recipe's file."""
        return self.model_dump(mode="json", exclude_none=True)

    def last_to_differ(self, other: Chat) -> str:
        """The last thing in this chat that the other does not say in the same place."""
        if self.continuation != other.continuation:
            return self.continuation or ""
        turns: list[Turn | None] = [*other.chat]
        turns += [None] * len(self.chat)
        odd = [(mine, its) for mine, its in zip(self.chat, turns, strict=False) if mine != its]
        if not odd:
            return self.text
        mine, its = odd[-1]
        return mine.role if its is not None and mine.content == its.content else mine.content


TextOrChat = bounds.Text | Chat


def checked_prompt(value: Any) -> str | Chat:
    """A prompt as a program gives it: a text, a chat, or a mapping with a chat's keys.

    Raises:
        RecipeError: it is none of them, or a text that is not valid UTF-8 or too long.
    """
    if isinstance(value, Mapping):
        return Chat(**{str(key): inner for key, inner in value.items()})
    if isinstance(value, Chat):
        return value
    if not isinstance(value, str):
        raise RecipeError([f"prompt {show(value)}: not a text, or a mapping such as {{'chat': [...]}}"])
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise RecipeError([f"prompt {show(value)}: not UTF-8 text; save it as UTF-8"])
    if len(value) > bounds.LONGEST_TEXT:
        raise RecipeError([f"prompt {show(value)}: more than {bounds.LONGEST_TEXT} characters; shorten it"])
    return value


def text_of(text: str | Chat) -> str:
    """A text, or a chat's short form."""
    return text.text if isinstance(text, Chat) else text


def side_names(plus: str | Chat, minus: str | Chat | None) -> tuple[str, str | None]:
    """Short forms of the sides of a pair; of two chats, what only one of them says."""
    if isinstance(plus, Chat) and isinstance(minus, Chat):
        return plus.last_to_differ(minus), minus.last_to_differ(plus)
    return text_of(plus), None if minus is None else text_of(minus)


PARTS.update(chat=Turn, **dict.fromkeys(("plus", "minus", "prompt", "prompts"), Chat))
