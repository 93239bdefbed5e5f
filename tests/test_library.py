"""The library as docs/library.md shows it: the page runs, and what it promises holds."""

import dataclasses
import io
import json
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

import steer_cli as steer

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def page(real_folder, tmp_path_factory):
    """The names that the page leaves, and what each of its blocks prints."""
    names, printed = {}, []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        for block in BLOCKS:
            with redirect_stdout(io.StringIO()) as out:
                exec(block, names)
            printed.append(out.getvalue())
    return names, printed


def test_the_page_runs_from_top_to_bottom_and_prints_what_it_says(page):
    names, printed = page
    assert len(printed) == len(BLOCKS) >= 9
    assert all(printed)
    for said in re.findall(r"This prints `([^`]+)`", PAGE):
        assert said in "".join(printed)
    assert any(re.fullmatch(r"weddings 0\.\d+ 0\.\d+ 3\n", lines) for lines in printed)
    assert names["shift"].tokens[0].token == " wedding"
    errors = printed[-1].splitlines()
    assert len(errors) == 3 and "-1 is not a block" in errors[0] and "overflow: clip" in errors[2]
    assert errors[1].startswith("Addition: coefficient: '3' is not a finite number such as 5")


def test_the_page_uses_every_function(page):
    public = {name for name in steer.__all__ if name[0].islower() and not name.startswith("_")}
    assert {name for name in public if f"steer.{name}(" not in PAGE} == set()


def results(names):
    return [
        *(names["run"], names["shift"], names["found"], names["findings"], names["findings"].figures[0]),
        *(names["scan"], names["scan"].points[0]),
        *(names["points"][0], names["run"].receipts[0], names["run"].steered[0]),
        *(names["written"], names["baked"]),
    ]


def test_results_are_frozen(page):
    for found in results(page[0]):
        name = dataclasses.fields(found)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(found, name, None)


def test_records_are_what_the_commands_print(page, command):
    names, _ = page
    model, recipe = names["model"], steer.load_recipe("love-hate", {"sampling.max_new_tokens": 8})
    Path("corpus.txt").write_text("The bride wore white.\nWe danced at the wedding.\n")
    corpus = steer.read_corpus("corpus.txt")
    asked = ["love-hate", "--set", "sampling.max_new_tokens=8"]
    cases = [
        (["generate", *asked, "-n", 1, "--jsonl"], steer.generate(model, recipe, samples=1)),
        (
            ["generate", *asked, "-n", 1, "--scan", "0:4:2", "--jsonl"],
            steer.scan(model, recipe, "0:4:2", samples=1),
        ),
        (["shift", *asked, "--jsonl", "--want", " love"], [steer.shift(model, recipe, want=[" love"])]),
        (["norms", *asked, "--jsonl"], steer.norms(model, recipe)),
        (
            ["perplexity", *asked, "--corpus", "corpus.txt", "--jsonl"],
            [steer.perplexity(model, recipe, [corpus])],
        ),
        (
            ["sweep", *asked, "--layers", "2,3", "--measure", "kl", "--jsonl"],
            steer.sweep(model, recipe, layers="2,3", measures=["kl"]),
        ),
    ]
    for arguments, found in cases:
        code, out, err = command(*arguments)
        assert code == 0, err
        printed = [json.loads(line) for line in out.splitlines()]
        made = [json.loads(json.dumps(record)) for result in found for record in result.records()]
        assert len(made) == len(printed), arguments[0]
        for one, other in zip(made, printed, strict=True):
            alike(one, other, arguments[0])


def alike(made, printed, where):
    """Equal but for rounding: after a generation, some numbers of rows are multiplied by packed weights."""
    if isinstance(made, dict):
        assert made.keys() == printed.keys(), where
        for key, value in made.items():
            alike(value, printed[key], f"{where} {key}")
    elif isinstance(made, list):
        assert len(made) == len(printed), where
        for one, other in zip(made, printed, strict=True):
            alike(one, other, where)
    elif isinstance(made, float):
        assert made == pytest.approx(printed, rel=1e-3, abs=1e-4), where
    else:
        assert made == printed, where


def test_one_loaded_model_serves_many_recipes(page):
    model = page[0]["model"]
    first = steer.shift(model, steer.load_recipe("love-hate"))
    for name in ("wedding-shift", "cooking", "ocean"):
        recipe = steer.load_recipe(name)
        assert steer.shift(model, recipe, prompt=recipe.all_prompts[0]).kl > 0
    assert steer.shift(model, steer.load_recipe("love-hate")) == first


def test_bad_input_raises_at_the_call(page, tmp_path, monkeypatch):
    model = page[0]["model"]
    monkeypatch.chdir(tmp_path)
    Path("short.txt").write_text("A.")
    recipe = steer.load_recipe("love-hate")
    deep = steer.load_recipe("love-hate", {"additions.0.layer": 99})
    for call in (
        lambda: steer.load_model("no-such-model"),
        lambda: steer.load_model("smollm2-135m", device="abacus"),
        lambda: steer.load_model("smollm2-135m", threads=0),
        lambda: steer.load_recipe("no-such-recipe"),
        lambda: steer.load_recipe("love-hate", {"additions.3.layer": 1}),
        lambda: steer.vectors(model, deep),
        lambda: steer.generate(model, deep),
        lambda: steer.generate(model, recipe, prompts=["I"]),
        lambda: steer.generate(model, recipe, samples=0),
        lambda: steer.shift(model, recipe, want=["two words of it"]),
        lambda: steer.shift(model, recipe, position=99),
        lambda: steer.norms(model, deep),
        lambda: steer.read_corpus("nowhere.txt"),
        lambda: steer.perplexity(model, deep, [steer.read_corpus("short.txt")]),
        lambda: steer.sweep(model, recipe, layers="2:nine"),
    ):
        with pytest.raises(steer.SteerError) as caught:
            call()
        assert str(caught.value) and "\n" not in str(caught.value)


def test_an_error_of_a_recipe_without_a_name_says_recipe(page):
    addition = steer.Addition(plus="Love", minus="Hate", layer=[99], coefficient=1)
    with pytest.raises(steer.SteerError, match=r"^recipe: additions\.0"):
        steer.generate(page[0]["model"], steer.Recipe(prompt="I hate you because", additions=[addition]))


@pytest.mark.parametrize(
    "wrong", [{"layer": [-1]}, {"layer": [2], "coefficient": "3"}, {"layer": [2], "unknown": 1}]
)
def test_a_recipe_written_wrongly_in_python_raises_at_the_call(wrong):
    with pytest.raises(steer.SteerError, match=r"^Addition: "):
        steer.Addition(**{"plus": "Love", "minus": "Hate", "coefficient": 1, **wrong})


@pytest.mark.parametrize("wrong, named", [("love-hate", "'love-hate'"), (None, "a NoneType"), ({}, "a dict")])
def test_what_is_no_recipe_is_one_clear_line(wrong, named, page):
    names, _ = page
    model = names["model"]
    calls = [
        lambda: steer.vectors(model, wrong),
        lambda: steer.generate(model, wrong),
        lambda: steer.shift(model, wrong),
        lambda: steer.norms(model, wrong),
        lambda: steer.perplexity(model, wrong, []),
        lambda: steer.sweep(model, wrong, "0:2"),
        lambda: steer.scan(model, wrong, "1"),
        lambda: steer.export(model, wrong, "v.gguf"),
        lambda: steer.bake(model, wrong, "folder"),
        lambda: steer.steering(names["hf_model"], wrong, names["tokenizer"]).__enter__(),
    ]
    for call in calls:
        with pytest.raises(steer.SteerError, match=re.escape(f"recipe: {named} is not a Recipe; pass load_")):
            call()


def test_the_import_is_instant_and_loads_nothing_heavy():
    code = (
        "import sys, time; start = time.perf_counter(); import steer_cli; "
        "print(time.perf_counter() - start, *{'torch', 'transformers', 'pydantic'} & set(sys.modules))"
    )
    asked = {"capture_output": True, "text": True, "check": True}
    runs = [subprocess.run([sys.executable, "-c", code], **asked).stdout.split() for _ in range(3)]
    assert min(float(seconds) for seconds, *_ in runs) <= 0.1
    assert all(len(run) == 1 for run in runs)
