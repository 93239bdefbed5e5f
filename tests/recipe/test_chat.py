"""Chats in recipes: the format and the tool agree on them, and a file holds them."""

import json

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from steer_cli.errors import RecipeError
from steer_cli.recipe.chat import Chat, Turn, side_names
from steer_cli.recipe.file_text import as_file
from steer_cli.recipe.load import from_values, schema, validate
from steer_cli.recipe.schema import Addition, Recipe
from steer_cli.recipe.yaml_source import Document, parse

USER, SYSTEM = {"role": "user", "content": "Who?"}, {"role": "system", "content": "Be brief."}
LOVE = {"plus": "Love", "layer": 6}
GOOD = (
    {"chat": [USER]},
    {"chat": [SYSTEM, USER, {"role": "assistant", "content": ""}, USER]},
    {"chat": [USER], "continue": "Sure,"},
    {"chat": [USER], "continue": None},
)
BAD = [  # a chat, and its line after the place; None where the whole value is at fault
    ({"chat": []}, "chat: [] is not a list of at least one turn, such as [{role: user, content: Hello}]"),
    ({"chat": "Who?"}, "chat: 'Who?' is not a list of at least one turn, such as"),
    ({"chat": ["Who?"]}, "chat.0: 'Who?' is not a turn, such as {role: user, content: Hello}"),
    ({"continue": "Sure,"}, "chat: missing; write a list of at least one turn, such as"),
    ({}, "chat: missing; write a list"),
    ({"chat": [{"role": "user"}]}, "chat.0.content: missing; write what is said, a text"),
    ({"chat": [{"content": "Who?"}]}, "chat.0.role: missing; write who speaks, such as user"),
    ({"chat": [USER | {"content": 3}]}, "chat.0.content: 3 is not text; quote it"),
    ({"chat": [USER | {"content": ["Who?"]}]}, "chat.0.content: ['Who?'] is not text"),
    ({"chat": [USER | {"role": ""}]}, "chat.0.role: '' is not a text of at least one character"),
    ({"chat": [USER | {"name": "me"}]}, "chat.0.name: unknown key; known keys: role, content"),
    ({"chat": [USER], "continu": "Sure,"}, "continu: unknown key; did you mean continue?"),
    ({"chat": [USER], "continuation": "Sure,"}, "continuation: unknown key; did you mean continue?"),
    ({"chat": [USER], "continue": True}, "continue: True is not text; quote it"),
    (["Who?"], "['Who?'] is not text, or a chat such as {chat: [{role: user, content: Hello}]}"),
]


def places(value) -> dict[str, dict]:
    """A recipe with the value at each place where a chat may stand."""
    return {
        "prompt": {"prompt": value, "additions": [LOVE]},
        "prompts.1": {"prompts": ["I", value], "additions": [LOVE]},
        "additions.0.plus": {"prompt": "I", "additions": [LOVE | {"plus": value}]},
        "additions.0.minus": {"prompt": "I", "additions": [LOVE | {"minus": value}]},
        "additions.0.pairs.0.plus": {"additions": [{"pairs": [{"plus": value}], "layer": 6}]},
    }


@pytest.mark.parametrize("chat", GOOD, ids=json.dumps)
def test_a_chat_stands_wherever_a_text_does(chat):
    for values in places(chat).values():
        Draft202012Validator(schema()).validate(values)
        recipe = from_values(values, [])
        assert recipe == Recipe(**values)
        assert validate(parse(as_file(recipe), "file")).model_dump() == recipe.model_dump()
        assert Recipe(**recipe.model_dump()) == recipe


@pytest.mark.parametrize("chat, said", BAD, ids=[said for _, said in BAD])
def test_a_fault_is_one_line_in_a_file_and_in_python(chat, said):
    for place, values in places(chat).items():
        with pytest.raises(ValidationError):
            Draft202012Validator(schema()).validate(values)
        between = ": " if isinstance(chat, list) else "."
        for make, start in ((lambda v: Recipe(**v), "Recipe: "), (load_values, "file:1: ")):
            with pytest.raises(RecipeError) as caught:
                make(values)
            [problem] = caught.value.problems
            assert problem.startswith(f"{start}{place}{between}{said}"), problem


def load_values(values) -> Recipe:
    return validate(Document("file", values))


def test_a_chat_made_in_python_may_say_how_its_answer_starts():
    [made, same, given] = [
        Chat(chat=[USER], continuation="Sure,"),
        Chat(chat=(Turn(**USER),), **{"continue": "Sure,"}),
        Recipe(prompt={"chat": [USER], "continue": "Sure,"}, additions=[LOVE]).prompt,
    ]
    assert made == same == given and hash(made) == hash(same)
    assert made.continuation == "Sure,"
    assert made.record() == {"chat": [USER], "continue": "Sure,"}
    with pytest.raises(RecipeError, match=r"^Chat: chat: missing"):
        Chat(continuation="Sure,")


def test_prompts_given_in_python_may_be_chats():
    recipe = Recipe(additions=[LOVE])
    given = recipe.with_prompts([{"chat": [USER]}, "I"])
    assert given.all_prompts == (Chat(chat=[USER]), "I")
    assert recipe.with_prompts([Chat(chat=[USER])]).prompt == Chat(chat=[USER])
    with pytest.raises(RecipeError, match=r"^Chat: chat: missing"):
        recipe.with_prompts([{"content": "I"}])


def chat(*turns, **more) -> Chat:
    return Chat(chat=[{"role": role, "content": content} for role, content in turns], **more)


NAMES = [
    (chat(("system", "A"), ("user", "q")), chat(("system", "B"), ("user", "q")), ("A", "B")),
    (chat(("user", "a"), ("user", "q")), chat(("user", "b"), ("user", "r")), ("q", "r")),
    (chat(("user", "q"), continuation="Yes"), chat(("user", "q"), continuation="No"), ("Yes", "No")),
    (chat(("user", "q")), chat(("assistant", "q")), ("user", "assistant")),
    (chat(("user", "q"), ("user", "r")), chat(("user", "q")), ("r", "q")),
    (chat(("user", "q"), ("assistant", "r")), "text", ("q", "text")),
    (chat(("system", "s")), None, ("s", None)),
]


@pytest.mark.parametrize("plus, minus, names", NAMES, ids=[str(names) for *_, names in NAMES])
def test_a_pair_is_called_by_what_tells_its_sides_apart(plus, minus, names):
    assert side_names(plus, minus) == names
    assert Addition(plus=plus, minus=minus, layer=1).all_pairs[0].names == names
