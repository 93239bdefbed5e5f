"""Steering without a file: options that make one addition, or change a recipe's first, and `--save`."""

import hashlib
import json
import resource
import signal

import pytest
from typer.testing import CliRunner

from steer_cli.cli import app
from steer_cli.recipe.load import load

PROMPT = "I went up to my friend and said"
FEW = ["--set", "sampling.max_new_tokens=6", "--set", "sampling.samples=2"]
PAIR = ["--plus", "Love", "--minus", "Hate"]


@pytest.fixture
def tiny(tiny_folder, command, monkeypatch):
    """The folder of a tiny model, as an option; commands run in a folder of their own."""
    import torch

    torch.set_num_threads(1)
    return ["--model", str(tiny_folder("llama"))]


def plain(found: list[dict]) -> list[dict]:
    """Records without the digest of their recipe."""
    return [{key: value for key, value in record.items() if key != "recipe_sha256"} for record in found]


# ---- without a file

COMMANDS = [
    ["generate", *FEW],
    ["generate", *FEW, "--control", "prompt"],
    ["table"],
    ["shift", "--want", " wedding"],
    ["norms"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_options_alone_do_what_a_file_with_the_same_values_does(words, tiny, records, tmp_path):
    addition = {"plus": "Love", "minus": "Hate", "layer": 3, "coefficient": -2, "position": {"at": 2}}
    whole = {"name": "Love - Hate", "prompt": PROMPT, "additions": [addition]}
    (tmp_path / "same.yaml").write_text(json.dumps(whole))
    options = ["--layer", "3", "-c", "-2", "--position", "2", "-p", PROMPT]
    made = records(*words, *PAIR, *options, *tiny)
    assert plain(made) == plain(records(*words, "same.yaml", *tiny))


def test_without_more_a_pair_acts_at_a_third_of_the_depth_once_at_the_front(tiny, records):
    for record in records("generate", *PAIR, "-p", PROMPT, *FEW, *tiny):
        (addition,) = record["additions"]
        assert (record["recipe"], addition["layer"]) == ("Love - Hate", 1)  # of five blocks
        assert (addition["coefficient"], addition["position"]) == (1, "front")


def test_a_sweep_and_perplexities_need_no_file_either(tiny, records, tmp_path):
    (tmp_path / "same.yaml").write_text(json.dumps({"additions": [{"plus": "Love", "layer": 2}]}))
    grid = ["--layers", "1,3", "--coefficients", "1,-1"]
    made = records("sweep", "--plus", "Love", "-p", PROMPT, *grid, *tiny)
    assert [(point["layer"], point["coefficient"]) for point in made] == [(1, 1), (1, -1), (3, 1), (3, -1)]
    same = records("sweep", "same.yaml", "-p", PROMPT, *grid, *tiny)
    assert [point["kl"] for point in made] == [point["kl"] for point in same]
    corpus = ["--corpus", "five.txt", "--lines"]
    (one,) = records("perplexity", "--plus", "Love", "--layer", "2", *corpus, *tiny)
    (other,) = records("perplexity", "same.yaml", *corpus, *tiny)
    assert {**one, "recipe": ""} == {**other, "recipe": ""}


NAMES = [
    (["--plus", "Love"], "Love"),
    (PAIR, "Love - Hate"),
    (["--plus", " wedding\n", "--minus", ""], '" wedding " - ""'),
    (["--plus", "  ", "--minus", "a" * 99], '" " - ' + "a" * 23 + "…"),
    ([*PAIR, "--set", "name=mine"], "mine"),
]


@pytest.mark.parametrize("options, name", NAMES, ids=lambda value: value if type(value) is str else "")
def test_a_recipe_without_a_file_has_a_readable_name(options, name, tiny, records):
    (record,) = records("table", *options, "-p", PROMPT * 5, *tiny, "--set", "additions.0.overflow=clip")
    assert record["recipe"] == name


# ---- with a recipe

CHANGES = [
    (["--layer", "3"], {"layer": 3}),
    (["--layer", "1,3"], {"layer": [1, 3]}),
    (["--layer", "25%"], {"layer": "25%"}),
    (["--layer", "all"], {"layer": "all"}),
    (["--layer", "[1, 50%]"], {"layer": [1, "50%"]}),
    (["--coefficient=-2"], {"coefficient": -2}),
    (["-c", "-2.5"], {"coefficient": -2.5}),
    (["--coefficient", "1e-2"], {"coefficient": 0.01}),
    (["--position", "back"], {"position": "back"}),
    (["--position", "every"], {"position": "every"}),
    (["--position", "every=all"], {"position": {"every": "all"}}),
    (["--position", "{every: new}"], {"position": {"every": "new"}}),
    (["--position", "4"], {"position": {"at": 4}}),
    (["--position", "token= friend"], {"position": {"token": " friend"}}),
    (["--position", "{at: 4}"], {"position": {"at": 4}}),
    (["--plus", "calm"], {"plus": "calm"}),
    (["--plus", "1846"], {"plus": "1846"}),
    (["--plus", "null"], {"plus": "null"}),
    (["--minus", "{a: 1}"], {"minus": "{a: 1}"}),
    (["--minus", ""], {"minus": ""}),
    (["--plus", "calm", "--minus", "anger", "--layer", "1"], {"plus": "calm", "minus": "anger", "layer": 1}),
]


@pytest.mark.parametrize("options, values", CHANGES, ids=lambda value: " ".join(value))
def test_an_option_sets_a_key_of_the_first_addition(options, values, tiny, records, recipe_file):
    second = {"plus": " wedding", "layer": 4}
    first = {"plus": "Love", "minus": "Hate", "layer": 2, "coefficient": 3}
    path = recipe_file(tiny[1], first, second, prompt=PROMPT)
    sets = [word for key, value in values.items() for word in ("--set", _assignment(key, value))]
    by_option = records("generate", path, *options, *FEW)
    assert plain(by_option) == plain(records("generate", path, *sets, *FEW))
    last = by_option[0]["additions"][-1]
    assert (last["layer"], last["coefficient"]) == (4, 1)


def _assignment(key: str, value: object) -> str:
    return f"additions.0.{key}={json.dumps(value)}"


def test_an_option_and_the_same_set_have_one_digest(tiny, records, recipe_file):
    path = recipe_file(tiny[1], {"plus": "Love", "minus": "Hate", "layer": 2}, prompt=PROMPT)
    for option, change in (
        (["--layer", "3"], "layer=3"),
        (["-c", "-2"], "coefficient=-2"),
        (["--plus", "calm"], "plus=calm"),
        (["--plus", "5"], 'plus="5"'),
    ):
        one, *_ = records("generate", path, *option, *FEW)
        other, *_ = records("generate", path, *FEW, "--set", f"additions.0.{change}")
        assert one["recipe_sha256"] == other["recipe_sha256"]
    texts = {records("generate", path, "--plus", text, *FEW)[0]["recipe_sha256"] for text in ("5", '"5"')}
    assert len(texts) == 2


def test_plus_stands_in_the_place_of_pairs(tiny, records, recipe_file, fault):
    pairs = [{"plus": "calm", "minus": "anger"}, {"plus": " wedding"}]
    path = recipe_file(tiny[1], {"pairs": pairs, "layer": 2}, prompt=PROMPT)
    (record,) = records("table", path, *PAIR)
    assert [row["role"] for row in record["rows"]] == ["prompt", "plus", "minus"]
    said = fault("table", path, "--minus", "Hate", "--layer", "1")
    assert said.startswith("--minus Hate: additions.0: minus needs a plus")


def test_sampling_has_options_too(tiny, records, recipe_file):
    path = recipe_file(tiny[1], {"plus": "Love", "layer": 2}, prompt=PROMPT)
    options = ["--max-new-tokens", 3, "--temperature", 0.5, "--top-p", 0.9, "-n", 2]
    keys = {"max_new_tokens": 3, "temperature": 0.5, "top_p": 0.9, "samples": 2}
    sets = [word for key, value in keys.items() for word in ("--set", f"sampling.{key}={value}")]
    assert plain(records("generate", path, *options)) == plain(records("generate", path, *sets))


# ---- --save

SAVED = [
    [*PAIR, "-p", PROMPT, "--layer", "1,3", "-c", "-2", "-n", "2"],
    ["--plus", "a: b\n", "-p", PROMPT, "-p", "I hate you because", "-n", "1"],
    ["RECIPE", "--plus", "calm", "--position", "every", "--set", "sampling.max_new_tokens=3"],
]


@pytest.mark.parametrize("options", SAVED, ids=["pair", "prompts", "recipe"])
def test_the_saved_file_does_the_same_again(options, tiny, records, recipe_file, tmp_path):
    path = recipe_file(tiny[1], {"plus": "Love", "minus": "Hate", "layer": 2}, prompt=PROMPT)
    words = [str(path) if word == "RECIPE" else word for word in options]
    saved = tmp_path / "saved.yaml"
    first = records("generate", *words, *tiny, "--set", "sampling.max_new_tokens=4", "--save", saved)
    assert records("generate", saved) == first
    assert {record["recipe_sha256"] for record in first} == {hashlib.sha256(saved.read_bytes()).hexdigest()}
    assert load(str(saved)).sampling.max_new_tokens == 4


def test_the_digest_without_a_file_is_that_of_the_file_that_would_be_saved(tiny, records, tmp_path):
    words = ["generate", *PAIR, "-p", PROMPT, *FEW, *tiny]
    saved = tmp_path / "saved.yaml"
    without = records(*words)
    assert records(*words, "--save", saved) == without
    assert without[0]["recipe_sha256"] == hashlib.sha256(saved.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["generate", "table", "shift", "norms", "perplexity"])
def test_a_file_is_written_by_each_command_and_never_over_another(name, tiny, command, fault, tmp_path):
    more = ["--corpus", "five.txt", "--lines"] if name == "perplexity" else ["-p", PROMPT]
    words = [name, *PAIR, *more, *tiny, "--save", "mine.yaml"]
    code, _, err = command(*words)
    assert code == 0 and "saved: mine.yaml\n" in err
    content = (tmp_path / "mine.yaml").read_bytes()
    assert b"  - plus: Love\n    minus: Hate\n    layer: 33%\n" in content
    said = fault(*words, "--plus", "calm")
    assert said == "--save mine.yaml: the file already exists; choose another name, or remove it first"
    assert (tmp_path / "mine.yaml").read_bytes() == content


def test_what_cannot_be_planned_is_not_saved(tiny, fault, tmp_path):
    fault("generate", *PAIR, "-p", PROMPT, "--layer", "99", *tiny, "--save", "mine.yaml")
    fault("generate", *PAIR, "-p", PROMPT, "--control", "noise", *tiny, "--save", "mine.yaml")
    assert not (tmp_path / "mine.yaml").exists()


def test_the_place_is_looked_at_before_the_model(fault, tmp_path):
    (tmp_path / "link.yaml").symlink_to(tmp_path / "nowhere.yaml")
    for place, reason in (
        ("nowhere/mine.yaml", "there is no folder nowhere; create it first"),
        (".", "not the name of a file"),
        ("", "not the name of a file"),
        ("-", "not the name of a file"),
        (tmp_path, "is a folder"),
        ("a" * 300, "File name too long; choose another name"),
        ("link.yaml", "the file already exists"),
        ("/dev/full", "the file already exists"),
    ):
        # A model that there is not would be looked for on the hub.
        said = fault("table", *PAIR, "-p", PROMPT, "--model", "no/such-model", "--save", place)
        assert said.startswith("--save ") and reason in said
        assert not (tmp_path / "nowhere.yaml").exists()


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("shift", ["--plot", "one.svg"]),
        ("norms", ["--plot", "one.svg"]),
        ("score", ["--toward", "toward.txt", "--plot", "one.svg"]),
        ("sweep", ["--layers", "1", "--best", "max kl", "--plot", "one.svg"]),
        ("sweep", ["--layers", "1", "--best", "max kl", "--store", "one.svg"]),
    ],
)
def test_files_to_write_are_apart(name, more, tiny, fault, tmp_path):
    option, file = more[-2:]
    said = fault(name, *more, *PAIR, "-p", PROMPT, *tiny, "--save", file)
    assert said == f"{option} {file}: is the --save too; write another name"
    assert not list(tmp_path.glob("one.*"))


def test_a_full_disk_is_one_line_and_leaves_no_half_of_a_file(tiny, fault, tmp_path):
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        said = fault("table", *PAIR, "-p", PROMPT, *tiny, "--save", "mine.yaml")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert said.startswith("--save mine.yaml: ") and said.endswith("; choose another place")
    assert not (tmp_path / "mine.yaml").exists()


def test_a_sweep_saves_its_winner(tiny, command, records, fault, tmp_path):
    words = ["sweep", *PAIR, "-p", PROMPT, "--layers", "1,3", "--coefficients", "1,4", *tiny]
    *points, best = records(*words, "--best", "max kl", "--save", "best.yaml")
    saved = load(str(tmp_path / "best.yaml"))
    assert (saved.additions[0].layer, saved.additions[0].coefficient) == (best["layer"], best["coefficient"])
    (shift,) = records("shift", "best.yaml")
    assert shift["kl"] == pytest.approx(max(point["kl"][0]["kl"] for point in points), abs=1e-5)
    assert "add --best" in fault(*words, "--save", "other.yaml")
    assert "already" in fault(*words, "--best", "max kl", "--save", "best.yaml")


# ---- mistakes

LOVE = [*PAIR, "-p", PROMPT]
MISTAKES = [
    ([*PAIR], 'no prompt; add -p "I hate you because"'),
    (["--plus", "", "-p", PROMPT], "--plus '': an empty text"),
    (["--plus", "Love", "--minus", "Love", "-p", PROMPT], "--minus Love: does nothing: plus and minus have"),
    (["--plus", "\udcff", "-p", PROMPT], "'\\udcff' is not UTF-8 text"),
    ([*LOVE, "--layer", "99"], "--layer 99: layer 99 is too deep"),
    ([*LOVE, "--layer", "1,99"], "--layer 1,99: layer 99 is too deep"),
    ([*LOVE, "--layer=-1"], "--layer -1: additions.0.layer: -1 is not a block"),
    ([*LOVE, "--layer", "2,2"], "--layer 2,2: lists a block twice"),
    ([*LOVE, "--layer", "2,x"], "--layer 2,x: additions.0.layer: [2, 'x'] is not a block"),
    ([*LOVE, "--layer", "100%"], "--layer 100%: additions.0.layer: '100%' is not a block"),
    ([*LOVE, "--layer", "9" * 5000], "a number with too many digits"),
    ([*LOVE, "-c", "hot"], "--coefficient hot: additions.0.coefficient: 'hot' is not a finite number"),
    ([*LOVE, "-c", "nan"], "--coefficient nan: additions.0.coefficient: 'nan' is not a finite number"),
    ([*LOVE, "-c", ".nan"], "--coefficient .nan: additions.0.coefficient: nan is not a finite number"),
    ([*LOVE, "-c", "1e99"], "--coefficient 1e99: additions.0.coefficient: 1e+99 is not a finite number"),
    ([*LOVE, "-c", ""], "--coefficient '': additions.0.coefficient: None is not a finite number"),
    ([*LOVE, "--position", "fron"], "--position fron: additions.0.position: 'fron' is not front, middle"),
    ([*LOVE, "--position", "-1"], "--position -1: additions.0.position: {'at': -1} is not front, middle"),
    ([*LOVE, "--position", "99"], "at {at: 99}, but the prompt has"),
    ([*LOVE, "--position", "token=xx"], "no token 'xx' to start at"),
    ([*LOVE, "--set", "additions.1.plus=x"], "no entry 1"),
    (["--plus", "Love", PROMPT], f"for a prompt, write -p '{PROMPT}'"),
]


@pytest.mark.parametrize("options, said", MISTAKES, ids=lambda value: "" if type(value) is str else None)
def test_a_mistake_is_one_line_that_names_its_option(options, said, tiny, fault):
    assert said in fault("generate", *options, *tiny)


def test_neither_a_recipe_nor_a_plus_says_both_ways(fault):
    for name in ("generate", "table", "shift", "norms"):
        said = fault(name, code=2)
        assert "`steer generate love-hate`" in said and '--plus Love --minus Hate -p "I hate' in said
    assert "--plus Love" in fault("sweep", "--layers", "1", code=2)
    assert fault("generate", "--minus", "Hate", code=2).startswith(
        "--minus 'Hate': neither --plus nor a recipe"
    )
    for name, output in (("export", "love.gguf"), ("bake", "love")):  # which have no prompt
        assert fault(name, "-o", output, code=2).endswith("steer without a file: --plus Love --minus Hate")
    assert 'add -p "' in fault("sweep", "--plus", "Love", "--layers", "1")


UNKNOWN = [
    (["generate", "love-hate", "--frequency-penalty", "0.5"], "--set sampling.frequency_penalty=0.5"),
    (
        ["generate", "love-hate", "--frequency-penalty=-0.5", "-n", "1"],
        "--set sampling.frequency_penalty=-0.5",
    ),
    (["generate", "love-hate", "--match-norm", "true"], "--set additions.0.match_norm=true"),
    (["shift", "--match-norm"], "--set additions.0.match_norm=VALUE"),
    (["table", "--top-k", "-3"], "--set sampling.top_k=-3"),
    (["norms", "love-hate", "--description", "two words"], "--set 'description=two words'"),
    (["perplexity", "love-hate", "--dims", "--lines"], "--set additions.0.dims=VALUE"),
]


@pytest.mark.parametrize(
    ("options", "change"),
    [
        (["-c", "3"], "additions.0.coefficient=4"),
        (["--plus", "Joy"], "additions.0.pairs=[{plus: a, minus: b}]"),
        (["-n", "2"], "sampling.samples=3"),
        (["--model", "other"], "model=gemma3-270m"),
    ],
)
def test_an_option_that_would_undo_a_change_is_an_error(options, change, fault):
    found = fault("generate", "love-hate", *options, "--set", change)
    assert found.startswith(f"--set {change}: --") and found.endswith("sets it too; leave one of them out")


def test_an_option_may_say_what_a_change_says(tiny, records):
    assert records("table", "love-hate", *tiny, "-c", "3", "--set", "additions.0.coefficient=3")


@pytest.mark.parametrize("words, remedy", UNKNOWN, ids=lambda value: value if type(value) is str else "")
def test_a_key_of_the_recipe_that_is_no_option_says_how_to_set_it(words, remedy, fault):
    option = next(word for word in words if word.startswith("--")).split("=")[0]
    said = fault(*words, code=2)
    assert said == f"{option}: is a key of the recipe, not an option; use {remedy}"


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "love-hate", "--nonsense"],
        ["sweep", "love-hate", "--layer", "3"],  # --layers is meant
        ["check", "--temperature", "1"],  # takes no changes
    ],
    ids=" ".join,
)
def test_any_other_unknown_option_is_wrong_usage(words, command):
    code, _, err = command(*words)
    assert code == 2 and err.startswith("Usage: steer") and "--set" not in err


def test_positions_and_controls_are_completed():
    for words, wanted in (
        ("--position f", "front"),
        ("--position t", "token="),
        ("--position e", "every"),
        ("--position e", "every=new"),
        ("--control pro", "prompt="),
    ):
        line = f"steer generate {words}"
        settings = {"_STEER_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": "3"}
        assert wanted in CliRunner().invoke(app, [], prog_name="steer", env=settings).stdout.split()
