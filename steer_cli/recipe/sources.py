"""Where an addition's direction may come from besides pairs: two lists of texts, or a stored vector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from steer_cli.recipe import bounds
from steer_cli.recipe.part import Part
from steer_cli.recipe.relative import Relative

if TYPE_CHECKING:
    from steer_cli.recipe.schema import Addition

KINDS = ("plus", "pairs", "texts", "vector")
Producer = Literal["steer", "repeng", "llama.cpp", "steering-lite"]


class TextFile(Part):
    """A file of texts: one per line, or those of a column."""

    file: Annotated[bounds.Name, Field(description="a .txt, .csv or .jsonl file, from the recipe's folder")]
    column: Annotated[bounds.Word | None, Field(description="which column holds the texts")] = None


TextList = Annotated[tuple[bounds.Text, ...], Field(strict=False, min_length=1)]
Side = Annotated[TextList | bounds.Name | TextFile, Field(description="a list of texts, or a file of them")]


class Texts(Part):
    """Two lists of texts that are not paired; the vector is the difference of their means."""

    plus: Side
    minus: Side


class VectorFile(Part):
    """A file of vectors, and which of its additions to take where it holds several."""

    file: Annotated[bounds.Name, Field(description="a .safetensors or .gguf file, from the recipe's folder")]
    addition: Annotated[int | None, Field(ge=0, le=bounds.LARGEST_BLOCK)] = None


# The checks of `check_source`, written as JSON Schema.
_NULL = {"type": "null"}
_ONE_ROW: dict[str, Any] = {
    "required": ["position"],
    "properties": {"position": {"anyOf": [{"const": "every"}, {"type": "object", "required": ["every"]}]}},
}


def _given(key: str, schema: Any) -> dict[str, Any]:
    return {"required": [key], "properties": {key: schema}}


def _alone(kind: str, schema: Any, also: Any = None, required: tuple[str, ...] = ("layer",)) -> Any:
    absent: dict[str, Any] = {"minus": _NULL, **dict.fromkeys(KINDS, _NULL), "pairs": {"maxItems": 0}}
    if kind == "plus":
        absent.pop("minus")
    present = {kind: schema, **(also or {}), **({"layer": {"not": _NULL}} if required else {})}
    return {"required": [kind, *required], "properties": absent | present}


ONE_SOURCE: dict[str, Any] = {
    "oneOf": [
        _alone("plus", {"not": _NULL}),
        _alone("pairs", {"minItems": 1}),
        _alone("texts", {"type": "object"}, {"combine": {"const": "mean"}}),
        _alone(
            "vector",
            {"not": _NULL},
            {
                "combine": {"const": "mean"},
                "read": _NULL,
                "match_norm": {"const": False},
                "source_layer": _NULL,
            },
            required=(),
        ),
    ],
    "allOf": [
        {"if": _given("read", {"not": _NULL}), "then": _ONE_ROW},
        {"if": _given("texts", {"not": _NULL}), "then": _ONE_ROW},
        {"if": _given("combine", {"const": "pca"}), "then": _given("pairs", {"minItems": 2})},
        {"if": _given("combine", {"const": "pca"}), "then": _ONE_ROW},
        {"if": _given("from", {"not": _NULL}), "then": _given("vector", {"not": _NULL})},
        {
            "if": _given("operation", {"const": "ablate"}),
            "then": {"properties": {"match_norm": {"const": False}, "coefficient": {"type": "number"}}},
        },
    ],
}


def check_source(addition: Addition) -> None:
    """Raise ValueError if the addition has no direction, has two, or asks of one what it cannot give."""
    if addition.operation == "ablate":
        _check_ablation(addition)
    kinds = [kind for kind in KINDS if getattr(addition, kind) not in (None, ())]
    if addition.minus is not None and addition.plus is None and kinds:
        raise ValueError(f"minus needs a plus, and both stand in the place of the {kinds[0]}")
    if len(kinds) != 1:
        raise ValueError("needs either plus (and minus), or pairs, or texts, or a vector")
    if kinds == ["vector"]:
        _check_vector(addition)
    elif addition.origin is not None:
        raise ValueError("from: names what made a stored vector; remove it, or write `vector: FILE`")
    if addition.combine != "mean" and addition.texts is not None:
        raise ValueError(
            f"combine: {addition.combine} is for pairs, and texts are not paired; remove it, or write pairs"
        )
    if addition.combine == "pca" and len(addition.pairs) < 2:
        raise ValueError("combine: pca needs at least two pairs; add pairs, or remove it")
    for key in ("texts", "read"):
        if getattr(addition, key) is not None and not addition.every:
            raise ValueError(f"{key}: makes one row, for every position; write `position: every`")
    if addition.combine == "pca" and not addition.every:
        raise ValueError("combine: pca makes one row, for every position; write `position: every`")


def _check_ablation(addition: Addition) -> None:
    if addition.match_norm:
        raise ValueError("match_norm changes nothing in an ablation, which has no norm; remove match_norm")
    if isinstance(addition.coefficient, Relative):
        raise ValueError(
            "coefficient: {relative: ...} is a length to add, and an ablation adds none; write the share of "
            "the component to remove, such as `coefficient: 1`, or `operation: add`"
        )


def _check_vector(addition: Addition) -> None:
    for key, given in (
        ("combine", addition.combine != "mean"),
        ("read", addition.read is not None),
        ("match_norm", addition.match_norm),
        ("source_layer", addition.source_layer is not None),
    ):
        if given:
            raise ValueError(f"{key}: needs texts, and a stored vector has none; remove it")
