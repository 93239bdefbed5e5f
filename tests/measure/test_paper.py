"""The alignment tables that Turner et al. 2023 printed, against those of the recipes that ship."""

import pytest

from steer_cli.models.resolve import locate
from steer_cli.planning.plan import plan_recipe
from steer_cli.recipe.bundled import shipped
from steer_cli.recipe.load import load
from steer_cli.recipe.overrides import parse_override

# For each recipe: the first position that the post prints, then a row for each text: layer, coefficient, and
# the tokens of the printed columns. ¦ stands between columns, ^ for the first token of GPT-2's documents, an
# empty column for a position where nothing is added; a lone space is a pad. The post prints as many columns
# as it has room for. The tables stand under "Demonstrations", under "Activation additions mess up output
# tokens", under "Token probability shifts", and in the footnotes by the number of the demonstration.
PRINTED = {
    "love-hate": (0, ["0 +1 ^¦I¦ hate¦ you¦ because", "6 +5 ^¦Love¦ ¦¦", "6 -5 ^¦H¦ate¦¦"]),  # 1
    "praise": (  # 2
        0,
        ["0 +1 ^¦I¦ want¦ to¦ kill", "6 +15 ^¦Int¦ent¦ to¦ praise", "6 -15 ^¦Int¦ent¦ to¦ hurt"],
    ),
    "conspiracy": (  # 3
        0,
        [
            "0 +1 ^¦Bar¦ack¦ Obama¦ was¦ born¦ in",
            "23 +1 ^¦Bush¦ did¦ 9¦/¦11¦ because",
            "23 -1 ^¦ ¦ ¦ ¦ ¦ ¦ ",
        ],
    ),
    "want-to-die": (  # 4
        0,
        ["0 +1 ^¦Some¦ people¦ think¦ that", "10 +3 ^¦Want¦ to¦ die¦ ", "10 -3 ^¦Want¦ to¦ stay¦ alive"],
    ),
    "anger": (0, ["0 +1 ^¦I¦ think¦ you¦'re", "20 +10 ^¦Ang¦er¦¦", "20 -10 ^¦Cal¦m¦¦"]),  # 5
    "eiffel-rome": (  # 6
        1,
        [
            "0 +1 To¦ see¦ the¦ e¦iff¦el¦ tower¦,",
            "24 +10 The¦ E¦iff¦el¦ Tower¦ is¦ in¦ Rome",
            "24 -10 The¦ E¦iff¦el¦ Tower¦ is¦ in¦ France",
        ],
    ),
    "dragons": (  # 7
        0,
        [
            "0 +1 ^¦Thanks¦ for¦ asking¦ about¦ that",
            "15 +4 ^¦Dr¦agons¦ live¦ in¦ Berkeley",
            "15 -4 ^¦People¦ live¦ in¦ Berkeley¦ ",
        ],
    ),
    "no-hurt": (  # 8
        1,
        [
            "0 +1 The¦ rock¦ hurt¦led¦ toward¦ the¦ child",
            "15 +4 I¦ NEVER¦ talk¦ about¦ people¦ getting¦ hurt",
            "15 -4 I¦ talk¦ about¦ people¦ getting¦ hurt¦ ",
        ],
    ),
    "weddings": (  # 9
        1,
        [
            "0 +1 I¦ went¦ up¦ to¦ my¦ friend",
            "20 +4 I¦ talk¦ about¦ weddings¦ constantly¦ ",
            "20 -4 I¦ do¦ not¦ talk¦ about¦ weddings",
        ],
    ),
    "evangelist": (  # 10
        1,
        [
            "0 +1 I¦ want¦ to¦ kill¦ you¦ because¦ you",
            "6 +3 Int¦ent¦ to¦ convert¦ you¦ to¦ Christianity",
            "6 -3 Int¦ent¦ to¦ hurt¦ you¦ ¦ ",
        ],
    ),
    "love-alone": (0, ["0 +1 ^¦I¦ hate¦ you¦ because", "6 +10 ^¦Love¦¦¦"]),  # 11
    "anger-2000": (  # 12a
        0,
        [
            "0 +1 ^¦Yesterday¦,¦ my¦ dog¦ died¦.",
            "20 +2000 ^¦Ang¦er¦¦¦¦",
            "20 -2000 ^¦Cal¦m¦¦¦¦",
        ],
    ),
    "weddings-100": (  # 12b
        1,
        [
            "0 +1 I¦ went¦ up¦ to¦ my¦ friend",
            "20 +100 I¦ talk¦ about¦ weddings¦ constantly¦ ",
            "20 -100 I¦ do¦ not¦ talk¦ about¦ weddings",
        ],
    ),
    "french": (  # 13
        0,
        ["0 +1 ^¦I¦ want¦ to¦ kill¦ you¦ because", "6 +5 ^¦Je¦ m¦'¦app¦elle¦", "6 -5 ^¦My¦ name¦ is¦ ¦ ¦"],
    ),
    "wedding-back": (  # under "Activation additions mess up output tokens"
        1,
        ["0 +1 I¦ went¦ up¦ to¦ my¦ friend¦ and¦ said", "6 +4 ¦¦¦¦¦¦^¦ wedding", "6 -4 ¦¦¦¦¦¦^¦ "],
    ),
    "love-and-wedding": (  # 15
        0,
        [
            "0 +1 ^¦I¦ recently¦ went¦ to¦ this",
            "6 +5 ^¦Love¦ ¦¦¦",
            "6 -5 ^¦H¦ate¦¦¦",
            "15 +5 ^¦ wedding¦¦¦¦",
            "15 -5 ^¦ ¦¦¦¦",
        ],
    ),
    "goose": (  # 16
        0,
        [
            "0 +1 ^¦In¦ New¦ York¦ City¦'s¦ parks¦,",
            "10 +7 ^¦Whenever¦ I¦ say¦ the¦ word¦ goose¦ I",
            "10 -7 ^¦I¦ can¦ say¦ goose¦ ¦ ¦ ",
        ],
    ),
    "wedding-shift": (0, ["16 +1 ^¦ weddings", "16 -1 ^¦ "]),  # printed without its prompt
}
# The post's text says 1, which the recipe follows; this table prints 4.
CHANGES = {"wedding-back": ["additions.0.coefficient=4"]}
BOS = "<|endoftext|>"


def rows_of(name, folder):
    changes = [f"model={folder}", *CHANGES.get(name, [])]
    recipe = load(f"gpt2-xl/{name}", [parse_override(change) for change in changes])
    planned = plan_recipe(recipe, locate(recipe.model, weights=False).facts(recipe.bos))
    return planned.table(planned.prompts[0])


def in_columns(row, first, columns):
    """A token for each printed position, "" where the row has none."""
    at = dict(enumerate(row.tokens, row.start))
    return [at.get(position, "") for position in range(first, first + columns)]


@pytest.mark.parametrize("name", PRINTED)
def test_the_table_is_the_papers(name, gpt2_tokenizer_folder):
    first, lines = PRINTED[name]
    rows = rows_of(name, gpt2_tokenizer_folder)
    if not lines[0].startswith("0 +1 "):
        rows = rows[1:]
    for row, line in zip(rows, lines, strict=True):
        layer, coefficient, tokens = line.split(" ", 2)
        tokens = [token.replace("^", BOS) for token in tokens.split("¦")]
        assert (row.layer, row.coefficient) == (int(layer), float(coefficient))
        assert in_columns(row, first, len(tokens)) == tokens
        assert row.tokens[-1] == " " or row.padding == 0


def test_every_recipe_of_the_paper_has_a_table(gpt2_tokenizer_folder):
    names = {name.split("/")[1] for name in shipped() if name.startswith("gpt2-xl/")}
    # Of these the post describes the additions in words.
    assert names - set(PRINTED) == {"wedding-front", "wedding-middle", "french-code-switching"}
    for name in sorted(names):
        (prompt, *rows) = rows_of(name, gpt2_tokenizer_folder)
        assert prompt.role == "prompt" and prompt.tokens[0] == BOS
        for row in rows:
            assert row.tokens[0] == BOS and 0 <= row.start <= len(prompt.tokens) - len(row.tokens)


@pytest.mark.parametrize(("name", "start"), [("front", 0), ("middle", 3), ("back", 7)])
def test_wedding_positions(name, start, gpt2_tokenizer_folder):
    prompt, plus, minus = rows_of(f"wedding-{name}", gpt2_tokenizer_folder)
    assert len(prompt.tokens) == 9  # m = 4, h = 1
    assert (plus.start, plus.tokens) == (start, (BOS, " wedding"))
    assert (minus.start, minus.tokens) == (start, (BOS, " "))


def test_french_by_code_switching_is_a_mean_of_56_texts(gpt2_tokenizer_folder):
    _, *rows = rows_of("french-code-switching", gpt2_tokenizer_folder)
    assert [row.coefficient for row in rows] == [3 / 56, -3 / 56] * 28
    for plus, minus in zip(rows[::2], rows[1::2], strict=True):
        assert len(plus.tokens) == len(minus.tokens) and 0 in (plus.padding, minus.padding)
