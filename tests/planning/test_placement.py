"""Where additions act, in closed form: no test here needs torch."""

import subprocess
import sys
from fractions import Fraction
from itertools import product

import pytest
from conftest import write_tokenizer

from steer_cli.errors import PlanError, TokenError
from steer_cli.planning.alignment_table import table_rows
from steer_cli.planning.pairs import AlignedPair, TokenRow, pad_id
from steer_cli.planning.placement import Alignment, align_additions, check_length, place, span
from steer_cli.planning.tokens import open_tokenizer
from steer_cli.recipe.load import validate
from steer_cli.recipe.schema import At, Every
from steer_cli.recipe.yaml_source import Document

LOVE = {"plus": "Love", "minus": "Hate", "layer": 2, "coefficient": 3}  # 3 positions: BOS, H, ate
PROMPT = "I went up to my friend and said"


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """A function: architecture -> a folder that holds its tokenizer alone."""

    def made(arch):
        folder = tmp_path_factory.mktemp(arch)
        write_tokenizer(folder, arch)
        return folder

    return made


@pytest.fixture(scope="module")
def tokenizer(folder_of):
    return open_tokenizer(folder_of("gpt2"))


def additions(*written, **keys):
    return validate(Document("r.yaml", {"name": "r", "prompt": PROMPT, "additions": list(written), **keys}))


def aligned(tokenizer, *written, blocks=5):
    return align_additions(additions(*written), tokenizer, blocks)


def placed(tokenizer, prompt=PROMPT, **changes):
    (one,) = place(aligned(tokenizer, {**LOVE, **changes}), tokenizer, tokenizer.prompt(prompt), prompt)
    return one


def rows_of_length(n, **changes):
    """An alignment of n positions, whatever their tokens are."""
    (addition,) = additions({**LOVE, **changes}).additions
    return Alignment(0, addition, (AlignedPair(TokenRow(tuple(range(n))), None),), 2, 2)


LENGTHS = tuple(product(range(1, 8), range(1, 12)))  # n, S


@pytest.mark.parametrize(("n", "size"), LENGTHS)
def test_spans_are_those_of_the_definition(n, size):
    m, h = size // 2, n // 2
    assert span("front", n, size) == (0, n)
    assert span("back", n, size) == (size - n, size)
    assert span("middle", n, size) == (m - h, m + n - h)
    assert span(At(at=4), n, size) == (4, 4 + n)
    assert span("every", n, size) == (1, size)
    assert span("every", n, size, first=0) == (0, size)
    for first in (0, 1):
        assert span(Every(every="both"), n, size, first) == span("every", n, size, first)
        assert span(Every(every="prompt"), n, size, first) == (first, size)
        assert span(Every(every="all"), n, size, first) == (0, size)
        assert span(Every(every="new"), n, size, first) == (size, size)
    with pytest.raises(TypeError, match="no span"):
        span("somewhere", n, size)


@pytest.mark.parametrize(("n", "size"), LENGTHS)
@pytest.mark.parametrize("overflow", ["error", "clip"])
def test_each_row_lands_on_its_position_or_it_is_an_error(n, size, overflow, tokenizer):
    prompt = tuple(range(size))
    firsts = {"front": 0, "back": size - n, "middle": size // 2 - n // 2}
    for position in ("front", "middle", "back", *({"at": at} for at in range(size + 2))):
        first = position["at"] if isinstance(position, dict) else firsts[position]
        lands = [(row, first + row) for row in range(n) if 0 <= first + row < size]
        alignment = rows_of_length(n, position=position, overflow=overflow)
        if len(lands) == n or (overflow == "clip" and lands):
            (one,) = place((alignment,), tokenizer, prompt, "p")
            rows = range(one.first_row, one.first_row + one.end - one.start)
            assert list(zip(rows, range(one.start, one.end), strict=True)) == lands
        else:
            with pytest.raises(PlanError):
                place((alignment,), tokenizer, prompt, "p")


def test_a_span_that_does_not_fit_names_both_lengths_and_the_ways_out(tokenizer):
    with pytest.raises(PlanError) as error:
        placed(tokenizer, prompt="I")
    said = str(error.value)
    assert "'Love' - 'Hate'" in said and "'I'" in said
    assert "covers 3 positions" in said and "the prompt has 2 " in said
    assert "longer prompt" in said and "another position" in said and "`overflow: clip`" in said
    assert "\n" not in said


def test_clipping_is_not_offered_where_nothing_would_be_left(tokenizer):
    for overflow in ("error", "clip"):
        with pytest.raises(PlanError, match=r"covers 3 positions, \[9, 12\).* has 9 ") as error:
            placed(tokenizer, position={"at": 9}, overflow=overflow)
        assert "clip" not in str(error.value)


def test_a_one_token_prompt_is_never_skipped(tokenizer):
    for position in ("front", "middle", "back"):
        with pytest.raises(PlanError, match=r"covers 3 positions.* has 1 "):
            placed(tokenizer, prompt="", position=position)
    one = placed(tokenizer, prompt="", position="back", overflow="clip")
    assert (one.start, one.end, one.first_row) == (0, 1, 2)
    # There is nothing but BOS to add to, yet it stands in the plan: generated tokens are still to come.
    one = placed(tokenizer, prompt="", position="every")
    assert (one.start, one.end, one.every, one.on_new_tokens) == (1, 1, "both", True)


def test_every_spares_bos_where_there_is_one(folder_of):
    folder = folder_of("gpt2")
    for bos, start in (("auto", 1), ("none", 0)):
        tokenizer = open_tokenizer(folder, bos)
        one = placed(tokenizer, position="every")
        assert (one.start, one.end) == (start, len(tokenizer.prompt(PROMPT)))


def test_a_token_is_found_at_its_first_place(tokenizer):
    one = placed(tokenizer, prompt="to my friend, my friend and more", position={"token": " my"})
    ids = tokenizer.prompt("to my friend, my friend and more")
    assert one.start == ids.index(tokenizer.encode(" my")[0])
    several = tokenizer.encode("ship")
    ids = tokenizer.prompt("the ship sailed to Rome")
    assert len(tokenizer.encode(" ship sailed")) > 1 and several
    one = placed(tokenizer, prompt="the ship sailed to Rome", position={"token": " ship sailed"})
    assert ids[one.start : one.start + 2] == tokenizer.encode(" ship sailed")[:2]


def test_a_token_that_is_not_there_shows_those_that_are(tokenizer):
    with pytest.raises(PlanError, match=r"no token ' dog' to start at.*'<\|endoftext\|>', 'I', ' went'"):
        placed(tokenizer, position={"token": " dog"})


def test_a_token_too_near_the_end_does_not_fit(tokenizer):
    with pytest.raises(PlanError, match=r"covers 3 positions.* has 9 "):
        placed(tokenizer, position={"token": " said"})


def test_a_share_of_the_depth_is_rounded_down(tokenizer):
    for blocks in (1, 5, 24, 30, 48):
        for tenths in range(0, 1000, 3):
            layer = f"{tenths / 10}%"
            (one,) = aligned(tokenizer, {**LOVE, "layer": layer}, blocks=blocks)
            assert one.layer == one.source_layer == Fraction(tenths, 1000) * blocks // 1, (layer, blocks)
    assert aligned(tokenizer, {**LOVE, "layer": "25%"}, blocks=30)[0].layer == 7


def test_a_share_that_is_a_whole_block_is_that_block(tokenizer):
    wrong = []
    for blocks in range(1, 101):
        for tenths in range(1000):
            exact = Fraction(tenths, 1000) * blocks
            if exact.denominator == 1:
                (one,) = aligned(tokenizer, {**LOVE, "layer": f"{tenths / 10}%"}, blocks=blocks)
                wrong += [(tenths / 10, blocks, one.layer)] if one.layer != exact else []
    assert wrong == []


def test_layers_too_deep(tokenizer):
    assert aligned(tokenizer, {**LOVE, "layer": 4})[0].layer == 4
    for changes in ({"layer": 5}, {"layer": [1, 5]}, {"source_layer": 5}):
        with pytest.raises(PlanError, match=r"additions\.0: layer .* too deep: .* 5 blocks, 0 to 4"):
            aligned(tokenizer, {**LOVE, **changes})


def test_an_unknown_depth_leaves_layers_as_they_are_written(tokenizer):
    made = aligned(tokenizer, {**LOVE, "layer": ["25%", 99]}, blocks=None)
    assert [one.layer for one in made] == ["25%", 99]


def test_a_list_of_layers_is_one_alignment_each(tokenizer):
    other = {**LOVE, "layer": 0}
    made = aligned(tokenizer, {**LOVE, "layer": [3, "20%"], "source_layer": 4}, other)
    assert [(one.index, one.layer, one.source_layer) for one in made] == [(0, 3, 4), (0, 1, 4), (1, 0, 0)]


def test_equal_sides_do_nothing_unless_that_is_asked_for(tokenizer):
    for same in ({"minus": "Love"}, {"pairs": [{"plus": "a", "minus": "a"}], "plus": None, "minus": None}):
        with pytest.raises(
            PlanError, match=r"additions\.0: does nothing: plus and minus have the same tokens"
        ):
            aligned(tokenizer, {**LOVE, **same})
        assert len(aligned(tokenizer, {**LOVE, **same, "coefficient": 0})) == 1
    # "Love" and "Love " are the same row once the first is padded with a space.
    with pytest.raises(PlanError, match="does nothing"):
        aligned(tokenizer, {**LOVE, "minus": "Love "})
    pairs = [{"plus": "a", "minus": "a"}, {"plus": "a", "minus": "b"}]
    assert len(aligned(tokenizer, {"layer": 2, "pairs": pairs})) == 1


def test_no_tokens_at_all(folder_of):
    bare = open_tokenizer(folder_of("gpt2"), "none")
    with pytest.raises(PlanError, match="no tokens at all"):
        aligned(bare, {"plus": "", "layer": 2})
    with pytest.raises(PlanError, match="no tokens at all"):
        check_length((), "", 5, None, "m")


def test_the_shorter_side_is_padded_on_the_right(tokenizer):
    bos, love, h, ate, space = (
        tokenizer.bos, *tokenizer.encode("Love"), *tokenizer.encode("Hate"), *tokenizer.encode(" ")
    )  # fmt: skip
    ((pair,),) = (one.pairs for one in aligned(tokenizer, LOVE))
    assert pair.plus == TokenRow((bos, love, space), 1)
    assert pair.minus == TokenRow((bos, h, ate), 0)
    ((pair,),) = (one.pairs for one in aligned(tokenizer, {**LOVE, "plus": "Hate", "minus": ""}))
    assert pair.minus == TokenRow((bos, space, space), 2)
    (one,) = aligned(tokenizer, {**LOVE, "minus": None})
    assert one.pairs == (AlignedPair(TokenRow((bos, love), 0), None),) and one.length == 2


@pytest.mark.parametrize(
    ("pad", "text"), [("space", " "), ("eos", None), (" wedding", " wedding"), ("Love", "Love")]
)
def test_pads_of_one_token(pad, text, tokenizer):
    (wanted,) = tokenizer.eos if text is None else tokenizer.encode(text)
    assert pad_id(tokenizer, pad, "here") == wanted
    ((pair,),) = (one.pairs for one in aligned(tokenizer, {**LOVE, "pad": pad}))
    assert pair.plus.ids[-1] == wanted and pair.plus.pads == 1


def test_without_pads_each_side_keeps_its_length(tokenizer):
    assert pad_id(tokenizer, "none", "here") is None
    (one,) = aligned(tokenizer, {**LOVE, "pad": "none"})
    (pair,) = one.pairs
    assert [len(pair.plus.ids), len(pair.minus.ids), one.length] == [2, 3, 3]
    assert pair.plus.pads == pair.minus.pads == 0


def test_a_pad_of_two_tokens_is_an_error_that_names_it(tokenizer):
    assert len(tokenizer.encode("Hate")) == 2
    with pytest.raises(TokenError, match=r"r: additions\.0\.pad: 'Hate' is not one token"):
        aligned(tokenizer, {**LOVE, "pad": "Hate"})


def test_bos_auto_none_and_a_token(folder_of):
    llama = folder_of("llama")
    start, end = (open_tokenizer(llama).backend.token_to_id(token) for token in ("<s>", "</s>"))
    text = open_tokenizer(llama, "none").encode("Love")
    # Its own post-processor adds BOS too; a row still begins with one.
    assert open_tokenizer(llama).prompt("Love") == (start, *text)
    assert open_tokenizer(llama, "none").prompt("Love") == text
    assert open_tokenizer(llama, "none").prompt("") == ()
    assert open_tokenizer(llama, "</s>").prompt("Love") == (end, *text)
    assert open_tokenizer(llama).eos == (end,)
    gptj = open_tokenizer(folder_of("gptj"))  # has no BOS: its EOS stands in
    assert gptj.prompt("") == gptj.eos == (gptj.backend.token_to_id("<|endoftext|>"),)
    with pytest.raises(TokenError, match="bos: 'two tokens' is not a token"):
        open_tokenizer(llama, "two tokens")


def test_the_context_is_not_overrun():
    check_length((1,) * 10, "p", 6, 16, "m")
    check_length((1,) * 10, "p", 6, None, "m")
    with pytest.raises(PlanError, match="'p': 10 tokens and 7 new ones are more than the 16 of m"):
        check_length((1,) * 10, "p", 7, 16, "m")


def test_the_table_shows_what_lands_in_the_prompt(tokenizer):
    made = aligned(
        tokenizer,
        {**LOVE, "position": "back"},
        {**LOVE, "position": {"at": 8}, "overflow": "clip"},
        {**LOVE, "position": "every"},
    )
    prompt = tokenizer.prompt(PROMPT)
    rows = table_rows(tokenizer, prompt, place(made, tokenizer, prompt, PROMPT))
    shown = [(row.role, row.layer, row.coefficient, row.start, row.tokens, row.padding) for row in rows]
    front = "<|endoftext|>"
    pieces = (front, "I", " went", " up", " to", " my", " friend", " and", " said")
    assert shown == [
        ("prompt", 0, 1, 0, pieces, 0),
        ("plus", 2, 3, 6, (front, "Love", " "), 1),
        ("minus", 2, -3, 6, (front, "H", "ate"), 0),
        ("plus", 2, 3, 8, (front,), 0),
        ("minus", 2, -3, 8, (front,), 0),
        ("plus", 2, 3, 1, (front, "Love"), 0),
        ("minus", 2, -3, 1, (front, "H", "ate"), 0),
    ]
    assert [row.read for row in rows] == [None] * 5 + [1, 2]
    assert [row.end for row in rows] == [9, 9, 9, 9, 9, 2, 2]
    assert all("".join(row.tokens) == tokenizer.decode(row.ids) for row in rows)


def test_the_table_of_every_leaves_out_a_side_without_tokens(folder_of):
    for bos, roles in (("auto", ["prompt", "plus", "minus"]), ("none", ["prompt", "plus"])):
        tokenizer = open_tokenizer(folder_of("gpt2"), bos)
        made = aligned(tokenizer, {**LOVE, "minus": "", "position": "every"})
        prompt = tokenizer.prompt(PROMPT)
        rows = table_rows(tokenizer, prompt, place(made, tokenizer, prompt, PROMPT))
        assert [row.role for row in rows] == roles


def test_the_table_counts_the_pads_that_are_left_after_clipping(tokenizer):
    # BOS, Love and three spaces of padding, of which the last two positions leave the prompt.
    long = {"plus": "Love", "minus": "Hate Hate", "layer": 2, "overflow": "clip", "position": {"at": 6}}
    made = aligned(tokenizer, long)
    prompt = tokenizer.prompt(PROMPT)
    (_, plus, minus) = table_rows(tokenizer, prompt, place(made, tokenizer, prompt, PROMPT))
    assert made[0].length > 3 and plus.tokens == ("<|endoftext|>", "Love", " ")
    assert (plus.padding, minus.padding) == (1, 0)


def test_the_table_shares_a_mean_among_its_pairs(tokenizer):
    pairs = [{"plus": "Love", "minus": "Hate"}, {"plus": " wedding"}]
    for combine, share in (("mean", 1.5), ("sum", 3)):
        made = aligned(tokenizer, {"pairs": pairs, "combine": combine, "layer": 2, "coefficient": 3})
        prompt = tokenizer.prompt(PROMPT)
        rows = table_rows(tokenizer, prompt, place(made, tokenizer, prompt, PROMPT))
        assert [row.coefficient for row in rows] == [1, share, -share, share]


def test_all_this_needs_no_torch():
    names = "placement, tokens, token_files, alignment_table"
    code = f"import sys; from steer_cli.planning import {names}\n"
    code += "print({'torch', 'transformers'} & set(sys.modules))"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "set()"
