"""How far the texts of one addition agree on a direction."""

from __future__ import annotations

from dataclasses import dataclass

from steer_cli.results.json_values import Record

LOW = 0.2  # below this a vector is mostly what its texts happen to say


@dataclass(frozen=True)
class Agreement:
    """How far the texts that made a vector agree.

    `mean_cosine`: of the pairs' differences with the vector, the mean; None for lists of texts.
    `halves_cosine`: of the vectors that every second pair or text makes, from the first and from the second
    on; None where one of them is zero. `pairs` is 0 for lists, which have `plus` and `minus` texts.
    """

    label: str
    layer: int
    mean_cosine: float | None
    halves_cosine: float | None
    pairs: int
    plus: int
    minus: int

    @property
    def is_low(self) -> bool:
        return any(figure is not None and figure < LOW for figure in (self.mean_cosine, self.halves_cosine))

    @property
    def figures(self) -> str:
        """What was found, in a few words."""
        shown = []
        if self.mean_cosine is not None:
            shown.append(
                f"the pairs' differences have a mean cosine of {self.mean_cosine:.2f} with the vector"
            )
        if self.halves_cosine is not None:
            shown.append(f"two halves of the texts make vectors with a cosine of {self.halves_cosine:.2f}")
        return ", and ".join(shown)

    @property
    def warning(self) -> str:
        """What to tell the user where it is low."""
        return (
            f"the texts do not agree: {self.label}, layer {self.layer}: {self.figures}; "
            "use more texts, or texts that differ in one thing"
        )

    def record(self) -> Record:
        return {
            "mean_cosine": _rounded(self.mean_cosine),
            "halves_cosine": _rounded(self.halves_cosine),
            "pairs": self.pairs,
            "plus": self.plus,
            "minus": self.minus,
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
