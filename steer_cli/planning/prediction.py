"""Which tokens a measurement looks for, and the position from which it predicts."""

from __future__ import annotations

from collections.abc import Sequence

from steer_cli.errors import PlanError, TokenError
from steer_cli.planning.plan import PlannedPrompt
from steer_cli.planning.tokens import Tokenizer
from steer_cli.recipe.quoting import show


def wanted_ids(words: Sequence[str], tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens that may stand for a word: as written, and with a space before it.

    Raises:
        TokenError: neither is one token of the model.
    """
    ids: list[int] = []
    for word in words:
        forms = {tokenizer.encode(form) for form in (word, " " + word.lstrip())}
        single = sorted(form[0] for form in forms if len(form) == 1) if word else []
        if not single:
            pieces = ", ".join(show(tokenizer.piece(id)) for id in tokenizer.encode(word)) or "none"
            raise TokenError(
                f"want {show(word)}: not one token of this model but {pieces}; choose another word",
                parameter="want",
            )
        ids += single
    return tuple(dict.fromkeys(ids))


def place_in(prompt: PlannedPrompt, position: int | None) -> int:
    """A position of a prompt, counted from its start.

    Raises:
        PlanError: the prompt has no such position.
    """
    count = len(prompt.ids)
    found = count - 1 if position is None else position + count if position < 0 else position
    if not 0 <= found < count:
        raise PlanError(
            f"position {position}: prompt {show(prompt.text)} has positions 0 to {count - 1}; choose one",
            parameter="position",
        )
    return found
