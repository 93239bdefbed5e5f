"""Chats on the command line: --chat and --system, what is shown and saved of them, and what is at fault."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from chat_templates import CHATML, MISTRAL, write_chat_tokenizer

from steer_cli.recipe.chat import Chat
from steer_cli.recipe.load import load
from steer_cli.recipe.sampling import Sampling

ROOT = Path(__file__).parents[2]
FEW = ["--set", "sampling.max_new_tokens=4", "--set", "sampling.samples=1"]
PAIR = ["--plus", "Love", "--minus", "Hate"]
SAID = "I hate you because"
CHATML_TOKENS = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
SYSTEM, USER = {"role": "system", "content": "Be brief."}, {"role": "user", "content": SAID}
PERSONA = {
    "plus": {"chat": [{"role": "system", "content": "Love all."}, {"role": "user", "content": "Who?"}]},
    "minus": {"chat": [{"role": "system", "content": "Hate all."}, {"role": "user", "content": "Who?"}]},
    "layer": 2,
    "coefficient": 2,
    "position": "every",
}


@pytest.fixture(scope="module")
def chatty(tiny_folder, tmp_path_factory):
    """A tiny Llama whose tokenizer has a chat template."""
    import shutil

    import torch

    torch.set_num_threads(1)
    folder = shutil.copytree(tiny_folder("llama"), tmp_path_factory.mktemp("chatty") / "llama")
    return write_chat_tokenizer(folder, CHATML, CHATML_TOKENS)


# ---- what is shown


def test_a_table_shows_the_tokens_of_the_template(chatty, command, records):
    asked = [*PAIR, "--chat", SAID, "--system", "Be brief.", "-m", chatty, "--position", "every"]
    (record,) = records("table", *asked)
    prompt, plus, _ = record["rows"]
    assert "".join(prompt["tokens"]) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        f"<|im_start|>user\n{SAID}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompt["tokens"].count("<|im_start|>") == 3 and "<s>" not in prompt["tokens"]
    # BOS is that of a text; the first token of a chat is left alone though it is none.
    assert plus["tokens"][0] == "<s>" and plus["start"] == 1
    assert (record["prompt"], record["chat"]) == (SAID, [SYSTEM, USER])
    code, out, _ = command("table", *asked)
    assert code == 0 and out.count("<|im_start|>") == 4 and "↵" in out


@pytest.mark.parametrize("words", [["generate", *FEW], ["shift"], ["norms"]], ids=" ".join)
def test_records_and_screens_show_what_the_user_says(words, chatty, command, records):
    asked = [*words, *PAIR, "--layer", "2", "--chat", SAID, "--chat", "Who?", "-m", chatty]
    for record in records(*asked):
        assert record["chat"] == [{"role": "user", "content": record["prompt"]}]
        assert record["prompt"] in (SAID, "Who?")
        assert list(record).index("chat") == list(record).index("prompt") + 1
    code, out, _ = command(*asked)
    assert code == 0
    assert out.count(f"\n{SAID}") == 1 or words == ["shift"]


def test_records_of_a_text_have_no_chat(chatty, records):
    for record in records("generate", *PAIR, "-p", SAID, "-m", chatty, *FEW):
        assert "chat" not in record and "continue" not in record


def test_prompts_and_chats_stand_side_by_side(chatty, records):
    made = records("table", *PAIR, "-p", SAID, "--chat", SAID, "-m", chatty)
    assert [record.get("chat") for record in made] == [None, [USER]]


def test_chats_take_the_place_of_a_recipes_prompt(chatty, recipe_file, records):
    recipe = recipe_file(chatty, {"plus": "Love", "layer": 1}, prompt="I")
    (record,) = records("table", recipe, "--chat", SAID)
    assert record["chat"] == [USER]


# ---- recipes


def test_a_saved_chat_reads_back(chatty, records, tmp_path):
    made = records(
        "generate", *PAIR, "--chat", SAID, "--system", "Be brief.", "-m", chatty, *FEW, "--save", "a.yaml"
    )
    assert yaml.safe_load((tmp_path / "a.yaml").read_text())["prompt"] == {"chat": [SYSTEM, USER]}
    assert records("generate", "a.yaml") == made


def test_how_the_answer_starts_is_shown_and_saved(chatty, recipe_file, command, records, tmp_path):
    chat = {"chat": [USER], "continue": "Love is"}
    recipe = recipe_file(chatty, {"plus": "Love", "layer": 1}, prompt=chat)
    (record,) = records("generate", recipe, *FEW, "--save", tmp_path / "b.yaml")
    assert record["prompt"] == f"{SAID}\nLove is"
    assert (record["chat"], record["continue"]) == ([USER], "Love is")
    assert load(str(tmp_path / "b.yaml")).prompt == load(str(recipe)).prompt
    _, out, _ = command("generate", recipe, *FEW)
    assert f"{SAID}\nLove is …\n" in out
    (table,) = records("table", recipe)
    assert "".join(table["rows"][0]["tokens"]).endswith("<|im_start|>assistant\nLove is")


@pytest.mark.parametrize("position", ["every", "front", {"at": 3}])
def test_a_persona_steers(position, chatty, recipe_file, command, records):
    recipe = recipe_file(chatty, PERSONA | {"position": position}, prompt={"chat": [USER] * 4})
    (record,) = records("generate", recipe, *FEW)
    assert record["unsteered"]["tokens"] and record["additions"][0]["ratio"]
    (table,) = records("table", recipe)
    plus, minus = table["rows"][1:]
    if position == "every":  # read at the end of the answer's header
        assert [row["tokens"][row["read"]] for row in (plus, minus)] == ["\n", "\n"]
        assert record["additions"][0]["span"] == [1, len(table["rows"][0]["tokens"])]
    else:
        assert len(plus["tokens"]) == len(minus["tokens"])
    # What tells the two apart is what they are called.
    _, out, _ = command("generate", recipe, *FEW)
    assert "Love all. - Hate all. × 2" in out


def test_the_beginning_stays_alone_even_without_bos(chatty, recipe_file, records):
    addition = {"plus": "Love", "layer": 1, "position": "every"}
    recipe = recipe_file(chatty, addition, prompts=[{"chat": [USER]}, SAID], bos="none")
    chat, text = records("generate", recipe, *FEW)
    assert [record["additions"][0]["span"][0] for record in (chat, text)] == [1, 0]


# ---- prompting as a baseline


def fronted(chatty, addition, prompt, control):
    """The rows of `--control prompt`, as text."""
    from steer_cli.activations.baselines import planned
    from steer_cli.models.located import Located
    from steer_cli.planning.plan import plan_recipe
    from steer_cli.recipe.schema import Recipe

    facts = Located("chatty", chatty).facts()
    plan = plan_recipe(Recipe(prompt=prompt, additions=[addition]), facts, 1)
    return [facts.tokenizer.decode(row) for row in planned(plan, control).rows]


def test_a_text_in_front_of_a_chat_begins_what_the_user_says(chatty):
    turns = {"chat": [SYSTEM, USER]}
    love = {"plus": "Love", "layer": 1}
    (row,) = fronted(chatty, love, turns, "prompt")
    assert f"<|im_start|>user\nLove {SAID}<|im_end|>" in row and "Be brief.<|im_end|>" in row
    (row,) = fronted(chatty, love, turns, "prompt=Go:")
    assert f"<|im_start|>user\nGo: {SAID}<|im_end|>" in row


def test_a_persona_in_front_of_a_chat_is_its_system_turn(chatty):
    (row,) = fronted(chatty, PERSONA, {"chat": [USER]}, "prompt")
    assert row.startswith(f"<|im_start|>system\nLove all.<|im_end|>\n<|im_start|>user\n{SAID}")
    (row,) = fronted(chatty, PERSONA, {"chat": [SYSTEM, USER]}, "prompt")
    assert row.startswith("<|im_start|>system\nLove all.\n\nBe brief.<|im_end|>\n")


def test_as_many_texts_stand_in_front_as_fit_with_the_tokens_of_the_template(chatty):
    """A chat without a turn of the user gets one, whose header takes room as well."""
    from steer_cli.models.located import Located

    facts = Located("chatty", chatty).facts()
    said = [f"I talk about {number} weddings" for number in range(120)]
    pairs = {"pairs": [{"plus": text, "minus": "You"} for text in said], "layer": 1, "position": "every"}
    only_system = [{"role": "system", "content": "I"}]
    (row,) = fronted(chatty, pairs, {"chat": only_system}, "prompt")
    count = row.count("weddings")
    rows = []
    for some in (count, count + 1):
        turns = [{"role": "user", "content": " ".join(said[:some])}, *only_system]
        rows.append(facts.tokenizer.prompt(Chat(chat=turns)))
    assert 1 < count < len(said) and row == facts.tokenizer.decode(rows[0])
    fit, over = (len(ids) + Sampling().max_new_tokens <= facts.context for ids in rows)
    assert fit and not over


def test_the_embedding_of_chats_is_refused_with_the_reason(chatty, recipe_file, fault):
    recipe = recipe_file(chatty, PERSONA, prompt=SAID)
    said = fault("generate", recipe, "--control", "embedding", *FEW)
    assert said.startswith("--control embedding: ") and "read at the same token" in said
    said = fault("generate", recipe, "--layer", "all", *FEW)
    assert "the vector is all zeros, as all texts are read at the same token" in said
    assert said.endswith("list other layers, or set `source_layer`")


def test_what_cannot_stand_in_front_is_one_line(chatty, recipe_file, fault):
    said = fault("generate", recipe_file(chatty, PERSONA, prompt=SAID), "--control", "prompt", *FEW)
    assert said.startswith("--control prompt: it steers towards a chat and a prompt is none")
    asked = {"plus": {"chat": [USER]}, "layer": 1}
    said = fault("generate", recipe_file(chatty, asked, prompt={"chat": [USER]}), "--control", "prompt", *FEW)
    assert "no" in said and "--control prompt=TEXT" in said
    corpus = ["--corpus", "five.txt", "--lines", "--method", "overlay", "--baseline", "prompt"]
    said = fault("perplexity", recipe_file(chatty, PERSONA), *corpus)
    assert said.startswith("--baseline prompt: a chat stands in front of chats alone")


# ---- other measurements


def test_a_sweep_runs_chats(chatty, recipe_file, records):
    recipe = recipe_file(chatty, PERSONA, prompt={"chat": [USER]})
    points = records("sweep", recipe, "--layers", "1,3", "--measure", "kl")
    assert [point["kl"][0]["prompt"] for point in points] == [SAID, SAID]
    assert all(point["kl"][0]["kl"] > 0 for point in points)
    (asked,) = records("sweep", recipe, "--chat", "Who?", "--layers", "1", "--measure", "kl")
    assert asked["kl"][0]["prompt"] == "Who?"
    whole = records("shift", recipe, "--set", "additions.0.layer=3")
    assert points[1]["kl"][0]["kl"] == pytest.approx(whole[0]["kl"], rel=1e-4)


def test_a_scan_and_perplexities_run_personas(chatty, recipe_file, records):
    recipe = recipe_file(chatty, PERSONA, prompt={"chat": [USER]})
    rows = records("generate", recipe, "--scan", "0:2:1", *FEW)
    assert [row["chat"] for row in rows] == [[USER]] * 3
    (corpus,) = records("perplexity", recipe, "--corpus", "five.txt", "--lines", "--method", "overlay")
    assert corpus["ratio"] > 0


# ---- what is at fault


def test_a_system_needs_a_chat(chatty, fault):
    said = fault("table", *PAIR, "-p", SAID, "--system", "Be brief.", "-m", chatty)
    assert said == "--system 'Be brief.': in which chat? add --chat TEXT"


def test_a_model_without_a_template_says_what_to_do(tiny_folder, fault):
    said = fault("table", *PAIR, "--chat", SAID, "-m", tiny_folder("llama"))
    assert said.startswith("Love - Hate: prompt: a chat, but the model has no chat template; write a text")


def test_what_a_template_says_of_roles_is_shown(tmp_path, recipe_file, fault):
    folder = write_chat_tokenizer(tmp_path / "mistral", MISTRAL)
    turns = {"chat": [USER, {"role": "narrator", "content": "Later"}]}
    said = fault("table", recipe_file(folder, {"plus": "Love", "layer": 1}, prompts=["I", turns]))
    assert said.startswith(
        "r: prompts.1: the model's chat template refuses it: 'Only user and assistant roles"
    )
    addition = {"pairs": [{"plus": "Love"}, {"plus": "Love", "minus": turns}], "layer": 1}
    said = fault("table", recipe_file(folder, addition, prompt="I"))
    assert ": additions.0.pairs.1.minus: the model's chat template refuses it:" in said
    change = f"prompt={json.dumps(turns)}"
    said = fault("table", recipe_file(folder, {"plus": "Love", "layer": 1}), "--set", change)
    assert said.startswith("--set prompt=")


def test_control_characters_of_a_template_do_not_reach_the_terminal(tmp_path, fault):
    template = "{{ raise_exception('\\x1b[31mred\\nline' ) }}"
    folder = write_chat_tokenizer(tmp_path / "red", template)
    assert "\x1b" not in fault("table", *PAIR, "--chat", SAID, "-m", folder)


def test_a_table_of_a_chat_loads_neither_torch_nor_transformers(chatty):
    start = (
        "import sys; sys.argv[0] = 'steer'\nfrom steer_cli.cli import main\ntry: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'torch', 'transformers', 'jinja2'} & sys.modules.keys()"
    )
    command = [sys.executable, "-c", start, "table", *PAIR, "--chat", SAID, "-m", str(chatty)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "<|im_start|>" in done.stdout


def test_a_table_lists_the_special_tokens_after_the_first(chatty, command, records):
    asked = [*PAIR, "--chat", SAID, "-m", chatty]
    (record,) = records("table", *asked)
    prompt, plus, _ = record["rows"]
    found = [prompt["tokens"][index] for index in prompt["special"]]
    assert found == ["<|im_start|>", "<|im_end|>", "<|im_start|>"] and plus["special"] == [0]
    assert "special tokens: <|im_end|> <|im_start|>" in command("table", *asked)[1]
    assert "special tokens" not in command("table", *PAIR, "-p", SAID, "-m", chatty)[1]
