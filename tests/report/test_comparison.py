"""The screen of `generate`: it holds the figures of the records, and no more lines than a person reads."""

import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from steer_cli.api.questions import generate
from steer_cli.recipe.schema import Addition, Recipe
from steer_cli.report.acted import RATIO, acted
from steer_cli.report.comparison import comparison_parts
from steer_cli.report.numbers import exact, plain, short
from steer_cli.report.title import quoted, summary, title
from tests.tiny import PROMPT, open_model

LOVE = {"plus": "Love", "minus": "Hate", "layer": 2, "coefficient": -3.0}
WEDDING = {"plus": " wedding", "minus": " ", "layer": 2, "coefficient": 0.5, "position": "every"}
PAIRS = {"pairs": [{"plus": f"I am {n}", "minus": f"You are {n}"} for n in range(50)], "layer": 1}


def lines_of(parts, width: int = 200) -> list[str]:
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    return [line.rstrip() for line in captured.get().splitlines()]


@pytest.fixture
def compared(tiny_folder):
    def of(*additions, prompt=PROMPT, **more):
        model = open_model(tiny_folder("llama"))
        sampling = {"max_new_tokens": 6, "samples": 2}
        recipe = Recipe.model_validate(
            {"name": "mine", "prompt": prompt, "additions": additions, "sampling": sampling, **more}
        )
        return generate(model, recipe)[0]

    return of


def table(lines: list[str]) -> dict[str, dict[int, str]]:
    """The rows of the table, folded or not: label -> position -> what stands there."""
    rows: dict[str, dict[int, str]] = {}
    starts: list[tuple[int, int]] = []
    for line in lines:
        if line.startswith("position "):
            starts = [(int(found[0]), found.start()) for found in re.finditer(r"\d+", line)]
        elif starts and "─" not in line and starts[0][1] > 0:
            label = line[: starts[0][1]].strip()
            for (position, left), (_, right) in zip(starts, [*starts[1:], (0, 1000)], strict=True):
                if line[left:right].strip():
                    rows.setdefault(label, {})[position] = line[left:right].strip()
    return rows


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("position", ["front", "back", "every", {"at": 3}], ids=str)
def test_the_table_says_how_hard_each_addition_acted_where(position, width, compared):
    comparison = compared(LOVE | {"position": position})
    (receipt,) = comparison.receipts
    added = [3.0 * v / s for v, s in zip(receipt.vector, receipt.stream, strict=True)]
    rows = table(lines_of(acted(comparison, width), width))
    start = receipt.placement.start
    assert rows[RATIO] == {start + index: short(value) for index, value in enumerate(added)}
    if position == "front":
        assert [rows["+ Love"][at] for at in range(3)] == ["<s>", "Love", "␣"]
        assert rows["- Hate"].keys() == {0, 1, 2}
    if position == "every":
        assert {text: [*rows[text].values()] for text in ("+ Love", "- Hate")} == {
            "+ Love": ["Love →"],
            "- Hate": ["ate →"],
        }


def test_several_additions_are_numbered_in_the_title_and_in_the_table(compared):
    comparison = compared(LOVE, WEDDING)
    head = title(comparison.recipe, "m").plain.splitlines()
    assert head == [
        "mine   m",
        "1  Love - Hate × -3, layer 2, front",
        '2  " wedding" - " " × 0.5, layer 2, every position',
    ]
    rows = table(lines_of(acted(comparison, 200)))
    assert {f"1 {RATIO}", f"2 {RATIO}", "1 + Love", '2 + " wedding"', "together, layer 2"} <= rows.keys()
    (total,) = comparison.sums
    assert [*rows["together, layer 2"].values()] == [short(ratio) for ratio in total.ratio]


def test_figures_stand_below_each_other_on_lines_of_a_small_terminal_whatever_the_labels(compared):
    long = "words of praise and of affection for somebody"
    comparison = compared(LOVE, count={"a": ["a"], long: ["b"]})
    lines = lines_of(comparison_parts(comparison, 80), 80)
    start = lines.index(long)
    assert {line[:6] for line in (lines[start - 1], lines[start + 1], lines[start + 2])} == {
        "a     ",
        "      ",
        "cost  ",
    }
    assert " words per completion" in lines[start + 1] and " nats per token: " in lines[start + 2]


def test_a_title_without_a_file_breaks_between_what_and_how():
    texts = {"plus": "Dear Sir or Madam, I regret to inform you", "minus": "hey dude, guess what, lol"}
    name = f"{quoted(texts['plus'])} - {quoted(texts['minus'])}"
    recipe = Recipe(name=name, additions=[{**texts, "layer": "33%", "position": "every"}])
    assert title(recipe, "m").plain.splitlines() == [f"{name}   m", "× 1, layer 33%, every position"]
    short_one = Recipe(name="Love - Hate", additions=[LOVE])
    assert title(short_one, "m").plain == "Love - Hate × -3, layer 2, front   m"


def test_layers_of_one_addition_share_a_row_from_least_to_most(compared):
    comparison = compared(LOVE | {"layer": [0, 1, 2, 3]})
    row = table(lines_of(acted(comparison, 200)))[f"{RATIO}, layers 0-3"]
    for position in (1, 2):
        added = [3.0 * receipt.ratio[position] for receipt in comparison.receipts]
        assert row[position] == f"{short(min(added))} to {short(max(added))}"
    assert row[0] == "0"


def test_fifty_pairs_take_a_few_lines_and_explain_shows_all(compared):
    comparison = compared(PAIRS)
    lines = lines_of(acted(comparison, 80), 80)
    assert len(lines) < 12 and "and 96 more texts (`steer table` shows all)" in lines
    assert summary(comparison.recipe.additions[0]).startswith(
        "I am 0 - You are 0 and 49 more pairs × 1, layer 1"
    )
    rows = [line for line in lines_of(comparison_parts(comparison, 200, explain=True)) if line[:2] == "1 "]
    assert len(rows) == 100


def test_completions_come_first_and_their_shared_beginning_is_dim(compared):
    comparison = compared(LOVE, count={"a": ["a"]})
    lines = lines_of(comparison_parts(comparison, 200))
    order = [
        next(index for index, line in enumerate(lines) if line.startswith(start))
        for start in (PROMPT, "unsteered", "a     ", "cost", "position")
    ]
    assert order == sorted(order)
    same = compared(LOVE | {"coefficient": 0})
    (text, other) = (
        next(iter(column.cells))
        for column in next(part for part in comparison_parts(same, 80) if hasattr(part, "columns")).columns
    )
    for shown in (text, other):
        assert any(span.style == "dim" and span.end >= len(shown) - 2 for span in shown.spans)


@pytest.mark.parametrize("width", [10, 20, 40, 80, 140])
@pytest.mark.parametrize("prompt", [PROMPT, "😀 日本語 " + PROMPT, "I\nhate\tyou" + 50 * "x"])
def test_no_line_is_wider_than_the_screen(prompt, width, compared):
    comparison = compared(LOVE, WEDDING, prompt=prompt)
    for explain in (False, True) if width > 20 else (False,):
        lines = lines_of(comparison_parts(comparison, width, explain), width)
        assert max(map(cell_len, lines)) <= width


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.004, "<0.01"),
        (0.04, "0.04"),
        (0.5, "0.5"),
        (1.73, "1.7"),
        (14.2, "14"),
        (20560, "20,560"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_have_the_digits_that_count_and_no_exponent(value, shown):
    assert short(value) == shown
    assert "e" not in exact(20560.3) + plain(20560.0) + plain(-0.001) + plain(2000)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Love", "Love"),
        (" wedding", '" wedding"'),
        ("", '""'),
        (" ", '" "'),
        ("a b ", '"a b "'),
        ("x" * 40, "x" * 23 + "…"),
    ],
)
def test_a_text_in_a_title_shows_its_spaces(text, shown):
    assert quoted(text) == shown


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "Love × 1, layer 2, front"),
        ({"layer": "25%"}, "Love × 1, layer 25%, front"),
        ({"layer": [2, 3, 4, 9]}, "Love × 1, layers 2, 3, 4, 9, front"),
        ({"position": {"at": 3}}, "Love × 1, layer 2, at 3"),
        ({"position": {"token": " friend"}}, 'Love × 1, layer 2, at " friend"'),
        ({"random": {"seed": 1}}, "Love × 1, as noise, layer 2, front"),
    ],
)
def test_a_title_says_what_is_added_and_where(changes, said):
    assert summary(Addition.model_validate({"plus": "Love", "layer": 2} | changes)) == said


def test_the_title_names_an_ablation_all_layers_and_the_way():
    ablated = {**LOVE, "coefficient": 1, "operation": "ablate", "layer": "all", "position": "every"}
    assert summary(Addition(**ablated)) == "Love - Hate ablated × 1, all layers, every position"
    ways = {
        "both": "every position",
        "all": "every position and BOS",
        "prompt": "prompt only",
        "new": "new tokens",
    }
    for way, words in ways.items():
        assert summary(Addition(**LOVE | {"position": {"every": way}})).endswith(f"layer 2, {words}")


def test_the_receipt_of_an_ablation_has_the_component_before_and_after(compared):
    comparison = compared(LOVE | {"coefficient": 0.5, "operation": "ablate", "position": {"every": "prompt"}})
    (receipt,) = comparison.receipts
    sides = list(zip(receipt.component_before, receipt.component_after, receipt.stream, strict=True))
    assert len(sides) == 8
    for before, after, stream in sides:
        assert after == pytest.approx(before / 2, abs=1e-5 * stream)
    assert receipt.component_before == pytest.approx(
        [cosine * stream for cosine, stream in zip(receipt.cosine, receipt.stream, strict=True)], abs=1e-4
    )
    assert receipt.change == pytest.approx([abs(b - a) / s for b, a, s in sides])
    lines = lines_of(acted(comparison, 200))
    rows = table(lines)
    assert [*rows[RATIO].values()] == [short(value) for value in receipt.change]
    assert [*rows["component before"].values()] == [short(value) for value in receipt.component_before]
    assert [*rows["component after"].values()] == [short(value) for value in receipt.component_after]
    assert rows["+ Love"] == {1: "Love ⇥"}
    assert "⇥ read at this token, then ablated at every position from here to the prompt's end" in lines[-1]
    record = receipt.record()
    assert record["operation"] == "ablate" and record["position"] == {"every": "prompt"}
    assert len(record["component_before"]) == len(record["component_after"]) == 8
    explained = lines_of(comparison_parts(comparison, 200, explain=True))
    (head,) = (line for line in explained if line.startswith("  ablated: "))
    assert head.endswith("every 'prompt' [1, 9)")
    head = next(line.split() for line in explained if line.split()[:2] == ["position", "token"])
    line = next(line.split() for line in explained if line.split()[:1] == ["1"] and line.endswith(" x"))
    assert line[head.index("before")] == exact(receipt.component_before[0])
    assert line[head.index("ratio")] == f"{receipt.ratio[0]:.3f}"


def test_what_acts_on_new_tokens_alone_has_no_row_and_is_told(compared):
    comparison = compared(LOVE | {"position": {"every": "new"}})
    (receipt,) = comparison.receipts
    assert receipt.record()["span"] == [9, 9] and receipt.ratio == ()
    lines = lines_of(acted(comparison, 200))
    assert "the vector is added at new tokens only, at no position of the prompt" in lines
    assert len(lines) == 1
    explained = "\n".join(lines_of(comparison_parts(comparison, 200, explain=True)))
    assert "{every: new}: on new tokens alone, at no position of the prompt" in explained
    two = lines_of(acted(compared(LOVE, LOVE | {"position": {"every": "new"}}), 200))
    assert "addition 2 is added at new tokens only, at no position of the prompt" in two
