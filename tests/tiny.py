"""The tool's stages on a model of the tests, a call each."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from steer_cli.activations.arms import arm_of
from steer_cli.activations.vectors import compute
from steer_cli.decoding.engine import generate
from steer_cli.decoding.prefill import UNSTEERED, Arm, Job, Started, prefill
from steer_cli.decoding.request import Row
from steer_cli.models.load import Model, load
from steer_cli.planning.placement import Placement, align_additions, place
from steer_cli.planning.tokens import Tokenizer, open_tokenizer
from steer_cli.recipe.load import validate
from steer_cli.recipe.schema import Recipe, Sampling
from steer_cli.recipe.yaml_source import Document

# A pass over a tiny model is a millisecond of work. Threads that share cores with other processes wait for
# each other instead, a hundred times as long.
torch.set_num_threads(1)

PROMPT = "I went up to my friend and said"  # 9 tokens of the tiny tokenizer, BOS included
LOVE = {"plus": "Love", "minus": "Hate", "layer": 2, "coefficient": 3}  # 3 positions
SPANS = (  # of LOVE on PROMPT
    ("front", (0, 3)),
    ("middle", (3, 6)),
    ("back", (6, 9)),
    ({"at": 5}, (5, 8)),
    ({"token": " friend"}, (6, 9)),
    ("every", (1, 9)),
)
POSITIONS = tuple(position for position, _ in SPANS)


@cache
def open_model(folder: Path) -> Model:
    return load(folder, folder.name, device="cpu")


def recipe_of(*additions: dict, **keys: object) -> Recipe:
    """A recipe of these additions, whose coefficients may be larger than those that a file may hold."""
    within = [addition | {"coefficient": 1} for addition in additions]
    recipe = validate(Document("recipe.yaml", {"prompt": PROMPT, "additions": within, **keys}))
    changed = [
        made.model_copy(update={"coefficient": float(addition.get("coefficient", 1))})
        for made, addition in zip(recipe.additions, additions, strict=True)
    ]
    return recipe.model_copy(update={"additions": tuple(changed)})


@dataclass(frozen=True)
class Steered:
    """Additions on one prompt: all that `prefill` and `decode` ask for."""

    model: Model
    tokenizer: Tokenizer
    prompt: tuple[int, ...]
    placements: tuple[Placement, ...]
    vectors: list[Tensor]
    arm: Arm

    @property
    def vector(self) -> Tensor:
        (only,) = self.vectors
        return only

    @property
    def job(self) -> Job:
        """Both arms, the unsteered first."""
        return Job(self.prompt, (UNSTEERED, self.arm))

    def prefilled(self) -> Started:
        (started,) = prefill(self.model, [self.job])
        return started

    def rows(self, samples: int, eos: Sequence[int] | None = None, **sampling: object) -> list[list[Row]]:
        """The completions of each arm; `eos` instead of the tokenizer's."""
        ends = self.tokenizer.eos if eos is None else eos
        settings = Sampling(samples=samples, **sampling)
        (finished,) = generate(self.model, [self.job], settings, ends, len(self.prompt))
        return [list(arm) for arm in finished.rows]


def steer(folder: Path, *additions: dict, prompt: str = PROMPT, bos: str = "auto") -> Steered:
    model, tokenizer = open_model(folder), open_tokenizer(folder, bos)
    alignments = align_additions(recipe_of(*additions), tokenizer, model.depth)
    ids = tokenizer.prompt(prompt)
    placements = place(alignments, tokenizer, ids, prompt)
    vectors = compute(model, alignments)
    return Steered(model, tokenizer, ids, placements, vectors, arm_of(model, placements, vectors, len(ids)))


def vectors_of(folder: Path, *additions: dict, bos: str = "auto") -> list[Tensor]:
    model = open_model(folder)
    return compute(model, align_additions(recipe_of(*additions), open_tokenizer(folder, bos), model.depth))


@torch.no_grad()
def hidden_states(model: Model, ids: Sequence[int]) -> list[Tensor]:
    """By transformers: what enters each block, [positions, width] each."""
    streams = model.network(
        torch.tensor([list(ids)]), output_hidden_states=True, use_cache=False
    ).hidden_states
    return [stream[0] for stream in streams[: model.depth]]


@torch.no_grad()
def plain_logits(model: Model, ids: Sequence[int]) -> Tensor:
    """Of the model alone, without a cache: [positions, vocabulary]."""
    return model.network(torch.tensor([list(ids)]), use_cache=False).logits[0]


@contextmanager
def watching(model: Model) -> Iterator[dict[int, Tensor]]:
    """The streams that enter the blocks, after every hook that was there before: block -> stream."""
    seen: dict[int, Tensor] = {}

    def watch(number: int):
        def hook(_, args, kwargs):
            seen[number] = (args[0] if args else kwargs["hidden_states"]).clone()

        return hook

    handles = [
        block.register_forward_pre_hook(watch(number), with_kwargs=True)
        for number, block in enumerate(model.blocks)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def hooks(model: Model) -> list[int]:
    """How many hooks stand before each block."""
    return [len(block._forward_pre_hooks) for block in model.blocks]
