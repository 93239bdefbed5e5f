"""How large each number of a recipe may be, and how long each text: what no model or machine goes beyond.

Whatever lies within is safe to multiply, to compare and to hand to a tensor. This module knows no keys.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

LARGEST_BLOCK = 999_999
LARGEST_POSITION = 99_999_999
# A vector of any model times this is still far from what overflows when float32 squares it.
LARGEST_COEFFICIENT = 1e12
LARGEST_PENALTY = LARGEST_TEMPERATURE = 1e6
LARGEST_VOCABULARY = 10_000_000
LONGEST_TEXT = 10_000_000  # characters
LONGEST_NAME = 4096  # characters, as of a path

Block = Annotated[int, Field(ge=0, le=LARGEST_BLOCK)]
# 100% of the depth would be behind the last block.
Share = Annotated[str, Field(pattern=r"^[0-9]{1,2}(\.[0-9]{1,12})?%$")]
Position = Annotated[int, Field(ge=0, le=LARGEST_POSITION)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Coefficient = Annotated[float, Field(ge=-LARGEST_COEFFICIENT, le=LARGEST_COEFFICIENT, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-LARGEST_PENALTY, le=LARGEST_PENALTY, allow_inf_nan=False)]
Temperature = Annotated[float, Field(ge=0, le=LARGEST_TEMPERATURE, allow_inf_nan=False)]
Width = Annotated[float, Field(ge=0, le=1)]
Choices = Annotated[int, Field(ge=1, le=LARGEST_VOCABULARY)]
Text = Annotated[str, Field(max_length=LONGEST_TEXT)]
Word = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
# A path with a NUL is none.
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME, pattern="^[^\\x00]+$")]
