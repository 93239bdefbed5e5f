"""Turn texts into token ids, and the two texts of a pair into rows of equal length.

Every text is tokenised without special tokens, and one BOS is put in front. A chat has the tokens that
the model's template gives it, special ones included, and no other BOS.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from threading import Lock

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from steer_cli.errors import TokenError
from steer_cli.planning.chat import Renderer, Template, folder_template
from steer_cli.planning.token_files import check_ids, check_vocabulary, stated_ids, stated_tokens
from steer_cli.recipe.chat import Chat
from steer_cli.recipe.quoting import show

# Held while a tokenizer reads a text: whether it takes special tokens for text is a state of its own.
_READING = Lock()


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer and the ids that begin and end a text."""

    backend: Backend
    folder: str
    bos: int | None
    eos: tuple[int, ...]  # any of them ends a row; the first is the tokenizer's own
    embeddings: int | None = None  # number of tokens with an embedding, if config.json states it
    renderer: Renderer = field(default_factory=Renderer, repr=False, compare=False)

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids without BOS; a special token spelled out in the text is ordinary text.

        Raises:
            TokenError: the tokenizer cannot read a special token's text as ordinary text, or the model has
                no embedding for one of the tokens.
        """
        with _reading(self.folder), _READING:
            ids = tuple(self.backend.encode(text, add_special_tokens=False).ids)
        # A Unigram vocabulary also holds its special tokens as pieces and matches them in texts.
        for id in self._special.keys() & set(ids):
            if self._special[id] in text:
                raise TokenError(
                    f"{show(text)}: this model's tokenizer takes {show(self._special[id])} for a special "
                    "token and cannot read it as text; remove it"
                )
        return self.within(ids)

    def special(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Where special tokens stand among these."""
        return tuple(index for index, id in enumerate(ids) if id in self._special)

    @cached_property
    def _special(self) -> dict[int, str]:
        added = self.backend.get_added_tokens_decoder()
        return {id: token.content for id, token in added.items() if token.special}

    def within(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Return the ids unchanged; raise TokenError if the model has no embedding for one of them."""
        if self.embeddings is not None and (odd := [id for id in ids if not 0 <= id < self.embeddings]):
            raise TokenError(
                f"{self.folder}: the tokenizer gives token {odd[0]} and the model has embeddings for "
                f"{self.embeddings} (the tokenizer has {self.backend.get_vocab_size()} tokens); "
                "use the tokenizer that belongs to the model"
            )
        return ids

    def prompt(self, text: str | Chat) -> tuple[int, ...]:
        """Token ids of a prompt: a text with BOS in front, or a chat up to where the model goes on.

        Raises:
            TokenError: as `encode` and `render`.
        """
        if isinstance(text, Chat):
            self.render({text: "chat"})
            rendered = self.renderer.texts[text]
            return (*self._encode_rendered(rendered), *self.encode(text.continuation or ""))
        return (*(() if self.bos is None else (self.bos,)), *self.encode(text))

    def render(self, chats: Mapping[Chat, str]) -> None:
        """Render chats for `prompt`, all in one go; see `Renderer`."""
        _ = self._special  # those of the tokenizer's own file: the renderer adds others, for chats alone
        self.renderer.render(chats)

    def _encode_rendered(self, text: str) -> tuple[int, ...]:
        """Token ids of a rendered chat, in which special tokens are special."""
        with _reading(self.folder), _READING:
            self.backend.encode_special_tokens = False
            try:
                ids = tuple(self.backend.encode(text, add_special_tokens=False).ids)
            finally:
                self.backend.encode_special_tokens = True
        return self.within(ids)

    def decode(self, ids: tuple[int, ...]) -> str:
        """Text of token ids, special tokens included."""
        with _reading(self.folder):
            return self.backend.decode(list(ids), skip_special_tokens=False)

    def piece(self, id: int) -> str:
        """The text of a token in mid-text, since some decoders strip a space at the start of a text."""
        return self.decode((id, id))[len(self.decode((id,))) :]

    def completion(self, prompt: tuple[int, ...], ids: tuple[int, ...]) -> str:
        """The text that follows the prompt, without a final EOS."""
        ids = ids[:-1] if ids and ids[-1] in self.eos else ids
        before, whole = self.decode(prompt), self.decode(prompt + ids)
        return whole[len(before) :] if whole.startswith(before) else self.decode(ids)


def open_tokenizer(folder: Path, bos: str = "auto", also_eos: str | None = None) -> Tokenizer:
    """Read a folder's tokenizer.json (or GPT-2's vocab.json and merges.txt).

    Args:
        bos: auto (the tokenizer's BOS, else the one in config.json, else EOS), none, or the text of one
            token.
        also_eos: the text of another token that ends a row.

    Raises:
        TokenError: the folder has no tokenizer, or the tokenizer has no such token.
    """
    with _reading(folder), _silent_panics():
        backend = _backend(folder)
        # Many faults of a tokenizer only show when it is used.
        backend.decode(backend.encode("a", add_special_tokens=False).ids or [0], skip_special_tokens=False)
    tokens, ids = stated_tokens(folder), stated_ids(folder)
    if ids.embeddings is not None:
        # Added tokens are not counted: texts need not contain those that the model lacks.
        check_vocabulary(folder, backend.get_vocab_size(with_added_tokens=False), ids.embeddings)
    named = {key: _token_id(backend, token, folder) for key, token in tokens.items()}
    ends = [named["eos"], *ids.eos]
    if also_eos is not None:
        ends.append(_token_id(backend, also_eos, folder))
    eos = tuple(dict.fromkeys(id for id in ends if id is not None))
    if bos == "none":
        first = None
    elif bos == "auto":
        first = named["bos"] if named["bos"] is not None else ids.bos
        first = first if first is not None or not eos else eos[0]
        if first is None:
            raise TokenError(
                f"{folder}: bos: the tokenizer has neither BOS nor EOS; write `bos: none` or a token"
            )
    else:
        first = _token_id(backend, bos, folder)
        if first is None:
            raise TokenError(
                f"{folder}: bos: {show(bos)} is not a token of this model; write auto, none or a token"
            )
    check_ids(folder, {"bos": () if first is None else (first,), "eos": eos}, ids.embeddings)
    renderer = Renderer(partial(folder_template, folder), str(folder), backend)
    return Tokenizer(backend, str(folder), first, eos, ids.embeddings, renderer)


def wrap_tokenizer(
    backend: Backend,
    name: str,
    bos: int | None,
    eos: tuple[int, ...],
    template: Callable[[], Template | None],
) -> Tokenizer:
    """Wrap a tokenizer that is already open, without changing it.

    Args:
        bos: the id to put in front of every text; None for no BOS.
        eos: the ids that end a row.
        template: returns its chat template; called if there is a chat.
    """
    backend = _exact(Backend.from_str(backend.to_str()))
    return Tokenizer(backend, name, bos, eos, renderer=Renderer(template, name, backend))


@contextmanager
def _reading(folder: Path | str) -> Iterator[None]:
    """Turn anything that the tokenizers library raises into a TokenError."""
    try:
        yield
    except (TokenError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except (
        BaseException
    ) as error:  # a broken file raises Exception itself; a Rust panic is only a BaseException
        reason = " ".join(str(error).split())[:160]
        raise TokenError(f"{folder}: the tokenizer cannot be read: {reason}") from None


@contextmanager
def _silent_panics() -> Iterator[None]:
    """Discard the panic messages that Rust writes directly to standard error."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _backend(folder: Path) -> Backend:
    whole, vocabulary, merges = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    if whole.is_file():
        return _exact(Backend.from_file(str(whole)))
    if vocabulary.is_file() and merges.is_file():
        backend = Backend(models.BPE.from_file(str(vocabulary), str(merges)))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens([t for t in ("<|endoftext|>",) if backend.token_to_id(t) is not None])
        return _exact(backend)
    raise TokenError(
        f"{folder}: no tokenizer.json; write one with transformers: "
        "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
    )


def _exact(backend: Backend) -> Backend:
    """Encode exactly the text as written, identically on every run, whatever tokenizer.json asks for."""
    backend.no_padding()
    backend.no_truncation()
    # Added tokens that are not special, such as runs of spaces, are vocabulary and stay.
    backend.encode_special_tokens = True
    if getattr(backend.model, "dropout", None) is not None:  # skips merges at random, for training
        backend.model.dropout = None
    return backend


def _token_id(backend: Backend, token: str | None, folder: Path | str) -> int | None:
    if token is None:
        return None
    id = backend.token_to_id(token)
    if id is None:
        with _reading(folder):
            ids = backend.encode(token, add_special_tokens=False).ids
        id = ids[0] if len(ids) == 1 else None
    return id
