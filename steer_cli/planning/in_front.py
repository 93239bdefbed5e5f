"""Prompting as a baseline: texts that stand in front of a prompt as tokens, instead of a vector.

Of additions that steer towards chats, it is what the system says in them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from steer_cli.errors import PlanError
from steer_cli.planning.alignment import Alignment
from steer_cli.planning.tokens import Tokenizer
from steer_cli.recipe.chat import Chat, Turn
from steer_cli.recipe.quoting import show

LONGEST_NAME = 32  # characters of a text in the name of a column


@dataclass(frozen=True)
class Front:
    """Texts that stand one after the other, of `count` that there are; the others do not fit."""

    texts: tuple[str, ...]
    count: int

    @property
    def text(self) -> str:
        """All of it, with a space where two texts would run into each other."""
        whole = ""
        for text in self.texts:
            whole += gap(whole, text) + text
        return whole

    @property
    def name(self) -> str:
        """A short form: the first text, and how many follow it."""
        first, more = self.texts[0], len(self.texts) - 1
        first = first if len(first) <= LONGEST_NAME else f"{first[: LONGEST_NAME - 3]}..."
        return show(first) + (f" and {more} more" if more else "") + self.cut

    @property
    def cut(self) -> str:
        """What to say where not all texts fit."""
        return f" ({len(self.texts)} of {self.count} fit)" if len(self.texts) < self.count else ""


def gap(left: str, right: str) -> str:
    """A space, unless there is one already or nothing is to be kept apart."""
    apart = not left or not right or left[-1].isspace() or right[0].isspace()
    return "" if apart else " "


def steers_to_chats(alignments: Iterable[Alignment]) -> bool:
    """Whether any addition steers towards a chat."""
    return any(isinstance(side, Chat) for alignment in alignments for side in _sides_towards(alignment))


def texts_towards(alignments: Iterable[Alignment], system: bool = False) -> tuple[str, ...]:
    """The different texts that additions steer towards, in their order.

    Args:
        system: of chats, what the system says in them.

    Raises:
        PlanError: an addition steers towards something else, or towards nothing.
    """
    sides: dict[str | Chat, None] = {}
    for alignment in alignments:
        if alignment.stored is not None:
            raise PlanError(f"the stored vector {alignment.label} has no text to put in front")
        if alignment.addition.operation == "ablate":
            raise PlanError(f"the direction {alignment.label} is ablated, which no text in front does")
        towards = [
            side
            for side in _sides_towards(alignment)
            if side is not None and (isinstance(side, Chat) or side.strip())
        ]
        if not towards:
            raise PlanError(f"the addition {alignment.label} steers away from a text, and towards none")
        sides |= dict.fromkeys(towards)
    if not system:
        if any(isinstance(side, Chat) for side in sides):
            raise PlanError("a chat stands in front of chats alone")
        return tuple(side for side in sides if isinstance(side, str))
    said = [side.said_by("system") if isinstance(side, Chat) else "" for side in sides]
    if not all(said):
        raise PlanError("not every chat has a system turn, which alone can stand in front of a chat")
    return tuple(dict.fromkeys(said))


def _sides_towards(alignment: Alignment) -> list[str | Chat | None]:
    """What an addition steers towards: plus, or minus where its coefficient is negative."""
    lists, backwards = alignment.lists, alignment.backwards
    if lists is not None:
        return [row.text for row in (lists.minus if backwards else lists.plus)]
    return [pair.minus if backwards else pair.plus for pair in alignment.addition.all_pairs]


def before_chat(front: str, chat: Chat, system: bool) -> Chat:
    """A chat with a text in front of what the user, or the system, says first."""
    role = "system" if system else "user"
    turns = list(chat.chat)
    index = next((number for number, turn in enumerate(turns) if turn.role == role), None)
    if index is not None:
        content = turns[index].content
        between = "\n\n" if system else gap(front, content)
        turns[index] = turns[index].model_copy(update={"content": f"{front}{between}{content}"})
    else:
        turns.insert(0, Turn(role=role, content=front))
    return chat.model_copy(update={"chat": tuple(turns)})


def fitting(texts: Sequence[str], room: int | None, tokenizer: Tokenizer) -> Front:
    """As many of the texts, from the first on, as have `room` tokens or fewer, but at least one."""

    def length(count: int) -> int:
        return len(tokenizer.encode(Front(tuple(texts[:count]), count).text))

    counts = range(1, len(texts) + 1)
    kept = len(texts) if room is None else max(1, bisect_right(counts, room, key=length))
    return Front(tuple(texts[:kept]), len(texts))
