"""The card against one sentence, one answer and one arm at a time, in float64 and without a line of steer."""

import json

import numpy as np
import pytest
from conftest import FIVE

WEDDING = {"plus": " wedding", "minus": " ", "layer": 2, "coefficient": 1.5}
TOWARD = (
    *FIVE[:3],
    "The groom and the bride love the cake.",
    "Weddings make people happy.",
    "My friend was late because of the wedding of the year.",
    "I'm going to a wedding and to another wedding.",
    "The best day of the bride was the day of the wedding.",
    "Love is all that the bride and the groom need.",
)
NEUTRAL = (
    "The ship sailed to Rome with a cargo of stone.",
    "People flock to Paris to see the tower.",
    "The wind and the rain were late that day.",
    "I moved to the city because of the weather there.",
    "Yesterday my dog ate the salt.",
    "The old stones of Rome are old.",
    "Some people think that the wine was late.",
    "Thanks for asking about the ship and the wine.",
    "Anger and calm are two ways to meet the same day.",
    "I do not talk about ships constantly.",
    "The stones were old and late.",
    "My friend went to Paris in the rain.",
    "Wine and salt are two ways to meet the weather.",
    "The tower of the city is old.",
    "Yesterday the wind was calm.",
    "Some people sailed to see the ship.",
)
ITEMS = [
    {"prompt": f"{start} the", "matching": yes, "not_matching": no}
    for start in ("I talk about", "Some people think of", "I went up to")
    for yes, no in ((" wedding", " ship"), (" bride and groom", " rain"), (" cake", " cargo of salt"))
]


@pytest.fixture
def written(tmp_path, command):
    """The evidence in the working directory of `command`."""
    (tmp_path / "toward.txt").write_text("\n".join(TOWARD), encoding="utf-8")
    (tmp_path / "neutral.txt").write_text("\n".join(NEUTRAL), encoding="utf-8")
    (tmp_path / "choices.jsonl").write_text("\n".join(map(json.dumps, ITEMS)), encoding="utf-8")
    return ("--toward", "toward.txt", "--neutral", "neutral.txt", "--lines")


class Plain:
    """A model in float64, and what an addition does to it."""

    def __init__(self, folder, addition, bos="auto"):
        from measuring import opened

        self.model, self.tokenizer, self.names, self.front = opened(folder, bos)
        self.addition = addition
        self.at_front = {}  # multiple -> placements; at the front they are those of any row

    def ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def placed(self, ids, multiple=1.0):
        from reference import placements

        if multiple in self.at_front:
            return self.at_front[multiple]
        addition = self.addition | {"coefficient": multiple * self.addition["coefficient"]}
        found = placements(self.model, self.tokenizer, self.names, self.front, ids, [addition])
        if self.addition.get("position", "front") == "front":
            self.at_front[multiple] = found
        return found

    def sentence(self, text):
        """The gain and the KL of each compared prediction of a text, behind spaces for the vector."""
        from measuring import logits

        texts = (self.addition["plus"], self.addition.get("minus") or "")
        pads = max(len(self.ids(side)) for side in texts)
        ids = self.front + self.ids(" ") * pads + self.ids(text)
        plain, steered = (
            logits(self.model, ids, placed).log_softmax(-1) for placed in ((), self.placed(ids))
        )
        kept = range(len(self.front) + pads, len(ids) - 1)
        gain = [float(steered[p, ids[p + 1]] - plain[p, ids[p + 1]]) for p in kept]
        kl = [float((steered[p].exp() * (steered[p] - plain[p])).sum()) for p in kept]
        return gain, kl

    def odds(self, item, multiple):
        from measuring import token_logprobs

        prompt = self.front + self.ids(item["prompt"])
        found = []
        for key in ("matching", "not_matching"):
            ids = prompt + self.ids(item[key])
            placed = self.placed(prompt, multiple) if multiple else ()
            found.append(sum(token_logprobs(self.model, ids, placed)[len(prompt) - 1 :]))
        return found[0] - found[1]


def interval(sets):
    """A studentised bootstrap written out: `sets` holds (sign, gains of each sentence)."""
    draw = np.random.default_rng(99)

    def of(sets):
        value = error = 0.0
        for sign, sentences in sets:
            sums, counts = np.array([[sum(gains), len(gains)] for gains in sentences]).T
            mean = sums.sum() / counts.sum()
            off = sums - mean * counts
            value += sign * mean
            error += len(off) / (len(off) - 1) * (off**2).sum() / counts.sum() ** 2
        return value, error**0.5

    value, _ = of(sets)
    # The figure's own error is the jackknife's: how far it moves when a sentence is left out.
    moved = [
        of([*sets[:number], (sign, sentences[:k] + sentences[k + 1 :]), *sets[number + 1 :]])[0] - value
        for number, (sign, sentences) in enumerate(sets)
        for k in range(len(sentences))
    ]
    error = float(np.square(moved).sum()) ** 0.5
    scaled = []
    for _ in range(1500):
        again = [
            (sign, [sentences[k] for k in draw.integers(0, len(sentences), len(sentences))])
            for sign, sentences in sets
        ]
        other, own = of(again)
        scaled.append((other - value) / own)
    low, high = np.quantile(scaled, [0.025, 0.975])
    return value - max(high, 1.96) * error, value - min(low, -1.96) * error


def check(card, plain, sets):
    """The effect, damage and KL of a card, and the intervals of the first two."""
    found = {name: [plain.sentence(text) for text in texts] for name, texts in sets.items()}
    gains = {name: [gain for gain, _ in pairs] for name, pairs in found.items()}
    means = {name: np.mean(np.concatenate(values)) for name, values in gains.items()}
    steered = card["arms"][0]
    effect, damage = steered["effects"]["sentences"], steered["neutral"]["damage"]
    assert effect["value"] == pytest.approx(means["toward"] - means.get("away", 0.0), abs=2e-5)
    assert damage["value"] == pytest.approx(-means["neutral"], abs=2e-5)
    kl = np.concatenate([kl for _, kl in found["neutral"]])
    assert steered["neutral"]["kl"]["value"] == pytest.approx(kl.mean(), rel=1e-3)
    assert steered["neutral"]["kl_95"] == pytest.approx(np.quantile(kl, 0.95), rel=1e-3)
    signs = {"toward": 1, "away": -1}
    signed = [(signs[name], gains[name]) for name in signs if name in gains]
    for estimate, wanted in ((effect, signed), (damage, [(-1, gains["neutral"])])):
        low, high = interval(wanted)
        assert (estimate["low"], estimate["high"]) == pytest.approx((low, high), abs=0.15 * (high - low))


@pytest.mark.parametrize("arch", ["gpt2", "llama", "gemma3"])
def test_effect_damage_and_kl_are_those_of_one_sentence_at_a_time(
    arch, records, written, recipe_file, tiny_folder
):
    folder = tiny_folder(arch)
    [card] = records("score", recipe_file(folder, WEDDING), *written)
    check(card, Plain(folder, WEDDING), {"toward": TOWARD, "neutral": NEUTRAL})
    assert card["method"] == "pad" and [source["measured"] for source in card["sources"]] == [9, 16]


def test_the_card_of_the_real_model_is_right(real_folder):
    """The default recipe of weddings, on a handful of sentences and choices."""
    import steer_cli as steer
    from steer_cli.measure.corpus import Corpus, Sentence
    from steer_cli.measure.evidence import Choice, Choices

    recipe = steer.load_recipe("wedding-shift").model_copy(update={"prompt": None})
    sets = {"toward": TOWARD[:8], "away": NEUTRAL[:8], "neutral": tuple(f"{text} Yes." for text in NEUTRAL)}
    corpora = {
        name: Corpus.of(name, [Sentence(text, None, "") for text in texts]) for name, texts in sets.items()
    }
    items = ITEMS[:8]
    choices = Choices.of(Choice(**item) for item in items)
    model = steer.load_model("smollm2-135m", dtype="float32", device="cpu")
    [card] = steer.score(model, recipe, **corpora, choices=choices).records()
    addition = {"plus": " weddings", "minus": " ", "layer": 16, "coefficient": 1}
    plain = Plain(real_folder, addition, "<|endoftext|>")
    check(card, plain, sets)
    # Half of the multiples; the tests below fit slopes through all of them, and this pass takes long.
    odds = np.array([[plain.odds(item, m) for m in (0, 1.5)] for item in items])
    means = {multiple: estimate["value"] for multiple, estimate in card["answers"]["log_odds"]}
    assert [means[0], means[1.5]] == pytest.approx(odds.mean(0), abs=1e-3)


@pytest.mark.parametrize("position", ["front", "every", "back", {"every": "new"}, {"every": "prompt"}])
def test_choices_are_scored_as_they_would_be_written(position, records, written, recipe_file, tiny_folder):
    """The addition acts on the prompt, and on the tokens of an answer where it acts on new ones."""
    folder, addition = tiny_folder("llama"), WEDDING | {"position": position}
    [card] = records("score", recipe_file(folder, addition), *written[2:], "--choices", "choices.jsonl")
    plain = Plain(folder, addition)
    odds = np.array([[plain.odds(item, m) for m in (0, 0.5, 1, 1.5)] for item in ITEMS])
    means = [estimate["value"] for _, estimate in card["answers"]["log_odds"]]
    assert means == pytest.approx(odds.mean(0), abs=1e-3)
    slopes = np.polyfit([0, 0.5, 1, 1.5], odds.T, 1)[0]
    found = card["arms"][0]["effects"]["choices"]
    assert found["value"] == pytest.approx(slopes.mean(), abs=1e-3)
    low, high = interval([(1, [[slope] for slope in slopes])])
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=0.15 * (high - low))
    assert card["answers"]["falling"]["value"] == np.mean(slopes < -1e-5)
    # With nothing of a sentence after it, no damage can be measured, which the card says.
    assert ("damage" in card["missing"]) == (position == "back")


def test_a_multiple_is_a_recipe_with_that_coefficient(records, written, recipe_file, tiny_folder):
    folder = tiny_folder("gpt2")
    whole = recipe_file(folder, WEDDING)
    [card] = records("score", whole, *written, "--plot", "curve.svg")
    curve = {point["multiplier"]: point for point in card["curve"]}
    assert [*curve] == [0.0, 0.5, 1.0, 1.5, 2.0] and curve[0.0]["damage"]["value"] == 0
    [doubled] = records("score", whole, *written, "-c", "3")
    for part, arm in (("effects", "effects"), ("damage", "neutral")):
        expected = doubled["arms"][0][arm]
        expected = expected["sentences"] if part == "effects" else expected["damage"]
        found = curve[2.0][part]
        assert (found["sentences"] if part == "effects" else found)["value"] == pytest.approx(
            expected["value"], abs=1e-6
        )


def test_prompting_is_the_plus_text_in_front(records, written, recipe_file, tiny_folder):
    from measuring import prompted, token_logprobs

    folder = tiny_folder("gpt_neox")
    [card] = records("score", recipe_file(folder, WEDDING), *written)
    plain, gains = Plain(folder, WEDDING), []
    for text in TOWARD:
        steered, _ = plain.sentence(text)
        fronted = prompted(folder, text, WEDDING)
        ids = plain.front + plain.ids(" ") * (len(plain.ids(" wedding"))) + plain.ids(text)
        unsteered = token_logprobs(plain.model, ids)[-len(steered) :]
        after = [fronted[token] for token in sorted(fronted)][-len(steered) :]
        gains += [late - early for late, early in zip(after, unsteered, strict=True)]
    prompt = card["arms"][-1]
    assert prompt["name"] == "prompt" and prompt["effects"]["sentences"]["value"] == pytest.approx(
        np.mean(gains), abs=1e-4
    )


def test_counted_words_and_fluency_are_those_of_the_completions(records, written, recipe_file, tiny_folder):
    folder = tiny_folder("llama")
    count = {"w": ["the", "a", "wedding", "of", "and"]}
    recipe = recipe_file(
        folder, WEDDING, prompt="I went up to my friend", count=count, sampling={"max_new_tokens": 12}
    )
    [card] = records("score", recipe, "--count", "w", "--samples", "16", "--neutral", "neutral.txt")
    rows = records("generate", recipe, "-n", "16")
    sides = {side: [row[side] for row in rows] for side in ("unsteered", "steered")}
    words = {side: np.mean([text["counts"]["w"] for text in texts]) for side, texts in sides.items()}
    logprobs = {side: np.mean([text["mean_logprob"] for text in texts]) for side, texts in sides.items()}
    effect = card["arms"][0]["effects"]["count"]
    assert effect["value"] == pytest.approx(words["steered"] - words["unsteered"]) and effect["count"] == 16
    cost = card["fluency"]["cost"]["value"]
    assert cost == pytest.approx(logprobs["unsteered"] - logprobs["steered"], abs=1e-6)
    for number, texts in enumerate(sides.values()):
        shares = []
        for text in texts:
            grams = list(zip(text["tokens"], text["tokens"][1:], text["tokens"][2:], strict=False))
            shares.append(sum(gram in grams[:k] for k, gram in enumerate(grams)) / max(1, len(grams)))
        assert card["fluency"]["repeated"][number]["value"] == pytest.approx(np.mean(shares))


def test_a_random_vector_does_not_steer_and_the_same_command_gives_the_same_bytes(
    command, written, recipe_file, tiny_folder
):
    random = recipe_file(tiny_folder("gpt2"), WEDDING | {"random": {"seed": 4}})
    first, second = (command("score", random, *written, "--jsonl") for _ in range(2))
    assert first == second and first[0] == 0
    verdict = json.loads(first[1])["verdicts"]["sentences"]
    assert verdict["direction"] == 0


def test_coefficient_0_changes_nothing_and_says_so(records, written, recipe_file, tiny_folder):
    [card] = records("score", recipe_file(tiny_folder("llama"), WEDDING), *written, "-c", "0")
    steered = card["arms"][0]
    nothing = {"value": 0, "low": 0, "high": 0}
    assert steered["effects"]["sentences"] | nothing == steered["effects"]["sentences"]
    assert steered["neutral"]["kl"]["value"] == 0 == steered["neutral"]["damage"]["value"]
    assert card["says"][0].startswith("does not steer (nothing changes): effect 0.000")


@pytest.mark.parametrize("width", [80, 140])
def test_the_screen_has_the_verdict_first_and_fits(
    width, command, written, recipe_file, tiny_folder, monkeypatch
):
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, err = command("score", recipe_file(tiny_folder("gpt2"), WEDDING), *written)
    assert code == 0, err
    lines = out.splitlines()
    assert max(map(len, lines)) <= width
    _, verdict, *_ = out.split("\n\n")  # the heading has two lines where the model's path is long
    assert verdict.startswith(("steers", "does not steer"))
    for name in ("steered", "random 1501", "random 1502", "random 1503"):
        assert sum(line.strip().startswith(name) for line in lines) == 1
    assert "prompting  ' wedding' in front" in out and "not measured  fluency" in out
    assert "fluency is not measured: the recipe has no prompt; add one with --prompt TEXT" in err


@pytest.mark.parametrize(
    "arguments, said",
    [
        ((), "nothing to measure an effect by; add --toward FILE (sentences), --choices FILE"),
        (("--away", "toward.txt"), "--away: needs toward sentences too; add --toward FILE"),
        (("--toward", "toward.txt", "--away", "toward.txt"), "--away toward.txt:1: "),
        (("--toward", "toward.txt", "--neutral", "toward.txt"), "--neutral toward.txt:1: "),
        (("--toward", "one.txt"), "--toward: 1 different sentence, too few for an interval; give 8 or more"),
        (("--toward", "nowhere.txt"), "--toward nowhere.txt: No such file"),
        (("--toward", "choices.jsonl"), "which column contains the text? add --column NAME"),
        (("--choices", "toward.txt"), "--choices toward.txt: not a .jsonl file"),
        (("--count", "w"), "--count 'w': no such words in r; it has no word lists"),
        (("--choices", "choices.jsonl", "--column", "x"), "--column: of which sentences?"),
        (("--toward", "toward.txt", "--column", "x"), "--column 'x': no .csv or .jsonl file is given"),
    ],
)
def test_bad_evidence_is_one_line(arguments, said, fault, written, recipe_file, tiny_folder, tmp_path):
    (tmp_path / "one.txt").write_text("Only one.", encoding="utf-8")
    assert said in fault("score", recipe_file(tiny_folder("gpt2"), WEDDING), *arguments)


def test_additions_at_new_tokens_act_on_all_of_a_sentence(records, written, recipe_file, tiny_folder):
    folder = tiny_folder("llama")
    new, every = (
        records("score", recipe_file(folder, WEDDING | {"position": position}), *written)[0]
        for position in ({"every": "new"}, "every")
    )
    assert new["arms"][0]["effects"] == every["arms"][0]["effects"] and new["method"] == "overlay"


def test_sets_too_large_for_one_part_of_logits_are_the_same(tiny_folder, monkeypatch):
    """KL and changes do not depend on how many logits are held at once."""
    from tiny import open_model, recipe_of

    import steer_cli.measure.scoring as scoring
    from steer_cli.measure.corpus import Corpus, Sentence
    from steer_cli.measure.evidence import gathered
    from steer_cli.measure.score_plan import plan_score
    from steer_cli.run_plan import score_of

    model = open_model(tiny_folder("llama"))
    recipe = recipe_of(WEDDING).model_copy(update={"prompt": None})
    sets = {"toward": TOWARD, "neutral": NEUTRAL}
    corpora = {n: Corpus.of(n, [Sentence(text, None, "") for text in texts]) for n, texts in sets.items()}
    plan = plan_score(recipe, model.facts(), gathered(**corpora))
    whole = score_of(model, plan)
    monkeypatch.setattr(scoring, "LOGITS", 7 * model.network.vocabulary)
    parts = score_of(model, plan)
    for one, other in zip(whole.arms, parts.arms, strict=True):
        assert one.neutral.kl.value == pytest.approx(other.neutral.kl.value, abs=1e-6)
        assert one.neutral.damage.value == pytest.approx(other.neutral.damage.value, abs=1e-6)
