"""The recipe format, as frozen, validated values.

Whether a layer exists or a text fits a prompt is checked later, when the model is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, Strict, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticKnownError

from steer_cli.errors import RecipeError
from steer_cli.recipe import bounds
from steer_cli.recipe.bundled import DEFAULT_MODEL
from steer_cli.recipe.chat import Chat, TextOrChat, checked_prompt, side_names
from steer_cli.recipe.part import PARTS, Part
from steer_cli.recipe.position_words import Way, Word
from steer_cli.recipe.positions import At, AtToken, Every
from steer_cli.recipe.quoting import Path
from steer_cli.recipe.relative import Relative, strength_of
from steer_cli.recipe.sampling import Sampling
from steer_cli.recipe.sources import ONE_SOURCE, Producer, TextFile, Texts, VectorFile, check_source

Layers = Annotated[
    tuple[bounds.Block | bounds.Share, ...],
    Strict(False),
    Field(min_length=1, json_schema_extra={"uniqueItems": True}),
]

# The check of the validator below, written as JSON Schema.
ONE_KIND_OF_PROMPT: dict[str, Any] = {
    "not": {
        "required": ["prompt", "prompts"],
        "properties": {"prompt": {"not": {"type": "null"}}, "prompts": {"minItems": 1}},
    }
}


class Pair(Part):
    """Two texts; the vector is the stream of `plus` minus the stream of `minus`."""

    plus: Annotated[TextOrChat, Field(description="steer towards this text or chat")]
    minus: Annotated[TextOrChat | None, Field(description='steer away from this; "" is a row of pads')] = None

    @property
    def names(self) -> tuple[str, str | None]:
        """Short forms of both sides, for screens and errors."""
        return side_names(self.plus, self.minus)


class Random(Part):
    """A control: a Gaussian vector with the same norms as the pair's."""

    seed: bounds.Seed = 0


class Addition(Part):
    """One entry of a recipe: which texts, at which layers, how strongly, at which position."""

    model_config = ConfigDict(json_schema_extra=ONE_SOURCE, validate_by_name=True, validate_by_alias=True)

    plus: Annotated[TextOrChat | None, Field(description="steer towards this text or chat")] = None
    minus: Annotated[TextOrChat | None, Field(description='steer away from this; "" is a row of pads')] = None
    pairs: Annotated[
        tuple[Pair, ...], Field(strict=False, description="several pairs, instead of plus and minus")
    ] = ()
    texts: Annotated[Texts | None, Field(description="two lists of texts that are not paired")] = None
    vector: Annotated[
        bounds.Name | VectorFile | None, Field(description="a stored vector: a .safetensors or .gguf file")
    ] = None
    origin: Annotated[
        Producer | None, Field(alias="from", description="what made the stored vector, if it does not say")
    ] = None
    combine: Annotated[
        Literal["mean", "sum", "pca"], Field(description="how to combine pairs into one vector")
    ] = "mean"
    read: Annotated[
        Literal["last", "mean"] | None,
        Field(description="which tokens of a text make its one row: the last, or the mean of all but BOS"),
    ] = None
    layer: Annotated[
        bounds.Block | bounds.Share | Literal["all"] | Layers | None,
        Field(
            validate_default=True,
            description='a block, a list of blocks, or a share of the depth such as "25%"; a stored vector '
            "may leave it out",
        ),
    ] = None
    coefficient: Annotated[
        bounds.Coefficient | Relative, Field(description="multiply the vector by this, or {relative: 0.8}")
    ] = 1.0
    operation: Annotated[
        Literal["add", "ablate"],
        Field(
            description="add the vector, or ablate it: remove the coefficient times the stream's component "
            "along it. A layer sums its additions, then ablates in the order of the recipe"
        ),
    ] = "add"
    position: Annotated[
        Word | At | AtToken | Every,
        Field(description="front, middle, back, every, {at: 3}, {token: ' friend'} or {every: new}"),
    ] = "front"
    pad: Annotated[bounds.Word, Field(description="space, eos, none, or a text of one token")] = "space"
    overflow: Annotated[
        Literal["error", "clip"], Field(description="what to do with a span that does not fit")
    ] = "error"
    source_layer: Annotated[
        bounds.Block | bounds.Share | None, Field(description="record here instead of at `layer`")
    ] = None
    match_norm: Annotated[bool, Field(description="rescale to the pair's norm at `layer`")] = False
    random: Annotated[
        Random | None, Field(description="a control: noise of the same norm, different at each layer")
    ] = None
    dims: Annotated[bounds.Width | None, Field(description="keep this leading share of the width")] = None

    @field_validator("layer")
    @classmethod
    def _layer_unless_stored(cls, layer: Any, info: ValidationInfo) -> Any:
        # A vector that is itself at fault is not in the data.
        if layer is None and info.data.get("vector", "") is None:
            raise PydanticKnownError("missing")
        return layer

    @model_validator(mode="after")
    def _source(self) -> Addition:
        check_source(self)
        if self.layer is not None and (not self.layers or len(set(self.layers)) < len(self.layers)):
            raise ValueError("layer needs at least one block, each listed once")
        return self

    @property
    def adds_nothing(self) -> bool:
        """Whether a coefficient or share of the width of 0 leaves the stream unchanged."""
        return self.strength == 0 or self.dims == 0

    @property
    def strength(self) -> float:
        """The number of the coefficient as it is written, whether or not it is relative to the stream."""
        return strength_of(self.coefficient)

    @property
    def every(self) -> Way | None:
        """Where it acts if that is at every position, which takes a vector of one row; None for a span."""
        if self.position == "every":
            return "both"
        return self.position.every if isinstance(self.position, Every) else None

    @property
    def all_pairs(self) -> tuple[Pair, ...]:
        """The addition's pairs; none where it has lists of texts or a stored vector."""
        if self.plus is None:
            return self.pairs
        return (Pair(plus=self.plus, minus=self.minus),)

    @property
    def layers(self) -> tuple[int | str, ...]:
        """The layers as written: block numbers, shares of the depth, all; none where the file says them."""
        if self.layer is None:
            return ()
        return self.layer if isinstance(self.layer, tuple) else (self.layer,)


Words = Annotated[tuple[bounds.Word, ...], Field(strict=False, min_length=1)]


class Recipe(Part):
    """A steering recipe: prompts, additions and sampling, in one small text file."""

    model_config = ConfigDict(json_schema_extra=ONE_KIND_OF_PROMPT)

    name: Annotated[str, Field(max_length=bounds.LONGEST_NAME)] = ""
    description: Annotated[bounds.Text, Field(description="what the recipe does, in one short line")] = ""
    measured: Annotated[
        bounds.Text, Field(description="the measured effect, with figures, in a few lines")
    ] = ""
    source: Annotated[bounds.Text, Field(description="where the recipe comes from")] = ""
    model: Annotated[bounds.Name, Field(description="hub id, folder, .gguf file or catalogue name")] = (
        DEFAULT_MODEL
    )
    bos: Annotated[bounds.Word, Field(description="auto, none, or a token of the model")] = "auto"
    prompt: Annotated[TextOrChat | None, Field(description="the text to continue, or the chat to answer")] = (
        None
    )
    prompts: Annotated[
        tuple[TextOrChat, ...], Field(strict=False, description="several prompts, instead of prompt")
    ] = ()
    additions: Annotated[tuple[Addition, ...], Field(strict=False, min_length=1)]
    sampling: Sampling = Sampling()
    count: Annotated[
        dict[str, Words], Field(default_factory=dict, description="words to count in completions")
    ]

    # Digest of the file's bytes and the changes made to it; not a key of the file.
    _sha256: str = ""
    # The folder that the names of files are relative to; "" is the working directory.
    _folder: str = ""
    # What errors call each change, and the path of the value that it set.
    _changes: tuple[tuple[str, Path], ...] = ()

    @model_validator(mode="after")
    def _one_kind_of_prompt(self) -> Recipe:
        if self.prompt is not None and self.prompts:
            raise ValueError("give prompt or prompts, not both")
        return self

    @property
    def label(self) -> str:
        """What errors call it: its name, or "recipe" where it has none."""
        return self.name or "recipe"

    @property
    def sha256(self) -> str:
        """Equals `sha256sum FILE`; each change (KEY=VALUE) is hashed after the file, on a line of its own."""
        return self._sha256

    def change_of(self, *path: str | int) -> str | None:
        """What errors call the change that set the value at a path; None where it was not changed."""
        return next((label for label, at in reversed(self._changes) if at == path[: len(at)]), None)

    @property
    def all_prompts(self) -> tuple[str | Chat, ...]:
        return (self.prompt,) if self.prompt is not None else self.prompts

    def with_prompts(self, prompts: Sequence[str | Chat | Mapping[str, Any]]) -> Recipe:
        """The same recipe with other prompts, or with its own if none are given.

        Raises:
            RecipeError: there is no prompt, or one is not valid UTF-8 or no chat.
        """
        if not prompts and not self.all_prompts:
            raise RecipeError(
                [f"{self.label}: no prompt; add `prompt: ...` to the recipe or use `prompt=TEXT`"]
            )
        prompts = [checked_prompt(prompt) for prompt in prompts]
        one, several = (prompts[0], ()) if len(prompts) == 1 else (None, tuple(prompts))
        return self.model_copy(update={"prompt": one, "prompts": several}) if prompts else self

    def with_sampling(self, **changes: Any) -> Recipe:
        """The same recipe with some keys of `sampling` changed; None leaves one as it is.

        Raises:
            RecipeError: a key does not accept the value.
        """
        given = {key: value for key, value in changes.items() if value is not None}
        if not given:
            return self
        return self.model_copy(update={"sampling": Sampling(**self.sampling.model_dump() | given)})


PARTS.update(additions=Addition, pairs=Pair, sampling=Sampling, random=Random, coefficient=Relative)
PARTS.update({"texts": Texts, "texts.plus": TextFile, "texts.minus": TextFile, "vector": VectorFile})
