"""Controls: replace the vector, to see whether it does more than noise or an extra token.

`random`: Gaussian noise with the vector's norm at every position. `shuffled`: the vector's own values in
another order along the width, so that large values stay as large. `embedding`: the pair read at layer 0,
rescaled to the norm it has at the layer. `prompt`: no vector, but the plus text as tokens in front of the
prompt; several different ones stand there one after the other, as many as the model's context holds.
`prompt=TEXT`: that text instead, with a space after it unless it or the prompt has one. In a chat, a text
begins the user's first turn; of plus chats, it is what their system turns say, in the system's turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from steer_cli.errors import PlanError, VectorError
from steer_cli.planning.in_front import Front, before_chat, fitting, gap, steers_to_chats, texts_towards
from steer_cli.planning.placement import Alignment, check_length
from steer_cli.planning.plan import Plan
from steer_cli.recipe.quoting import show
from steer_cli.recipe.schema import Random

if TYPE_CHECKING:
    from torch import Tensor

    from steer_cli.networks.network import Network

KINDS = ("random", "shuffled", "embedding", "prompt")


def control_vectors(
    network: Network, alignments: Sequence[Alignment], vectors: Sequence[Tensor], control: str, seed: int
) -> list[Tensor]:
    """Replacements for the vectors, [positions, width] each, with the same norm at every position.

    Raises:
        VectorError: the texts of an addition are equal at layer 0, where `embedding` reads them.
    """
    import torch

    from steer_cli.activations.vectors import compute, read_alike, rescaled

    if control == "shuffled":
        generator = torch.Generator().manual_seed(seed)
        return [vector[:, torch.randperm(vector.shape[1], generator=generator)] for vector in vectors]
    values = {"random": Random(seed=seed)} if control == "random" else {"source_layer": 0, "match_norm": True}
    changed = [
        replace(
            alignment,
            addition=alignment.addition.model_copy(update=values),
            source_layer=0 if control == "embedding" else alignment.source_layer,
        )
        for alignment in alignments
    ]
    try:
        found = compute(network, changed)
    except VectorError:
        alike = next((alignment.label for alignment in changed if read_alike(alignment)), None)
        if control != "embedding" or alike is None:
            raise
        raise VectorError(
            f"control embedding: {alike}: its texts are read at the same token, which has the same embedding "
            "in all of them; use random or shuffled",
            "control",
        ) from None
    # After `dims`, which does not reduce a control's norm by as much as the vector's.
    return [
        rescaled(made, vector.norm(dim=-1, keepdim=True)) for made, vector in zip(found, vectors, strict=True)
    ]


@dataclass(frozen=True)
class Control:
    """A third arm. `name` is what its column is called; `rows` and `text` are those of `prompt`."""

    kind: str
    name: str
    text: str | None = None  # in front of each prompt
    rows: tuple[tuple[int, ...], ...] = ()  # each prompt's ids with the text in front


def planned(plan: Plan, control: str | None) -> Control | None:
    """What a control means for a plan.

    Args:
        control: one of KINDS, or `prompt=TEXT`.

    Raises:
        PlanError: it is none of them, a prompt is too long with the text in front, or there is no
            text that can stand there.
        TokenError: the chat template refuses a chat with the text in it.
    """
    if control is None:
        return None
    kind, equals, given = control.partition("=")
    if kind not in KINDS or (equals and (kind != "prompt" or not given)):
        raise PlanError(
            f"control {show(control)}: write {', '.join(KINDS)}, or prompt=TEXT for a text in front",
            parameter="control",
        )
    stored = [alignment.label for alignment in plan.alignments if alignment.stored]
    if kind == "embedding" and stored:
        raise PlanError(
            f"control embedding: needs texts, and the stored vector {stored[0]} has none; use random or "
            "shuffled",
            parameter="control",
        )
    if kind != "prompt":
        return Control(kind, kind)
    facts, new_tokens = plan.facts, plan.recipe.sampling.max_new_tokens
    system = not given and steers_to_chats(plan.alignments)
    if given:
        front = Front((given,), 1)
        rows = _fronted(plan, given, True, system)
    else:
        front, rows = _as_many_as_fit(plan, _texts(plan, system), system)
    for prompt, row in zip(plan.prompts, rows, strict=True):
        check_length(row, prompt.text, new_tokens, facts.context, facts.limited)
    return Control(kind, f"{kind} {front.name}", front.text, rows)


Rows = tuple[tuple[int, ...], ...]


def _as_many_as_fit(plan: Plan, texts: tuple[str, ...], system: bool) -> tuple[Front, Rows]:
    """As many of the texts as the context holds with every prompt, and the rows with them in front."""
    facts = plan.facts
    longest = max(len(prompt.ids) for prompt in plan.prompts)
    most = None if facts.context is None else facts.context - plan.recipe.sampling.max_new_tokens
    front = fitting(texts, None if most is None else most - longest, facts.tokenizer)
    rows = _fronted(plan, front.text, False, system)
    # A chat template may put tokens of its own around a text.
    while most is not None and len(front.texts) > 1 and (over := max(map(len, rows)) - most) > 0:
        front = fitting(texts, len(facts.tokenizer.encode(front.text)) - over, facts.tokenizer)
        rows = _fronted(plan, front.text, False, system)
    return front, rows


def _texts(plan: Plan, system: bool) -> tuple[str, ...]:
    remedy = "write `control=prompt=TEXT`"
    if system and any(prompt.chat is None for prompt in plan.prompts):
        raise PlanError(f"control prompt: it steers towards a chat and a prompt is none; {remedy}", "control")
    try:
        return texts_towards(plan.alignments, system)
    except PlanError as error:
        raise PlanError(f"control prompt: {error}; {remedy}", "control") from None


def _fronted(plan: Plan, front: str, joined: bool, system: bool) -> Rows:
    """Each prompt's ids with the text in front.

    Args:
        joined: the text and a prompt make one text, with a space where they would run into each other.
        system: the text is said by the system; in other chats, it begins what the user says.
    """
    tokenizer = plan.facts.tokenizer
    start = 0 if tokenizer.bos is None else 1
    chats = {
        prompt.chat: before_chat(front, prompt.chat, system)
        for prompt in plan.prompts
        if prompt.chat is not None
    }
    tokenizer.render(dict.fromkeys(chats.values(), "control prompt"))
    rows = []
    for prompt in plan.prompts:
        if prompt.chat is not None:
            rows.append(tokenizer.prompt(chats[prompt.chat]))
        elif joined:
            rows.append(tokenizer.prompt(f"{front}{gap(front, prompt.text)}{prompt.text}"))
        else:
            rows.append((*tokenizer.prompt(front), *prompt.ids[start:]))
    return tuple(rows)
