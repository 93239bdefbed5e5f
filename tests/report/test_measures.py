"""The tables of measurements: figures that a person can read, and words in one piece."""

import pytest
from rich.console import Console

from steer_cli.report.measures import figure, norms_parts, perplexities, plain_table, table_width
from steer_cli.report.numbers import exact, plain, short
from steer_cli.results import CameTo, Norms, Perplexity


def lines_of(table, width: int) -> list[str]:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(table)
    return captured.get().splitlines()


@pytest.mark.parametrize("method", ["overlay", "prompt"])
def test_a_method_is_not_folded_at_80_columns(method):
    name = "a_corpus_with_a_long_name"
    found = Perplexity(name, None, method, 20560.3, 1234567.8, 60.05, 0.0123, 48, 936)
    lines = lines_of(perplexities([found]), 80)
    (line,) = [line for line in lines if "20,560" in line]
    assert f" {method} " in line and "1,234,568" in line
    # The name is whole, on as many lines as it needs.
    assert "".join(line[:20].split(method)[0].strip() for line in lines[3:]) == name


@pytest.mark.parametrize("columns", [2, 5, 8])
def test_the_width_of_a_table_is_the_one_that_it_is_drawn_with(columns):
    heads, row = ["head" * index for index in range(1, columns + 1)], ["12345"] * columns
    table = plain_table(*heads)
    table.add_row(*row)
    assert max(map(len, lines_of(table, 500))) == table_width(heads, [row])


@pytest.mark.parametrize("relative", [False, True])
def test_norms_show_as_many_positions_as_fit_whole(relative):
    tokens = ("I", " hate", " you", " because", " nevertheless", " understanding", " it")
    figures = tuple(1.5 + index for index in range(len(tokens)))
    came_to = CameTo(0, 3, 0.3, 0.2377) if relative else None
    norms = Norms(
        "r", "m", "I hate", 0, "'a'", 3, 1, tokens, figures, figures, figures, False, came_to=came_to
    )
    drawn = [line for part in norms_parts([norms], 80) for line in lines_of(part, 80)]
    (head,) = [line.split() for line in drawn if "layer" in line and "hate" in line]
    (row,) = [line.split() for line in drawn if line.split()[:1] == ["3"]]
    assert "5 ·nevertheless" in " ".join(head) and "understanding" not in " ".join(head)
    assert row[-5:] == ["1.500", "2.500", "3.500", "4.500", "5.500"]
    assert drawn[-1].strip() == "and 2 more positions (the records have all)"


NUMBERS = [
    (0.0, "0", "0"),
    (0.12346, "0.1235", "0.12346"),
    (999.96, "1,000", "999.96"),
    (2000.0, "2,000", "2,000"),
    (20560.3, "20,560", "20,560.3"),
    (1e8, "100,000,000", "100,000,000"),
    (1e12, "1×10^12", "1×10^12"),
    (-2.056e304, "-2.056×10^304", "-2.056×10^304"),
    (1.5e-7, "1.5×10^-7", "1.5×10^-7"),
    (float("inf"), "inf", "inf"),
    (float("nan"), "nan", "nan"),
]


@pytest.mark.parametrize("value, measured, written", NUMBERS)
def test_a_number_has_no_exponent_as_computers_write_them(value, measured, written):
    assert (exact(value), plain(value)) == (measured, written)
    for shown in (short(value), figure(value, 3)):
        assert "e+" not in shown and "e-" not in shown and len(shown) < 15


def test_figures_of_a_column_have_as_many_decimals_until_they_are_large():
    assert [figure(value, 3) for value in (0.5, 12.0, 999.5, 20560.4)] == [
        "0.500",
        "12.000",
        "999.500",
        "20,560",
    ]
