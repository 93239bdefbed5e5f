"""Values that JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

Record = dict[str, Any]


def finite(values: Iterable[float]) -> list[float | None]:
    """Replace values that JSON cannot hold, such as the ratio to a stream of zeros, by None."""
    return [value if math.isfinite(value) else None for value in values]
