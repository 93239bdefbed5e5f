"""A small terminal: what stands on its screen after the codes that rich and `report` write."""

import re

CODES = re.compile(r"\x1b\[[\d;]*m|\x1b\[(\??)(\d*)([A-Za-z])|([\r\n])|([^\x1b\r\n])|(.)", re.DOTALL)


class Emulator:
    """Rows without end, all of which are kept; of wide characters it knows nothing.

    Args:
        folds: what happens when it becomes narrower: rows are folded, or cut.
    """

    def __init__(self, width: int, folds: bool = True) -> None:
        self.width, self.folds = width, folds
        self.cursor_shown = True
        self._rows: list[str] = [""]
        self._goes_on: list[bool] = [False]  # whether a row is the first part of a folded line
        self._row = self._column = 0

    @property
    def rows(self) -> list[str]:
        """What stands there, without spaces at the ends of rows and without empty rows at the end."""
        return "\n".join(row.rstrip() for row in self._rows).rstrip().split("\n")

    def write(self, text: str) -> None:
        for found in CODES.finditer(text):
            private, number, code, ending, character, unknown = found.groups()
            assert unknown is None, f"{unknown!r} in {text!r}"
            if ending == "\r":
                self._column = 0
            elif ending:
                self._next_row()
                self._column = 0
            elif character:
                self._put(character)
            elif private:
                assert number == "25"
                self.cursor_shown = code == "h"
            elif code == "A":
                self._row = max(0, self._row - int(number))
            elif code == "K":
                assert number == "2"
                self._rows[self._row], self._goes_on[self._row] = "", False
            else:
                assert code is None, f"{found[0]!r}"

    def _put(self, character: str) -> None:
        if self._column == self.width:
            self._goes_on[self._row] = True
            self._next_row()
            self._column = 0
        row = self._rows[self._row].ljust(self._column)
        self._rows[self._row] = row[: self._column] + character + row[self._column + 1 :]
        self._column += 1

    def _next_row(self) -> None:
        self._row += 1
        if self._row == len(self._rows):
            self._rows.append("")
            self._goes_on.append(False)

    def resize(self, width: int) -> None:
        """Become wider or narrower; the cursor stays with its line."""
        if not self.folds:
            self._rows = [row[:width] for row in self._rows]
            self.width, self._column = width, min(self._column, width)
            return
        rows: list[str] = []
        goes_on: list[bool] = []
        line, offset, cursor = "", None, self._row
        for index, (row, unfinished) in enumerate(zip(self._rows, self._goes_on, strict=True)):
            if index == cursor:
                offset = len(line) + self._column
            line += row
            if unfinished:
                continue
            parts = [line[start : start + width] for start in range(0, max(1, len(line)), width)]
            if offset is not None:
                part = min(offset // width, len(parts) - 1)
                self._row, self._column = len(rows) + part, offset - part * width
            rows += parts
            goes_on += [True] * (len(parts) - 1) + [False]
            line, offset = "", None
        self._rows, self._goes_on, self.width = rows, goes_on, width
