"""What all mappings of the recipe have in common: no other keys, no changes, and errors of one line each."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from steer_cli.errors import RecipeError
from steer_cli.recipe.messages import Arguments, describe


class Part(BaseModel):
    """A mapping of the format. Wrong values raise the same errors in Python as in a file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, serialize_by_alias=True)

    def __init__(self, /, **values: Any) -> None:
        """
        Raises:
            RecipeError: one line per fault.
        """
        aliases = {name: field.alias or name for name, field in type(self).model_fields.items()}
        values = {aliases.get(name, name): value for name, value in values.items()}
        try:
            super().__init__(**values)
        except ValidationError as error:
            faults: list[Any] = error.errors(include_url=False)
            made = Arguments(type(self).__name__, values)
            lines, unsaid = describe(faults, made, self.known_keys)
            raise RecipeError(lines, unsaid, rest="`problems`") from None

    # The mark of pydantic's own __init__. Without it, pydantic calls this one for each part of a recipe, and
    # the first fault hides all others and the path that leads to it.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def known_keys(cls, *above: str) -> list[str]:
        """The keys allowed in the mapping under these keys, outermost first; without any, the part's own."""
        last = above[-1] if above else ""
        fields = PARTS.get(".".join(above[-2:]), PARTS.get(last, cls)).model_fields
        return [field.alias or name for name, field in fields.items()]


PARTS: dict[str, type[Part]] = {}  # the key, or two, that a mapping stands under -> its part
