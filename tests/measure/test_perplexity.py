"""Perplexity ratios against one sentence at a time in float64, and what holds by definition."""

import json
import math
import random

import pytest
from conftest import ARCHITECTURES, FIVE

WEDDING = {"plus": " wedding", "minus": " ", "layer": 2, "coefficient": 1.5}
LONG = {"plus": "I talk about weddings", "minus": "Hate", "layer": 3, "coefficient": -2}


def figures(command, *arguments):
    code, out, err = command("perplexity", *arguments, "--jsonl")
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("method", ["pad", "overlay"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_figure_is_that_of_one_sentence_at_a_time(arch, method, command, recipe_file, tiny_folder):
    from measuring import changes, perplexity

    folder = tiny_folder(arch)
    [record] = figures(
        command, recipe_file(folder, WEDDING), "--corpus", "a=five.txt", "--lines", "--method", method
    )
    pairs = [list(changes(folder, text, WEDDING, method).values()) for text in FIVE]
    for key, value in perplexity(pairs).items():
        assert record[key] == pytest.approx(value, rel=1e-4), key
    assert (record["corpus"], record["label"], record["method"]) == ("a", None, method)


def test_a_vector_of_many_positions_leaves_as_many_predictions_out(
    command, recipe_file, tiny_folder, tmp_path
):
    from measuring import changes, perplexity

    folder = tiny_folder("gpt2")
    (tmp_path / "two.txt").write_text(f"{FIVE[0]}\nabc\n{FIVE[2]}", encoding="utf-8")
    arguments = ("--corpus", "two.txt", "--lines", "--method", "overlay", "--jsonl")
    code, out, err = command("perplexity", recipe_file(folder, LONG), *arguments)
    assert code == 0, err
    pairs = [list(changes(folder, text, LONG, "overlay").values()) for text in FIVE[0:3:2]]
    record = json.loads(out)
    assert record["ratio"] == pytest.approx(perplexity(pairs)["ratio"], rel=1e-4)
    assert (record["sentences"], record["tokens"]) == (2, sum(map(len, pairs)))
    assert err.count("1 of 3 sentences are left out") == 1 and "covers" in err


@pytest.mark.parametrize("method", ["pad", "overlay"])
def test_coefficient_0_is_exactly_1(method, command, recipe_file, tiny_folder):
    nothing = {**WEDDING, "coefficient": 0}
    [record] = figures(
        command,
        recipe_file(tiny_folder("llama"), nothing),
        "--corpus",
        "five.txt",
        "--lines",
        "--method",
        method,
    )
    assert record["ratio"] == 1 and record["stderr"] == 0
    assert record["perplexity_steered"] == record["perplexity_unsteered"]


def test_pad_and_overlay_agree_where_no_pad_is_needed(command, recipe_file, tiny_folder):
    """A vector of BOS alone covers one position, so nothing has to be put in front."""
    alone = recipe_file(tiny_folder("gpt2"), {"plus": "", "layer": 1, "coefficient": 0.3})
    pad, overlay = (
        figures(command, alone, "--corpus", "five.txt", "--lines", "--method", method)[0]
        for method in ("pad", "overlay")
    )
    assert pad["ratio"] != 1
    assert {**pad, "method": ""} == {**overlay, "method": ""}


@pytest.mark.parametrize("method", ["pad", "overlay"])
def test_the_prompt_baseline_compares_the_same_tokens(method, command, recipe_file, tiny_folder):
    from measuring import changes, perplexity, prompted

    folder = tiny_folder("gpt_neox")
    vector, prompt = figures(
        command,
        *(recipe_file(folder, WEDDING), "--corpus", "five.txt", "--lines", "--method", method),
        *("--baseline", "prompt"),
    )
    pairs = []
    for text in FIVE:
        fronted = prompted(folder, text, WEDDING)
        kept = changes(folder, text, WEDDING, method)
        pairs.append([(plain, fronted[token]) for token, (plain, _) in kept.items()])
    assert prompt["method"] == "prompt"
    assert prompt["ratio"] == pytest.approx(perplexity(pairs)["ratio"], rel=1e-4)
    for key in ("perplexity_unsteered", "tokens", "sentences"):
        assert prompt[key] == vector[key]


def test_the_standard_error_is_that_of_drawing_sentences_again(command, recipe_file, tiny_folder):
    """Against the bootstrap over sentences; with many of them the two agree."""
    from measuring import changes

    draw = random.Random(0)
    words = [
        "love",
        "hate",
        "wedding",
        "ship",
        "rain",
        "friend",
        "bride",
        "cake",
        "Rome",
        "Paris",
        "wine",
        "stone",
        "late",
        "people",
        "happy",
    ]
    texts = [" ".join(draw.choices(words, k=draw.randint(4, 9))) for _ in range(60)]
    with open("many.txt", "w", encoding="utf-8") as file:
        file.write("\n".join(texts))
    folder = tiny_folder("gpt2")
    [record] = figures(command, recipe_file(folder, WEDDING), "--corpus", "many.txt", "--lines")
    sums = [[s - p for p, s in changes(folder, text, WEDDING, "pad").values()] for text in texts]
    ratios = []
    for _ in range(2000):
        drawn = [sums[draw.randrange(60)] for _ in texts]
        ratios.append(math.exp(-sum(map(sum, drawn)) / sum(map(len, drawn))))
    mean = sum(ratios) / len(ratios)
    spread = math.sqrt(sum((ratio - mean) ** 2 for ratio in ratios) / len(ratios))
    assert record["stderr"] == pytest.approx(spread, rel=0.15)


def test_labels_have_figures_of_their_own_and_groups_join_them(command, recipe_file, tiny_folder, tmp_path):
    from measuring import changes, perplexity

    folder = tiny_folder("gemma3")
    rows = [f'"{text}",{stars}' for text, stars in zip(FIVE, (1, 5, 2, 5, 3), strict=True)]
    (tmp_path / "r.csv").write_text("text,stars\n" + "\n".join(rows), encoding="utf-8")
    low, high = figures(
        command,
        *(recipe_file(folder, WEDDING), "--corpus", "reviews=r.csv", "--column", "text", "--label", "stars"),
        *("--group", "low=1,2,3", "--group", "high=5", "--lines"),
    )
    assert (low["label"], high["label"]) == ("low", "high")
    pairs = [list(changes(folder, text, WEDDING, "pad").values()) for text in FIVE[1:4:2]]
    assert high["ratio"] == pytest.approx(perplexity(pairs)["ratio"], rel=1e-4)
    assert high["stderr"] is not None and low["sentences"] == 3


def test_the_heat_map_holds_every_change_and_sums_to_the_ratio(command, recipe_file, tiny_folder):
    from measuring import changes

    folder = tiny_folder("gpt2")
    figure, *rows = figures(
        command, recipe_file(folder, WEDDING), "--corpus", "five.txt", "--lines", "--sentences"
    )
    known = [change for row in rows for change in row["changes"] if change is not None]
    assert math.exp(-sum(known) / len(known)) == pytest.approx(figure["ratio"], rel=1e-9)
    assert ["".join(row["pieces"]) for row in rows] == list(FIVE)  # in the order of the file
    for row, text in zip(rows, FIVE, strict=True):
        for token, (plain, steered) in changes(folder, text, WEDDING, "pad").items():
            assert row["changes"][token] == pytest.approx(steered - plain, abs=1e-4)


def test_small_passes_and_forgotten_streams_change_nothing(command, recipe_file, tiny_folder, monkeypatch):
    from steer_cli.measure import scoring

    arguments = (recipe_file(tiny_folder("gptj"), WEDDING), "--corpus", "five.txt", "--lines")
    [whole] = figures(command, *arguments)
    for name, value in (("LOGITS", 1), ("PASS_POSITIONS", 30), ("KEPT_STREAM", 1)):
        monkeypatch.setattr(scoring, name, value)
    [small] = figures(command, *arguments)
    for key in ("ratio", "perplexity_unsteered", "stderr"):
        assert small[key] == pytest.approx(whole[key], rel=1e-5)


def test_the_screen_names_corpora_and_ratios(command, recipe_file, tiny_folder):
    code, out, _ = command(
        "perplexity",
        recipe_file(tiny_folder("gpt2"), WEDDING),
        "--corpus",
        "a=five.txt",
        "--lines",
        "--sentences",
    )
    assert code == 0
    assert "ratio" in out and "stderr" in out and "People flock to Rome." in out


def test_every_acts_on_all_positions_and_leaves_none_out(command, recipe_file, tiny_folder):
    from measuring import opened, perplexity, token_logprobs
    from reference import placements, tokens

    folder, every = tiny_folder("llama"), {**WEDDING, "position": "every"}
    [record] = figures(
        command, recipe_file(folder, every), "--corpus", "five.txt", "--lines", "--method", "overlay"
    )
    model, tokenizer, names, front = opened(folder)
    pairs = []
    for text in FIVE:
        ids = tokens(tokenizer, front, text)
        placed = placements(model, tokenizer, names, front, ids, [every])
        pairs.append(list(zip(token_logprobs(model, ids), token_logprobs(model, ids, placed), strict=True)))
    assert record["ratio"] == pytest.approx(perplexity(pairs)["ratio"], rel=1e-4)
    assert record["tokens"] == sum(map(len, pairs))


@pytest.mark.parametrize(
    ("addition", "arguments", "said"),
    [
        ({**WEDDING, "position": "back"}, ["--corpus", "five.txt"], "use --method overlay"),
        (WEDDING, [], "add --corpus NAME=FILE"),
        (WEDDING, ["--corpus", "five.txt", "--corpus", "five.txt"], "two corpora"),
        (WEDDING, ["--corpus", "one.txt"], "long enough"),
        (WEDDING, ["--corpus", "long.txt"], "context of 256"),
        (LONG, ["--corpus", "one.txt", "--method", "overlay"], "BOS included"),
        (
            {**WEDDING, "position": "back"},
            ["--corpus", "five.txt", "--method", "overlay"],
            "back: nothing follows the vector in a sentence; use front or middle",
        ),
        (
            {**WEDDING, "position": {"token": " Paris"}},
            ["--corpus", "five.txt", "--method", "overlay"],
            "no token ' Paris'",
        ),
    ],
)
def test_what_cannot_be_measured_is_one_clear_line(
    addition, arguments, said, command, recipe_file, tiny_folder, tmp_path
):
    (tmp_path / "one.txt").write_text("a", encoding="utf-8")
    (tmp_path / "long.txt").write_text("the rain " * 200, encoding="utf-8")
    code, out, err = command("perplexity", recipe_file(tiny_folder("gpt2"), addition), "--lines", *arguments)
    assert code == 1 and out == ""
    assert err.startswith("error: ") and said in err and err.count("\n") == 1


def test_the_baseline_must_fit_the_context_too(command, recipe_file, tiny_folder, tmp_path):
    """Under overlay the sentence alone fits, and its row behind the plus text does not."""
    from measuring import opened
    from reference import tokens

    folder = tiny_folder("gpt2")
    _, tokenizer, _, front = opened(folder)
    text = "rain"
    while len(tokens(tokenizer, front, text + " rain")) <= 256:
        text += " rain"
    (tmp_path / "long.txt").write_text(text, encoding="utf-8")
    arguments = (recipe_file(folder, WEDDING), "--corpus", "long.txt", "--lines", "--method", "overlay")
    assert command("perplexity", *arguments)[0] == 0
    code, out, err = command("perplexity", *arguments, "--baseline", "prompt")
    assert (code, out) == (1, "") and "--baseline prompt" in err and "context of 256" in err
    assert err.count("\n") == 1


def test_the_embedding_added_to_a_space_is_the_prompt(command, recipe_file, tiny_folder):
    """At layer 0 a space plus (" wedding" - " ") is " wedding": vector and baseline are the same."""
    at_0 = {**WEDDING, "layer": 0, "coefficient": 1}
    arguments = ("--corpus", "five.txt", "--lines", "--baseline", "prompt")
    vector, prompt = figures(command, recipe_file(tiny_folder("gpt_neox"), at_0), *arguments)
    assert vector["ratio"] == pytest.approx(prompt["ratio"], rel=1e-5) and vector["ratio"] != 1


def test_predictions_before_the_vector_count_and_stay_as_they_are(command, recipe_file, tiny_folder):
    middle = recipe_file(tiny_folder("gpt2"), {**WEDDING, "position": "middle"})
    arguments = ("--corpus", "five.txt", "--lines", "--method", "overlay", "--sentences")
    figure, *rows = figures(command, middle, *arguments)
    assert figure["ratio"] != 1
    for row in rows:
        assert row["changes"][0] == pytest.approx(0, abs=1e-6)
        assert any(change is not None and abs(change) > 1e-3 for change in row["changes"])


def test_a_note_is_told_once_and_gives_the_reason(command, recipe_file, tiny_folder):
    there = recipe_file(tiny_folder("gpt2"), {**WEDDING, "position": {"token": " friend"}})
    arguments = ("--corpus", "five.txt", "--lines", "--method", "overlay", "--baseline", "prompt", "--jsonl")
    code, _, err = command("perplexity", there, *arguments)
    assert code == 0, err
    assert err.count("3 of 5 sentences are left out") == 1
    assert "no token ' friend'" in err and "too short" not in err


def test_the_heat_map_dims_nothing_but_what_was_left_out():
    from steer_cli.report.heat import heat_parts
    from steer_cli.results import SentenceChange

    _, line, signs = heat_parts([SentenceChange("a", None, ("The", " rain"), (None, 2.0))], 80)
    assert line.style == signs.style == ""
    dim = [line.plain[span.start : span.end] for span in line.spans if "dim" in str(span.style)]
    assert dim == ["a ", "The"]


@pytest.mark.parametrize("width", [20, 37, 80])
def test_the_heat_map_says_without_colour_what_it_says_with(width):
    """Read back from plain text: every token, and below its first letter what became of it."""
    from rich.cells import cell_len

    from steer_cli.report.heat import heat_parts
    from steer_cli.results import SentenceChange

    pieces = ("Love", " the", " 雨", ",", " wedd", "ings", "  ", " 2", " it", " ship")
    factors = (None, 20, 1.6, 1.2, 1 / 1.2, 1 / 1.6, 1 / 20, 10.1, 1 / 10.1, 1)
    signs = (".", "#", "+", " ", " ", "-", "=", "#", "=", " ")
    changes = tuple(None if factor is None else math.log(factor) for factor in factors)
    _, *parts = heat_parts([SentenceChange("a", None, pieces, changes)], width)
    assert all(part.cell_len <= width for part in parts)
    indent = len("a +0.00  ")
    if len(parts) % 2:  # on a narrow screen the mean has a line of its own
        indent, parts = 2, parts[1:]
    tokens = below = ""
    for line, under in zip(parts[::2], parts[1::2], strict=True):
        cells = "".join(character.ljust(cell_len(character), "\0") for character in line.plain)
        tokens, below = tokens + cells[indent:], below + under.plain.ljust(len(cells))[indent:]
    assert tokens.replace("\0", "") == "".join(pieces)
    at = 0
    for piece, sign in zip(pieces, signs, strict=True):
        own = below[at : at + cell_len(piece)]
        assert own.strip() == sign.strip()
        assert not piece.strip() or sign == " " or own.index(sign) == piece.index(piece.strip())
        at += cell_len(piece)


def test_the_vocabulary_is_never_opened_for_more_positions_than_fit(
    command, recipe_file, tiny_folder, tmp_path, monkeypatch
):
    from measuring import opened, perplexity, token_logprobs
    from reference import placements, tokens

    from steer_cli.measure import scoring
    from steer_cli.networks.gemma3 import Gemma3

    folder, every = tiny_folder("gemma3"), {**WEDDING, "position": "every"}
    text = " and ".join(FIVE)
    (tmp_path / "long.txt").write_text(text, encoding="utf-8")
    seen, unembed = [], Gemma3.unembed

    def watched(network, stream):
        logits = unembed(network, stream)
        seen.append(logits.numel())
        return logits

    monkeypatch.setattr(Gemma3, "unembed", watched)
    monkeypatch.setattr(scoring, "LOGITS", 10 * 512)
    arguments = ("--corpus", "long.txt", "--lines", "--method", "overlay")
    [record] = figures(command, recipe_file(folder, every), *arguments)
    assert max(seen) <= 10 * 512 and len(seen) > 10
    model, tokenizer, names, front = opened(folder)
    ids = tokens(tokenizer, front, text)
    placed = placements(model, tokenizer, names, front, ids, [every])
    pairs = [list(zip(token_logprobs(model, ids), token_logprobs(model, ids, placed), strict=True))]
    assert record["ratio"] == pytest.approx(perplexity(pairs)["ratio"], rel=1e-4)


@pytest.mark.parametrize("name", ["perplexity", "sweep"])
def test_it_is_said_how_many_lines_became_how_many_sentences(
    name, command, recipe_file, tiny_folder, tmp_path
):
    (tmp_path / "list.txt").write_text("People flock to Rome\nLove wins. The ship sailed", encoding="utf-8")
    path = recipe_file(tiny_folder("gpt2"), {"plus": " wedding", "minus": " ", "layer": 1})
    arguments = (*(("--layers", "1") if name == "sweep" else ()), "--method", "overlay", "--jsonl")
    for options, sentences in (((), 3), (("--lines",), 2)):
        code, out, err = command(name, path, "--corpus", "a=list.txt", *options, *arguments)
        assert code == 0, err
        record = json.loads(out)
        figure = record["perplexity"][0] if name == "sweep" else record
        assert figure["sentences"] == sentences
        assert ("list.txt: 2 lines became 3 sentences" in err) == (not options)


def test_the_prompt_baseline_of_several_texts_has_them_all_in_front(
    command, recipe_file, tiny_folder, tmp_path
):
    from tiny import align_additions, open_tokenizer, recipe_of

    from steer_cli.measure.corpus import read_corpus
    from steer_cli.measure.lines import lay_out, with_text_in_front

    folder, pairs = (
        tiny_folder("gpt2"),
        [{"plus": "Love"}, {"plus": " wedding"}, {"plus": "Love", "minus": "a"}],
    )
    addition = {"pairs": pairs, "layer": 1, "combine": "sum"}
    arguments = ("--corpus", "five.txt", "--lines", "--baseline", "prompt", "--jsonl")
    code, out, err = command("perplexity", recipe_file(folder, addition), *arguments)
    assert code == 0 and "baseline prompt: 'Love' and 1 more stand in front" in err
    vector, prompt = map(json.loads, out.splitlines())
    assert prompt["method"] == "prompt" and prompt["ratio"] != vector["ratio"]
    assert prompt["tokens"] == vector["tokens"]  # the same predictions are compared

    tokenizer = open_tokenizer(folder)
    alignments = align_additions(recipe_of(addition), tokenizer, 5)
    lines = lay_out([read_corpus(f"a={tmp_path / 'five.txt'}", True)], tokenizer, (), None)
    fronted, _ = with_text_in_front(lines, alignments, tokenizer, None)
    for line, other in zip(lines, fronted, strict=True):
        own = tokenizer.encode(line.text)
        assert other.ids == (*tokenizer.prompt("Love wedding"), *own) and line.text == other.text
