"""What a sweep is asked for -> a question that is known to have an answer at every point.

Everything that can be wrong with the input is found here, before torch is imported. This module does not know
activations or the store.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from steer_cli.api import check_names, find, wanted_ids
from steer_cli.errors import ModelError, SweepError
from steer_cli.events import Note, Progress, silent
from steer_cli.measure.corpus import Corpus
from steer_cli.measure.lines import Line, check_fit, lay_out, pads_in_front
from steer_cli.models import atomic_folder as once
from steer_cli.models.fingerprint import sha256_of
from steer_cli.models.resolve import Located
from steer_cli.planning.placement import align_additions, check_length, place
from steer_cli.planning.tokens import Tokenizer
from steer_cli.recipe.schema import Recipe
from steer_cli.results import figure_name
from steer_cli.sweep.grid import Grid, Point, parse_grid, recipe_at, swept_additions

MEASURES = ("perplexity", "kl", "counts")

# What the figures depend on in a model's folder.
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")

Prompt = tuple[str, tuple[int, ...]]  # text, ids with BOS


@dataclass(frozen=True)
class Asked:
    """The options of a sweep as they were given."""

    layers: str
    coefficients: str | None = None
    positions: str | None = None
    dims: str | None = None
    measures: tuple[str, ...] = ()
    additions: tuple[int, ...] = ()
    want: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    method: str | None = None  # None is pad
    samples: int | None = None


@dataclass(frozen=True)
class Question:
    """What every point of the grid is asked, and on what it is measured."""

    recipe: Recipe
    located: Located
    tokenizer: Tokenizer
    grid: Grid
    swept: tuple[int, ...]  # the additions that the grid moves
    measures: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    corpora: tuple[Corpus, ...]
    lines: tuple[Line, ...]
    method: str
    wanted: tuple[int, ...]

    def recipe_at(self, point: Point) -> Recipe:
        return recipe_at(self.recipe, point, self.swept)

    def coordinates(self, point: Point) -> dict[str, Any]:
        """The point as its record names it: what the grid leaves open is what the recipe says."""
        own = self.recipe.additions[self.swept[0]]
        addition = self.recipe_at(point).additions[self.swept[0]]
        position = addition.position
        return {
            "layer": point.layer,
            # Not that of the point's recipe, which is 0 where nothing is left of the vector.
            "coefficient": own.coefficient if point.coefficient is None else point.coefficient,
            "position": position if isinstance(position, str) else position.model_dump(),
            "dims": addition.dims,
        }

    def names(self) -> list[str]:
        """What a wish may name."""
        names = []
        if "perplexity" in self.measures:
            for corpus in self.corpora:
                names += [figure_name(corpus.name, label) for label in corpus.labels]
        if "kl" in self.measures:
            names += ["kl", *(("effect", "damage") if self.wanted else ())]
        return [*names, *((*self.recipe.count, "cost") if "counts" in self.measures else ())]

    def check_names(self) -> None:
        """Raises SweepError where a name means two figures, which --best could not tell apart."""
        names = self.names()
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise SweepError(
                f"{twice}: two figures have this name; rename the corpus (--corpus NAME=FILE) or the label "
                "in `count`"
            )

    def subject(self, dtype: str, device: str) -> dict[str, Any]:
        """What a store must agree on: everything but the grid, so that a grid may grow."""
        settings = self.recipe.model_dump(
            mode="json", exclude={"name", "description", "measured", "source", "model"}
        )
        return {
            "recipe": f"{self.recipe.name} {_digest(settings)}",
            "model": f"{self.located.name} {_fingerprint(self.located, *WEIGHTS)}",
            "tokenizer": f"{_fingerprint(self.located, *TOKENIZER)}, BOS {self.tokenizer.bos}",
            "corpus": [f"{corpus.name} {corpus.sha256[:16]}" for corpus in self.corpora],
            "measure": list(self.measures),
            "method": self.method,
            "additions": list(self.swept),
            "want": list(self.wanted),
            "dtype": dtype,
            "device": device,
        }


def ask(
    recipe: Recipe, corpora: Sequence[Corpus], asked: Asked, progress: Progress = silent, note: Note = silent
) -> Question:
    """Find the model, read the grid, and place its points on prompts and corpora.

    Raises:
        SteerError: anything that is wrong with the recipe, the options, the corpora or the model's files.
    """
    measures = _measures(asked, recipe, corpora)
    located, tokenizer = find(recipe, True, progress, note)
    grid = parse_grid(asked.layers, asked.coefficients, asked.positions, asked.dims, located.blocks)
    question = Question(
        recipe=recipe,
        located=located,
        tokenizer=tokenizer,
        grid=grid,
        swept=swept_additions(recipe, asked.additions),
        measures=measures,
        prompts=tuple((text, tokenizer.prompt(text)) for text in recipe.all_prompts),
        corpora=tuple(corpora),
        lines=(),
        method=asked.method or "pad",
        wanted=wanted_ids(asked.want, tokenizer),
    )
    question.check_names()
    lines = _check_points(question)
    return Question(**{**vars(question), "lines": lines})


def _measures(asked: Asked, recipe: Recipe, corpora: Sequence[Corpus]) -> tuple[str, ...]:
    measures = tuple(dict.fromkeys(asked.measures)) or (("perplexity",) if corpora else ("kl",))
    for measure in measures:
        if measure not in MEASURES:
            raise SweepError(f"--measure {measure}: write one or more of {','.join(MEASURES)}")
    if "perplexity" in measures:
        check_names(corpora)
    elif corpora:
        raise SweepError(f"--corpus {corpora[0].name}: only --measure perplexity reads corpora; add it")
    if "counts" in measures and not recipe.count:
        raise SweepError(
            f"--measure counts: {recipe.name} counts no words; add `count: {{wedding: [bride]}}`"
        )
    _check_used(asked, measures)
    if measures != ("perplexity",):
        recipe.with_prompts([])  # raises where there is none
    return measures


def _check_used(asked: Asked, measures: Sequence[str]) -> None:
    """Raises SweepError where an option would be ignored, because what looks at it is not measured."""
    given = (
        ("--want", next(iter(asked.want), None), ("kl",), "looks at words"),
        ("--samples", asked.samples, ("counts",), "draws samples"),
        ("--method", asked.method, ("perplexity",), "keeps a vector apart from sentences"),
        ("--prompt", next(iter(asked.prompts), None), ("kl", "counts"), "runs prompts"),
    )
    for option, value, users, what in given:
        if value is not None and not set(users) & set(measures):
            raise SweepError(f"{option} {value}: only --measure {' or '.join(users)} {what}; add it")


def _check_points(question: Question) -> tuple[Line, ...]:
    """Place what may differ between points on every prompt; the corpora laid out, where they are measured."""
    recipe, tokenizer, located = question.recipe, question.tokenizer, question.located
    new = recipe.sampling.max_new_tokens if "counts" in question.measures else 0
    lines: tuple[Line, ...] = ()
    # A coefficient of 0 adds nothing, of which nothing has to be reached.
    acting = next((coefficient for coefficient in question.grid.coefficients if coefficient != 0), 0.0)
    for position in question.grid.positions:
        point = Point(question.grid.layers[0], acting, position)
        alignments = align_additions(question.recipe_at(point), tokenizer, located.blocks, located.context)
        if question.measures != ("perplexity",):
            for text, ids in question.prompts:
                check_length(ids, text, new, located.context, located.limited)
                place(alignments, tokenizer, ids, text)
        if "perplexity" in question.measures:
            front = pads_in_front(alignments, tokenizer) if question.method == "pad" else ()
            lines = lines or lay_out(question.corpora, tokenizer, front, located.context)
            check_fit(lines, alignments, tokenizer)
    return lines


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _fingerprint(located: Located, *patterns: str) -> str:
    """Tells models of one name apart: all bytes of its files, or the commit that stands for them on a hub."""
    files = sorted(file for pattern in patterns for file in located.folder.glob(pattern) if file.is_file())
    folder = located.folder
    commit = folder.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", folder.name)
    # A hub's cache holds links; a plain file among them is somebody's own.
    if commit and all(file.is_symlink() for file in files):
        return folder.name[:16]
    memory = once.memory()
    try:
        return _digest([(file.name, sha256_of(file, memory)) for file in files])
    except OSError as error:
        raise ModelError(f"{error.filename}: {error.strerror}: the model's files must be readable") from None
