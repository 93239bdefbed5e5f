"""Sweeps: the grid as written, points that equal single measurements, the winner, what is computed once."""

import json
import os
import random
import re
import shutil
from statistics import mean, stdev

import pytest
import yaml

from steer_cli.cli.options import error_text
from steer_cli.errors import SweepError
from steer_cli.models.hardware import Hardware
from steer_cli.models.located import Located
from steer_cli.results import Coordinates, Perplexity, PromptShift, SweepPoint
from steer_cli.sweeps.grid import parse_grid
from steer_cli.sweeps.objective import best, nearest, parse_objective

PROMPT = "I went up to my friend and said"
WEDDING = {"plus": " wedding", "minus": " ", "layer": 0}
COUNT = {"any": ["a", "the", "e", "wedding"]}


@pytest.mark.parametrize(
    ("layers", "coefficients", "dims", "expected"),
    [
        ("0:3", None, None, ((0, 1, 2), (None,), (None,))),
        ("6,2", "1", None, ((2, 6), (1.0,), (None,))),
        ("0:6:2,5", "-1:4:0.5", None, ((0, 2, 4, 5), tuple(n / 2 - 1 for n in range(11)), (None,))),
        ("1", "0,-0,2", "0:1:0.1", ((1,), (0.0, 2.0), tuple(n / 10 for n in range(11)))),
    ],
)
def test_ranges(layers, coefficients, dims, expected):
    grid = parse_grid(layers, coefficients, None, dims, 30)
    assert (grid.layers, grid.coefficients, grid.dims) == expected
    assert len(list(grid)) == len(grid) == sum(map(len, grid.groups()))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("0:31", None, None, None), "no layer 30; the model has 0 to 29"),
        (("-1", None, None, None), "no layer -1"),
        (("", None, None, None), "--layers"),
        (("3:1", None, None, None), "--layers"),
        (("3:3", None, None, None), "--layers 3:3: 3:3 holds no value; write 0:30"),
        (("1", "2:1", None, None), "--coefficients 2:1: 2:1 holds no value"),
        (("1", None, None, "x"), "write 0:1:0.1"),
        (("1", "1e400", None, None), "--coefficients 1e400: 1e400 is not a value"),
        (("1", "1e13", None, None), "--coefficients 1e13: 1e13 is not a value"),
        (("1e99999999", None, None, None), "--layers 1e99999999: 1e99999999 is not a value"),
        (("1", None, 5000 * "9", None), "write front, middle, back"),
        (("1.5", None, None, None), "--layers"),
        (("x", None, None, None), "--layers x: x is not a value"),
        (("1", "1:2:0", None, None), "--coefficients"),
        (("1", "nan", None, None), "--coefficients"),
        (("1", "0:1:1e-9", None, None), "--coefficients"),
        (("1", None, "left", None), "write front, middle, back"),
        (("1", None, None, "0:2:0.5"), "not a share of the width"),
    ],
)
def test_bad_ranges_are_one_clear_line(options, said):
    with pytest.raises(SweepError) as caught:
        parse_grid(*options, 30)
    assert said in error_text(caught.value)


@pytest.fixture
def swept(command, recipe_file, tiny_folder):
    """A function: arguments -> the records of a sweep over a tiny model."""

    def run(*arguments, arch="gpt2", addition=WEDDING, **more):
        path = recipe_file(tiny_folder(arch), addition, prompt=PROMPT, **more)
        code, out, err = command("sweep", path, *arguments, "--jsonl")
        assert code == 0, err
        return [json.loads(line) for line in out.splitlines()]

    return run


@pytest.mark.parametrize("arch", ["gpt2", "llama", "gemma3"])
def test_a_point_is_the_single_measurement(arch, swept, command, recipe_file, tiny_folder):
    corpus = ("--corpus", "five.txt", "--lines", "--method", "overlay")
    grid = ("--layers", "0:5", "--coefficients", "0,1.5,-2", "--positions", "front,2", "--dims", "0,0.5,1")
    records = swept(*grid, *corpus, "--measure", "perplexity,kl", "--want", "wedding", arch=arch)
    assert len(records) == 5 * 3 * 2 * 3
    for record in records[:: 90 // 15]:
        at = {"layer": record["layer"], "coefficient": record["coefficient"], "position": record["position"]}
        at |= {"dims": record["dims"]} if record["dims"] else {"coefficient": 0}
        path = recipe_file(tiny_folder(arch), WEDDING | at, prompt=PROMPT)
        single = json.loads(command("perplexity", path, *corpus, "--jsonl")[1])
        [figure] = record["perplexity"]
        for key in ("ratio", "stderr", "perplexity_unsteered", "perplexity_steered"):
            assert figure[key] == pytest.approx(single[key], rel=1e-5, abs=1e-7)
        assert (figure["sentences"], figure["tokens"]) == (single["sentences"], single["tokens"])
        single = json.loads(command("shift", path, "--want", "wedding", "--jsonl")[1])
        for key in ("kl", "effect", "damage", "entropy_steered", "entropy_unsteered"):
            assert record["kl"][0][key] == pytest.approx(single[key], abs=1e-5)
        if record["coefficient"] == 0 or record["dims"] == 0:
            assert figure["ratio"] == 1 and record["kl"][0]["kl"] == 0


def test_counts_are_those_of_generate(swept, command, recipe_file, tiny_folder):
    sampling = {"samples": 3, "max_new_tokens": 12, "top_p": 0.9}
    more = {"sampling": sampling, "count": COUNT}
    records = swept("--layers", "1,3", "--coefficients", "0,4", "--measure", "counts", **more)
    for record in records:
        at = {"layer": record["layer"], "coefficient": record["coefficient"]}
        path = recipe_file(tiny_folder("gpt2"), WEDDING | at, prompt=PROMPT, **more)
        made = [json.loads(line) for line in command("generate", path, "--jsonl")[1].splitlines()]
        for arm in ("unsteered", "steered"):
            uses = [sample[arm]["counts"]["any"] for sample in made]
            assert record["counts"]["any"][arm] == pytest.approx(mean(uses))
            assert record["counts"]["any"][f"{arm}_stderr"] == pytest.approx(stdev(uses) / 3**0.5)
        more_uses = [s["steered"]["counts"]["any"] - s["unsteered"]["counts"]["any"] for s in made]
        assert record["counts"]["any"]["difference"] == pytest.approx(mean(more_uses))
        assert record["counts"]["any"]["difference_stderr"] == pytest.approx(stdev(more_uses) / 3**0.5)


def test_the_unsteered_arm_and_each_prefix_are_computed_once(swept, monkeypatch):
    """Rows that each block works on, over a whole sweep."""
    from steer_cli.models import load as loading
    from steer_cli.networks.gpt2 import GPT2

    work = dict.fromkeys(range(5), 0)
    load, attend = loading.load, GPT2._attention

    def counting(network, layer, block, stream, attention):
        work[layer] += len(stream)
        return attend(network, layer, block, stream, attention)

    def counted(*arguments):
        model = load(*arguments)
        monkeypatch.setattr(GPT2, "_attention", counting)
        return model

    monkeypatch.setattr(loading, "load", counted)
    swept("--layers", "0:5", "--coefficients", "1,2,3", "--corpus", "five.txt", "--lines")
    for block, rows in work.items():
        steered = 5 * 3 * (block + 1)  # five sentences, three coefficients, the layers up to this one
        unsteered, prefix = 5, 5 if block < 4 else 0
        vectors = 2 * (4 - block)  # two texts, for every deeper layer
        assert rows == steered + unsteered + prefix + vectors, (block, work)


def test_a_store_is_continued_and_may_grow(swept, tmp_path, monkeypatch):
    store = ("--store", tmp_path / "s.jsonl", "--measure", "kl")
    first = swept("--layers", "1", "--coefficients", "1,2", *store)
    again = swept("--layers", "1,2", "--coefficients", "1,2", *store)
    assert again[:2] == first and len(again) == 4
    assert (tmp_path / "s.jsonl").read_text().count("\n") == 5

    def no_model(*_):
        raise AssertionError("nothing is missing, so nothing is loaded")

    monkeypatch.setattr("steer_cli.models.load.load", no_model)
    assert swept("--layers", "1,2", "--coefficients", "1,2", *store) == again


@pytest.mark.parametrize(("measure", "sizes"), [("kl", [6]), ("counts", [4, 2])])
def test_points_that_take_long_are_saved_in_small_groups(measure, sizes, swept, tmp_path, monkeypatch):
    from steer_cli.sweeps.store import Store

    saved, append = [], Store.append
    monkeypatch.setattr(
        Store, "append", lambda store, group: (saved.append(len(group)), append(store, group))
    )
    more = {"sampling": {"samples": 1, "max_new_tokens": 2}, "count": COUNT}
    store = ("--store", tmp_path / "s.jsonl", "--measure", measure)
    assert len(swept("--layers", "1", "--coefficients", "1:6", *store, **more)) == 6
    assert saved == sizes


def test_stores_of_other_sweeps_are_refused(swept, command, recipe_file, tiny_folder, tmp_path):
    (tmp_path / "other.txt").write_text("People flock to France.")
    corpus = ("--corpus", "a=five.txt", "--lines")
    path = recipe_file(tiny_folder("gpt2"), WEDDING, prompt=PROMPT)
    arguments = ("--layers", "1", "--store", "s.jsonl")
    assert command("sweep", path, *arguments, *corpus)[0] == 0
    for changed, said in (
        ((path, *arguments, "--corpus", "a=other.txt", "--lines"), "a different corpus"),
        ((path, *arguments, *corpus, "--set", "additions.0.plus= friend"), "a different recipe"),
        ((path, *arguments, *corpus, "--model", str(tiny_folder("llama"))), "a different model"),
        ((path, *arguments, *corpus, "--method", "overlay"), "a different method"),
        ((path, *arguments, "--measure", "kl"), "a different corpus"),
    ):
        code, _, err = command("sweep", *changed)
        assert code == 1 and said in err and err.count("\n") == 1


def test_a_store_knows_what_auto_came_to_and_the_tokenizer(command, recipe_file, tiny_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder("gpt2"), folder)
    sweep = ("sweep", recipe_file(folder, WEDDING, prompt=PROMPT), "--layers", "1", "--store", "s.jsonl")
    sweep += ("--device", "cpu")
    assert command(*sweep)[0] == 0
    assert command(*sweep, "--dtype", "float32")[0] == 0
    code, _, err = command(*sweep, "--dtype", "bfloat16")
    assert code == 1 and "a different dtype (float32, now bfloat16)" in err
    for name, old, new in (
        ("tokenizer_config.json", '"bos_token": "<|endoftext|>"', '"bos_token": "!"'),
        ("tokenizer.json", "{", "{ "),
    ):
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")
        code, _, err = command(*sweep)
        assert code == 1 and "a different tokenizer" in err and err.count("\n") == 1
        (folder / name).write_text(text, encoding="utf-8")
    assert command(*sweep)[0] == 0


def test_a_store_knows_every_byte_of_the_weights(command, recipe_file, tiny_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder("gpt2"), folder)
    sweep = ("sweep", recipe_file(folder, WEDDING, prompt=PROMPT), "--layers", "1", "--store", "s.jsonl")
    assert command(*sweep)[0] == 0
    file = folder / "model.safetensors"
    weights, before = file.read_bytes(), file.stat()
    draw = random.Random(0)
    for _ in range(5):
        changed = bytearray(weights)
        changed[draw.randrange(len(weights) // 2, len(weights))] ^= 1
        file.write_bytes(changed)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        code, _, err = command(*sweep)
        assert code == 1 and "a different model" in err and err.count("\n") == 1
    file.write_bytes(weights)
    (folder / "generation_config.json").write_text('{"eos_token_id": 5}', encoding="utf-8")
    code, _, err = command(*sweep)
    assert code == 1 and "a different model" in err


def test_the_commit_of_a_hub_stands_for_the_bytes_of_its_files(
    command, recipe_file, tiny_folder, tmp_path, monkeypatch
):
    from steer_cli.models import identity

    snapshots = tmp_path / "models--some--model" / "snapshots"
    folder = snapshots / ("0123456789" * 4)
    folder.mkdir(parents=True)
    blobs = tmp_path / "models--some--model" / "blobs"
    shutil.copytree(tiny_folder("gpt2"), blobs)
    for file in blobs.iterdir():
        (folder / file.name).symlink_to(f"../../blobs/{file.name}")
    recipe = recipe_file(folder, WEDDING, prompt=PROMPT)
    with monkeypatch.context() as patch:
        patch.setattr(identity, "sha256_of", lambda *_: pytest.fail("read"))
        code, _, err = command("sweep", recipe, "--layers", "1", "--store", "s.jsonl")
    assert code == 0, err
    assert f"{folder} 0123456789012345" in (tmp_path / "s.jsonl").read_text()
    # A plain file among them may hold anything.
    (folder / "config.json").unlink()
    shutil.copy(tiny_folder("gpt2") / "config.json", folder)
    code, _, err = command("sweep", recipe, "--layers", "1", "--store", "s.jsonl")
    assert code == 1 and "a different model" in err


def test_the_kind_of_device_and_the_precision_of_the_weights(tmp_path, monkeypatch):
    from steer_cli.models import load as model

    (tmp_path / "config.json").write_text('{"torch_dtype": "bfloat16"}', encoding="utf-8")
    located = Located("some", tmp_path)
    assert model.resolved(located, Hardware("auto", "cpu")) == ("float32", "cpu")
    assert model.resolved(located, Hardware("float16", "cpu")) == ("float16", "cpu")
    monkeypatch.setattr(model, "_device", lambda _: model.torch.device("cuda:1"))
    assert model.resolved(located, Hardware("auto", "cuda:1")) == ("bfloat16", "cuda")


def test_best_names_the_winner_and_prints_a_recipe_that_gives_it(command, recipe_file, tiny_folder, tmp_path):
    words = "A long description, which no screen may fold, because that would break the file. " * 3
    path = recipe_file(tiny_folder("llama"), WEDDING, prompt=PROMPT, description=words.strip(), name="yes")
    grid = ("--layers", "1:4", "--coefficients", "0.5,2", "--corpus", "a=five.txt", "--lines", "--measure")
    wish = ("perplexity,kl", "--best", "max kl where a <= 1.5")
    code, out, err = command("sweep", path, *grid, *wish)
    assert code == 0, err
    records = [json.loads(line) for line in command("sweep", path, *grid, *wish, "--jsonl")[1].splitlines()]
    kept = [record for record in records if record["perplexity"][0]["ratio"] <= 1.5]
    winner = max(kept, key=lambda record: record["kl"][0]["kl"])
    *points, last = records
    assert len(points) == 6 and not any("best" in point for point in points)
    assert last == winner | {"best": wish[-1], "best_recipe": last["best_recipe"]}
    # A JSON object is YAML too, so that it is a recipe as it stands.
    (tmp_path / "last.yaml").write_text(json.dumps(last["best_recipe"]), encoding="utf-8")
    single = json.loads(command("shift", "last.yaml", "--jsonl")[1])
    assert single["kl"] == pytest.approx(winner["kl"][0]["kl"], abs=1e-5)
    text = out[out.index("\nname:") :]
    found = yaml.safe_load(text)
    assert found["additions"][0]["layer"] == winner["layer"]
    assert found["additions"][0]["coefficient"] == winner["coefficient"]
    assert "description" not in found, "it described other additions"
    (tmp_path / "best.yaml").write_text(text, encoding="utf-8")
    single = json.loads(command("shift", "best.yaml", "--jsonl")[1])
    assert single["kl"] == pytest.approx(winner["kl"][0]["kl"], abs=1e-5)


def test_no_point_keeps_the_condition_and_the_plot_is_drawn(command, recipe_file, tiny_folder, tmp_path):
    path = recipe_file(tiny_folder("gpt2"), WEDDING, prompt=PROMPT)
    wish = ("--best", "min kl where kl < 0", "--plot", "p.svg")
    code, out, err = command("sweep", path, "--layers", "1,2", *wish)
    assert code == 1 and "layer" in out
    assert re.search(
        r"no point meets the condition; the nearest is layer [12], coefficient 1, position front: "
        r"kl is (\S+), which misses < 0 by \1; loosen the condition, or sweep further\n$",
        err,
    )
    assert (tmp_path / "p.svg").is_file()


@pytest.mark.parametrize(
    "objective",
    ["", "small a", "min", "min a where", "min a where b", "min a where b <= x", "min a where a < nan"],
)
def test_objectives_that_are_none(objective):
    with pytest.raises(SweepError, match="best"):
        parse_objective(objective)


PLACE = Coordinates(layer=1, coefficient=2.0, position="front", dims=None)


def ratio(corpus, label, value):
    return Perplexity(corpus, label, "pad", 10.0, 10.0 * value, value, None, 1, 1)


def test_the_nearest_point_misses_a_condition_by_the_least():
    points = [
        SweepPoint("r", "m", PLACE, ("perplexity",), (ratio("a", None, r), ratio("b", "x", s)))
        for r, s in ((0.9, 1.3), (0.8, 1.2), (0.7, 1.01))
    ]
    point, (miss,) = nearest(parse_objective("min a where b/x < 1"), points)
    assert point is points[2] and (miss.bound.name, miss.figure) == ("b/x", 1.01)
    assert miss.by == pytest.approx(0.01)
    # Of several conditions the worst counts, in spreads of its figure: a misses by 1, 0.5 and 0 of them, b/x
    # by 0, 0 and 0.66.
    point, misses = nearest(parse_objective("min a where a < 0.7 and b/x > 1.2"), points)
    assert point is points[1] and [miss.bound.name for miss in misses] == ["a", "b/x"]
    assert nearest(parse_objective("min a where a < 0"), []) is None


def test_objectives():
    points = [
        SweepPoint("r", "m", PLACE, ("perplexity",), (ratio("a", None, r), ratio("b", "x", s)))
        for r, s in ((0.9, 1.3), (0.8, 1.2), (0.7, 1.01), (0.6, 1.0))
    ]
    assert best(parse_objective("min a"), points) is points[3]
    assert best(parse_objective("MAX b/x where a<0.9 and b/x>1.0"), points) is points[1]
    assert best(parse_objective("min a where b/x > 2"), points) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--layers", "9"], "0 to 4"),
        (["--layers", "1", "--measure", "speed"], "perplexity,kl,counts"),
        (["--layers", "1", "--measure", "perplexity"], "--corpus NAME=FILE"),
        (["--layers", "1", "--measure", "counts"], "counts no words"),
        (["--layers", "1", "--corpus", "five.txt", "--measure", "kl"], "only --measure perplexity"),
        (["--layers", "1", "--addition", "3"], "has additions 0 to 0"),
        (["--layers", "1", "--best", "min cats"], "cats is not measured; choose from kl"),
        (["--layers", "1", "--positions", "99"], "the prompt has 9"),
        (["--layers", "1", "--samples", "3"], "--samples 3: only --measure counts"),
        (["--layers", "1", "--method", "pad"], "--method pad: only --measure perplexity"),
        (
            ["--layers", "1", "--corpus", "five.txt", "--prompt", "Hi"],
            "--prompt Hi: only --measure kl or",
        ),
        (["--layers", "1", "--corpus", "five.txt", "--want", "wedding"], "--want wedding: only --measure kl"),
        (["--layers", "1", "--column", "text"], "--column: of which corpus?"),
        (["--layers", "1", "--lines"], "--lines: of which corpus?"),
    ],
)
def test_bad_options_are_one_clear_line(arguments, said, command, recipe_file, tiny_folder):
    code, out, err = command("sweep", recipe_file(tiny_folder("gpt2"), WEDDING, prompt=PROMPT), *arguments)
    assert (code, out) == (1, "") and said in err and err.count("\n") == 1


@pytest.mark.parametrize(("corpus", "measures"), [("any", "perplexity,counts"), ("kl", "perplexity,kl")])
def test_a_name_of_two_figures_is_refused(corpus, measures, command, recipe_file, tiny_folder):
    path = recipe_file(tiny_folder("gpt2"), WEDDING, prompt=PROMPT, count=COUNT)
    corpora = ("--corpus", f"{corpus}=five.txt", "--lines")
    code, out, err = command("sweep", path, "--layers", "1", *corpora, "--measure", measures)
    assert (code, out) == (1, "") and err.count("\n") == 1
    assert f"{corpus}: two figures have this name" in err


def test_a_share_of_0_does_not_move_the_coefficient_axis(swept):
    records = swept(
        "--layers", "1", "--dims", "0:1:0.5", "--measure", "kl", addition={**WEDDING, "coefficient": 3}
    )
    assert [(record["coefficient"], record["dims"]) for record in records] == [(3, 0), (3, 0.5), (3, 1)]
    assert records[0]["kl"][0]["kl"] == 0 < records[2]["kl"][0]["kl"]


def test_a_damaged_cell_is_never_marked_best():
    from steer_cli.report.sweeps import _figure

    assert _figure(1.2, True, 1.2).plain == "1.200!"
    assert _figure(0.9, True, 0.9).plain == "0.900*"


def test_a_position_that_reaches_nothing_is_found_before_the_run(command, recipe_file, tiny_folder):
    path = recipe_file(tiny_folder("gpt2"), WEDDING, prompt=PROMPT)
    arguments = ("--layers", "1", "--positions", "front,back", "--corpus", "five.txt", "--lines")
    code, out, err = command("sweep", path, *arguments, "--method", "overlay")
    assert (code, out) == (1, "") and "nothing follows the vector" in err and err.count("\n") == 1


def test_standard_errors_are_shown_where_they_fit(command, recipe_file, tiny_folder, monkeypatch):
    path = recipe_file(tiny_folder("gpt2"), WEDDING, prompt=PROMPT)
    arguments = ("sweep", path, "--layers", "1,2", "--corpus", "a=five.txt", "--lines")
    records = [json.loads(line) for line in command(*arguments, "--jsonl")[1].splitlines()]
    wide = command(*arguments)[1]
    for record in records:
        assert f" ±{record['perplexity'][0]['stderr']:.3f}" in wide
    monkeypatch.setenv("COLUMNS", "20")
    narrow = command(*arguments)[1]
    assert "±" in wide and "±" not in narrow and f"{records[0]['perplexity'][0]['ratio']:.3f}" in narrow


def test_the_error_of_a_mean_over_prompts():
    def point(*values):
        shifts = tuple(PromptShift("p", value, 1.0, 1.0) for value in values)
        return SweepPoint("r", "m", PLACE, ("kl",), kl=shifts)

    three = point(0.5, 1.5, 4)
    assert three.values()["kl"] == pytest.approx(2)
    assert three.errors() == {"kl": pytest.approx(stdev([0.5, 1.5, 4]) / 3**0.5)}
    assert point(1).errors() == {}


def test_a_left_out_sentence_is_given_the_reason_of_its_own_position(
    command, recipe_file, tiny_folder, tmp_path
):
    """Points of several positions run together; only one of these leaves a sentence out for its length."""
    (tmp_path / "six.txt").write_text((tmp_path / "five.txt").read_text() + "\nRome", encoding="utf-8")
    path = recipe_file(tiny_folder("gpt2"), WEDDING, prompt=PROMPT)
    arguments = ("--corpus", "a=six.txt", "--lines", "--method", "overlay", "--positions")
    notes = {}
    for positions in ("front", "5", "front,5"):
        code, _, err = command("sweep", path, "--layers", "1", *arguments, positions)
        assert code == 0, err
        notes[positions] = {line for line in err.splitlines() if "left out" in line}
    assert notes["front"] != notes["5"] and all(notes.values())
    assert notes["front,5"] == notes["front"] | notes["5"]


def test_prompts_of_the_command_line_are_those_that_are_measured(swept):
    prompts = ("The ship sailed to Rome", "People flock to the wedding")
    records = swept("--layers", "1", "-p", prompts[0], "-p", prompts[1])
    assert [figure["prompt"] for figure in records[0]["kl"]] == list(prompts)


def test_a_key_that_was_added_later_leaves_the_stores_of_earlier_releases_valid(
    command, recipe_file, tiny_folder, tmp_path
):
    love = {"plus": "Love", "minus": "Hate", "layer": 2}
    path, heads = recipe_file(tiny_folder("llama"), love, prompt=PROMPT), []
    for number, changes in enumerate(([], ["--set", "additions.0.operation=ablate"])):
        store = tmp_path / f"{number}.jsonl"
        code, _, err = command("sweep", path, "--layers", "2", "--store", store, *changes)
        assert code == 0, err
        heads.append(json.loads(store.read_text(encoding="utf-8").splitlines()[0])["recipe"])
    # As it was before there was an `operation`.
    assert heads[0] == "r 6a5199a0a2dedf35" and heads[1] != heads[0]
