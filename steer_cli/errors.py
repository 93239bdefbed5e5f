"""Errors that the user can fix, each one line: place, value, remedy.

`cli` catches `SteerError` and nothing else, so a real bug keeps its traceback. Messages name parameters of
the library's functions in backticks, as in "use `dtype=float32`"; `cli` turns them into options.
"""


class SteerError(Exception):
    """Bad input; `str(error)` is the one line shown to the user.

    `parameter` is the name of the argument at fault. The message begins with it, without backticks.
    """

    def __init__(self, message: str = "", parameter: str | None = None):
        super().__init__(message)
        self.parameter = parameter


class RecipeError(SteerError):
    """A recipe, or a change made to one, does not follow the format.

    `problems` holds one line per fault, up to a limit; `unsaid` counts the faults beyond it. The message is
    the first problem, and says that `rest` shows the others.
    """

    def __init__(
        self,
        problems: list[str],
        unsaid: int = 0,
        parameter: str | None = None,
        rest: str = "`steer check`",
    ):
        self.problems, self.unsaid = tuple(problems), unsaid
        more = len(problems) - 1 + unsaid
        also = f" (and {more} more: see {rest})" if more else ""
        super().__init__(problems[0] + also, parameter)


class TokenError(SteerError):
    """A text, pad or BOS that the tokenizer cannot encode."""


class PlanError(SteerError):
    """An addition that does not fit the prompt or the model."""


class VectorError(SteerError):
    """A vector that does nothing, or values that are infinite or NaN."""


class NotFiniteError(VectorError):
    """Steering that makes values infinite or NaN; with a smaller coefficient it may not."""


class CatalogueError(SteerError):
    """A model that cannot be fetched, verified or converted."""


class ModelError(SteerError):
    """A model that cannot be found or loaded."""


class CorpusError(SteerError):
    """A corpus that cannot be read, or that holds nothing to measure."""


class TextFileError(SteerError):
    """A file of texts that cannot be read."""


class VectorFileError(SteerError):
    """A file of stored vectors that cannot be read, or does not hold what is asked of it."""


class ExportError(SteerError):
    """A file of vectors that cannot be written, or that its format cannot hold."""


class SweepError(SteerError):
    """A grid, condition or store that does not fit the sweep."""


class PlotError(SteerError):
    """A plot that cannot be drawn or written."""
