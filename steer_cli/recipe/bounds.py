"""Upper limits for the numbers and texts of a recipe, beyond what any model or machine can use.

Values within them are safe to multiply, compare and store in a tensor.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

LARGEST_BLOCK = 999_999
LARGEST_POSITION = 99_999_999
# Any model's vector times this can be squared in float32 without overflow.
LARGEST_COEFFICIENT = 1e12
# What is added is then this much longer than the stream, which leaves nothing of it.
LARGEST_MULTIPLE = 1e6
LARGEST_PENALTY = LARGEST_TEMPERATURE = 1e6
LARGEST_VOCABULARY = 10_000_000
LONGEST_TEXT = 10_000_000  # characters
LONGEST_NAME = 4096  # characters; a name may be a path

Block = Annotated[int, Field(ge=0, le=LARGEST_BLOCK)]
# 100% of the depth would be after the last block.
Share = Annotated[str, Field(pattern=r"^[0-9]{1,2}(\.[0-9]{1,12})?%$")]
Position = Annotated[int, Field(ge=0, le=LARGEST_POSITION)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Coefficient = Annotated[float, Field(ge=-LARGEST_COEFFICIENT, le=LARGEST_COEFFICIENT, allow_inf_nan=False)]
Multiple = Annotated[float, Field(ge=-LARGEST_MULTIPLE, le=LARGEST_MULTIPLE, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-LARGEST_PENALTY, le=LARGEST_PENALTY, allow_inf_nan=False)]
Temperature = Annotated[float, Field(ge=0, le=LARGEST_TEMPERATURE, allow_inf_nan=False)]
Width = Annotated[float, Field(ge=0, le=1)]
Choices = Annotated[int, Field(ge=1, le=LARGEST_VOCABULARY)]
Text = Annotated[str, Field(max_length=LONGEST_TEXT)]
Word = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
# No path contains a NUL.
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME, pattern="^[^\\x00]+$")]
