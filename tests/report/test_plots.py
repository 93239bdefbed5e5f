"""Plots: files of the kind asked for, with the labels in them."""

import pytest

PROMPT = "I went up to my friend and said"
WEDDING = {"plus": " wedding", "minus": " ", "layer": 1}
CORPUS = ("--corpus", "my corpus=five.txt", "--lines")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sweep", "--layers", "0:5", *CORPUS), ["my corpus", "layer", "perplexity, steered / unsteered"]),
        (
            ("sweep", "--layers", "1,3", "--coefficients", "0:3", *CORPUS),
            ["coefficient", "my corpus, layer 3"],
        ),
        (
            ("sweep", "--layers", "0:4", "--coefficients", "0:3", *CORPUS),
            ["ln ratio", "coefficient", "layer"],
        ),
        (
            ("sweep", "--layers", "1", "--positions", "front,back,2", "--measure", "kl"),
            ["position", "at 2", "kl"],
        ),
        (("shift",), ["probability, unsteered", "ratio, steered / unsteered"]),
        (("norms",), ["|vector| / |stream|", "layer"]),
    ],
)
def test_the_file_names_what_it_shows(arguments, said, command, recipe_file, tiny_folder, tmp_path):
    name, *options = arguments
    path = recipe_file(tiny_folder("gpt2"), WEDDING, prompt=PROMPT)
    code, _, err = command(name, path, *options, "--plot", "p.svg")
    assert code == 0, err
    picture = (tmp_path / "p.svg").read_text(encoding="utf-8")
    for words in said:
        assert f"<!-- {words} -->" in picture, words


def test_png(command, recipe_file, tiny_folder, tmp_path):
    path = recipe_file(tiny_folder("gpt2"), WEDDING, prompt=PROMPT)
    assert command("norms", path, "--plot", "p.png")[0] == 0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("norms", "--plot", "p.pdf"), "ends in .png or .svg"),
        (("norms", "--plot", "none/p.png"), "there is no folder none"),
        (
            ("sweep", "--layers", "1,2", "--coefficients", "1,2", "--dims", "0.5,1", "--plot", "p.png"),
            "a plot has only two axes",
        ),
    ],
)
def test_bad_plots_are_one_clear_line(arguments, said, command, recipe_file, tiny_folder):
    name, *options = arguments
    code, out, err = command(name, recipe_file(tiny_folder("gpt2"), WEDDING, prompt=PROMPT), *options)
    assert (code, out) == (1, "") and said in err and err.count("\n") == 1


def test_without_the_extra_it_is_said_before_any_work(command, recipe_file, tiny_folder, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "matplotlib" else find(name, *more)
    )
    code, out, err = command(
        "norms", recipe_file(tiny_folder("gpt2"), WEDDING, prompt=PROMPT), "--plot", "p.png"
    )
    assert (code, out) == (1, "") and "pip install matplotlib\n" in err and err.count("\n") == 1
