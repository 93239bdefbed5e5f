"""Check what steer writes with programs that read it: llama.cpp, repeng and transformers.

`make exchange` runs this. llama.cpp is built from source the first time. Prints a table of figures with their
limits; the exit status is 1 if one of them is not kept, also where an environment cannot be set up.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from environments import BENCHMARKS, LLAMA_CPP, TRANSFORMERS, Peer, child_environment, gguf, pulled, ready
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize
from rich.console import Console
from rich.table import Table

import steer_cli as steer
from steer_cli.activations.arms import UNSTEERED
from steer_cli.measure.next_token import next_logits
from steer_cli.models.load import Model
from steer_cli.planning.plan import Plan, plan_recipe
from steer_cli.recipe.schema import Recipe
from steer_cli.run_plan import vectors_of

EVERYWHERE = {"every": "all"}  # where llama.cpp adds control vectors
PROMPTS = (
    "When I met my neighbour this morning, he said",
    "The mayor opened the bridge and said",
    "My friend, you must know that",
    "I think that today",
    "The ship sailed to Rome with",
    "She looked at the letter and answered:",
    "After the long winter, the people of the village",
    "The doctor told me that I",
    "In the beginning of the story, the king",
    "If you want to be happy,",
)
NEW_TOKENS = 30
# Of steered minus unsteered logits, over the vocabulary.
EXACT_CORRELATION, QUANTISED_CORRELATION = 0.9999, 0.99
BAKED_LOGITS = 1e-4
SETUP_SECONDS = 3600


@dataclass(frozen=True)
class Check:
    """A row of the table."""

    what: str
    figure: str
    limit: str
    holds: bool


@dataclass(frozen=True)
class Subject:
    """A recipe with changes, acting at every position."""

    name: str
    changes: tuple[tuple[str, float], ...] = ()

    @property
    def recipe(self) -> Recipe:
        return steer.load_recipe(self.name, {"additions.0.position": EVERYWHERE, **dict(self.changes)})

    @property
    def title(self) -> str:
        return " ".join([self.name, *(f"{key.split('.')[-1]} {value:g}" for key, value in self.changes)])

    @property
    def arguments(self) -> list[str]:
        sets = [part for key, value in self.changes for part in ("--set", f"{key}={value:g}")]
        return [self.name, "--position", "every=all", *sets]


USUAL = Subject("king-james")
# Four-bit arithmetic moves logits too; this one moves them far more.
STRONG = Subject("love-hate", (("additions.0.layer", 12), ("additions.0.coefficient", 3)))


@dataclass(frozen=True)
class Ours:
    """What steer computes: of every prompt the logits [arms, vocabulary] and the greedy tokens."""

    subject: Subject
    plan: Plan
    logits: np.ndarray  # [prompts, arms, vocabulary]: unsteered, steered
    tokens: list[list[int]]


def computed(model: Model, subject: Subject) -> Ours:
    recipe = subject.recipe.with_prompts(list(PROMPTS))
    plan = plan_recipe(recipe, model.facts(recipe.bos), NEW_TOKENS)
    steering = vectors_of(model.network, plan.alignments)
    logits = [
        next_logits(model.network, each.ids, [UNSTEERED, steering.on(each.placements)], len(each.ids) - 1)
        for each in plan.prompts
    ]
    greedy = recipe.sampling.model_copy(
        update={
            "temperature": 0.0,
            "frequency_penalty": 0.0,
            "samples": 1,
            "max_new_tokens": NEW_TOKENS,
        }
    )
    runs = steer.generate(model, recipe.model_copy(update={"sampling": greedy}))
    return Ours(subject, plan, torch.stack(logits).numpy(), [list(run.steered[0].tokens) for run in runs])


def run_steer(command: str, subject: Subject, output: Path) -> Path:
    """What `steer export` or `steer bake` writes of the recipe."""
    arguments = [command, *subject.arguments, "-o", str(output)]
    subprocess.run([sys.executable, "-m", "steer_cli", *arguments], check=True, stdout=sys.stderr)
    return output


def peer(name: str, packages: tuple[str, ...], environment: str, script: str, job: dict) -> str:
    """What a script prints in its environment, given the job."""
    python = ready(Peer(name, script, packages, environment), SETUP_SECONDS)
    done = subprocess.run(
        [python, BENCHMARKS / "peers" / f"{script}.py"],
        input=json.dumps(job),
        stdout=subprocess.PIPE,
        text=True,
        env=child_environment(1) | {"OMP_WAIT_POLICY": "passive"},
        check=True,
    )
    return done.stdout


def dequantised(source: Path, target: Path) -> Path:
    """The same model with its values as float32, so that llama.cpp computes with what steer computes with."""
    reader = GGUFReader(source)
    writer = GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        value = 0 if field.name == "general.file_type" else field.contents()
        inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, value, field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def by_llama_cpp(model: Model, folder: Path) -> Iterator[Check]:
    """With the model's values in float32, then with the published file, which quantises them."""
    exact = dequantised(gguf(), folder / "float32.gguf")
    yield from compared("float32", EXACT_CORRELATION, 0.001, model, computed(model, USUAL), folder, exact)
    yield from compared("Q4_1", QUANTISED_CORRELATION, None, model, computed(model, STRONG), folder, gguf())


def compared(
    kind: str, limit: float, tie: float | None, model: Model, ours: Ours, folder: Path, file: Path
) -> Iterator[Check]:
    """llama.cpp on one file of the model.

    Args:
        limit: of the correlations.
        tie: the difference of two logits that decides nothing; None takes three times the root mean square
            by which the unsteered logits of the two programs differ, as llama.cpp then also quantises what it
            multiplies the weights with.
    """
    vector = run_steer("export", ours.subject, folder / f"{kind}-vector.gguf")
    output = vector.with_suffix(".npz")
    job = {"gguf": str(file), "vector": str(vector), "output": str(output), "new_tokens": NEW_TOKENS}
    job["prompts"] = [each.ids for each in ours.plan.prompts]
    peer("llama.cpp", **LLAMA_CPP_READER, script="control_vector", job=job)
    theirs = np.load(output)
    name = f"llama.cpp {theirs['version']}, {kind}, {ours.subject.title}"
    ours_shift = ours.logits[:, 1] - ours.logits[:, 0]
    figures = {}
    for arm in ("steered", "off"):
        shift = theirs[f"{arm} logits"] - theirs["unsteered logits"]
        figures[arm] = [float(np.corrcoef(a, b)[0, 1]) for a, b in zip(ours_shift, shift, strict=True)]
    count = len(PROMPTS)
    what = f"{name}: steered minus unsteered logits, correlation with steer's, lowest of {count} prompts"
    yield Check(what, f"{min(figures['steered']):.5f}", f"> {limit}", min(figures["steered"]) > limit)
    what = f"{name}: the same with the vector one block later, which must fail: highest of {count}"
    yield Check(what, f"{max(figures['off']):.5f}", f"< {limit}", max(figures["off"]) < limit)
    if tie is None:
        noise = _centred(theirs["unsteered logits"]) - _centred(ours.logits[:, 0])
        tie = 3 * float(np.sqrt((noise**2).mean()))
    yield from _same_top(name, ours, theirs["steered logits"], tie)
    yield from _same_text(name, model, ours, theirs["steered tokens"].tolist(), tie)


def _centred(logits: np.ndarray) -> np.ndarray:
    return logits - logits.mean(-1, keepdims=True)


def _same_top(name: str, ours: Ours, logits: np.ndarray, tie: float) -> Iterator[Check]:
    margins = []
    for own, other in zip(ours.logits[:, 1], logits, strict=True):
        margins.append(float(own.max() - own[other.argmax()]))
    same = sum(margin == 0 for margin in margins)
    figure = f"{same} of {len(margins)}" + "".join(f", one at {m:.2f} below ours" for m in margins if m)
    what = f"{name}: the likeliest token under steering is steer's"
    yield Check(what, figure, f"equal, or a tie within {tie:.3f}", max(margins) <= tie)


def _same_text(name: str, model: Model, ours: Ours, texts: list[list[int]], tie: float) -> Iterator[Check]:
    """The greedy texts; where one differs, the margin by which steer preferred its own token."""
    steering = vectors_of(model.network, ours.plan.alignments)
    notes, holds, equal = [], True, 0
    for prompt, own, other in zip(ours.plan.prompts, ours.tokens, texts, strict=True):
        other = other[: len(own)]  # steer ends at the end of a text
        if own == other:
            equal += 1
            continue
        step = next(index for index, pair in enumerate(zip(own, other, strict=True)) if pair[0] != pair[1])
        ids = (*prompt.ids, *own[:step])
        placements = tuple(
            type(placement)(placement.alignment, 0, len(ids)) for placement in prompt.placements
        )
        logits = next_logits(model.network, ids, [steering.on(placements)], len(ids) - 1)[0]
        margin = float(logits[own[step]] - logits[other[step]])
        notes.append(f"token {step + 1} by {margin:.2f}")
        holds = holds and margin <= tie
    figure = f"{equal} of {len(texts)}" + (f"; others part at {', '.join(notes)}" if notes else "")
    what = f"{name}: greedy text of {NEW_TOKENS} tokens is steer's"
    yield Check(what, figure, f"equal, or parts at a tie within {tie:.3f}", holds)


def by_repeng(model: Model, folder: Path) -> Iterator[Check]:
    """Its directions, by the block after which they are added, against the recipe's vectors."""
    vector = run_steer("export", USUAL, folder / "vector.gguf")
    found = json.loads(
        peer("repeng", ("torch", "repeng"), "repeng", "import_control_vector", {"vector": str(vector)})
    )
    recipe = USUAL.recipe
    [rows] = steer.vectors(model, recipe)
    addition = recipe.additions[0]
    [layer] = addition.layers
    wanted = addition.coefficient * rows[-1].numpy()
    name = f"repeng ({found['version']})"
    blocks = list(found["directions"])
    yield Check(
        f"{name}: blocks that `import_gguf` finds",
        ", ".join(blocks),
        str(layer - 1),
        blocks == [str(layer - 1)],
    )
    difference = np.abs(np.array(found["directions"].get(str(layer - 1), 0)) - wanted).max()
    yield Check(
        f"{name}: its direction less coefficient × vector, largest value",
        f"{difference:.1e}",
        "< 1e-6",
        bool(difference < 1e-6),
    )


def by_transformers(model: Model, folder: Path) -> Iterator[Check]:
    """A baked checkpoint, loaded by transformers' own code."""
    ours, baked, output = computed(model, USUAL), folder / "baked", folder / "baked.npz"
    run_steer("bake", USUAL, baked)
    job = {"folder": str(baked), "output": str(output), "new_tokens": NEW_TOKENS}
    job["prompts"] = [each.ids for each in ours.plan.prompts]
    peer("transformers", **TRANSFORMERS, script="baked_checkpoint", job=job)
    theirs = np.load(output)
    name = f"transformers {theirs['version']}, baked"
    difference = float(np.abs(theirs["logits"] - ours.logits[:, 1]).max())
    what = f"{name}: logits less steer's, largest of {len(PROMPTS)} prompts"
    yield Check(what, f"{difference:.1e}", f"< {BAKED_LOGITS}", difference < BAKED_LOGITS)
    yield from _same_text(name, model, ours, theirs["tokens"].tolist(), 0.001)


LLAMA_CPP_READER = {key: LLAMA_CPP[key] for key in ("packages", "environment")}
CHECKS = ("llama.cpp", "repeng", "transformers")


def checked(model: Model, only: Sequence[str], folder: Path) -> Iterator[Check]:
    if "llama.cpp" in only:
        yield from by_llama_cpp(model, folder)
    if "repeng" in only:
        yield from by_repeng(model, folder)
    if "transformers" in only:
        yield from by_transformers(model, folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=CHECKS, action="append", help="check with this program alone")
    only = parser.parse_args().only or CHECKS
    pulled()
    model = steer.load_model("smollm2-135m", dtype="float32", device="cpu", threads=2)
    with TemporaryDirectory() as temporary:
        checks = []
        for check in checked(model, only, Path(temporary)):
            print(f"{'yes' if check.holds else 'NO '} {check.what}: {check.figure}", file=sys.stderr)
            checks.append(check)
    show(checks)
    sys.exit(0 if all(check.holds for check in checks) else 1)


def show(checks: list[Check]) -> None:
    console = Console(highlight=False, markup=False, width=None if Console().is_terminal else 160)
    table = Table(title="smollm2-135m, steered at every position, BOS too")
    for name in ("check", "figure", "limit", ""):
        table.add_column(name)
    for check in checks:
        table.add_row(check.what, check.figure, check.limit, "yes" if check.holds else "NO")
    console.print(table)


if __name__ == "__main__":
    main()
