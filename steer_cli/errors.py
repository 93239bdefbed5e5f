"""The errors that are the input's fault, each one line: place, value, remedy.

`cli` catches `SteerError` and nothing else, so a real bug keeps its traceback. This module knows
nothing of the stages that raise.
"""


class SteerError(Exception):
    """The input is at fault; `str(error)` is the one line that a person reads.

    `parameter` names the argument of the library's function that is at fault, where the line begins with it.
    """

    def __init__(self, message: str = "", parameter: str | None = None):
        super().__init__(message)
        self.parameter = parameter


class RecipeError(SteerError):
    """A recipe, or a value given with `--set`, is not what the format asks for.

    `problems` holds a line for each fault found, `unsaid` counts those beyond the first few; the message is
    the first of them.
    """

    def __init__(self, problems: list[str], unsaid: int = 0):
        self.problems, self.unsaid = tuple(problems), unsaid
        more = len(problems) - 1 + unsaid
        super().__init__(problems[0] + (f" (and {more} more: see `steer check`)" if more else ""))


class TokenError(SteerError):
    """A text, a padding or a BOS that the tokenizer cannot give."""


class PlanError(SteerError):
    """An addition that does not fit the prompt or the model."""


class VectorError(SteerError):
    """A vector that does nothing or is not finite."""


class CatalogueError(SteerError):
    """A model that cannot be fetched, verified or converted."""


class ModelError(SteerError):
    """A model that cannot be found or loaded."""


class CorpusError(SteerError):
    """A corpus that cannot be read, or in which nothing can be measured."""


class SweepError(SteerError):
    """A grid, a condition or a store that does not fit the sweep."""


class PlotError(SteerError):
    """A plot that cannot be drawn or written."""
