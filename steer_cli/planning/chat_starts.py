"""Whether a row of tokens is a chat, by what it begins with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile

from steer_cli.errors import TokenError
from steer_cli.planning.tokens import Tokenizer
from steer_cli.recipe.chat import Chat, Turn


def chat_starts(tokenizer: Tokenizer) -> frozenset[tuple[int, ...]]:
    """What the template's chats begin with: a special token, or else all that stands before what is said.

    A text can begin with an ordinary token too, as with `User` of "User: ". Empty without a template.
    """
    starts: set[tuple[int, ...]] = set()
    for roles in (("user",), ("system", "user")):
        with suppress(TokenError):  # some models know no system turn
            chats = [Chat(chat=[Turn(role=role, content=said) for role in roles]) for said in "ab"]
            tokenizer.render(dict.fromkeys(chats, "chat"))  # both in one process
            pairs = zip(*map(tokenizer.prompt, chats), strict=False)
            shared = tuple(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            starts.add(shared[:1] if tokenizer.special(shared[:1]) else shared)
    return frozenset(starts - {()})


def begins_chat(ids: Sequence[int], starts: frozenset[tuple[int, ...]]) -> bool:
    return any(tuple(ids[: len(start)]) == start for start in starts)
