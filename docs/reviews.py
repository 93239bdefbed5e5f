"""Do reviews with few stars gain more than those with many? The table and the plot of "Reviews by stars".

Reads on standard input the sentence records of `steer perplexity --sentences --jsonl`, each with its `layer`
put in; docs/replication.md has the command. The reviews are the units: a review's sentences, and all layers,
share its fate. The log ratio of a label is -sum d / number of tokens over its reviews, with the linearised
standard error of a ratio; a difference of two labels adds the two variances.
"""

import csv
import json
import math
import random
import sys
from collections import defaultdict

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PAIRS = (("negative", "neutral"), ("neutral", "positive"), ("negative", "positive"))
SHUFFLES = 10_000


def read(records, reviews_csv):
    """label of each review, tokens of each review, and sums[layer][review] of -d."""
    with open(reviews_csv, newline="", encoding="utf-8") as file:
        texts = [" ".join(row["text"].split()) for row in csv.DictReader(file)]
    labels, tokens, sums, first = {}, defaultdict(int), defaultdict(lambda: defaultdict(float)), None
    for record in map(json.loads, records):
        sentence = "".join(record["pieces"]).strip()
        (review,) = (number for number, text in enumerate(texts) if sentence in text)
        kept = [change for change in record["changes"] if change is not None]
        labels[review] = record["label"]
        first = record["layer"] if first is None else first
        tokens[review] += len(kept) if record["layer"] == first else 0
        sums[record["layer"]][review] -= sum(kept)
    return labels, tokens, sums


def mean(reviews, sums, tokens):
    return sum(sums[r] for r in reviews) / sum(tokens[r] for r in reviews)


def variance(reviews, sums, tokens):
    middle, size = mean(reviews, sums, tokens), len(reviews)
    spread = sum((sums[r] - middle * tokens[r]) ** 2 for r in reviews)
    return size / (size - 1) * spread / sum(tokens[r] for r in reviews) ** 2


def contrasts(groups, sums, tokens):
    """(difference, standard error) of the second label less the first, for each of PAIRS."""
    for low, high in PAIRS:
        difference = mean(groups[high], sums, tokens) - mean(groups[low], sums, tokens)
        error = math.sqrt(variance(groups[low], sums, tokens) + variance(groups[high], sums, tokens))
        yield difference, error


def grouped(labels):
    groups = defaultdict(list)
    for review, label in labels.items():
        groups[label].append(review)
    return groups


def ordered_layers(groups, layers, tokens):
    found = ([mean(groups[label], sums, tokens) for label in ("negative", "neutral", "positive")] for sums in layers)
    return sum(low < middle < high for low, middle, high in found)


def main(reviews_csv, plot):
    labels, tokens, sums = read(sys.stdin, reviews_csv)
    groups = grouped(labels)
    average = {review: sum(layer[review] for layer in sums.values()) / len(sums) for review in labels}
    print("layer", *(f"{high} - {low}" for low, high in PAIRS), sep="\t")
    rows = {layer: list(contrasts(groups, sums[layer], tokens)) for layer in sorted(sums)}
    for layer, row in {**rows, "all": list(contrasts(groups, average, tokens))}.items():
        print(layer, *(f"{value:.4f} ± {error:.4f}" for value, error in row), sep="\t")

    # Labels dealt out anew among the reviews, all layers of a review together.
    here = ordered_layers(groups, sums.values(), tokens)
    gap = mean(groups["positive"], average, tokens) - mean(groups["negative"], average, tokens)
    draw, as_ordered, as_wide, names = random.Random(0), 0, 0, list(labels.values())
    for _ in range(SHUFFLES):
        draw.shuffle(names)
        shuffled = grouped(dict(zip(labels, names, strict=True)))
        as_ordered += ordered_layers(shuffled, sums.values(), tokens) >= here
        wide = mean(shuffled["positive"], average, tokens) - mean(shuffled["negative"], average, tokens)
        as_wide += wide >= gap
    print(f"{here} of {len(sums)} layers are in order; of shuffled labels, {as_ordered / SHUFFLES:.4f} have as many")
    print(f"positive - negative over all layers: of shuffled labels, {as_wide / SHUFFLES:.4f} are as far apart")

    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    for (low, high), index, colour in ((PAIRS[0], 0, "#e69f00"), (PAIRS[2], 2, "#0072b2")):
        values, errors = zip(*(row[index] for row in rows.values()), strict=True)
        at = [layer + (0.15 if index else -0.15) for layer in rows]
        axes.errorbar(at, values, errors, fmt=".-", color=colour, linewidth=1, elinewidth=0.8, label=f"{high} - {low}")
    axes.axhline(0, color="#999999", linewidth=0.8)
    axes.set_xlabel("layer")
    axes.set_ylabel("difference of ln(steered / unsteered)")
    axes.legend(frameon=False, fontsize="small")
    figure.savefig(plot, metadata={"Date": None})


main(*sys.argv[1:])
