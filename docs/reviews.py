"""Do reviews with few stars gain more than those with many? The test of "Reviews by stars" in replication.md.

Reads sentence records of `steer perplexity --sentences --jsonl` on standard input, with `layer` added to
each; the page has the command. Reviews are the units: shuffling moves all sentences and layers of a review
together. The log ratio of a label is -sum d / number of tokens over its reviews, with the linearised standard
error of a ratio of sums; the variance of a difference is the sum of both variances.
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
    """Return the label and tokens of each review, and sums[layer][review] of -d."""
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
    """(difference, standard error) of the second label minus the first, for each of PAIRS."""
    for low, high in PAIRS:
        difference = mean(groups[high], sums, tokens) - mean(groups[low], sums, tokens)
        error = math.sqrt(variance(groups[low], sums, tokens) + variance(groups[high], sums, tokens))
        yield difference, error


def grouped(labels):
    groups = defaultdict(list)
    for review, label in labels.items():
        groups[label].append(review)
    return groups


def ordered_layers(groups, sums, tokens):
    count = 0
    for own in sums.values():
        low, middle, high = (
            mean(groups[label], own, tokens) for label in ("negative", "neutral", "positive")
        )
        count += low < middle < high
    return count


def gap(groups, average, tokens):
    return mean(groups["positive"], average, tokens) - mean(groups["negative"], average, tokens)


def shuffle_test(labels, tokens, sums, average):
    """Shuffle the labels among the reviews, keeping all layers of a review together."""
    here, wide = ordered_layers(grouped(labels), sums, tokens), gap(grouped(labels), average, tokens)
    names, draw = list(labels.values()), random.Random(0)
    as_ordered = as_wide = 0
    for _ in range(SHUFFLES):
        draw.shuffle(names)
        groups = grouped(dict(zip(labels, names, strict=True)))
        as_ordered += ordered_layers(groups, sums, tokens) >= here
        as_wide += gap(groups, average, tokens) >= wide
    print(f"{here} of {len(sums)} layers are in order; as many in {as_ordered / SHUFFLES:.2%} of shuffles")
    print(f"positive - negative over all layers: as far apart in {as_wide / SHUFFLES:.2%} of shuffles")


def plot(rows, path):
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    for pair, aside, colour in ((PAIRS[0], -0.15, "#e69f00"), (PAIRS[2], 0.15, "#0072b2")):
        values, errors = zip(*(row[PAIRS.index(pair)] for row in rows.values()), strict=True)
        at = [layer + aside for layer in rows]
        label = f"{pair[1]} - {pair[0]}"
        axes.errorbar(at, values, errors, fmt=".-", color=colour, linewidth=1, elinewidth=0.8, label=label)
    axes.axhline(0, color="#999999", linewidth=0.8)
    axes.set_xlabel("layer")
    axes.set_ylabel("difference of ln(steered / unsteered)")
    axes.legend(frameon=False, fontsize="small")
    figure.savefig(path, metadata={"Date": None})


def main(reviews_csv, path):
    labels, tokens, sums = read(sys.stdin, reviews_csv)
    groups = grouped(labels)
    average = {review: sum(own[review] for own in sums.values()) / len(sums) for review in labels}
    print("layer", *(f"{high} - {low}" for low, high in PAIRS), sep="\t")
    rows = {layer: list(contrasts(groups, sums[layer], tokens)) for layer in sorted(sums)}
    for layer, row in {**rows, "all": list(contrasts(groups, average, tokens))}.items():
        print(layer, *(f"{value:.4f} ± {error:.4f}" for value, error in row), sep="\t")
    shuffle_test(labels, tokens, sums, average)
    plot(rows, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
