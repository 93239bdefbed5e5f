"""A recipe as a file: it reads back as the same recipe, and looks like those that ship."""

import hashlib

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from steer_cli.recipe.bundled import shipped
from steer_cli.recipe.file_text import as_file, as_values, identified_by_file
from steer_cli.recipe.load import load, validate
from steer_cli.recipe.schema import Recipe
from steer_cli.recipe.yaml_source import Document, parse

LOVE = {"plus": "Love", "minus": "Hate", "layer": "33%"}


def recipe(**values) -> Recipe:
    return validate(Document("recipe", {"additions": [LOVE], **values}))


def test_the_file_has_the_keys_and_the_layout_of_those_that_ship():
    count = {"praise": ["love", "lovely"]}
    whole = recipe(
        prompt="I hate you because", measured="Works.", source="me", name="Love - Hate", count=count
    )
    assert as_file(whole) == (
        "name: Love - Hate\n"
        "source: me\n"
        "measured: Works.\n"
        "model: smollm2-135m\n"
        "prompt: I hate you because\n"
        "additions:\n"
        "  - plus: Love\n"
        "    minus: Hate\n"
        "    layer: 33%\n"
        "    coefficient: 1\n"
        "    position: front\n"
        "sampling: {max_new_tokens: 50, samples: 3, temperature: 1.0, top_p: 0.3, frequency_penalty: 1.0, "
        "seed: 0}\n"
        "count:\n"
        "  praise: [love, lovely]\n"
    )


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_reads_back(name):
    whole = load(name)
    written = as_file(whole)
    assert validate(parse(written, "file")).model_dump() == whole.model_dump()
    # The keys come in the order of the file that ships.
    own = list(yaml.safe_load(shipped()[name].read_text(encoding="utf-8")))
    assert [key for key in yaml.safe_load(written) if key in own] == own
    assert identified_by_file(whole).sha256 == hashlib.sha256(written.encode()).hexdigest()


odd = [
    "",
    " ",
    "null",
    "true",
    "0x1",
    "1e3",
    "12:30",
    "---",
    "...",
    "- a",
    "a: b",
    "#",
    "<<",
    "=",
    "yes",
    "~",
]
signs = st.sampled_from("ab :#-?&*!|>%@`'\"{}[],\n\t\r\x85\u2028\ufeff\x07\x00\x1b\u202eé😀\\0.")
texts = st.sampled_from(odd) | st.text(signs, max_size=120) | st.text(max_size=9)
words = texts.filter(len)
turns = st.fixed_dictionaries({"role": words, "content": texts})
chats = st.fixed_dictionaries(
    {"chat": st.lists(turns, min_size=1, max_size=2)}, optional={"continue": texts | st.none()}
)
sides = texts | chats
pairs = st.fixed_dictionaries({"plus": sides}, optional={"minus": sides})
more = {
    "coefficient": st.floats(-1e12, 1e12) | st.integers(-9, 9),
    "position": st.sampled_from(["back", {"at": 3}]) | st.builds(lambda text: {"token": text}, words),
    "pad": words,
    "overflow": st.just("clip"),
    "source_layer": st.sampled_from([0, "5%"]),
    "match_norm": st.booleans(),
    "random": st.sampled_from([{}, {"seed": 3}]),
    "dims": st.floats(0, 1),
}
files = words.filter(lambda text: "\0" not in text)
lists = (
    st.lists(texts, min_size=1, max_size=3)
    | files
    | st.fixed_dictionaries({"file": files}, optional={"column": words})
)
layers = {"layer": st.sampled_from([2, [1], [1, "20%"], "25%"])}
additions = st.one_of(
    st.fixed_dictionaries({"plus": sides, **layers}, optional={"minus": sides, **more}),
    st.fixed_dictionaries(
        {"pairs": st.lists(pairs, min_size=1, max_size=3), **layers},
        optional={"combine": st.just("sum"), **more},
    ),
    st.fixed_dictionaries(
        {
            "texts": st.fixed_dictionaries({"plus": lists, "minus": lists}),
            "position": st.just("every"),
            **layers,
        },
        optional={"read": st.sampled_from(["last", "mean"]), "match_norm": st.booleans()},
    ),
    st.fixed_dictionaries(
        {"vector": files | st.fixed_dictionaries({"file": files, "addition": st.integers(0, 9)})},
        optional={"from": st.just("repeng"), "random": st.just({}), **layers},
    ),
)
optional = {
    "name": texts,
    "description": texts,
    "bos": words,
    "sampling": st.fixed_dictionaries({}, optional={"temperature": st.floats(0, 1e6), "top_k": st.just(5)}),
    "count": st.dictionaries(texts, st.lists(words, min_size=1, max_size=3), max_size=2),
}
recipes = st.fixed_dictionaries(
    {"additions": st.lists(additions, min_size=1, max_size=2)}, optional={"prompt": sides, **optional}
) | st.fixed_dictionaries(
    {"additions": st.lists(additions, min_size=1, max_size=2), "prompts": st.lists(sides, max_size=3)}
)


@settings(deadline=None, max_examples=300)
@given(recipes)
def test_any_recipe_reads_back(values):
    whole = validate(Document("recipe", values))
    assert validate(parse(as_file(whole), "file")).model_dump() == whole.model_dump()
    assert validate(Document("values", as_values(whole))).model_dump() == whole.model_dump()


def test_one_prompt_given_is_the_prompt_of_the_file():
    one = recipe(prompts=["a", "b"]).with_prompts(["c"])
    assert (one.prompt, one.prompts) == ("c", ()) and "\nprompt: c\n" in as_file(one)
    assert recipe(prompt="a").with_prompts(["b", "c"]).all_prompts == ("b", "c")
