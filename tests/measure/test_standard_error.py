"""Standard errors in closed form, with few draws, where n/(n - 1) is large."""

import json
import math

import pytest

from steer_cli.results import standard_error

PROMPT = "I went up to my friend and said"
WEDDING = {"plus": " wedding", "minus": " ", "layer": 1, "coefficient": 4}


def test_the_error_of_a_mean():
    # The variance of 1 and 3 is 2, that of their mean 1; of 1 to n it is n(n + 1)/12 and (n + 1)/12.
    assert standard_error([1, 3]) == pytest.approx(1)
    for n in (2, 3, 7):
        assert standard_error(range(1, n + 1)) == pytest.approx(math.sqrt((n + 1) / 12))
    assert standard_error([5.0]) is None


@pytest.mark.parametrize("sentences", [2, 3, 5])
def test_the_error_of_a_ratio_is_over_sentences(sentences, command, recipe_file, tiny_folder, tmp_path):
    """The delta method's error of exp(-mean d), from the changes of the tokens."""
    lines = (tmp_path / "five.txt").read_text(encoding="utf-8").splitlines()[:sentences]
    (tmp_path / "few.txt").write_text("\n".join(lines), encoding="utf-8")
    path = recipe_file(tiny_folder("gpt2"), WEDDING, prompt=PROMPT)
    code, out, err = command("perplexity", path, "--corpus", "few.txt", "--lines", "--sentences", "--jsonl")
    assert code == 0, err
    figure, *rows = map(json.loads, out.splitlines())
    changes = [[change for change in row["changes"] if change is not None] for row in rows]
    tokens = sum(map(len, changes))
    mean = sum(map(sum, changes)) / tokens
    spread = sum((sum(of_line) - mean * len(of_line)) ** 2 for of_line in changes)
    expected = math.exp(-mean) * math.sqrt(sentences / (sentences - 1) * spread) / tokens
    assert len(changes) == sentences and figure["stderr"] == pytest.approx(expected, rel=1e-6)
