"""How a command's help is laid out: plain text, and examples that can be pasted."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand


class PlainHelp:
    """A mixin for commands and groups: plain-text help, with the examples in a block at the end.

    Rich would take longer to import than everything else that help needs.
    """

    epilog: str | None

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        if self.epilog:
            with formatter.section("Examples"):
                # Never wrapped, so that each example can be pasted.
                formatter.write("".join(f"  {example}\n" for example in self.epilog.splitlines()))


class Command(PlainHelp, TyperCommand):
    """A command with plain help, in which an argument is one word, such as RECIPE."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [re.sub("[{}]", "", piece) for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        arguments, options = [], []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and parameter.param_type_name == "argument":
                arguments.append((record[0].split()[0], record[1]))
            elif record is not None:
                options.append(record)
        for title, records in (("Arguments", arguments), ("Options", options)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
