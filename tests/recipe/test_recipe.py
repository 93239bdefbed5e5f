"""The recipe's format: what it takes, and what each error names: file, line, path, value, what is right."""

import hashlib
import io
import json
import sys
import time
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError

from steer_cli.errors import RecipeError
from steer_cli.recipe import load as format_of
from steer_cli.recipe.bundled import find, shipped
from steer_cli.recipe.load import load
from steer_cli.recipe.overrides import parse_override
from steer_cli.recipe.schema import At, AtToken, Every, Recipe
from steer_cli.recipe.yaml_source import Document

RECIPES = Path(__file__).parents[2] / "recipes"
FILES = sorted(RECIPES.glob("*/*.yaml"))

# Line 1 is the prompt, 2 `additions:`, 3 to 5 the addition; what a test appends starts on line 6.
WHOLE = """\
prompt: I hate you because
additions:
  - plus: Love
    minus: Hate
    layer: 6
"""


def written(folder: Path, content: str | bytes, name: str = "r.yaml") -> str:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(file)


def problems(folder: Path, content: str | bytes) -> list[str]:
    """The faults found in a recipe file, without the file's name in front."""
    file = written(folder, content)
    with pytest.raises(RecipeError) as caught:
        load(file)
    for problem in caught.value.problems:
        assert problem.startswith(f"{file}:"), problem
        assert len(problem.splitlines()) == 1, problem
    return [problem.removeprefix(f"{file}:") for problem in caught.value.problems]


def only(folder: Path, content: str | bytes) -> str:
    found = problems(folder, content)
    assert len(found) == 1, found
    return found[0]


def changed(folder: Path, *changes: str):
    return load(written(folder, WHOLE), [parse_override(change) for change in changes])


ADDITION = "additions:\n  - plus: Love\n"
A_BLOCK = 'a block such as 6, a list of blocks such as [6, 15], a share of the depth such as "25%", or all'
A_POSITION = 'front, middle, back, every, {at: 3}, {token: " friend"} or {every: prompt|new|both|all}'

# What is written, the line of the fault, and what the error must say.
FAULTY = {
    # unknown keys
    "key of the document": (WHOLE + "promts: [a]\n", 6, "promts: unknown key; did you mean prompts?"),
    "key of an addition": (
        WHOLE + "    coeficient: 3\n",
        6,
        "additions.0.coeficient: unknown key; did you mean coefficient?",
    ),
    "key of a later addition": (
        WHOLE + "  - layer: 3\n    plus: a\n    mins: b\n",
        8,
        "additions.1.mins: unknown key; did you mean minus?",
    ),
    "key of sampling": (
        WHOLE + "sampling:\n  seed: 1\n  temprature: 1\n",
        8,
        "sampling.temprature: unknown key; did you mean temperature?",
    ),
    "key of a pair": (
        "additions:\n  - layer: 3\n    pairs:\n      - plus: a\n        mnus: b\n",
        5,
        "additions.0.pairs.0.mnus: unknown key; did you mean minus?",
    ),
    "key of random": (
        WHOLE + "    random:\n      sed: 3\n",
        7,
        "additions.0.random.sed: unknown key; did you mean seed?",
    ),
    "key like nothing known": (WHOLE + "zzz: 3\n", 6, "zzz: unknown key; known keys: name, description,"),
    "key that is a number": (WHOLE + "3: x\n", 6, "keys are text"),
    "key that is true": (WHOLE + "true: x\n", 6, "keys are text"),
    "key that is null": (WHOLE + "~: x\n", 6, "keys are text"),
    "key that is a list": (WHOLE + "[a, b]: x\n", 6, "unhashable key"),
    "label that is a number": (WHOLE + "count:\n  3: [a]\n", 7, "count.3: ", "text"),
    "merge key of YAML 1.1": (WHOLE + "<<: {seed: 1}\n", 6, "<<: unknown key"),
    # the document as a whole
    "empty file": ("", 1, "None is not a mapping of keys"),
    "comment alone": ("# nothing\n", 1, "None is not a mapping of keys"),
    "a word": ("hello\n", 1, "'hello' is not a mapping of keys, such as prompt: ... and additions: [...]"),
    "a list": ("- a\n", 1, "['a'] is not a mapping of keys"),
    # additions and layers
    "no additions": ("prompt: a\n", 1, "additions: missing; write a list of at least one addition"),
    "empty additions": (
        "prompt: a\nadditions: []\n",
        2,
        "additions: [] is not a list of at least one addition",
    ),
    "additions of null": (
        "prompt: a\nadditions:\n",
        2,
        "additions: None is not a list of at least one addition",
    ),
    "additions as a mapping": (
        "additions: {plus: a, layer: 3}\n",
        1,
        "additions: {'layer': 3, 'plus': 'a'} is not a list",
    ),
    "addition as a word": (
        "additions:\n  - Love\n",
        2,
        "additions.0: 'Love' is not a mapping of keys, such as {plus: Love",
    ),
    "no layer": ("prompt: a\n" + ADDITION, 3, f"additions.0.layer: missing; write {A_BLOCK}"),
    "negative layer": (ADDITION + "    layer: -1\n", 3, f"additions.0.layer: -1 is not {A_BLOCK}"),
    "layer of a half": (ADDITION + "    layer: 1.5\n", 3, f"additions.0.layer: 1.5 is not {A_BLOCK}"),
    "layer as text": (ADDITION + "    layer: '25'\n", 3, f"additions.0.layer: '25' is not {A_BLOCK}"),
    "layer as true": (ADDITION + "    layer: true\n", 3, f"additions.0.layer: True is not {A_BLOCK}"),
    "layers with a word": (ADDITION + "    layer: [3, x]\n", 3, "additions.0.layer: [3, 'x'] is not a block"),
    "no layers": (ADDITION + "    layer: []\n", 3, "additions.0.layer: [] is not a block such as 6"),
    "a layer twice": (ADDITION + "    layer: [3, 3]\n", 2, "each listed once"),
    "source_layer as a list": (
        WHOLE + "    source_layer: [1]\n",
        6,
        "additions.0.source_layer: [1] is not a block such as 0, or a share of the depth",
    ),
    # numbers
    "NaN": (WHOLE + "    coefficient: .nan\n", 6, "additions.0.coefficient: nan is not a finite number"),
    "infinity": (WHOLE + "    coefficient: .inf\n", 6, "additions.0.coefficient: inf is not a finite number"),
    "less than all": (
        WHOLE + "    coefficient: -.Inf\n",
        6,
        "additions.0.coefficient: -inf is not a finite number",
    ),
    "beyond a double": (WHOLE + "    coefficient: 1e999\n", 6, "inf is not a finite number"),
    "integer beyond a double": (
        WHOLE + f"    coefficient: {'9' * 400}\n",
        6,
        "additions.0.coefficient: 999",
        "is not a finite number",
    ),
    "integer of 5000 digits": (WHOLE + f"    coefficient: {'9' * 5000}\n", 6, "digits"),
    "coefficient as text": (WHOLE + "    coefficient: five\n", 6, "'five' is not a finite number such as 5"),
    "coefficient as a list": (
        WHOLE + "    coefficient: [1]\n",
        6,
        "additions.0.coefficient: [1] is not a finite",
    ),
    "negative temperature": (
        WHOLE + "sampling: {temperature: -1}\n",
        6,
        "sampling.temperature: -1 is not a finite",
    ),
    "NaN as temperature": (WHOLE + "sampling: {temperature: .nan}\n", 6, "sampling.temperature: nan is not"),
    "top_p of 0": (
        WHOLE + "sampling: {top_p: 0}\n",
        6,
        "sampling.top_p: 0 is not a number above 0 and up to 1",
    ),
    "top_p of 1.1": (WHOLE + "sampling: {top_p: 1.1}\n", 6, "sampling.top_p: 1.1 is not a number above 0"),
    "NaN as top_p": (WHOLE + "sampling: {top_p: .nan}\n", 6, "sampling.top_p: nan is not a number above 0"),
    "top_k of 0": (
        WHOLE + "sampling: {top_k: 0}\n",
        6,
        "sampling.top_k: 0 is not a whole number, 1 or more, or null",
    ),
    "no samples": (
        WHOLE + "sampling: {samples: 0}\n",
        6,
        "sampling.samples: 0 is not a whole number from 1 to",
    ),
    "a sample and a half": (WHOLE + "sampling: {samples: 1.5}\n", 6, "sampling.samples: 1.5 is not a whole"),
    "no new tokens": (WHOLE + "sampling: {max_new_tokens: 0}\n", 6, "sampling.max_new_tokens: 0 is not a"),
    "negative seed": (
        WHOLE + "sampling: {seed: -1}\n",
        6,
        "sampling.seed: -1 is not a whole number, 0 or more",
    ),
    "seed of 65 bits": (WHOLE + f"sampling: {{seed: {2**63}}}\n", 6, "sampling.seed: 92", "below 2^63"),
    "penalty of infinity": (WHOLE + "sampling: {frequency_penalty: .inf}\n", 6, "sampling.frequency_penalty"),
    "sampling of null": (WHOLE + "sampling:\n", 6, "sampling: None is not a mapping such as {samples: 3"),
    "dims above 1": (WHOLE + "    dims: 1.5\n", 6, "additions.0.dims: 1.5 is not a share of the width"),
    "NaN as dims": (WHOLE + "    dims: .nan\n", 6, "additions.0.dims: nan is not a share of the width"),
    # numbers beyond what they mean
    "layer of too many digits": (ADDITION + f"    layer: {'9' * 400}\n", 3, "blocks go up to 999999"),
    "share of too many digits": (ADDITION + f"    layer: {'9' * 400}%\n", 3, "shares from 0% to below 100%"),
    "share of many decimals": (ADDITION + f"    layer: 0.{'9' * 400}%\n", 3, "additions.0.layer: '0.999"),
    "the whole depth": (ADDITION + "    layer: 100%\n", 3, "'100%' is not a block", "below 100%"),
    "shares in a list": (ADDITION + f"    layer: [1, {'9' * 400}%]\n", 3, "additions.0.layer: [1, '999"),
    "source share": (WHOLE + f"    source_layer: {'9' * 400}%\n", 6, "source_layer: '999", "below 100%"),
    "hexadecimal layer": (
        ADDITION + f"    layer: !!int 0x{'f' * 9000}\n",
        3,
        "additions.0.layer: a number of 36000 bits is not a block",
    ),
    "huge coefficient": (WHOLE + "    coefficient: 1.1e12\n", 6, "is not a finite number", "up to 1e+12"),
    "hexadecimal coefficient": (
        WHOLE + f"    coefficient: !!int 0x{'f' * 9000}\n",
        6,
        "a number of 36000 bits is not a finite number",
    ),
    "huge position": (WHOLE + f"    position: {{at: {10**30}}}\n", 6, "a position is at most 99999999"),
    "huge top_k": (WHOLE + f"sampling: {{top_k: {10**30}}}\n", 6, "1 or more, or null; at most 10000000"),
    "huge samples": (WHOLE + f"sampling: {{samples: {10**30}}}\n", 6, "a whole number from 1 to 1000000"),
    "huge max_new_tokens": (WHOLE + f"sampling: {{max_new_tokens: {10**30}}}\n", 6, "from 1 to 1000000"),
    "huge temperature": (WHOLE + "sampling: {temperature: 1e300}\n", 6, "0 or more", "at most 1e+06"),
    "huge penalty": (WHOLE + "sampling: {frequency_penalty: -1e300}\n", 6, "up to 1e+06 in size"),
    "huge seed of noise": (WHOLE + f"    random: {{seed: {2**63}}}\n", 6, "below 2^63"),
    # texts that cannot be what they should
    "NUL in a path": (WHOLE + 'model: "a\\0b.gguf"\n', 6, "model: 'a\\x00b.gguf' is not", "#x0000"),
    "long path": (WHOLE + f"model: {'a' * 5000}\n", 6, "is not a text of up to 4096 characters"),
    "long padding": (WHOLE + f"    pad: {'a' * 5000}\n", 6, "is not a text of up to 4096 characters"),
    "number of many digits as a text": (
        ADDITION + f"    minus: {'9' * 4000}\n    layer: 1\n",
        3,
        "is not text",
    ),
    # choices and flags
    "position of no name": (
        WHOLE + "    position: font\n",
        6,
        f"additions.0.position: 'font' is not {A_POSITION}",
    ),
    "position before the start": (
        WHOLE + "    position: {at: -1}\n",
        6,
        f"additions.0.position: {{'at': -1}} is not {A_POSITION}",
    ),
    "position of two kinds": (
        WHOLE + "    position: {at: 1, token: a}\n",
        6,
        f"{{'at': 1, 'token': 'a'}} is not {A_POSITION}",
    ),
    "position at no token": (WHOLE + "    position: {token: ''}\n", 6, f"is not {A_POSITION}"),
    "overflow": (WHOLE + "    overflow: cut\n", 6, "additions.0.overflow: 'cut' is not error or clip"),
    "combine": (WHOLE + "    combine: max\n", 6, "additions.0.combine: 'max' is not mean, sum or pca"),
    "match_norm as 1": (WHOLE + "    match_norm: 1\n", 6, "additions.0.match_norm: 1 is not true or false"),
    "match_norm as yes": (WHOLE + "    match_norm: yes\n", 6, "match_norm: 'yes' is not true or false"),
    "random as true": (
        WHOLE + "    random: true\n",
        6,
        "additions.0.random: True is not a mapping such as {seed: 0}",
    ),
    # texts
    "plus as a number": (
        "additions:\n  - plus: 3\n    layer: 1\n",
        2,
        'additions.0.plus: 3 is not text; quote it: "3"',
    ),
    "plus as a list": (
        "additions:\n  - plus: [a]\n    layer: 1\n",
        2,
        "additions.0.plus: ['a'] is not text",
    ),
    "minus as a number": (
        ADDITION + "    minus: 0.5\n    layer: 1\n",
        3,
        'additions.0.minus: 0.5 is not text; quote it: "0.5"',
    ),
    "name as a number": ("name: 3\n" + WHOLE, 1, 'name: 3 is not text; quote it: "3"'),
    "prompts as a word": (
        "prompts: a\n" + ADDITION + "    layer: 1\n",
        1,
        "prompts: 'a' is not a list of texts",
    ),
    "a prompt as a number": (
        "prompts:\n  - a\n  - 7\n" + ADDITION + "    layer: 1\n",
        3,
        'prompts.1: 7 is not text; quote it: "7"',
    ),
    "no model": (WHOLE + "model: ''\n", 6, "model: '' is not a text of at least one character"),
    "no padding": (WHOLE + "    pad: ''\n", 6, "additions.0.pad: '' is not a text of at least one character"),
    "binary prompt": ("prompt: !!binary aGk=\n" + ADDITION + "    layer: 1\n", 1, "b'hi' is not text"),
    # counted words
    "word without a list": (WHOLE + "count: {a: b}\n", 6, "count.a: 'b' is not a list of words"),
    "no words": (WHOLE + "count: {a: []}\n", 6, "count.a: [] is not a list of words such as"),
    "empty word": (
        WHOLE + "count:\n  a:\n    - ''\n",
        8,
        "count.a.0: '' is not a text of at least one character",
    ),
    "number as a word": (WHOLE + "count: {a: [3]}\n", 6, 'count.a.0: 3 is not text; quote it: "3"'),
    "words without a label": (WHOLE + "count: [a]\n", 6, "count: ['a'] is not a mapping of labels"),
    # rules over several keys
    "prompt and prompts": (WHOLE + "prompts: [b]\n", 1, "give prompt or prompts, not both"),
    "plus and pairs": (
        WHOLE + "    pairs: [{plus: a}]\n",
        3,
        "additions.0: needs either plus (and minus), or pairs",
    ),
    "neither plus nor pairs": (
        "prompt: a\nadditions:\n  - layer: 3\n",
        3,
        "additions.0: needs either plus (and minus), or pairs",
    ),
    "minus alone": ("additions:\n  - layer: 3\n    minus: a\n", 2, "needs either plus (and minus), or pairs"),
    "no pairs": ("additions:\n  - layer: 3\n    pairs: []\n", 2, "needs either plus (and minus), or pairs"),
    # YAML itself
    "key twice": ("prompt: a\nprompt: b\n" + ADDITION, 2, "'prompt' is written twice"),
    "key twice, deep": (WHOLE + "    layer: 7\n", 6, "'layer' is written twice"),
    "two documents": (WHOLE + "---\n" + WHOLE, 6, "another document"),
    "tab": ("prompt: a\nadditions:\n\t- plus: a\n", 3, "'\\t'"),
    "control character": ("name: a\nprompt: a\x07b\n" + ADDITION, 2, "#x0007"),
    "null character": ("name: a\nprompt: a\0b\n" + ADDITION, 2, "#x0000"),
    "half a character": ('name: a\nprompt: "\\ud83d"\n' + ADDITION, 2, "lone surrogate"),
    "half a character as a key": (WHOLE + '"\\udc00": a\n', 6, "lone surrogate"),
    "not UTF-8": (b"name: a\nprompt: caf\xe9\n", 2, "not UTF-8 text; save the file as UTF-8"),
    "UTF-16": (WHOLE.encode("utf-16"), 1, "not UTF-8 text"),
    "colon in a plain text": ("prompt: a: b\n", 1, "mapping values are not allowed"),
    "quote left open": ('name: a\nprompt: "b\n', 3, "not readable as YAML: found unexpected end of stream"),
    "anchor without a value": ("name: a\nadditions: *there\n", 2, "undefined alias 'there'"),
    "tag of Python": ("name: a\nmodel: !!python/name:os.system\n", 2, "python/name:os.system"),
    "tag of its own": ("name: a\nmodel: !foo bar\n", 2, "!foo"),
    "tag that does not fit a number": ("name: a\nmodel: !!int abc\n", 2, "abc"),
    "tag of a number without one": ('name: a\nmodel: !!int ""\n', 2, "not readable as YAML"),
    "tag that does not fit a flag": ("name: a\nmodel: !!bool abc\n", 2, "not readable as YAML"),
    "tag that does not fit a date": ("name: a\nmodel: !!timestamp abc\n", 2, "not readable as YAML"),
    "tag of another kind": ("name: a\nmodel: !!map abc\n", 2, "not readable as YAML"),
    # An alias stands where its anchor does.
    "value inside itself": (
        "name: a\nadditions: &all\n  - *all\n",
        2,
        "additions.0: ",
        "is not a mapping of keys",
    ),
    "document inside itself": (
        "&all\nname: a\nadditions: *all\n",
        3,
        "additions: {",
        "is not a list of at least one",
    ),
}


@pytest.mark.parametrize("content, line, fragments", [(c, n, f) for c, n, *f in FAULTY.values()], ids=FAULTY)
def test_an_error_names_line_path_value_and_remedy(content, line, fragments, tmp_path):
    said = only(tmp_path, content)
    number, said = said.split(": ", 1)
    assert number == str(line), said
    for fragment in fragments:
        assert fragment in said
    assert len(said) < 500


def test_bounds_themselves_are_within(tmp_path):
    content = f"""\
model: {"m" * 4096}
additions:
  - plus: a
    layer: [0, 999999, "0%", "99.999999999999%"]
    coefficient: -1e12
    position: {{at: 99999999}}
    random: {{seed: {2**63 - 1}}}
sampling: {{top_k: 10000000, samples: 1000000, max_new_tokens: 1000000, seed: {2**63 - 1}, temperature: 1e6}}
"""
    assert load(written(tmp_path, content)).additions[0].coefficient == -1e12


def test_an_addition_without_its_layer_says_so_beside_its_other_faults(tmp_path):
    found = problems(tmp_path, "additions:\n  - plus: 3\n")
    assert [said.split(": ")[1] for said in found] == ["additions.0.plus", "additions.0.layer"]


def test_of_very_many_faults_the_first_are_named_and_the_others_counted(tmp_path):
    faulty = [f"  - {{plus: {number}, layer: x}}\n" for number in range(4000)]
    file = written(tmp_path, "additions:\n" + "".join(faulty))
    with pytest.raises(
        RecipeError, match=r"^.*r\.yaml:2: .* \(and 7999 more: see `steer check`\)$"
    ) as caught:
        load(file)
    assert [problem.split(": ")[1] for problem in caught.value.problems[:3]] == [
        "additions.0.plus",
        "additions.0.layer",
        "additions.1.plus",
    ]
    assert (len(caught.value.problems), caught.value.unsaid) == (20, 7980)


def test_very_many_faults_are_found_in_linear_time():
    values = {"prompt": "a", "additions": [ONE], **{f"k{number}": 1 for number in range(20_000)}}
    start = time.process_time()
    with pytest.raises(RecipeError, match="19999 more"):
        format_of.validate(Document("r.yaml", values))
    # A tenth of a second; comparing each fault with all others takes minutes.
    assert time.process_time() - start < 10


@pytest.mark.parametrize("text", ["true", "False", "012", "1e5", "0.50", "+1", "-0"])
def test_the_remedy_for_a_text_that_yaml_reads_as_something_else_is_the_text_as_written(text, tmp_path):
    said = only(tmp_path, f"additions:\n  - plus: {text}\n    layer: 1\n")
    assert said.startswith("2: additions.0.plus: ")
    assert said.endswith(f'is not text; quote it: "{text}"')


def test_every_fault_is_found_at_once_in_the_order_of_the_keys(tmp_path):
    found = problems(tmp_path, "additions:\n  - plus: 3\n    layer: x\nsampling: {samples: 0, top_p: 2}\n")
    assert [said.split(": ")[:2] for said in found] == [
        ["2", "additions.0.plus"],
        ["3", "additions.0.layer"],
        ["4", "sampling.samples"],
        ["4", "sampling.top_p"],
    ]
    with pytest.raises(RecipeError, match=r"r\.yaml:2: .*\(and 3 more: see `steer check`\)$"):
        load(str(tmp_path / "r.yaml"))


@pytest.mark.parametrize("content", ["prompt: " + "[" * 3000, "prompt: " + "{a: " * 900 + "}" * 900])
def test_a_file_nested_too_deeply_is_an_error(content, tmp_path):
    file = written(tmp_path, content)
    with pytest.raises(RecipeError, match="nested too deeply"):
        load(file)


LAUGHS = "".join(
    f"{this}: &{this} [{', '.join(9 * ['*' + last])}]\n"
    for last, this in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    "content",
    [
        "a: &a [x, x, x, x, x, x, x, x, x]\n" + LAUGHS + "prompt: *g\n",
        f"prompt: {['x' * 70] * 70}\n",
        f"? {'k' * 5000}\n: 3\n",
    ],
    ids=["nine to the seventh", "long list", "long key"],
)
def test_an_error_stays_a_line_that_can_be_read(content, tmp_path):
    for said in problems(tmp_path, content):
        assert len(said) < 1000


@pytest.mark.parametrize("key", ['"a\\nb"', '"a\\rb"', '"a\\Lb"'])
def test_a_key_with_a_line_break_does_not_break_the_error(key, tmp_path):
    assert only(tmp_path, WHOLE + f"{key}: 3\n").startswith("6: ")


@pytest.mark.parametrize("name, reason", [("", "folder"), ("missing.yaml", "no such file or shipped recipe")])
def test_a_folder_and_a_missing_file_are_named(name, reason, tmp_path):
    with pytest.raises(RecipeError) as caught:
        load(str(tmp_path / name))
    assert str(caught.value).startswith(str(tmp_path / name))
    assert reason in str(caught.value)


# ---- what the format takes


@pytest.mark.parametrize(
    "text",
    [
        "Yes",
        "no",
        "On",
        "off",
        "y",
        "12:30",
        "2020-01-01",
        "1_000",
        "0x1F",
        "=",
        "<<",
        "1.2.3",
        "100%",
        "I'm",
    ],
)
def test_a_word_stays_a_word(text, tmp_path):
    recipe = load(
        written(tmp_path, f"prompt: {text}\nadditions:\n  - {{plus: {text}, minus: No, layer: 1}}\n")
    )
    assert (recipe.prompt, recipe.additions[0].plus, recipe.additions[0].minus) == (text, text, "No")


def test_the_defaults_are_those_of_the_paper(tmp_path):
    recipe = load(written(tmp_path, WHOLE, "my-own.yaml"))
    assert recipe.name == "my-own"
    assert (recipe.model, recipe.bos) == ("smollm2-135m", "auto")
    addition, sampling = recipe.additions[0], recipe.sampling
    assert (addition.coefficient, addition.position, addition.pad) == (1.0, "front", "space")
    assert (sampling.temperature, sampling.top_p, sampling.frequency_penalty) == (1.0, 0.3, 1.0)
    assert (sampling.max_new_tokens, sampling.samples, sampling.seed, sampling.top_k) == (50, 3, 0, None)


def test_positions_and_layers_of_every_kind(tmp_path):
    content = """\
prompts: [a, b]
additions:
  - {plus: a, layer: [0, 3], position: {at: 2}}
  - {plus: a, layer: "25%", position: {token: " friend"}}
  - {pairs: [{plus: a, minus: ""}, {plus: b}], layer: 2, position: every, coefficient: -3}
  - {plus: a, layer: all, operation: ablate, position: {every: new}}
"""
    recipe = load(written(tmp_path, content))
    assert recipe.all_prompts == ("a", "b")
    assert [addition.layers for addition in recipe.additions] == [(0, 3), ("25%",), (2,), ("all",)]
    assert [addition.position for addition in recipe.additions] == [
        At(at=2),
        AtToken(token=" friend"),
        "every",
        Every(every="new"),
    ]
    assert [addition.every for addition in recipe.additions] == [None, None, "both", "new"]
    assert [addition.operation for addition in recipe.additions] == ["add", "add", "add", "ablate"]
    assert [(pair.plus, pair.minus) for pair in recipe.additions[2].all_pairs] == [("a", ""), ("b", None)]
    assert recipe.additions[2].coefficient == -3.0


def test_an_alias_stands_for_its_value(tmp_path):
    recipe = load(written(tmp_path, "additions:\n  - &one {plus: a, layer: 3}\n  - *one\n"))
    assert recipe.additions[0] == recipe.additions[1]


@pytest.mark.parametrize("content", [WHOLE.replace("\n", "\r\n"), "\ufeff" + WHOLE, WHOLE + "...\n"])
def test_windows_line_ends_a_bom_and_an_end_mark_change_nothing(content, tmp_path):
    assert load(written(tmp_path, content)).model_dump() == load(written(tmp_path, WHOLE)).model_dump()


def test_json_is_yaml_with_its_characters_in_two_escapes(tmp_path):
    values = {"prompt": "a 😀 b", "additions": [{"plus": "\U0001f469\u200d\U0001f680", "layer": 1}]}
    values["count"] = {"😀": ["🎉"]}
    recipe = load(written(tmp_path, json.dumps(values)))
    assert (recipe.prompt, recipe.additions[0].plus) == ("a 😀 b", values["additions"][0]["plus"])
    assert recipe.count == {"😀": ("🎉",)}
    assert load(written(tmp_path, WHOLE), [parse_override('prompt="\\ud83d\\ude00"')]).prompt == "😀"
    said = only(tmp_path, 'prompt: a\n"\\ud83d\\ude00": 3\n' + ADDITION + "    layer: 1\n")
    assert said.startswith("2: 😀: unknown key")  # the line of the key itself
    twice = 'count: {"\\ud83d\\ude00": [a], "😀": [b]}\n'
    assert "written twice" in only(tmp_path, WHOLE + twice)


@pytest.mark.parametrize("half", ["\\ude00\\ud83d", "\\ud83d", "\\ud83da\\ude00", "\\ude00"])
def test_halves_of_a_character_are_no_text(half, tmp_path):
    assert "lone surrogate" in only(tmp_path, f'prompt: "{half}"\n' + ADDITION + "    layer: 1\n")


def test_a_recipe_is_frozen(tmp_path):
    recipe = load(written(tmp_path, WHOLE))
    with pytest.raises(ValidationError):
        recipe.prompt = "other"
    with pytest.raises(ValidationError):
        recipe.additions[0].coefficient = 2.0


def test_other_prompts_leave_the_recipe_as_it_was(tmp_path):
    recipe = load(written(tmp_path, WHOLE))
    other = recipe.with_prompts(["a", "b"])
    assert (other.all_prompts, recipe.all_prompts) == (("a", "b"), ("I hate you because",))
    assert other.sha256 == recipe.sha256
    with pytest.raises(
        RecipeError, match=r"no prompt; add `prompt: \.\.\.` to the recipe or use `prompt=TEXT`"
    ):
        load(written(tmp_path, ADDITION + "    layer: 1\n")).with_prompts([])


def test_errors_call_a_recipe_by_its_name_or_recipe():
    addition = {"plus": "a", "layer": 1}
    for name, label in (("love", "love"), ("", "recipe")):
        recipe = Recipe(name=name, additions=[addition])
        with pytest.raises(RecipeError, match=f"^{label}: no prompt"):
            recipe.with_prompts([])


# ---- the file's digest


def test_the_digest_of_an_unchanged_recipe_is_that_of_its_bytes(tmp_path):
    for content in (WHOLE, "\ufeff" + WHOLE, WHOLE.replace("\n", "\r\n"), WHOLE + "# a note\n"):
        file = written(tmp_path, content)
        assert load(file).sha256 == hashlib.sha256(Path(file).read_bytes()).hexdigest()


def test_each_change_changes_the_digest(tmp_path):
    changes = [[], ["sampling.seed=1"], ["sampling.seed=2"], ["sampling.seed=1", "sampling.seed=2"]]
    digests = [changed(tmp_path, *each).sha256 for each in changes]
    assert len(set(digests)) == len(changes)
    assert changed(tmp_path, "sampling.seed=2").sha256 == digests[2]
    # What the caller calls a change is no part of it.
    renamed = load(written(tmp_path, WHOLE), [parse_override("sampling.seed=2", "--set sampling.seed=2")])
    assert renamed.sha256 == digests[2]


# ---- --set


@pytest.mark.parametrize(
    "change, path, value",
    [
        ("additions.0.coefficient=3", "additions.0.coefficient", 3.0),
        ("additions.0.coefficient=-.5", "additions.0.coefficient", -0.5),
        ("additions.0.layer=[2, 3]", "additions.0.layer", (2, 3)),
        ("additions.0.layer=25%", "additions.0.layer", "25%"),
        ("additions.0.position={at: 3}", "additions.0.position", At(at=3)),
        ("additions.0.minus=null", "additions.0.minus", None),
        ("sampling.seed=7", "sampling.seed", 7),
        ("sampling.top_k=null", "sampling.top_k", None),
        ("prompt=Note: I hate = it # really", "prompt", "Note: I hate = it # really"),
        ("prompt= a ", "prompt", " a "),
        ("prompt=Yes", "prompt", "Yes"),
        ("prompt=12:30", "prompt", "12:30"),
        ('prompt="3"', "prompt", "3"),
        ("prompt=*star", "prompt", "*star"),
        ('count.love=["love", "loves"]', "count.love", ("love", "loves")),
        ("name=other", "name", "other"),
    ],
)
def test_set_changes_one_value(change, path, value, tmp_path):
    found = changed(tmp_path, change)
    for step in path.split("."):
        if isinstance(found, dict):
            found = found[step]
        else:
            found = found[int(step)] if step.isdigit() else getattr(found, step)
    assert found == value


def test_the_last_of_two_changes_holds(tmp_path):
    assert changed(tmp_path, "sampling.seed=1", "sampling.seed=2").sampling.seed == 2


@pytest.mark.parametrize(
    "change, fragments",
    [
        ("additions.0.coefficient", ["write KEY=VALUE, such as additions.0.coefficient=3"]),
        ("=3", ["write KEY=VALUE"]),
        ("  =3", ["write KEY=VALUE"]),
        ("additions.1.coefficient=3", ["additions has entries 0 to 0, and no entry 1"]),
        ("additions.-1.coefficient=3", ["additions has entries 0 to 0, and no entry '-1'"]),
        ("additions.x.coefficient=3", ["additions has entries 0 to 0, and no entry 'x'"]),
        (f"additions.{'9' * 5000}.coefficient=3", ["additions has entries 0 to 0"]),
        ("additions.0.plus.loud=3", ["additions.0.plus is 'Love', which has no entry 'loud'"]),
        ("additions.0.layer.0=3", ["additions.0.layer is 6, which has no entry 0"]),
        ("additions.0.coeficient=3", ["additions.0.coeficient: unknown key; did you mean coefficient?"]),
        ("promt=a", ["promt: unknown key; did you mean prompt?"]),
        ("a..b=3", ["unknown key"]),
        (".=3", ["unknown key"]),
        ("additions.0.coefficient=abc", ["additions.0.coefficient: 'abc' is not a finite number such as 5"]),
        ("additions.0.coefficient= 3", ["additions.0.coefficient: ' 3' is not a finite number"]),
        ("additions.0.coefficient=.nan", ["additions.0.coefficient: nan is not a finite number"]),
        (f"additions.0.coefficient={'9' * 5000}", ["digits"]),
        ("additions=[]", ["additions: [] is not a list of at least one addition"]),
        ("additions.0.plus=3", ['additions.0.plus: 3 is not text; quote it: "3"']),
        ("sampling.samples=0", ["sampling.samples: 0 is not a whole number from 1"]),
        ("prompt=[a", ["not readable as YAML"]),
        ('prompt="a" b', ["not readable as YAML"]),
        ("prompt=\udcff", ["half a character"]),
        ("prompts.0=b", ["prompts"]),
        ("count.love.0=love", ["count.love"]),
    ],
    ids=lambda value: value[:40].encode("ascii", "replace").decode() if isinstance(value, str) else "",
)
def test_a_faulty_change_is_named_as_it_was_typed(change, fragments, tmp_path):
    with pytest.raises(RecipeError) as caught:
        changed(tmp_path, change)
    (said,) = caught.value.problems
    assert said.startswith(f"set {change}")
    for fragment in fragments:
        assert fragment in said.removeprefix(f"set {change}")


# ---- where recipes come from


def test_a_recipe_comes_from_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(WHOLE.encode())))
    recipe = load("-")
    assert (recipe.name, recipe.prompt) == ("stdin", "I hate you because")
    assert recipe.sha256 == hashlib.sha256(WHOLE.encode()).hexdigest()


def test_a_fault_on_standard_input_names_it_and_the_line(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((WHOLE + "promts: a\n").encode())))
    with pytest.raises(RecipeError, match=r"^<stdin>:6: promts: unknown key"):
        load("-")


def test_the_name_of_a_shipped_recipe_finds_it_and_a_typo_is_told():
    full, file = next(iter(shipped().items()))
    assert find(full) == file
    assert find(file.stem).stem == file.stem
    with pytest.raises(RecipeError, match=f"did you mean .*{file.stem}"):
        find(f"{file.stem}x")


def test_a_suggestion_is_a_recipe_once_by_its_shortest_name():
    for name, near in (
        ("lov-hate", "love-hate or gpt2-xl/love-hate"),  # two recipes
        ("conspirac", "conspiracy"),  # of GPT-2-XL alone, so that the bare name means it
        ("gpt2-xl/conspirac", "conspiracy"),
    ):
        with pytest.raises(RecipeError, match=f"did you mean {near}( or [^?]*)?\\?$") as raised:
            find(name)
        offered = str(raised.value).split("did you mean ")[1].rstrip("?").split(" or ")
        assert len({find(each) for each in offered}) == len(offered)


def test_a_fault_in_a_shipped_recipe_names_the_recipe_not_the_folder_of_the_tool():
    full = next(iter(shipped()))
    # The change is named where it is at fault, the recipe where it is.
    with pytest.raises(RecipeError, match=r"^set promt=a: promt: unknown key"):
        load(full, [parse_override("promt=a")])
    with pytest.raises(RecipeError, match=rf"^{full}:1: additions: missing"):
        format_of.validate(Document(full, {}))


def test_recipes_ship():
    assert FILES
    assert sorted(shipped().values()) == FILES


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_shipped_recipe_loads_is_named_like_its_file_and_says_where_it_is_from(file):
    recipe = load(str(file))
    assert recipe.name == file.stem
    assert recipe.source.strip()
    assert recipe.description.strip()
    assert recipe.all_prompts
    assert recipe == load(f"{file.parent.name}/{file.stem}")


# ---- JSON Schema


@pytest.fixture(scope="module")
def by_schema():
    schema = format_of.schema()
    # As an editor gets it: through JSON.
    schema = json.loads(json.dumps(schema))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_the_schema_takes_the_shipped_recipes(file, by_schema):
    from steer_cli.recipe.yaml_source import parse

    by_schema.validate(parse(file.read_text(encoding="utf-8"), file.name).values)


ONE = {"plus": "a", "layer": 1}
SHARED = {
    "least": ({"additions": [ONE]}, True),
    "prompt": ({"prompt": "a", "additions": [ONE]}, True),
    "prompts": ({"prompts": ["a"], "additions": [ONE]}, True),
    "pairs": ({"additions": [{"pairs": [{"plus": "a", "minus": "b"}], "layer": "25%"}]}, True),
    "layers": ({"additions": [{**ONE, "layer": [1, "50%"]}]}, True),
    "at": ({"additions": [{**ONE, "position": {"at": 0}}]}, True),
    "token": ({"additions": [{**ONE, "position": {"token": " a"}}]}, True),
    "nulls": ({"prompt": None, "additions": [{**ONE, "minus": None, "random": None, "dims": None}]}, True),
    "random": ({"additions": [{**ONE, "random": {}}]}, True),
    "count": ({"additions": [ONE], "count": {"a": ["b"]}}, True),
    "whole number": ({"additions": [{**ONE, "coefficient": 3}]}, True),
    "no document": (None, False),
    "list": ([], False),
    "no additions": ({"prompt": "a"}, False),
    "empty additions": ({"additions": []}, False),
    "unknown key": ({"additions": [ONE], "b": 1}, False),
    "unknown deep": ({"additions": [{**ONE, "b": 1}]}, False),
    "no layer": ({"additions": [{"plus": "a"}]}, False),
    "negative layer": ({"additions": [{**ONE, "layer": -1}]}, False),
    "share without a sign": ({"additions": [{**ONE, "layer": "25"}]}, False),
    "empty layers": ({"additions": [{**ONE, "layer": []}]}, False),
    "layer twice": ({"additions": [{**ONE, "layer": [1, 1]}]}, False),
    "two kinds of position": ({"additions": [{**ONE, "position": {"at": 0, "token": "a"}}]}, False),
    "position": ({"additions": [{**ONE, "position": "end"}]}, False),
    "coefficient as text": ({"additions": [{**ONE, "coefficient": "3"}]}, False),
    "coefficient as true": ({"additions": [{**ONE, "coefficient": True}]}, False),
    "plus as a number": ({"additions": [{**ONE, "plus": 3}]}, False),
    "match_norm as a number": ({"additions": [{**ONE, "match_norm": 1}]}, False),
    "dims": ({"additions": [{**ONE, "dims": 1.1}]}, False),
    "pad": ({"additions": [{**ONE, "pad": ""}]}, False),
    "layer beyond all": ({"additions": [{**ONE, "layer": 10**6}]}, False),
    "the whole depth": ({"additions": [{**ONE, "layer": "100%"}]}, False),
    "share of many digits": ({"additions": [{**ONE, "layer": "9" * 400 + "%"}]}, False),
    "coefficient beyond all": ({"additions": [{**ONE, "coefficient": 1e13}]}, False),
    "position beyond all": ({"additions": [{**ONE, "position": {"at": 10**9}}]}, False),
    "top_k beyond all": ({"additions": [ONE], "sampling": {"top_k": 10**30}}, False),
    "temperature beyond all": ({"additions": [ONE], "sampling": {"temperature": 1e7}}, False),
    "NUL in a path": ({"additions": [ONE], "model": "a\0b"}, False),
    "lines in a path": ({"additions": [ONE], "model": "a\nb\n"}, True),
    "no samples": ({"additions": [ONE], "sampling": {"samples": 0}}, False),
    "samples of a half": ({"additions": [ONE], "sampling": {"samples": 1.5}}, False),
    "top_p": ({"additions": [ONE], "sampling": {"top_p": 0}}, False),
    "seed": ({"additions": [ONE], "sampling": {"seed": 2**63}}, False),
    "sampling of null": ({"additions": [ONE], "sampling": None}, False),
    "count without words": ({"additions": [ONE], "count": {"a": []}}, False),
    "count of a word": ({"additions": [ONE], "count": {"a": "b"}}, False),
    "prompt and prompts": ({"prompt": "a", "prompts": ["b"], "additions": [ONE]}, False),
    "plus and pairs": ({"additions": [{**ONE, "pairs": [{"plus": "a"}]}]}, False),
    "neither plus nor pairs": ({"additions": [{"layer": 1}]}, False),
    "minus alone": ({"additions": [{"minus": "a", "layer": 1}]}, False),
}


@pytest.mark.parametrize("values, right", SHARED.values(), ids=SHARED)
def test_the_schema_and_the_tool_agree(values, right, by_schema):
    try:
        format_of.validate(Document("r.yaml", values))
    except RecipeError:
        assert not right
    else:
        assert right
    assert by_schema.is_valid(values) is right
