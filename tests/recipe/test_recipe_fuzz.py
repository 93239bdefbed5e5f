"""Whatever a recipe file holds, it is a recipe or one clear line for each fault; never a traceback.

Each test loads its examples one by one, then gives all their files to one `steer check`.
"""

from pathlib import Path

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from steer_cli.cli import app
from steer_cli.errors import RecipeError
from steer_cli.recipe.load import load
from steer_cli.recipe.overrides import parse_override
from steer_cli.recipe.schema import Addition, Pair, Recipe, Sampling
from steer_cli.recipe.sources import TextFile, Texts, VectorFile

# The same examples on every run: a failure is the code's, and can be met again.
fuzz = settings(max_examples=200, deadline=None, derandomize=True, database=None)

KEYS = sorted(
    {
        key
        for part in (Recipe, Addition, Pair, Sampling, Texts, TextFile, VectorFile)
        for key in part.model_fields
    }
    | {"at", "token", "every", "chat", "continue", "role", "content", "from"}
)
WORDS = [
    "front",
    "every",
    "new",
    "ablate",
    "all",
    "25%",
    "auto",
    "none",
    "space",
    "clip",
    "sum",
    "Yes",
    "",
    " ",
    "a\nb",
    "\x1b[31m",
    "é😀",
]

# YAML refuses control characters at once; in the words above there are enough of them.
texts = st.one_of(
    st.sampled_from(WORDS), st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=12)
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 40),
    st.integers(),
    st.floats(),
    texts,
    st.binary(max_size=4),
    st.dates(),
)
keys = st.one_of(
    st.sampled_from(KEYS), st.sampled_from(KEYS), texts, st.integers(0, 9), st.none(), st.booleans()
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(keys, inner, max_size=5),
        st.tuples(inner).map(lambda one: [*one, *one]),  # written with an anchor and an alias
    ),
    max_leaves=12,
)
additions = st.fixed_dictionaries(
    {"plus": st.one_of(st.just("Love"), values), "layer": st.one_of(st.integers(0, 9), values)},
    optional={key: values for key in Addition.model_fields if key not in ("plus", "layer")},
)
documents = st.one_of(
    values,
    st.dictionaries(keys, values, max_size=6),
    # Near enough to a recipe that the faults are deep in it.
    st.fixed_dictionaries(
        {"additions": st.one_of(st.lists(additions, min_size=1, max_size=3), values)},
        optional={key: values for key in Recipe.model_fields if key != "additions"},
    ),
)

# Signs that mean something to YAML, so that random text is more than one plain word.
SIGNS = [
    "\n",
    "\n  ",
    "\n- ",
    ": ",
    "- ",
    "? ",
    "[",
    "]",
    "{",
    "}",
    ", ",
    "&a ",
    "*a",
    "!",
    "!!int ",
    "!!bool ",
]
SIGNS += [
    "!!binary ",
    "!!timestamp ",
    "!!set ",
    "|\n",
    ">-\n",
    "'",
    '"',
    "\\",
    "#",
    "%",
    "---\n",
    "...\n",
    "\t",
]
SIGNS += [
    "~",
    "<<",
    "=",
    ".nan",
    "0x",
    "1e9",
    "\r",
    "\x85",
    "\u2028",
    "\ufeff",
    "\0",
    "\x1b",
    "additions",
    "layer",
]

WHOLE = Path(__file__).parents[2] / "recipes" / "gpt2-xl" / "love-hate.yaml"


def load_each(folder: Path, contents: st.SearchStrategy[bytes]) -> dict[Path, tuple[str, ...]]:
    """Load every example from a file of its own; the faults of each file."""
    faults: dict[Path, tuple[str, ...]] = {}

    @fuzz
    @given(content=contents)
    def each(content):
        file = folder / f"{len(faults)}.yaml"
        file.write_bytes(content)
        faults[file] = ()
        try:
            recipe = load(str(file))
        except RecipeError as error:
            faults[file] = error.problems
            for said in (str(error), *error.problems):
                assert said.startswith(f"{file}:"), said
                assert len(said.splitlines()) == 1, said
        else:
            assert isinstance(recipe, Recipe)
            assert recipe.additions

    each()
    return faults


def check_all(faults: dict[Path, tuple[str, ...]]) -> None:
    """`steer check` on all files at once tells a line for each fault, and ok for each of the others."""
    assert len(faults) >= 200
    result = CliRunner().invoke(app, ["check", *map(str, faults)])
    # Anything but an exit is a traceback.
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert result.exit_code == (1 if any(faults.values()) else 0)
    said = result.stderr.splitlines()
    assert len(said) == sum(map(len, faults.values()))
    assert all(line.startswith("error: ") for line in said)
    whole = [file for file, found in faults.items() if not found]
    assert [line.split(": ok (")[0] for line in result.stdout.splitlines()] == list(map(str, whole))


@st.composite
def structures(draw) -> bytes:
    return yaml.safe_dump(draw(documents), allow_unicode=True).encode()


def test_random_structures(tmp_path):
    check_all(load_each(tmp_path, structures()))


@st.composite
def scribbles(draw) -> bytes:
    return "".join(draw(st.lists(st.one_of(st.sampled_from(SIGNS), texts), max_size=25))).encode()


def test_random_text(tmp_path):
    check_all(load_each(tmp_path, scribbles()))


def test_random_bytes(tmp_path):
    check_all(load_each(tmp_path, st.binary(max_size=60)))


@st.composite
def mutants(draw) -> bytes:
    """A shipped recipe with lines deleted, repeated, indented or rewritten."""
    lines = WHOLE.read_text(encoding="utf-8").splitlines()
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        key, colon, value = lines[at].partition(":")
        word, sign = draw(texts), draw(st.sampled_from(SIGNS))
        ways = [
            ["#"],
            [lines[at], lines[at]],
            ["  " + lines[at]],
            [lines[at].lstrip()],
            [f"{key}{colon} {word}"],
            [f"{key}{colon} {word!r}"],
            [f"{key}{colon}"],
            [f"{word}{colon}{value}"],
            [sign + lines[at]],
            [lines[at] + sign],
        ]
        lines[at : at + 1] = draw(st.sampled_from(ways))
    return "\n".join(lines).encode()


def test_a_recipe_with_lines_changed(tmp_path):
    faults = load_each(tmp_path, mutants())
    check_all(faults)
    # Near the format on both sides: some are still recipes and some are not.
    assert {bool(found) for found in faults.values()} == {True, False}


steps = st.one_of(st.sampled_from(KEYS), st.sampled_from(["0", "1", "-1", "00", ""]), texts)
changes = st.tuples(
    st.lists(steps, max_size=4).map(".".join), st.sampled_from(["=", "=", "=", ""]), texts
).map("".join)


@fuzz
@given(change=st.one_of(changes, st.lists(st.sampled_from([*SIGNS, "a", "0", "."]), max_size=8).map("".join)))
def test_random_changes(change):
    try:
        recipe = load(str(WHOLE), [parse_override(change)])
    except RecipeError as error:
        assert all(said.startswith(f"set {change}") for said in error.problems)
    else:
        assert isinstance(recipe, Recipe)
