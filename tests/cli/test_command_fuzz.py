"""Mutations of valid recipes through the command, all the way to `generate` on a tiny model.

Whatever is written, a command does it, or says in one line why not; it never dies, and never does nothing in
silence. STEER_FUZZ=5000 runs that many examples instead of the default number, each time others.
"""

import json
import os
import time
from collections import Counter
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner
from vector_files import gguf, safetensors

from steer_cli.cli import app
from steer_cli.recipe.bundled import shipped
from steer_cli.recipe.yaml_source import _Dumper

MORE = int(os.environ.get("STEER_FUZZ", "0"))
EXAMPLES = MORE or 150
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=not MORE,
    database=None,
    suppress_health_check=list(HealthCheck),
)
SECONDS = 60  # no command may take longer

PROMPTS = ["I hate you because", "I went up to my friend and said", "The ship sailed to Rome with a cargo"]
HAND_MADE = [
    {"plus": "Love", "minus": "Hate", "layer": 2, "coefficient": 3},
    {"plus": " wedding", "layer": [1, 3], "coefficient": -2.5, "position": "back"},
    {"plus": "Love", "minus": "", "layer": "40%", "position": "every", "coefficient": 0.5},
    {"plus": "Love", "layer": 1, "position": {"at": 2}, "overflow": "clip", "dims": 0.7},
    {"plus": "Anger", "minus": "Calm", "layer": 3, "pad": "none", "match_norm": True, "source_layer": 1},
    {"pairs": [{"plus": "Love", "minus": "Hate"}, {"plus": "calm"}], "layer": 2, "combine": "sum"},
    {"plus": "Love", "minus": "Hate", "layer": 4, "random": {"seed": 3}, "position": "middle"},
    {
        "texts": {"plus": ["Love", "Love wins"], "minus": ["Hate", "I hate", "my cake"]},
        **{"layer": [1, 3], "position": "every", "read": "mean"},
    },
    {
        "pairs": [{"plus": "Love", "minus": "Hate"}, {"plus": "calm", "minus": "Anger"}],
        **{"layer": 2, "position": "every", "combine": "pca"},
    },
    {"plus": "Love", "layer": 0, "position": {"token": " friend"}, "overflow": "clip"},
    {"plus": "Love", "minus": "Hate", "layer": "all", "operation": "ablate", "position": {"every": "all"}},
    {"plus": "Love", "layer": 3, "operation": "ablate", "position": "front", "overflow": "clip"},
    {"plus": "Love", "minus": "Hate", "layer": 2, "position": {"every": "new"}},
    {"plus": "Love", "minus": "Hate", "layer": 2, "coefficient": {"relative": 0.8}},
    {"vector": "one.safetensors", "layer": 2, "position": "every"},
    {"vector": "one.gguf", "coefficient": 2, "position": {"every": "all"}},
    {"vector": "three.safetensors", "layer": 2, "coefficient": {"relative": -0.5}},
]

VECTORS = ("one.safetensors", "one.gguf", "three.safetensors")  # see `write_stored`

words = ["Love", "Hate", " wedding", "I talk about weddings constantly", "anger", " friend", "", " "]
odd = ["😀", "👩\u200d🚀", "\u202egnol", "é漢字", "a\nb", "\x1b[31m", "\x00", "\u2028", "<s>", "</s>"]
texts = st.one_of(
    st.sampled_from(words),
    st.sampled_from(words[:4]),
    st.sampled_from([*odd, "<|endoftext|>"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.sampled_from([" a" * 300, "a" * 2000]),
)
HUGE = [10**30, -(10**30), 2**63, 1e300, -1e300, 1e-320, 1e12, 0, -0.0, float("inf"), float("nan")]
extreme = st.sampled_from(HUGE)


def mostly(*usual: st.SearchStrategy, rarely: st.SearchStrategy = extreme) -> st.SearchStrategy:
    # `one_of` takes each alternative once, however often it is named.
    return st.sampled_from([*range(len(usual))] * 12 + [-1]).flatmap(lambda i: [*usual, rarely][i])


NUMBERS = st.integers(-20, 20), st.floats(-20, 20), st.sampled_from([0, 1e-30, 1e6, 1e12])
coefficients = mostly(*NUMBERS, st.builds(lambda number: {"relative": number}, mostly(*NUMBERS)))
shares = mostly(
    st.sampled_from(["0%", "25%", "99.9%"]), rarely=st.sampled_from(["100%", "9" * 400 + "%", "50"])
)
layers = mostly(
    st.integers(0, 4),
    shares,
    st.just("all"),
    st.lists(st.integers(0, 4), min_size=1, max_size=4, unique=True),
)
positions = st.one_of(
    st.sampled_from(["front", "middle", "back", "every"]),
    st.builds(lambda way: {"every": way}, st.sampled_from(["prompt", "new", "both", "all", "old"])),
    st.builds(lambda at: {"at": at}, mostly(st.integers(0, 9))),
    st.builds(lambda token: {"token": token}, texts),
)
pairs = st.lists(st.builds(lambda a, b: {"plus": a, "minus": b}, texts, st.none() | texts), max_size=3)
lists = st.lists(texts, min_size=1, max_size=4)
ADDITION = {  # a value for each key, most of them valid
    "plus": texts,
    "minus": st.none() | texts,
    "layer": layers,
    "coefficient": coefficients,
    "operation": st.sampled_from(["add", "ablate"]),
    "position": positions,
    "pad": st.sampled_from(["space", "eos", "none", " a", "two words", "😀", ""]),
    "overflow": st.sampled_from(["clip", "error"]),
    "source_layer": mostly(st.none(), st.integers(0, 4), shares),
    "match_norm": st.booleans(),
    "random": mostly(st.none(), st.builds(lambda seed: {"seed": seed}, mostly(st.integers(0, 9)))),
    "dims": mostly(st.none(), st.floats(0, 1)),
    "combine": st.sampled_from(["mean", "sum", "pca"]),
    "read": st.sampled_from([None, "last", "mean"]),
    "texts": st.builds(lambda a, b: {"plus": a, "minus": b}, lists, mostly(lists, texts)),
    "pairs": pairs,
    "vector": mostly(
        st.sampled_from([*VECTORS, {"file": "three.safetensors", "addition": 0}]),
        rarely=st.sampled_from(["none.gguf", "recipe.yaml", {"file": "one.gguf", "addition": 7}]),
    ),
}
SAMPLING = {
    "max_new_tokens": mostly(st.integers(1, 5)),
    "samples": mostly(st.integers(1, 3), rarely=st.sampled_from([0, -1, 10**30])),
    "temperature": mostly(st.floats(0, 3), st.sampled_from([0, 1e-320, 1e6])),
    "top_p": mostly(st.floats(0, 1, exclude_min=True)),
    "top_k": mostly(st.none(), st.integers(1, 600)),
    "frequency_penalty": mostly(st.floats(-3, 3), st.sampled_from([0, 1e6, -1e6])),
    "seed": mostly(st.integers(0, 9)),
}
DOCUMENT = {
    "prompt": texts,
    "prompts": st.lists(texts, min_size=1, max_size=3),
    "name": texts,
    "description": texts,
    "bos": st.sampled_from(["auto", "none", "a", "two words", ""]),
    "count": st.dictionaries(texts, st.lists(texts.filter(len), min_size=1, max_size=3), max_size=2),
}
wrong = st.one_of(st.none(), st.booleans(), extreme, texts, st.lists(texts, max_size=2), st.just({}))


# Keys that exclude each other.
INSTEAD = {
    "prompt": ["prompts"],
    "prompts": ["prompt"],
    "pairs": ["plus", "minus", "texts", "vector"],
    "plus": ["pairs", "texts", "vector"],
    "minus": ["pairs", "texts", "vector"],
    "texts": ["plus", "minus", "pairs", "vector"],
    "vector": ["plus", "minus", "pairs", "texts", "random", "match_norm", "source_layer"],
}


def real_recipes() -> list[dict]:
    """The shipped recipes, cut to the depth of a tiny model."""
    found = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in shipped().values()]
    for recipe in found:
        for addition in recipe["additions"]:
            addition["layer"] = 2
            if "source_layer" in addition:
                addition["source_layer"] = 1
    return found


SHIPPED = real_recipes()


@st.composite
def recipes(draw) -> dict:
    """A valid recipe with up to three values changed, of which few are of another kind."""
    if draw(st.booleans()):
        recipe = deepcopy(draw(st.sampled_from(SHIPPED)))
    else:
        chosen = draw(st.lists(st.sampled_from(HAND_MADE), min_size=1, max_size=3))
        recipe = {"prompt": draw(st.sampled_from(PROMPTS)), "additions": deepcopy(chosen)}
    recipe["sampling"] = recipe.get("sampling", {}) | {"max_new_tokens": 3, "samples": 1}
    if draw(st.booleans()):
        for addition in recipe["additions"]:
            addition["overflow"] = "clip"
    for _ in range(draw(st.integers(0, 3))):
        addition = draw(st.sampled_from(recipe["additions"]))
        parts = [
            (addition, ADDITION),
            (addition, ADDITION),
            (recipe["sampling"], SAMPLING),
            (recipe, DOCUMENT),
        ]
        part, values = draw(st.sampled_from(parts))
        key = draw(st.sampled_from(sorted(values)))
        part[key] = draw(mostly(values[key], rarely=wrong))
        if key == "vector" and part[key] in VECTORS:
            part |= {"layer": 2, "position": "front" if part[key].startswith("three") else "every"}
        for other in INSTEAD.get(key, ()):
            part.pop(other, None)
    return recipe


def written(recipe: dict, form: str) -> str:
    if form == "json":
        return json.dumps(recipe).replace("Infinity", ".inf").replace("NaN", ".nan")
    return yaml.dump(recipe, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def write_stored(folder: Path) -> None:
    """Stored vectors of the tiny models' width: of one row, and of three positions."""
    rows = np.random.default_rng(0).standard_normal((3, 48))
    said = {"format": "steer", "version": "1"}
    safetensors(folder / "one.safetensors", {f"layer.{layer}": rows[:1] for layer in range(4)}, said)
    safetensors(folder / "three.safetensors", {f"layer.{layer}": rows for layer in range(4)}, said)
    gguf(folder / "one.gguf", {f"direction.{block}": rows[0] for block in range(1, 4)})


CONTROLS = ["random", "embedding", "prompt", "shuffled"]
numbers = st.one_of(st.integers(-2, 5), st.sampled_from([10**30, 2**63, 10**6, 10**9]))
OPTIONS = st.one_of(
    st.just([]),
    st.just([]),
    st.builds(lambda n: ["--samples", str(n)], st.one_of(st.integers(-1, 3), st.just(10**30))),
    st.builds(lambda n: ["--seed", str(n)], numbers),
    st.builds(lambda n: ["--batch-rows", str(n)], numbers),
    st.builds(lambda text: ["-p", text], texts.filter(lambda text: "\0" not in text)),
    st.builds(
        lambda kind: ["--control", kind], st.sampled_from(["random", "embedding", "prompt", "shuffled"])
    ),
    st.builds(lambda text: ["--control", f"prompt={text}"], texts.filter(lambda text: "\0" not in text)),
    st.builds(
        lambda key, value: [f"--{key}={value}"],
        st.sampled_from(["coefficient", "layer", "position", "plus", "minus"]),
        st.one_of(extreme, texts.filter(lambda text: "\0" not in text), st.integers(0, 4)),
    ),
    st.builds(
        lambda key, value: ["--set", f"additions.0.{key}={value}"],
        st.sampled_from(["coefficient", "layer", "position", "plus", "minus", "dims"]),
        st.one_of(extreme, texts, st.integers(0, 4)),
    ),
)


class Runs:
    """Runs commands, holds each against what all of them promise, and counts what came of them."""

    def __init__(self) -> None:
        self.codes: Counter = Counter()
        self.faults: Counter = Counter()  # what was said, with STEER_FUZZ
        self.slowest = 0.0

    def __call__(self, *args: str):
        start = time.monotonic()
        result = CliRunner().invoke(app, list(args), prog_name="steer")
        self.slowest = max(self.slowest, time.monotonic() - start)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code in (0, 1, 2)
        assert time.monotonic() - start < SECONDS
        self.codes[args[0], result.exit_code] += 1
        if MORE and result.exit_code:
            self.faults[result.stderr.splitlines()[-1].split(": ", 1)[-1][-60:]] += 1
        if result.exit_code == 1:
            said = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
            assert result.stderr.endswith(said[-1] + "\n")
            assert all(len(line) < 520 for line in said)
            assert len(said) == 1 or args[0] == "check"
        return result

    def share(self, command: str) -> float:
        whole = sum(count for (name, _), count in self.codes.items() if name == command)
        return self.codes[command, 0] / whole


@pytest.fixture(scope="module")
def folders(tiny_folder) -> list[Path]:
    import torch

    torch.set_num_threads(1)
    return [tiny_folder("llama"), tiny_folder("gpt2")]


@pytest.fixture(scope="module", autouse=True)
def loaded_once(folders):
    """Each tiny model is loaded once; loading is not what is tried here."""
    from steer_cli.models import load as model

    loaded, load = {}, model.load

    def remembered(folder, name, *args, **options):
        key = (folder, name, *args, *options.values())
        if key not in loaded:
            loaded[key] = load(folder, name, *args, **options)
        return loaded[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "load", remembered)
        yield


def check_records(result, recipe: dict) -> None:
    """Whole records for every prompt and sample, and something done wherever something was asked for."""
    records = [json.loads(line) for line in result.stdout.removesuffix("\n").split("\n")]
    places = Counter((record["sample"]) for record in records)
    assert len(set(places.values())) == 1, "as many records of each sample as there are prompts"
    assert sorted(places) == list(range(len(places)))
    for record in records:
        assert {"recipe", "model", "prompt", "unsteered", "steered", "additions"} <= record.keys()
        # What acts on new tokens alone has no ratio on the prompt.
        asked = [
            addition
            for addition in record["additions"]
            if addition["coefficient"] != 0 and addition["position"] != {"every": "new"}
        ]
        # null: the ratio to a stream of zeros.
        ratios = [ratio for addition in asked for ratio in addition["ratio"]]
        assert not asked or any(ratio is None or ratio > 0 for ratio in ratios), "a silent no-op"


def test_mutations_of_valid_recipes_through_the_commands(folders, tmp_path):
    run = Runs()
    write_stored(tmp_path)

    @fuzz
    @given(
        recipe=recipes(),
        folder=st.sampled_from(folders),
        form=st.sampled_from(["yaml", "yaml", "json"]),
        options=OPTIONS,
        screen=st.booleans(),
    )
    def each(recipe, folder, form, options, screen):
        file = tmp_path / "recipe.yaml"
        # Surrogates in pairs are what JSON writes; the texts here have none by themselves.
        file.write_text(written(recipe | {"model": str(folder)}, form), encoding="utf-8")
        checked = run("check", str(file))
        shown = run("table", str(file), *(["--json"] if not screen else []))
        plain = run("generate", str(file), "--jsonl", *options)
        if not options and checked.exit_code:
            assert (shown.exit_code, plain.exit_code) == (1, 1)
        if plain.exit_code == 0:
            check_records(plain, recipe)
            if screen:
                assert run("generate", str(file), *options).exit_code == 0

    each()
    print(
        f"\n{dict(sorted(run.codes.items()))}, slowest {run.slowest:.1f} s",
        *run.faults.most_common(60),
        sep="\n",
    )
    # Most are valid, or only the format would be tried; some are not.
    assert 0.7 < run.share("check") < 1
    assert run.share("generate") > 0.5
