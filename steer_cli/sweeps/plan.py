"""Plan a sweep from its options; all bad input is found here, before torch is imported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from steer_cli.errors import SweepError
from steer_cli.events import Note, Progress, silent
from steer_cli.measure.corpus import Corpus
from steer_cli.measure.lines import Line, check_corpora, check_fit, lay_out, pads_in_front
from steer_cli.models.identity import WEIGHTS, fingerprint
from steer_cli.models.located import Located
from steer_cli.models.resolve import locate
from steer_cli.planning.chat import chats_of
from steer_cli.planning.placement import Alignment, check_acts_on_texts, check_length, place
from steer_cli.planning.plan import ModelFacts, PlannedPrompt, align
from steer_cli.planning.prediction import wanted_ids
from steer_cli.planning.tokens import Tokenizer
from steer_cli.recipe.file_text import without_stale
from steer_cli.recipe.relative import Relative, strength_of
from steer_cli.recipe.schema import Recipe
from steer_cli.results import Coordinates, SweepPoint, figure_name
from steer_cli.sweeps.grid import Grid, GridPoint, check_adds, parse_grid, recipe_at, swept_additions
from steer_cli.sweeps.identity import digest_of, tokenizer_files

MEASURES = ("perplexity", "kl", "counts")


@dataclass(frozen=True)
class SweepOptions:
    """What to sweep and measure, as the user wrote it."""

    layers: str
    coefficients: str | None = None
    positions: str | None = None
    dims: str | None = None
    measures: tuple[str, ...] = ()
    additions: tuple[int, ...] = ()
    want: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    method: str | None = None  # None means pad
    samples: int | None = None
    relative: str | None = None  # in the place of coefficients


@dataclass(frozen=True)
class SweepPlan:
    """A recipe, the grid to run it over, and what to measure at every point."""

    recipe: Recipe
    located: Located
    facts: ModelFacts
    grid: Grid
    swept: tuple[int, ...]  # indices of the additions that the grid changes
    measures: tuple[str, ...]
    prompts: tuple[PlannedPrompt, ...]  # a point is placed on them when it runs
    corpora: tuple[Corpus, ...]
    method: str
    wanted: tuple[int, ...]
    lines: tuple[Line, ...] = ()  # the sentences as tokens, if perplexity is measured

    @property
    def tokenizer(self) -> Tokenizer:
        return self.facts.tokenizer

    def recipe_at(self, point: GridPoint) -> Recipe:
        return recipe_at(self.recipe, point, self.swept)

    def recipe_of(self, point: SweepPoint) -> Recipe:
        """The recipe of a measured point."""
        cells = (cell for cell in self.grid if self.coordinates(cell) == point.coordinates)
        recipe = self.recipe_at(next(cells))
        moved = recipe.additions != self.recipe.additions
        return without_stale(recipe, {"additions"} if moved else ())

    def coordinates(self, point: GridPoint) -> Coordinates:
        """The point in full, with the recipe's values where the grid sets none."""
        moved = self.recipe_at(point).additions[self.swept[0]]
        at = moved.position
        position = at if isinstance(at, str) else next(iter(at))
        return Coordinates(point.layer, moved.coefficient, position, moved.dims)

    def figure_names(self) -> list[str]:
        """The figures that an objective may name."""
        names = []
        if "perplexity" in self.measures:
            for corpus in self.corpora:
                names += [figure_name(corpus.name, label) for label in corpus.labels]
        if "kl" in self.measures:
            names += ["kl", *(("effect", "damage") if self.wanted else ())]
        return [*names, *((*self.recipe.count, "cost") if "counts" in self.measures else ())]

    def check_unambiguous(self) -> None:
        """Raise SweepError if two figures have the same name, so that an objective would be ambiguous."""
        names = self.figure_names()
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise SweepError(
                f"{twice}: two figures have this name; rename the corpus (`corpus=NAME=FILE`) or the label "
                "in `count`"
            )

    def subject(self, dtype: str, device: str) -> dict[str, Any]:
        """What must match to continue a store: everything but the grid, which may grow."""
        named = [alignment.files for alignment in next(_alignments(self)) if alignment.files]
        tokenizer = fingerprint(self.located, tokenizer_files(self.recipe))
        return {
            "recipe": f"{self.recipe.name} {digest_of(self.recipe, named)}",
            "model": f"{self.located.name} {fingerprint(self.located, WEIGHTS)}",
            "tokenizer": f"{tokenizer}, BOS {self.tokenizer.bos}",
            "corpus": [f"{corpus.name} {corpus.sha256[:16]}" for corpus in self.corpora],
            "measure": list(self.measures),
            "method": self.method,
            "additions": list(self.swept),
            "want": list(self.wanted),
            "dtype": dtype,
            "device": device,
        }


def plan_sweep(
    recipe: Recipe,
    corpora: Sequence[Corpus],
    options: SweepOptions,
    located: Located | None = None,
    progress: Progress = silent,
    note: Note = silent,
) -> SweepPlan:
    """Find the model, read the grid, and check its points against prompts and corpora.

    Args:
        located: the model, if already found; by default the recipe's.

    Raises:
        SteerError: something is wrong with the recipe, the options, the corpora or the model's files.
    """
    measures = _measures(options, recipe, corpora)
    located = located or locate(recipe.model, True, progress, note)
    facts = located.facts(recipe.bos)
    facts.tokenizer.render(chats_of(recipe))
    axes = (options.layers, options.coefficients, options.positions, options.dims)
    grid = parse_grid(*axes, located.blocks, options.relative)
    swept = swept_additions(recipe, options.additions)
    if options.relative is not None:
        for index in swept:
            check_adds(recipe, index, f"relative {options.relative}", "relative")
    plan = SweepPlan(
        recipe=recipe,
        located=located,
        facts=facts,
        grid=grid,
        swept=swept,
        measures=measures,
        prompts=tuple(PlannedPrompt(text, facts.tokenizer.prompt(text), ()) for text in recipe.all_prompts),
        corpora=tuple(corpora),
        method=options.method or "pad",
        wanted=wanted_ids(options.want, facts.tokenizer),
    )
    plan.check_unambiguous()
    _check_prompts(plan)
    return replace(plan, lines=_lines(plan)) if "perplexity" in measures else plan


def _measures(options: SweepOptions, recipe: Recipe, corpora: Sequence[Corpus]) -> tuple[str, ...]:
    measures = tuple(dict.fromkeys(options.measures)) or (("perplexity",) if corpora else ("kl",))
    for measure in measures:
        if measure not in MEASURES:
            raise SweepError(
                f"measure {measure}: write one or more of {','.join(MEASURES)}", parameter="measure"
            )
    if "perplexity" in measures:
        check_corpora(corpora)
    elif corpora:
        raise SweepError(
            f"corpus {corpora[0].name}: only `measure=perplexity` reads corpora; add it", parameter="corpus"
        )
    if "counts" in measures and not recipe.count:
        raise SweepError(
            f"measure counts: {recipe.label} counts no words; add `count: {{wedding: [bride]}}`",
            parameter="measure",
        )
    _check_used(options, measures)
    if measures != ("perplexity",):
        recipe.with_prompts([])  # raises if there is none
    return measures


def _check_used(options: SweepOptions, measures: Sequence[str]) -> None:
    """Raise SweepError if an option would be ignored because no requested measure uses it."""
    given = (
        ("want", next(iter(options.want), None), ("kl",), "looks at words"),
        ("samples", options.samples, ("counts",), "draws samples"),
        ("method", options.method, ("perplexity",), "keeps a vector apart from sentences"),
        ("prompt", next(iter(options.prompts), None), ("kl", "counts"), "runs prompts"),
    )
    for option, value, users, what in given:
        if value is not None and not set(users) & set(measures):
            raise SweepError(
                f"{option} {value}: only `measure={' or '.join(users)}` {what}; add it", parameter=option
            )


def _alignments(plan: SweepPlan) -> Iterator[tuple[Alignment, ...]]:
    """Alignments for each position of the grid, at its first layer.

    Layers, coefficients and dims do not affect placement.
    """
    for position in plan.grid.positions:
        yield align(plan.recipe_at(GridPoint(plan.grid.layers[0], _acting(plan), position)), plan.facts)


def _acting(plan: SweepPlan) -> float | Relative | None:
    """A coefficient of the grid to check the recipe at: one of 0 adds nothing, and would be skipped."""
    return next((value for value in plan.grid.coefficients if value is None or strength_of(value) != 0), 0.0)


def _check_prompts(plan: SweepPlan) -> None:
    """Raise SteerError if a point does not fit a prompt, or a prompt does not fit the model."""
    facts = plan.facts
    new_tokens = plan.recipe.sampling.max_new_tokens if "counts" in plan.measures else 0
    if any(addition.vector for addition in plan.recipe.additions):
        _check_stored_layers(plan)
    for alignments in _alignments(plan):
        if "kl" in plan.measures:
            check_acts_on_texts(alignments)
        for prompt in plan.prompts if plan.measures != ("perplexity",) else ():
            check_length(prompt.ids, prompt.text, new_tokens, facts.context, facts.limited)
            place(alignments, facts.tokenizer, prompt.ids, prompt.text, prompt.chat is not None)


def _check_stored_layers(plan: SweepPlan) -> None:
    """Raise PlanError if a stored vector does not have a layer of the grid.

    Of all that is planned, only a stored vector depends on the layer; aligning the recipe reads it.
    """
    for layer in plan.grid.layers:
        for position in plan.grid.positions:
            align(plan.recipe_at(GridPoint(layer, _acting(plan), position)), plan.facts)


def _lines(plan: SweepPlan) -> tuple[Line, ...]:
    """The sentences of all corpora as tokens; raises SteerError if a point does not fit them."""
    lines: tuple[Line, ...] = ()
    for alignments in _alignments(plan):
        front = pads_in_front(alignments, plan.tokenizer) if plan.method == "pad" else ()
        # The padding depends only on the texts, so the lines are the same for all positions.
        lines = lines or lay_out(plan.corpora, plan.tokenizer, front, plan.facts.context)
        check_fit(lines, alignments, plan.tokenizer)
    return lines
