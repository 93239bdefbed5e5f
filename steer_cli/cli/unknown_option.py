"""Explain an unknown option that is a key of a recipe."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

import typer

from steer_cli.cli.plain_help import Command
from steer_cli.errors import SteerError

# Typer names no other class of its usage errors.
_UsageError: Any = typer.BadParameter.__mro__[1]
_NUMBER = re.compile(r"-\.?[0-9].*")


class WrongUsage(SteerError):
    """The command line does not say what to do; ends with code 2."""


class RecipeCommand(Command):
    """A command that takes changes of a recipe: it says how to change a key that is no option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)  # parsing takes them out of the list
        try:
            return super().parse_args(ctx, args)
        except _UsageError as error:
            # Only the error of an unknown option has suggestions.
            if not hasattr(error, "possibilities"):
                raise
            options = {name for parameter in self.get_params(ctx) for name in parameter.opts}
            if said := _said(str(error.option_name), given, options):
                raise WrongUsage(said) from None
            raise


def _said(option: str, given: Sequence[str], options: set[str]) -> str | None:
    """One line for an option that is a key of a recipe; None where it is not, or where it is a slip."""
    if option == "--relative" and "--coefficient" in options:  # of `steer bake`, whose constants are numbers
        return (
            f"{option}: what it comes to depends on the prompt, and what is written here does not; give the "
            "number that `steer generate --explain` shows, with --coefficient"
        )
    path = _path(option.removeprefix("--").replace("-", "_"))
    if path is None or "--set" not in options or {f"{option}s", option.removesuffix("s")} & options:
        return None
    change = f"{path}={_value(option, given)}"
    return f"{option}: is a key of the recipe, not an option; use --set {shlex.quote(change)}"


def _path(key: str) -> str | None:
    from steer_cli.recipe.sampling import Sampling
    from steer_cli.recipe.schema import Addition, Recipe

    for part, above in ((Sampling, "sampling."), (Addition, "additions.0."), (Recipe, "")):
        if key in part.model_fields:
            return f"{above}{key}"
    return None


def _value(option: str, given: Sequence[str]) -> str:
    """The value that was given to an option, or VALUE."""
    for word, following in zip(given, [*given[1:], ""], strict=True):
        if word.startswith(f"{option}="):
            return word.removeprefix(f"{option}=")
        if word == option and following and (not following.startswith("-") or _NUMBER.match(following)):
            return following
    return "VALUE"
