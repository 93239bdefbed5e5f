"""Controls of `steer generate`: what stands in the vector's place; the other columns stay as they are."""

import json

import pytest
from conftest import ARCHITECTURES

PROMPT = "I went up to my friend and said"
LOVE = {"plus": "Love", "minus": "Hate", "layer": 2, "coefficient": 3}
SAMPLING = {"max_new_tokens": 12, "samples": 2, "top_p": 0.9}


@pytest.fixture
def generated(command, recipe_file):
    def run(folder, *arguments, addition=LOVE, prompts=(PROMPT, "People flock to Rome")):
        path = recipe_file(folder, addition, prompts=list(prompts), sampling=SAMPLING)
        code, out, err = command("generate", path, *arguments, "--jsonl")
        assert code == 0, err
        return [json.loads(line) for line in out.splitlines()]

    return run


@pytest.mark.parametrize("control", ["random", "embedding", "prompt", "shuffled"])
def test_the_other_columns_do_not_change(control, generated, tiny_folder):
    folder = tiny_folder("llama")
    plain, controlled = generated(folder), generated(folder, "--control", control)
    assert len(plain) == len(controlled) == 4
    for before, after in zip(plain, controlled, strict=True):
        own = after.pop("control")
        assert own["kind"] == control and own["text"] != before["steered"]["text"]
        for arm in ("unsteered", "steered"):
            assert (after[arm]["tokens"], after[arm]["finish"]) == (
                before[arm]["tokens"],
                before[arm]["finish"],
            )


@pytest.mark.parametrize(
    ("control", "values"),
    [("random", {"random": {"seed": 0}}), ("embedding", {"source_layer": 0, "match_norm": True})],
)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_control_is_the_recipe_with_its_keys(control, values, arch, generated, tiny_folder):
    folder = tiny_folder(arch)
    controls = generated(folder, "--control", control)
    keyed = generated(folder, addition={**LOVE, **values})
    assert [each["control"]["tokens"] for each in controls] == [each["steered"]["tokens"] for each in keyed]


def test_the_prompt_control_is_the_plus_text_behind_bos(generated, tiny_folder):
    from measuring import opened
    from reference import complete, special, tokens

    folder = tiny_folder("gpt2")
    model, tokenizer, names, front = opened(folder)
    ids = tokens(tokenizer, front, "Love") + tokens(tokenizer, [], PROMPT)
    sampling = {"temperature": 1.0, "top_k": None, "frequency_penalty": 1.0, "seed": 0, **SAMPLING}
    eos = special(tokenizer, names["eos_token"])
    wanted = [complete(model, ids, eos, sampling, sample)["ids"] for sample in range(2)]
    records = generated(folder, "--control", "prompt", prompts=[PROMPT])
    assert [record["control"]["tokens"] for record in records] == wanted


def test_the_prompt_control_is_unsteered_in_slots_that_were_steered(generated, tiny_folder):
    """With `every`, decoding adds to rows; few slots, so that the control's rows take over used ones."""
    folder, arguments = tiny_folder("gpt2"), ("--control", "prompt")
    front = generated(folder, *arguments)
    every = generated(folder, *arguments, "--batch-rows", 4, addition={**LOVE, "position": "every"})
    assert [each["control"]["tokens"] for each in every] == [each["control"]["tokens"] for each in front]


def test_shuffled_keeps_the_values_of_every_position():
    import torch

    from steer_cli.activations.baselines import control_vectors

    vector = torch.randn(3, 40)
    [other] = control_vectors(None, [], [vector], "shuffled", seed=1)
    assert not torch.equal(other, vector)
    assert torch.equal(other.sort(-1).values, vector.sort(-1).values)


@pytest.mark.parametrize("control", ["random", "embedding", "shuffled"])
def test_the_norms_are_those_of_the_vector_that_is_left_after_dims(control, tiny_folder):
    import torch
    from tiny import align_additions, compute, open_model, open_tokenizer, recipe_of

    from steer_cli.activations.baselines import control_vectors

    folder = tiny_folder("llama")
    recipe, network = recipe_of({**LOVE, "dims": 0.3}), open_model(folder).network
    alignments = align_additions(recipe, open_tokenizer(folder), network.depth)
    vectors = compute(network, alignments)
    [other] = control_vectors(network, alignments, vectors, control, seed=1)
    torch.testing.assert_close(other.norm(dim=-1), vectors[0].norm(dim=-1))


def test_the_screen_has_a_third_column(command, recipe_file, tiny_folder):
    path = recipe_file(tiny_folder("gpt2"), LOVE, prompt=PROMPT, sampling=SAMPLING)
    code, out, _ = command("generate", path, "--control", "shuffled")
    assert code == 0 and "control: shuffled" in out


def test_bad_controls_are_one_clear_line(command, recipe_file, tiny_folder):
    folder = tiny_folder("gpt2")
    one = recipe_file(folder, LOVE, prompt=PROMPT)
    code, _, err = command("generate", one, "--control", "placebo")
    assert code == 1 and err.startswith("error: --control 'placebo': write random,") and err.count("\n") == 1
    for control in ("prompt=", "random=noise", ""):
        code, _, err = command("generate", one, "--control", control)
        assert code == 1 and "prompt=TEXT" in err and err.count("\n") == 1


def test_a_text_of_ones_own_stands_in_front_of_the_prompt(generated, tiny_folder):
    """Completing `TEXT prompt` and completing the prompt with the control give the same tokens."""
    folder = tiny_folder("gpt2")
    for text, whole in (
        ("I talk:", f"I talk: {PROMPT}"),
        ("I talk ", f"I talk {PROMPT}"),
        ("I talk\n", f"I talk\n{PROMPT}"),
    ):
        controls = generated(folder, "--control", f"prompt={text}", prompts=[PROMPT])
        plain = generated(folder, prompts=[whole])
        assert [each["control"]["tokens"] for each in controls] == [
            each["unsteered"]["tokens"] for each in plain
        ]
        assert {(each["control"]["kind"], each["control"]["in_front"]) for each in controls} == {
            ("prompt", text)
        }


def test_all_different_plus_texts_stand_in_front_once(command, recipe_file, tiny_folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    pairs = [{"plus": "Love", "minus": "Hate"}, {"plus": " wedding"}, {"plus": "Love"}]
    many = {"pairs": pairs, "layer": 2, "coefficient": 3}
    path = recipe_file(tiny_folder("gpt2"), many, {**LOVE, "plus": "calm"}, prompt=PROMPT, sampling=SAMPLING)
    lines = command("generate", path, "--control", "prompt", "--jsonl")[1].splitlines()
    assert [json.loads(line)["control"]["in_front"] for line in lines] == ["Love wedding calm"] * 2
    out = command("generate", path, "--control", "prompt")[1]
    assert "control: prompt 'Love' and 2 more" in " ".join(out.split())


@pytest.mark.parametrize("coefficient", [-2, {"relative": -0.5}])
def test_a_negative_coefficient_puts_the_minus_text_in_front(command, recipe_file, tiny_folder, coefficient):
    backwards = LOVE | {"coefficient": coefficient}
    path = recipe_file(tiny_folder("gpt2"), backwards, prompt=PROMPT, sampling=SAMPLING)
    lines = command("generate", path, "--control", "prompt", "--jsonl")[1].splitlines()
    assert {json.loads(line)["control"]["in_front"] for line in lines} == {LOVE["minus"]}


@pytest.mark.parametrize(
    ("addition", "says"),
    [
        ({"minus": " ", "coefficient": -2}, "'Love' - ' ' steers away from a text, and towards none"),
        ({"minus": None, "coefficient": -2}, "'Love' steers away from a text, and towards none"),
        ({"operation": "ablate"}, "is ablated, which no text in front does"),
    ],
)
def test_no_text_stands_in_front_where_none_is_steered_towards(
    command, recipe_file, tiny_folder, addition, says
):
    path = recipe_file(tiny_folder("gpt2"), LOVE | addition, prompt=PROMPT, sampling=SAMPLING)
    code, _, err = command("generate", path, "--control", "prompt")
    assert code == 1 and "control prompt" in err
    assert says in err


def test_of_many_pairs_the_texts_that_there_are_stand_in_front(command, recipe_file, tiny_folder):
    pairs = [{"plus": "Love", "minus": " "}, {"plus": "Joy", "minus": "Hate"}, {"plus": "calm"}]
    many = {"pairs": pairs, "layer": 2, "coefficient": -3}
    path = recipe_file(tiny_folder("gpt2"), many, prompt=PROMPT, sampling=SAMPLING)
    lines = command("generate", path, "--control", "prompt", "--jsonl")[1].splitlines()
    assert {json.loads(line)["control"]["in_front"] for line in lines} == {"Hate"}


def test_of_more_texts_than_fit_the_first_stand_in_front(tiny_folder):
    from tiny import open_tokenizer

    from steer_cli.planning.in_front import fitting

    tokenizer = open_tokenizer(tiny_folder("gpt2"))
    texts = [f"I talk about {number} weddings" for number in range(9)]
    whole = fitting(texts, None, tokenizer)
    assert (whole.text, whole.cut) == (" ".join(texts), "")
    lengths = [len(tokenizer.encode(" ".join(texts[:count]))) for count in range(1, 10)]
    for room in range(lengths[-1] + 2):
        kept = fitting(texts, room, tokenizer).texts
        assert len(kept) == max(1, sum(length <= room for length in lengths))
    assert fitting(texts, lengths[2], tokenizer).name.endswith(" and 2 more (3 of 9 fit)")


def test_the_library_takes_a_text_in_front_and_refuses_what_is_no_control(tiny_folder):
    import steer_cli as steer

    model = steer.load_model(str(tiny_folder("gpt2")))
    recipe = steer.Recipe(prompt=PROMPT, additions=[steer.Addition(**LOVE)]).with_sampling(**SAMPLING)
    (run,) = steer.generate(model, recipe, control="prompt=Write formally:")
    assert (run.control_kind, run.control_text) == ("prompt", "Write formally:")
    assert list(run.columns)[2] == "control: prompt 'Write formally:'"
    with pytest.raises(steer.SteerError, match="control 'noise': write random"):
        steer.generate(model, recipe, control="noise")
