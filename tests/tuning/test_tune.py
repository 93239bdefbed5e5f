"""Searches on tiny models: figures against transformers, halves of the evidence, chance, and the store."""

from __future__ import annotations

import io
import json
import math
import random
import string
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from statistics import fmean

import measuring
import pytest
import reference
from rich.console import Console
from scipy import stats
from tiny import open_model, recipe_of

from steer_cli.errors import SteerError, SweepError
from steer_cli.measure.corpus import Corpus
from steer_cli.measure.evidence import Evidence, gathered, halves
from steer_cli.measure.evidence_files import read_set
from steer_cli.measure.neutral import neutral_text
from steer_cli.models.catalogue import DEFAULT_MODEL
from steer_cli.models.hardware import Hardware
from steer_cli.models.load import load
from steer_cli.models.resolve import locate
from steer_cli.report.tuning import tuning_parts
from steer_cli.results import Figures, Place, Searched, Trial
from steer_cli.tuning.figures import Figuring
from steer_cli.tuning.on_completions import OnCompletions
from steer_cli.tuning.on_sentences import OnSentences
from steer_cli.tuning.parts import part_of
from steer_cli.tuning.plan import TuneOptions, TunePlan, plan_tuning
from steer_cli.tuning.tune import tune
from steer_cli.tuning.vectors import guesses, vectors_of_places

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LOVE = {"plus": "Love", "minus": "Hate", "layer": 1}
EVERYWHERE = TuneOptions(layers="1:3", positions="front,every", budget=0.05)


@pytest.fixture(scope="module")
def evidence(evidence_files) -> Evidence:
    return gathered(*(read_set(name, str(evidence_files[name])) for name in ("toward", "away", "neutral")))


@pytest.fixture(scope="module")
def model(tiny_llama):
    return open_model(tiny_llama)


def planned(model, evidence, options: TuneOptions = EVERYWHERE, *additions: dict, **keys) -> TunePlan:
    return plan_tuning(recipe_of(*(additions or (LOVE,)), **keys), evidence, options, model.located)


def mean_gain(folder, corpus, addition) -> float:
    """The mean gain of log probability per token of some sentences, by transformers in float64."""
    model, tokenizer, names, front = measuring.opened(folder)
    sums, count = 0.0, 0
    for sentence in corpus.sentences:
        if addition["position"] == "front":
            pairs = measuring.changes(folder, sentence.text, addition, "pad").values()
        else:
            ids = reference.tokens(tokenizer, front, sentence.text)
            placed = reference.placements(model, tokenizer, names, front, ids, [addition])
            arms = [measuring.token_logprobs(model, ids, chosen) for chosen in ((), placed)]
            pairs = zip(*arms, strict=True)
        for plain, steered in pairs:
            sums, count = sums + steered - plain, count + 1
    return sums / count


@pytest.mark.parametrize("position", ["front", "every"])
def test_figures_of_a_trial_are_those_of_transformers(tiny_llama, model, evidence, position):
    plan = planned(model, evidence)
    figuring = Figuring(model.network, plan, vectors_of_places(model.network, plan))
    place = Place(2, position)
    # A trial of another place runs in the same passes.
    [found, _] = figuring(0.4, [(place, 1.5), (Place(2, "front"), -4.0)])
    read = part_of(plan.searched, 0.4)
    addition = LOVE | {"layer": 2, "coefficient": 1.5, "position": position}
    gains = {corpus.name: mean_gain(tiny_llama, corpus, addition) for corpus in read.corpora}
    assert found.effect == pytest.approx(gains["toward"] - gains["away"], rel=1e-4, abs=1e-6)
    assert found.damage == pytest.approx(-gains["neutral"], rel=1e-4, abs=1e-6)


def test_the_search_reads_one_half_and_the_card_the_other(model, evidence):
    plan = planned(model, evidence)
    for searched, held_out, whole in zip(
        plan.searched.corpora, plan.held_out.corpora, evidence.corpora, strict=True
    ):
        one, other = ({sentence.text for sentence in half.sentences} for half in (searched, held_out))
        assert not one & other
        assert one | other == {sentence.text for sentence in whole.sentences}


def test_the_halves_do_not_depend_on_the_order_of_a_file(model, evidence, evidence_files, tmp_path):
    shuffled = []
    for name in ("toward", "away", "neutral"):
        lines = evidence_files[name].read_text(encoding="utf-8").split("\n")
        random.Random(1).shuffle(lines)
        file = tmp_path / f"other-{name}.txt"
        file.write_text("\n".join(lines), encoding="utf-8")
        shuffled.append(read_set(name, str(file)))
    ours, theirs = planned(model, evidence), planned(model, gathered(*shuffled))
    for share in (0.15, 0.4, 1.0):
        for one, other in zip(
            part_of(ours.searched, share).corpora, part_of(theirs.searched, share).corpora, strict=True
        ):
            assert {sentence.text for sentence in one.sentences} == {
                sentence.text for sentence in other.sentences
            }


def test_a_smaller_part_lies_in_each_larger_one(model, evidence):
    searched = planned(model, evidence).searched
    parts = [set(part_of(searched, share).neutral.sentences) for share in (0.15, 0.4, 1.0)]
    assert parts[0] <= parts[1] <= parts[2]
    assert 16 == len(parts[0]) < len(parts[2])


def test_random_vectors_are_said_not_to_steer(model, evidence):
    """Of twenty random vectors, at most one is let through; of four, mostly none."""
    options = replace(EVERYWHERE, oddness=1000.0)
    found = [
        tune(planned(model, evidence, options, LOVE | {"random": {"seed": seed}}), model) for seed in range(4)
    ]
    assert sum(tuned.steers for tuned in found) <= 1
    # They were judged, and not merely passed over.
    assert sum(tuned.card is not None for tuned in found) >= 3


def difference_of_subjects(evidence) -> dict:
    """An addition that makes the toward sentences likelier and the others less likely."""
    texts = {
        side: [sentence.text.removesuffix(" waited.") for sentence in getattr(evidence, name).sentences]
        for side, name in (("plus", "toward"), ("minus", "away"))
    }
    return {"texts": texts, "read": "mean", "layer": 1, "position": "every"}


def test_a_direction_that_steers_is_found_and_said_to_steer(model, evidence):
    """The difference of the streams of two subjects makes one of them likelier than the other."""
    options = TuneOptions(layers="1:3", budget=0.5, oddness=1000.0)
    found = tune(planned(model, evidence, options, difference_of_subjects(evidence)), model)
    assert found.chosen is not None
    assert found.chosen.figures.effect > 0
    assert found.chosen.figures.damage <= 0.5
    assert found.tuned is not None
    assert found.tuned.additions[0].layer == found.chosen.place.layer
    assert found.tuned.additions[0].coefficient == found.chosen.coefficient
    assert found.card is not None
    assert found.card.steered.effects["sentences"].value > 0


def test_what_steers_is_said_to_and_the_card_allows_for_the_search(real_folder):
    sets = [
        Corpus.of(side, read_set(side, str(BENCHMARKS / "corpora" / f"{name}.txt")).sentences[:24])
        for side, name in (("toward", "weddings"), ("away", "shipping"))
    ]
    neutral = Corpus.of("neutral", neutral_text().sentences[::5])
    recipe = recipe_of({"plus": " weddings", "minus": " ", "layer": 0}).model_copy(update={"prompt": None})
    model = load(locate(DEFAULT_MODEL), Hardware(device="cpu"))  # by its name, which says what BOS is
    options = TuneOptions(layers="17,18", positions="front")
    found = tune(plan_tuning(recipe, gathered(*sets, neutral), options, model.located), model)
    assert found.steers and found.says.startswith("steers: effect 0.")
    randoms = [arm for arm in found.card.arms if arm.name == "random"]
    assert [arm.seed for arm in randoms] == list(range(1501, 1507))
    # Student's t for six of them; each of the two places had a chance of its own.
    size = math.sqrt(fmean(arm.effects["sentences"].value ** 2 for arm in randoms))
    reach = size * stats.t.ppf(1 - 0.05 / 2 / 2, 6)
    assert found.card.verdicts["sentences"].chance == pytest.approx(reach)


@pytest.mark.parametrize(("name", "beyond"), [("away", True), ("toward", False)])
def test_a_card_beyond_the_budget_is_named_as_such(model, evidence, name, beyond):
    """What counts as neutral on the card becomes less likely, or likelier."""
    options = TuneOptions(layers="1:3", budget=0.01, oddness=1000.0)
    plan = planned(model, evidence, options, difference_of_subjects(evidence))
    neutral = Corpus.of("neutral", getattr(evidence, name).sentences)
    found = tune(replace(plan, held_out=replace(plan.held_out, neutral=neutral)), model)
    assert (found.card.damage.value > 0.01) == beyond
    *_, last = found.records()
    assert last["beyond_budget"] == beyond
    assert found.tuned.measured.endswith("That is more than was allowed.") == beyond
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(*tuning_parts(found, "", 200))
    assert ("beyond the budget of 0.01: neutral text loses 0." in console.export_text()) == beyond


def lines_of(found) -> list[str]:
    return [json.dumps(record) for record in found.records()]


def test_the_same_search_gives_the_same_records_with_a_store_and_after_a_stop(model, evidence, tmp_path):
    plan = planned(model, evidence, TuneOptions(layers="1:3", positions="every", budget=0.05))
    store = tmp_path / "trials.jsonl"
    whole = lines_of(tune(plan, model))
    assert lines_of(tune(plan, model, store)) == whole
    kept = store.read_bytes()
    # A kill in the middle of a line, then a search that goes on.
    lines = kept.split(b"\n")
    store.write_bytes(b"\n".join(lines[: len(lines) // 2]) + b'\n{"share": 0.')
    assert lines_of(tune(plan, model, store)) == whole
    assert store.read_bytes() == kept


def test_a_store_of_another_search_is_refused(model, evidence, tmp_path):
    store = tmp_path / "trials.jsonl"
    tune(planned(model, evidence, TuneOptions(layers="1", positions="front")), model, store)
    with pytest.raises(SweepError, match="holds a search with a different budget"):
        tune(planned(model, evidence, TuneOptions(layers="1", positions="front", budget=0.1)), model, store)


def test_an_edited_trial_is_refused(model, evidence, tmp_path):
    store = tmp_path / "trials.jsonl"
    plan = planned(model, evidence, TuneOptions(layers="1", positions="front"))
    tune(plan, model, store)
    head, first, *rest = store.read_text(encoding="utf-8").splitlines()
    for key, value in {"effect": "much", "layer": None, "damage": float("nan"), "position": 1.5}.items():
        edited = json.dumps(json.loads(first) | {key: value})
        store.write_text("\n".join([head, edited, *rest, ""]), encoding="utf-8")
        with pytest.raises(SweepError, match=f"trials.jsonl:2: not a finished point: {key} is"):
            tune(plan, model, store)


def test_relative_coefficients_are_searched_and_written(model, evidence):
    options = TuneOptions(layers="1", positions="every", relative=True, budget=0.5, oddness=1000.0)
    found = tune(planned(model, evidence, options), model)
    assert found.chosen is not None
    assert found.tuned is not None
    assert found.tuned.additions[0].coefficient.relative == found.chosen.coefficient


def test_only_the_chosen_addition_moves(model, evidence):
    fixed = {"plus": " wedding", "layer": 2, "coefficient": 0.25, "position": "every"}
    options = TuneOptions(layers="1", positions="every", additions=(0,), budget=0.5, oddness=1000.0)
    found = tune(planned(model, evidence, options, LOVE, fixed), model)
    assert found.tuned is not None
    assert found.tuned.additions[1] == planned(model, evidence, options, LOVE, fixed).recipe.additions[1]


def test_places_that_a_recipe_does_not_fit_are_left_out_with_a_note(model, evidence):
    said: list[str] = []
    addition = {"texts": {"plus": ["a b"], "minus": ["c d"]}, "layer": 1, "position": "every"}
    plan = plan_tuning(
        recipe_of(addition), evidence, TuneOptions(layers="0:3"), model.located, note=said.append
    )
    assert {place.position for place in plan.places} == {"every"}
    assert [line.split(":")[0] for line in said] == ["front is left out"]


LONG = {"plus": "The wedding of my friend was late because of the rain", "layer": 1}


def test_a_default_position_that_the_prompt_has_no_room_for_is_left_out_with_a_note(model, evidence):
    said: list[str] = []
    plan = plan_tuning(
        recipe_of(LONG, prompt="I"), evidence, TuneOptions(layers="0:3"), model.located, note=said.append
    )
    assert {place.position for place in plan.places} == {"every"}
    [line] = said
    assert line.startswith("front is left out: prompt 'I': 'The wedding of my friend")
    assert "but the prompt has 2" in line


WORDS = string.ascii_uppercase + string.digits  # each is one token, with nothing to predict after a vector


def with_toward(evidence, texts) -> Evidence:
    one = evidence.toward.sentences[0]
    return replace(evidence, toward=Corpus.of("toward", [replace(one, text=text) for text in texts]))


def test_sentences_that_are_too_short_for_a_position_are_left_out_there(model, evidence):
    texts = [sentence.text for sentence in evidence.toward.sentences]
    mixed = with_toward(evidence, [*WORDS, *texts])
    said: list[str] = []
    plan = plan_tuning(recipe_of(LOVE), mixed, TuneOptions(layers="2"), model.located, note=said.append)
    assert said == [f"front: {len(WORDS)} sentences that cannot be measured there will not count"]
    on = OnSentences(model.network, plan, vectors_of_places(model.network, plan))
    alone = OnSentences(model.network, planned(model, evidence, TuneOptions(layers="2")), on.vectors)
    front, every = Place(2, "front"), Place(2, "every")
    for share in (0.25, 0.6, 1.0):
        with_words, at_every = on.changes(share, [(front, 1.0), (every, 0.1)])
        [without] = alone.changes(share, [(front, 1.0)])
        assert with_words["toward"].change.mean == pytest.approx(without["toward"].change.mean, abs=1e-6)
    assert len(at_every["toward"].change.sums) > len(with_words["toward"].change.sums)


def test_a_position_at_which_too_few_sentences_can_be_measured_is_left_out(model, evidence):
    sentences = [half.toward.sentences for half in halves(evidence)]
    short = [[word for word in WORDS if sha256(word.encode()).digest()[0] % 2 == number] for number in (0, 1)]
    for long in ((), (0,), (1,)):
        texts = [
            text
            for number in (0, 1)
            for text in ([each.text for each in sentences[number]] if number in long else short[number])
        ]
        said: list[str] = []
        plan = plan_tuning(
            recipe_of(LOVE),
            with_toward(evidence, texts),
            TuneOptions(layers="2"),
            model.located,
            note=said.append,
        )
        assert {place.position for place in plan.places} == {"every"}
        [line] = said
        assert line.startswith("front is left out: toward: 0 of ")
        assert "sentences of one half can be measured" in line


def test_what_keeps_sentences_from_being_measured_is_named(model, evidence):
    """Another addition, which acts where none of the sentences has its token."""
    other = {"plus": " wedding", "layer": 2, "position": {"token": " friend"}}
    texts = [f"{sentence.text} My friend was there too." for sentence in evidence.toward.sentences[:3]]
    mixed = with_toward(evidence, [*texts, *(sentence.text for sentence in evidence.toward.sentences)])
    options = TuneOptions(layers="2", positions="every", additions=(0,))
    said = r"neutral: 0 of \d+ sentences of one half can be measured.*: no token ' friend' to start at"
    with pytest.raises(SteerError, match=said):
        planned(model, mixed, options, LOVE, other)


def test_a_position_that_was_asked_for_is_named_where_it_does_not_fit(model, evidence):
    recipe = recipe_of(LONG | {"position": "every"}, prompt="I")
    for positions in ("front", "every,front"):
        options = TuneOptions(layers="0:3", positions=positions)
        with pytest.raises(SteerError, match=r"^front: prompt 'I': 'The wedding of my friend"):
            plan_tuning(recipe, evidence, options, model.located)


@pytest.mark.parametrize("positions", [None, "every", "front,every"])
def test_what_is_wrong_at_every_position_names_none(model, evidence_files, positions):
    neutral = read_set("neutral", str(evidence_files["neutral"]))
    recipe = recipe_of(LOVE, count={"e": ["e"]}, sampling={"temperature": 0})
    counted = gathered(neutral=neutral, count="e", recipe=recipe)
    with pytest.raises(
        SteerError, match=r"^count e: at temperature 0 all samples are the same, so that the card"
    ):
        plan_tuning(recipe, counted, TuneOptions(positions=positions), model.located)


def test_first_coefficients_are_those_of_the_addition_that_moves(model, evidence):
    fixed = {"plus": " wedding", "layer": 2, "coefficient": 0.25, "position": "every"}
    options = TuneOptions(layers="1", positions="front")
    alone = planned(model, evidence, options)
    plan = planned(model, evidence, replace(options, additions=(1,)), fixed, LOVE)
    found, wanted = (
        guesses(model.network, each, vectors_of_places(model.network, each)) for each in (plan, alone)
    )
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize("order", [1, -1])
def test_an_ablation_that_moves_with_a_vector_begins_no_further_than_it_would_alone(model, evidence, order):
    options = TuneOptions(layers="1", positions="front,every")
    both = [LOVE | {"plus": " wedding", "minus": " ship", "operation": "ablate"}, LOVE][::order]
    plans = [planned(model, evidence, options, *additions) for additions in (both, [LOVE])]
    found, alone = (guesses(model.network, plan, vectors_of_places(model.network, plan)) for plan in plans)
    assert found == pytest.approx({place: min(0.5, value) for place, value in alone.items()})
    # Of the two places, the vector decides in one and the ablation in the other.
    assert {value < 0.5 for value in alone.values()} == {True, False}


def test_workers_are_not_asked_to_use_a_model_that_is_loaded_here(model, evidence):
    with pytest.raises(SweepError, match="ray local: workers load the model themselves"):
        tune(planned(model, evidence), model, ray="local")


def test_where_all_completions_are_odd_the_answer_says_how_many_there_were(model, evidence, monkeypatch):
    """The best trial of each place has its turn, however many of another place do more."""
    best = [
        Trial(Place(1, "every"), 1.0 + step, Figures(2.0 - step / 10, 0.01, 0.1, 0.1), 1.0)
        for step in range(9)
    ]
    best.append(Trial(Place(2, "every"), 1.0, Figures(0.5, 0.01, 0.1, 0.1), 1.0))
    plan = planned(model, evidence, replace(EVERYWHERE, oddness=1e-9), sampling={"max_new_tokens": 2})
    vectors = vectors_of_places(model.network, plan)
    costs = OnCompletions(model.network, plan, vectors)
    monkeypatch.setattr("steer_cli.tuning.tune.search", lambda *_, **__: Searched(tuple(best), 0.05))
    found = tune(plan, model)
    assert [trial for trial, _ in found.odd] == [*best[:6], best[9]]
    for trial, cost in found.odd:
        assert cost == pytest.approx(costs.cost((trial.place, trial.coefficient)))
    assert found.says == (
        "nothing was found to steer within a damage of 0.05 and a cost of 1e-09: completions of 7 of the 10 "
        f"trials with an effect there cost {min(cost for _, cost in found.odd):.2f} nats per token or more"
    )


def test_budget_and_oddness_are_above_zero(model, evidence):
    for name, value in (
        ("budget", 0.0),
        ("budget", float("nan")),
        ("oddness", -1.0),
        ("budget", float("inf")),
    ):
        with pytest.raises(SweepError, match=f"^{name} .*: write nats per token, above 0"):
            planned(model, evidence, TuneOptions(**{name: value}))


def test_one_effect_is_followed(model, evidence_files):
    files = [read_set(name, str(evidence_files[name])) for name in ("toward", "away", "neutral")]
    recipe = recipe_of(LOVE, count={"praise": ["love"]})
    both = gathered(*files, count="praise", recipe=recipe)
    with pytest.raises(
        SweepError, match="count: the search follows one effect, but `toward` is given too; leave one out"
    ):
        plan_tuning(recipe, both, EVERYWHERE, model.located)


def test_words_of_completions_can_be_the_effect(model, evidence_files):
    neutral = read_set("neutral", str(evidence_files["neutral"]))
    sampling = {"max_new_tokens": 4, "temperature": 1.0, "top_p": 1.0}
    keys = {"count": {"e": ["e", "a", "t", "s"]}, "sampling": sampling, "prompt": "I hate you because"}
    recipe = recipe_of(LOVE, **keys)
    counted = gathered(neutral=neutral, count="e", recipe=recipe)
    options = TuneOptions(layers="1:3", positions="every", budget=5.0, oddness=50.0)
    found = tune(plan_tuning(recipe, counted, options, model.located), model)
    assert found.kind == "count"
    assert any(trial.figures.effect != 0 for trial in found.searched.trials)
    # The prompts are those that were searched; only their completions are others.
    assert " neutral) and other completions: " in found.tuned.measured
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(*tuning_parts(found, "", 200))
    assert "the card, on completions that were not searched" in console.export_text()


def test_evidence_that_is_too_small_for_two_halves_is_one_clear_line(model, tmp_path):
    file = tmp_path / "few.txt"
    file.write_text("\n".join(f"A sentence of number {number}." for number in range(10)), encoding="utf-8")
    with pytest.raises(SteerError, match="toward: 10 sentences are too few") as caught:
        planned(model, gathered(read_set("toward", str(Path(file)))))
    assert "\n" not in str(caught.value)
