"""Plain prompting, to compare steering with: what it steers towards, in front as tokens instead of a vector.

Of several texts, some stand there one after the other. A persona (plus is a chat with a system turn) is the
system prompt of chats, and a text of its own before sentences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from steer_cli.activations.baselines import Control, planned
from steer_cli.errors import PlanError
from steer_cli.measure.lines import Line, with_text_in_front
from steer_cli.planning.alignment import Alignment
from steer_cli.planning.in_front import Front, fitting, steers_to_chats, texts_towards
from steer_cli.planning.plan import ModelFacts, Plan

ROOM = 256  # tokens that several texts may take; they are run again before each sentence


@dataclass(frozen=True)
class Fronted:
    """Sentences with a text in front of each, and the name of that text."""

    lines: tuple[Line, ...]
    name: str


def before_sentences(lines: Sequence[Line], alignments: Sequence[Alignment], facts: ModelFacts) -> Fronted:
    """The sentences, in the same order, with the text that is steered towards (and its pads) in front.

    Raises:
        PlanError: there is no text that can stand there.
        CorpusError: a sentence is too long with it.
    """
    tokenizer, system = facts.tokenizer, steers_to_chats(alignments)
    texts = texts_towards(alignments, system)
    if len(texts) == 1 and not system:
        fronted, front = with_text_in_front(lines, alignments, tokenizer, facts.context)
        return Fronted(fronted, front.name)
    front = fitting(texts, ROOM, tokenizer)
    ids = tokenizer.prompt(front.text + ("\n\n" if system else ""))
    longest = max(len(line.ids) - line.offset for line in lines)
    if facts.context is not None and len(ids) + longest > facts.context:
        raise PlanError(f"{front.name} in front of a sentence is longer than the context of {facts.limited}")
    moved = tuple(replace(line, ids=ids + line.ids[line.offset :], offset=len(ids)) for line in lines)
    return Fronted(moved, front.name)


def before_prompts(plan: Plan) -> Control:
    """Every prompt of a plan with the text that is steered towards, or the persona, in front.

    Raises:
        SteerError: there is no text that can stand there, or a prompt is too long with it.
    """
    texts: tuple[str, ...] = ()
    if not steers_to_chats(plan.alignments):
        texts = texts_towards(plan.alignments)
    if len(texts) < 2:
        found = planned(plan, "prompt")
    else:
        front: Front = fitting(texts, ROOM, plan.facts.tokenizer)
        found = planned(plan, f"prompt={front.text}")
    assert found is not None
    return found
