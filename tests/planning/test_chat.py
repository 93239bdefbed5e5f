"""A chat has the tokens that transformers gives it, and a template can do no harm."""

import json
import shutil
import time

import pytest
from chat_templates import CHATML, FAMILIES, MISTRAL, write_chat_tokenizer, write_family

from steer_cli.errors import TokenError
from steer_cli.planning.tokens import open_tokenizer
from steer_cli.recipe.chat import Chat

USER = {"role": "user", "content": "I hate you because"}
ANSWER = {"role": "assistant", "content": "  Love is all you need.\n"}
CHATS = (
    [USER],
    [{"role": "system", "content": " Be brief. "}, USER],
    [USER, ANSWER, {"role": "user", "content": "and one more word,\n\n é😀 please "}],
    [{"role": "user", "content": ""}],
)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    return write_chat_tokenizer(tmp_path_factory.mktemp("bare"), None)


@pytest.fixture
def with_template(bare, tmp_path):
    """A function: a template -> a tokenizer that has it."""

    def make(template):
        folder = tmp_path / "model"
        if not folder.exists():
            shutil.copytree(bare, folder)
        names = json.loads((bare / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(names | {"chat_template": template}))
        return open_tokenizer(folder)

    return make


def transformers_ids(folder, turns) -> tuple[int, ...]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tuple(tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False))


def fault(tokenizer, turns=(USER,)) -> str:
    """The one line about a chat that cannot be rendered, which comes within seconds."""
    began = time.monotonic()
    with pytest.raises(TokenError) as caught:
        tokenizer.prompt(Chat(chat=[*turns]))
    assert time.monotonic() - began < 20
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# ---- the tokens


@pytest.mark.parametrize("turns", CHATS, ids=lambda turns: "-".join(turn["role"] for turn in turns))
def test_the_default_model_has_the_tokens_of_transformers(turns, real_folder):
    tokenizer = open_tokenizer(real_folder, "<|endoftext|>")
    assert tokenizer.prompt(Chat(chat=turns)) == transformers_ids(real_folder, turns)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_the_tokens_of_transformers(family, tmp_path):
    folder = write_family(tmp_path / family, family)
    tokenizer = open_tokenizer(folder)
    for turns in CHATS:
        assert tokenizer.prompt(Chat(chat=turns)) == transformers_ids(folder, turns)
        # No BOS but the template's own, which the tokenizer's post-processor would put before it.
    if family in ("llama3", "mistral", "gemma"):
        assert tokenizer.prompt(Chat(chat=[USER])).count(tokenizer.bos) == 1


def test_special_tokens_are_special_in_a_chat_alone(tmp_path):
    folder = write_family(tmp_path / "chatml", "chatml")
    tokenizer = open_tokenizer(folder)
    start = tokenizer.backend.token_to_id("<|im_start|>")
    before = tokenizer.prompt("a <|im_start|> b")
    turns = [{"role": "user", "content": "a <|im_start|> b"}]
    # What a user writes is not told apart from the template's, as in transformers.
    assert tokenizer.prompt(Chat(chat=turns)) == transformers_ids(folder, turns)
    assert tokenizer.prompt(Chat(chat=turns)).count(start) == 3
    assert tokenizer.prompt("a <|im_start|> b") == before
    assert start not in before


def test_the_answer_goes_on_after_how_it_starts(tmp_path):
    folder = write_family(tmp_path / "qwen", "qwen")
    tokenizer = open_tokenizer(folder)
    ids = tokenizer.prompt(Chat(chat=[USER], continuation="Sure, <|im_end|>"))
    header = transformers_ids(folder, [USER])
    assert ids == header + tokenizer.encode("Sure, <|im_end|>")
    assert ids.count(tokenizer.backend.token_to_id("<|im_end|>")) == 1


def test_a_token_that_the_configuration_names_is_special_in_a_chat(bare, tmp_path):
    folder = shutil.copytree(bare, tmp_path / "model")
    names = json.loads((bare / "tokenizer_config.json").read_text())
    names |= {"chat_template": "{{ pad_token }}{{ messages[0].content }}", "pad_token": "Love"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    turns = [{"role": "user", "content": "a Love"}]
    assert open_tokenizer(folder).prompt(Chat(chat=turns)) == transformers_ids(folder, turns)


def test_a_text_is_read_as_before_once_there_was_a_chat(bare, tmp_path):
    folder = shutil.copytree(bare, tmp_path / "model")
    names = json.loads((bare / "tokenizer_config.json").read_text())
    # A token that a text may hold, which some models pad with.
    (folder / "tokenizer_config.json").write_text(
        json.dumps(names | {"chat_template": "a", "pad_token": "!"})
    )
    tokenizer, before = open_tokenizer(folder), open_tokenizer(folder).encode("Love! All!")
    assert tokenizer.prompt(Chat(chat=[USER])) and tokenizer.encode("Love! All!") == before


def test_tokens_of_a_kind_of_model_have_their_names(bare, tmp_path):
    folder = shutil.copytree(bare, tmp_path / "model")
    names = json.loads((bare / "tokenizer_config.json").read_text())
    names |= {"chat_template": "{{ image_token }}{{ mine_token }}{{ messages[0].content }}"}
    names |= {"extra_special_tokens": {"image_token": "Love"}, "mine_token": "I"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    assert open_tokenizer(folder).prompt(Chat(chat=[USER])) == transformers_ids(folder, [USER])


# ---- where the template stands


def test_the_file_of_the_template_comes_first(with_template, tmp_path):
    tokenizer = with_template("{{ 1 }}")
    (tmp_path / "model" / "chat_template.jinja").write_text(CHATML)
    assert tokenizer.prompt(Chat(chat=[USER])) == transformers_ids(tmp_path / "model", [USER])


def test_of_several_templates_the_default_is_taken(with_template, tmp_path):
    several = [{"name": "tool_use", "template": "{{ 1 }}"}, {"name": "default", "template": CHATML}]
    tokenizer = with_template(several)
    assert tokenizer.prompt(Chat(chat=[USER])) == transformers_ids(tmp_path / "model", [USER])
    assert "none is named default; it has 'tool_use'" in fault(with_template(several[:1]))


@pytest.mark.parametrize("template", [3, ["a"], [{"name": "default"}], {"default": 4}], ids=str)
def test_what_is_no_template_is_one_line(template, with_template):
    assert "tokenizer_config.json: chat_template: " in fault(with_template(template))
    assert with_template(template).prompt("a text needs none")


def test_a_model_without_a_template_says_what_to_do(bare):
    said = fault(open_tokenizer(bare))
    assert "the model has no chat template; write a text, take a model made for chats, or put its" in said
    assert str(bare) in said


# ---- templates at fault

HOSTILE = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "large": "{{ 'a' * 10 ** 10 }}",
    "long": "{% for a in range(9999) %}{{ 'a' * 99999 }}{% endfor %}",
    "doubled": "{% set ns = namespace(a='a') %}{% for _ in range(99) %}{% set ns.a = ns.a * 2 %}{% endfor %}",
    "padded": "{{ '%9999999999d' % 1 }}",
    "nested": "{{ " + "(" * 9000 + "1" + ")" * 9000 + " }}",
    "recursive": "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__['sys'].exit(0) }}",
    "format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "namespace": "{% set ns = namespace(__class__=1) %}",
    "stored": "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "changed": "{{ messages.append(1) }}",
    "cleared": "{{ messages[0].clear() }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
    "unknown filter": "{{ messages | nothing }}",
    "unfinished": "{% for a in messages %}",
    "undefined": "{{ nothing.there.either }}",
    "division": "{{ 1 // 0 }}",
    "half a character": "{{ '\\ud800' }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_template_at_fault_is_one_line(name, with_template, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = fault(with_template(HOSTILE[name]))
    assert f"{tmp_path / 'model' / 'tokenizer_config.json'}" in said
    assert "root:" not in said
    assert "memory" in said or name not in ("large", "doubled", "padded")
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_an_oversized_template_is_not_read(with_template):
    assert "characters, more than" in fault(with_template("a" * 600_000))


def test_the_reason_of_a_template_that_refuses_is_shown(with_template):
    tokenizer = with_template(MISTRAL)
    assert fault(tokenizer, [USER, USER]) == (
        "chat: the model's chat template refuses it: 'Conversation roles must alternate "
        "user/assistant/user/assistant/...'; change the turns"
    )
    tokenizer.prompt(Chat(chat=[USER, ANSWER, USER]))


def test_all_chats_are_rendered_in_one_process(with_template, monkeypatch):
    from steer_cli.planning import chat

    started, run = [], chat.subprocess.run
    monkeypatch.setattr(
        chat.subprocess, "run", lambda *words, **more: started.append(1) or run(*words, **more)
    )
    tokenizer, chats = with_template(CHATML), [Chat(chat=[USER | {"content": f"{n}"}]) for n in range(50)]
    tokenizer.render(dict.fromkeys(chats, "chat"))
    assert len({tokenizer.prompt(chat) for chat in chats}) == 50
    assert started == [1]


def test_what_stands_in_the_folder_is_not_imported(with_template, tmp_path, monkeypatch):
    (tmp_path / "jinja2.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert with_template(CHATML).prompt(Chat(chat=[USER]))


def test_a_text_that_begins_with_the_first_token_of_a_plain_template_is_no_chat(with_template):
    from steer_cli.planning.chat_starts import begins_chat, chat_starts

    tokenizer = with_template("{% for turn in messages %}User: {{ turn.content }}\n{% endfor %}")
    starts = chat_starts(tokenizer)
    chat = tokenizer.prompt(Chat(chat=[{"role": "user", "content": "I hate you"}]))
    assert begins_chat(chat, starts) and not begins_chat(tokenizer.encode("Users hate you"), starts)
    assert chat[0] == tokenizer.encode("Users hate you")[0]
