"""Turn the two texts of a pair into rows of equal length."""

from __future__ import annotations

from dataclasses import dataclass, field

from steer_cli.errors import TokenError
from steer_cli.planning.tokens import Tokenizer, _token_id
from steer_cli.recipe.chat import Chat, side_names
from steer_cli.recipe.quoting import show


@dataclass(frozen=True)
class TokenRow:
    """One text of an addition: BOS and the text, or a chat; and pads.

    `read` is [start, end) of the tokens whose mean is the text's one row; None where every token has its own.
    """

    ids: tuple[int, ...]
    pads: int = 0
    read: tuple[int, int] | None = field(default=None, compare=False)
    text: str = field(default="", compare=False)


@dataclass(frozen=True)
class AlignedPair:
    """The two rows of a pair; `minus` is None if nothing is subtracted."""

    plus: TokenRow
    minus: TokenRow | None

    @property
    def length(self) -> int:
        """Positions that the pair's vector covers."""
        return max(len(self.plus.ids), len(self.minus.ids) if self.minus else 0)


def pad_id(tokenizer: Tokenizer, pad: str, where: str) -> int | None:
    """The id that pads the shorter text of a pair; None for `none`.

    Raises:
        TokenError: `pad` is not one token of this tokenizer; the message names `where`.
    """
    if pad == "none":
        return None
    if pad == "eos":
        if not tokenizer.eos:
            raise TokenError(
                f"{where}.pad: the tokenizer has no EOS; use `pad: space` or a text of one token"
            )
        return tokenizer.eos[0]
    if pad == "space":
        # Some tokenizers put a space in front of every text, and would encode a lone space as two.
        for sign in ("Ġ", "▁", " "):
            id = tokenizer.backend.token_to_id(sign)
            if id is not None and tokenizer.piece(id) == " ":
                return id
    id = _token_id(tokenizer.backend, " " if pad == "space" else pad, tokenizer.folder)
    if id is None:
        raise TokenError(
            f"{where}.pad: {show(pad)} is not one token of this model; use eos, none or a single token"
        )
    return id


def align(tokenizer: Tokenizer, plus: str | Chat, minus: str | Chat | None, pad: int | None) -> AlignedPair:
    """Turn a pair of texts or chats into rows of the same length, padding the shorter one on the right.

    Pads are ordinary tokens and are attended to. Without a pad, each side keeps its own length.
    """
    rows = [tokenizer.prompt(text) for text in (plus, minus) if text is not None]
    length = 0 if pad is None else max(map(len, rows))
    padded = []
    for ids, name in zip(rows, side_names(plus, minus), strict=False):
        added = () if pad is None else (pad,) * (length - len(ids))
        padded.append(TokenRow(ids + added, len(added), text=name or ""))
    return AlignedPair(padded[0], padded[1] if minus is not None else None)


def one_row(tokenizer: Tokenizer, text: str | Chat, read: str, name: str) -> TokenRow:
    """A text that makes one row: its last token, or the mean over all but BOS (of a chat, but the first).

    `read` of the result is empty where there is no such token; `name` is its short form.
    """
    ids = tokenizer.prompt(text)
    apart = int(isinstance(text, Chat) or ids[:1] == (tokenizer.bos,))
    first = apart if read == "mean" else max(0, len(ids) - 1)
    return TokenRow(ids, read=(first, len(ids)), text=name)
