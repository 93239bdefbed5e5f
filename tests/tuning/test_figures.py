"""Figures of trials against transformers in float64, one text at a time and without a line of steer."""

from __future__ import annotations

import json
import re

import measuring
import numpy as np
import pytest
import reference
from tiny import PROMPT, open_model, recipe_of

from steer_cli.measure.evidence import gathered
from steer_cli.measure.evidence_files import read_choices, read_set
from steer_cli.results import Place
from steer_cli.tuning.figures import Figuring
from steer_cli.tuning.parts import part_of
from steer_cli.tuning.plan import TuneOptions, plan_tuning
from steer_cli.tuning.vectors import vectors_of_places

LOVE = {"plus": "Love", "minus": "Hate", "layer": 1}
FIXED = {"plus": " wedding", "layer": 3, "coefficient": 0.75, "position": "every"}
SHARE, COEFFICIENT = 0.25, -2.5
WORDS = ["the", "a", "of", "and", "I", "e"]
SAMPLING = {"max_new_tokens": 12, "temperature": 1.0, "top_p": 1.0}


class Plain:
    """A model in float64, with some additions or unsteered."""

    def __init__(self, folder, additions):
        self.model, self.tokenizer, self.names, self.front = measuring.opened(folder)
        self.additions = additions
        self.at_front = all(addition["position"] == "front" for addition in additions)

    def ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def placed(self, ids):
        return reference.placements(self.model, self.tokenizer, self.names, self.front, ids, self.additions)

    def gains(self, text):
        """The gain of each compared prediction; a vector at the front has spaces of its own."""
        sides = [self.ids(side[key]) for side in self.additions for key in ("plus", "minus") if key in side]
        pads = max(map(len, sides)) if self.at_front else 0
        ids = self.front + self.ids(" ") * pads + self.ids(text)
        placed = self.placed(ids)
        spans = [range(*one["span"]) for one in placed if one["span"][1] is not None]
        kept = [
            p for p in range(len(self.front) + pads - 1, len(ids) - 1) if not any(p in span for span in spans)
        ]
        plain, steered = (measuring.token_logprobs(self.model, ids, arm) for arm in ((), placed))
        return [steered[p] - plain[p] for p in kept]

    def odds(self, item, steered):
        """The log-odds of an item; on its answer acts what acts on new tokens."""
        prompt, found = self.front + self.ids(item.prompt), []
        placed = self.placed(prompt) if steered else ()
        for answer in (item.matching, item.not_matching):
            ids = prompt + self.ids(answer)
            found.append(sum(measuring.token_logprobs(self.model, ids, placed)[len(prompt) - 1 :]))
        return found[0] - found[1]


def ratio(sets):
    """Mean per token of sentences, and its standard error by the delta method."""
    sums, counts = np.array([[sum(gains), len(gains)] for gains in sets]).T
    mean = sums.sum() / counts.sum()
    return mean, np.sqrt(len(sums) * np.var(sums - mean * counts, ddof=1)) / counts.sum()


def counted(folder, additions):
    """Counted words in each completion more than unsteered, drawn with the seed of the search."""
    sampling = SAMPLING | {"seed": 1, "samples": 8, "frequency_penalty": 0.0}
    run = reference.reference(folder, PROMPT, additions, sampling)
    tokenizer = reference.kept(folder)[1]
    pattern = re.compile(rf"\b({'|'.join(WORDS)})\b", re.IGNORECASE)
    steered, plain = (
        [len(pattern.findall(tokenizer.decode(sample["ids"]))) for sample in run[arm]["samples"]]
        for arm in ("steered", "unsteered")
    )
    return np.subtract(steered, plain)


@pytest.fixture(scope="module")
def sets(evidence_files, tmp_path_factory):
    items = [
        {"prompt": f"Is {number} a friend of {other}?", "matching": " yes", "not_matching": " not now"}
        for number in range(8)
        for other in range(6)
    ]
    file = tmp_path_factory.mktemp("choices") / "choices.jsonl"
    file.write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
    read = {name: read_set(name, str(path)) for name, path in evidence_files.items()}
    neutral = read.pop("neutral")
    return {
        "sentences": read,
        "choices": {"choices": read_choices(str(file))},
        "count": {"count": "w"},
    }, neutral


@pytest.mark.parametrize("kind", ["sentences", "choices", "count"])
@pytest.mark.parametrize(("position", "fixed"), [("front", False), ("every", False), ("front", True)])
def test_effect_damage_and_errors_are_those_of_one_text_at_a_time(tiny_llama, sets, kind, position, fixed):
    """With a fixed addition, whatever both do is counted from the unsteered model."""
    of_kinds, neutral = sets
    moved = LOVE | {"layer": 2, "position": position, "coefficient": COEFFICIENT}
    additions = [FIXED, moved] if fixed else [moved]
    recipe = recipe_of(
        *(addition | {"layer": addition["layer"]} for addition in additions),
        count={"w": WORDS},
        sampling=SAMPLING | {"frequency_penalty": 0.0},
    )
    evidence = gathered(neutral=neutral, recipe=recipe, **of_kinds[kind])
    options = TuneOptions(layers="1:3", positions=position, additions=(1,) if fixed else ())
    model = open_model(tiny_llama)
    plan = plan_tuning(recipe, evidence, options, model.located)
    figuring = Figuring(model.network, plan, vectors_of_places(model.network, plan))
    # The other trial shares its passes.
    here = Place(2, position)
    [found, _] = figuring(SHARE, [(here, COEFFICIENT), (here, 1.0)])

    plain, read = Plain(tiny_llama, additions), part_of(plan.searched, SHARE)
    of_sets = {
        corpus.name: ratio([plain.gains(sentence.text) for sentence in corpus.sentences])
        for corpus in read.corpora
    }
    if kind == "sentences":
        (up, up_error), (down, down_error) = of_sets["toward"], of_sets["away"]
        effect, error = up - down, np.hypot(up_error, down_error)
    else:
        changes = (
            [plain.odds(item, True) - plain.odds(item, False) for item in read.choices.items]
            if kind == "choices"
            else counted(tiny_llama, additions)
        )
        effect, error = np.mean(changes), np.std(changes, ddof=1) / np.sqrt(len(changes))
    damage, damage_error = of_sets["neutral"]
    assert abs(effect) > 0.01
    wanted = (effect, -damage, error, damage_error)
    assert (found.effect, found.damage, found.effect_stderr, found.damage_stderr) == pytest.approx(
        wanted, rel=1e-3, abs=1e-5
    )
