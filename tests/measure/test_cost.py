"""What steering costs: the figure, its words, and where both are shown."""

import json

import pytest
import torch

from steer_cli.cli.options import in_options
from steer_cli.results import ArmMeans, Coordinates, Cost, PromptShift, SweepPoint, reads_like, steering_cost
from steer_cli.sweeps.objective import best, cost_warning, parse_objective

PROMPT = "I went up to my friend and said"
WEDDING = {"plus": " wedding", "minus": " ", "layer": 1, "coefficient": 8}
COUNT = {"any": ["a", "the", "e", "wedding"]}
SAMPLING = {"samples": 3, "max_new_tokens": 12, "top_p": 0.9}


def records(out):
    return [json.loads(line) for line in out.splitlines()]


def exact(folder, prompt, completions):
    """Mean log probability of each completion in one plain pass of transformers, in float64."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    means = []
    for tokens in completions:
        ids = torch.tensor([[*prompt, *tokens]])
        with torch.no_grad():
            logprobs = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        means.append(logprobs.gather(1, torch.tensor(tokens)[:, None]).mean().item())
    return means


def exact_cost(folder, made, bos="auto"):
    from steer_cli.planning.tokens import open_tokenizer

    by_sample = []
    for record in made:
        prompt = open_tokenizer(folder, bos).prompt(record["prompt"])
        plain, steered = exact(folder, prompt, [record[arm]["tokens"] for arm in ("unsteered", "steered")])
        by_sample.append(plain - steered)
    spread = torch.tensor(by_sample, dtype=torch.float64)
    return spread.mean().item(), (spread.std() / len(by_sample) ** 0.5).item()


@pytest.mark.parametrize("arch", ["gpt2", "llama", "gemma3"])
@pytest.mark.parametrize("position", ["front", "every"])
def test_the_cost_is_that_of_plain_passes_in_double_precision(
    arch, position, command, recipe_file, tiny_folder
):
    folder = tiny_folder(arch)
    addition = WEDDING | {"position": position}
    path = recipe_file(folder, addition, prompt=PROMPT, sampling=SAMPLING, count=COUNT)
    made = records(command("generate", path, "--jsonl")[1])
    expected, error = exact_cost(folder, made)
    grid = ("--layers", "1", "--coefficients", "0,8", "--measure", "counts", "--jsonl")
    nothing, steered = records(command("sweep", path, *grid)[1])
    assert steered["logprob"]["cost"] == pytest.approx(expected, abs=1e-4)
    assert steered["logprob"]["cost_stderr"] == pytest.approx(error, abs=1e-4)
    found = steered["logprob"]
    assert found["unsteered"] - found["steered"] == pytest.approx(found["cost"], abs=1e-9)
    assert list(found) == ["unsteered", "steered", "cost", "cost_stderr"]
    assert nothing["logprob"]["cost"] == nothing["logprob"]["cost_stderr"] == 0
    out = command("generate", path)[1]
    line = f"cost  {expected:.2f} ± {error:.2f} nats per token: {reads_like(expected)}"
    assert line in out.splitlines()


def test_the_cost_of_the_real_model(real_folder, command, recipe_file):
    addition = {"plus": "Love", "minus": "Hate", "layer": 2, "coefficient": 8, "position": "front"}
    sampling = {"samples": 2, "max_new_tokens": 8}
    path = recipe_file("smollm2-135m", addition, prompt="I hate you because", sampling=sampling, count=COUNT)
    made = records(command("generate", path, "--jsonl")[1])
    expected, error = exact_cost(real_folder, made, "<|endoftext|>")
    [point] = records(command("sweep", path, "--layers", "2", "--measure", "counts", "--jsonl")[1])
    assert point["logprob"]["cost"] == pytest.approx(expected, abs=1e-4)
    assert point["logprob"]["cost_stderr"] == pytest.approx(error, abs=1e-4)


def test_the_cost_of_many_prompts_is_by_sample(command, recipe_file, tiny_folder):
    """A prompt that stands there twice counts twice."""
    prompts = [PROMPT, "The ship sailed to Rome", PROMPT]
    more = {"prompts": prompts, "sampling": SAMPLING, "count": COUNT}
    path = recipe_file(tiny_folder("gpt2"), WEDDING, **more)
    made = records(command("generate", path, "--jsonl")[1])
    arms = [
        [[record[arm]["mean_logprob"] for record in made[first : first + 3]] for first in (0, 3, 6)]
        for arm in ("unsteered", "steered")
    ]
    grid = ("--layers", "1", "--coefficients", "2,8", "--measure", "counts", "--jsonl")
    point = records(command("sweep", path, *grid)[1])[-1]
    assert point["logprob"] == {
        name: pytest.approx(value, abs=1e-4) for name, value in vars(steering_cost(*arms)).items()
    }


def test_every_arm_but_the_unsteered_has_a_cost_of_its_own(command, recipe_file, tiny_folder):
    path = recipe_file(tiny_folder("llama"), WEDDING, prompt=PROMPT, sampling=SAMPLING)
    made = records(command("generate", path, "--control", "random", "--jsonl")[1])
    lines = command("generate", path, "--control", "random")[1].splitlines()
    lines = [line for line in lines if " nats per token: " in line]
    for line, arm, head in zip(lines, ("steered", "control"), ("cost  steered ", "control "), strict=True):
        plain, other = ([[record[name]["mean_logprob"] for record in made]] for name in ("unsteered", arm))
        found = steering_cost(plain, other)
        assert line.strip().startswith(head)
        assert f" {found.cost:.2f} ± {found.cost_stderr:.2f} nats per token: " in line
        assert line.endswith(reads_like(found.cost))


def test_one_sample_has_no_error_and_a_coefficient_of_0_no_cost(command, recipe_file, tiny_folder):
    path = recipe_file(tiny_folder("gpt2"), WEDDING | {"coefficient": 0}, prompt=PROMPT)
    out = command("generate", path, "--samples", "1", "--set", "sampling.max_new_tokens=4")[1]
    assert "cost  0.00 nats per token: reads like the model's own" in out.splitlines()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (-0.81, "likelier than the model's own; look for repetition"),
        (-0.8, "reads like the model's own"),
        (0.89, "reads like the model's own"),
        (0.9, "stumbles"),
        (1.99, "stumbles"),
        (2.0, "word salad"),
        (20.0, "word salad"),
    ],
)
def test_a_cost_in_words(value, words):
    assert reads_like(value) == words


PLACE = Coordinates(layer=1, coefficient=2.0, position="front", dims=None)


def point(uses, value):
    counts = {"any": ArmMeans(0.5, uses, uses - 0.5, None, 0.1, None)}
    return SweepPoint("r", "m", PLACE, ("counts",), counts=counts, cost=Cost(-2.0, -2.0 - value, value, 0.2))


def test_cost_is_a_name_of_best_and_has_an_error():
    points = [point(1, 0.1), point(5, 2.7), point(3, 0.7)]
    assert best(parse_objective("max any"), points) is points[1]
    assert best(parse_objective("max any where cost < 0.8"), points) is points[2]
    assert points[0].values()["cost"] == 0.1 and points[0].errors()["cost"] == 0.2


@pytest.mark.parametrize(
    ("objective", "value", "remedy"),
    [
        ("max any", 2.7, 'costs 2.70 nats per token (word salad); try --best "max any where cost < 0.8"'),
        ("max any where any > 1", 1.0, '(stumbles); try --best "max any where any > 1 and cost < 0.8"'),
        ("max any", 0.99, None),
        ("max any where cost < 3", 2.7, None),
        ("max cost", 2.7, None),
    ],
)
def test_a_dear_winner_is_said(objective, value, remedy):
    said = cost_warning(parse_objective(objective), point(5, value))
    assert said is None if remedy is None else remedy in in_options(said)
    assert (
        cost_warning(
            parse_objective("min kl"),
            SweepPoint("r", "m", PLACE, ("kl",), kl=(PromptShift("p", 3.0, 1.0, 1.0),)),
        )
        is None
    )


@pytest.mark.parametrize("jsonl", [(), ("--jsonl",)])
def test_the_sweep_shows_costs_and_warns_of_a_dear_winner(jsonl, command, recipe_file, tiny_folder):
    addition = WEDDING | {"position": "every"}
    path = recipe_file(tiny_folder("gpt2"), addition, prompt=PROMPT, sampling=SAMPLING, count=COUNT)
    grid = ("--layers", "1", "--coefficients", "0,40", "--measure", "kl,counts")
    plain, steered = records(command("sweep", path, *grid, "--jsonl")[1])
    assert steered["logprob"]["cost"] >= 2
    grid = (*grid, *jsonl)
    code, out, err = command("sweep", path, *grid, "--best", "min costs")
    assert code == 1 and "choose from kl, any, cost" in err
    code, out, err = command("sweep", path, *grid, "--best", "max kl where cost > 1")
    assert code == 0 and err == ""
    code, out, err = command("sweep", path, *grid, "--best", "max kl")
    assert code == 0 and '(word salad); try --best "max kl where cost < 0.8"' in err
    if not jsonl:
        assert f"unsteered: any {plain['counts']['any']['unsteered']:.4f} uses per completion" in out
        head = next(line for line in out.splitlines() if line.split()[:1] == ["layer"])
        assert head.split() == ["layer", "coefficient", "kl", "any", "cost"]
        assert f" {steered['logprob']['cost']:.3f}!! ±{steered['logprob']['cost_stderr']:.3f}" in out
        assert "!! word salad (2 or more)" in out and "(word salad)" in out


@pytest.mark.parametrize("named", ["corpus", "label"])
def test_cost_is_no_name_for_another_figure(named, command, recipe_file, tiny_folder):
    count = {"cost": ["a"]} if named == "label" else COUNT
    path = recipe_file(tiny_folder("gpt2"), WEDDING, prompt=PROMPT, count=count)
    corpus = ("--corpus", "cost=five.txt", "--lines") if named == "corpus" else ()
    measure = "perplexity,counts" if named == "corpus" else "counts"
    code, out, err = command("sweep", path, "--layers", "1", *corpus, "--measure", measure)
    assert (code, out) == (1, "") and err.count("\n") == 1
    assert "cost: two figures have this name" in err


def test_a_plot_shows_the_cost(command, recipe_file, tiny_folder, tmp_path):
    path = recipe_file(tiny_folder("gpt2"), WEDDING, prompt=PROMPT, sampling=SAMPLING, count=COUNT)
    for coefficients in ("2,8", "1:4"):
        grid = ("--layers", "0:4", "--coefficients", coefficients, "--measure", "counts")
        assert command("sweep", path, *grid, "--set", "sampling.max_new_tokens=2", "--plot", "p.svg")[0] == 0
        assert "<!-- cost" in (tmp_path / "p.svg").read_text(encoding="utf-8")
