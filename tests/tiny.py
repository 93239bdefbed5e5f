"""The tool's stages on a model of the tests, a call each."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from steer_cli.activations.arms import UNSTEERED, Arm, Steering
from steer_cli.activations.relative import stream_lengths
from steer_cli.activations.vectors import compute
from steer_cli.decoding.engine import decode
from steer_cli.decoding.kv_cache import KVCache
from steer_cli.decoding.prefill import prefill
from steer_cli.decoding.request import Decoded, Request, Started
from steer_cli.models.hardware import Hardware
from steer_cli.models.load import Model, load
from steer_cli.models.located import Located
from steer_cli.networks.adapter import Adapter
from steer_cli.networks.attention import AfterPrefix, Causal
from steer_cli.networks.network import NO_CHANGES, Network
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
    ({"every": "prompt"}, (1, 9)),
    ({"every": "all"}, (0, 9)),
)
POSITIONS = tuple(position for position, _ in SPANS)


@cache
def open_model(folder: Path, dtype: str = "auto") -> Model:
    return load(Located(folder.name, folder), Hardware(dtype=dtype, device="cpu"))


@cache
def by_transformers(folder: Path) -> torch.nn.Module:
    """The oracle: the model as transformers loads it, in float32, without a line of steer."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def recipe_of(*additions: dict, **keys: object) -> Recipe:
    """A recipe of these additions, whose coefficients may be larger than those that a file may hold."""
    relative = [isinstance(addition.get("coefficient"), dict) for addition in additions]
    within = [
        addition if written else addition | {"coefficient": 1}
        for addition, written in zip(additions, relative, strict=True)
    ]
    recipe = validate(Document("recipe.yaml", {"prompt": PROMPT, "additions": within, **keys}))
    changed = [
        made if written else made.model_copy(update={"coefficient": float(addition.get("coefficient", 1))})
        for made, addition, written in zip(recipe.additions, additions, relative, strict=True)
    ]
    return recipe.model_copy(update={"additions": tuple(changed)})


@dataclass(frozen=True)
class Steered:
    """Additions on one prompt: all that `prefill` and `decode` ask for."""

    folder: Path
    network: Network
    tokenizer: Tokenizer
    prompt: tuple[int, ...]
    arm: Arm

    @property
    def placements(self) -> tuple[Placement, ...]:
        return self.arm.placements

    @property
    def vectors(self) -> tuple[Tensor, ...]:
        return self.arm.vectors

    @property
    def vector(self) -> Tensor:
        (only,) = self.vectors
        return only

    @property
    def request(self) -> Request:
        """Both arms, the unsteered first."""
        return Request(self.prompt, (UNSTEERED, self.arm))

    def added(self, layer: int) -> Tensor:
        """What the arm adds to the prompt at a layer, [positions, width]."""
        total = torch.zeros(len(self.prompt), self.network.width)
        self.arm.add_to(total, layer)
        return total

    def prefilled(self) -> Started:
        (started,) = prefill(self.network, [self.request])
        return started

    def rows(self, samples: int, eos: Sequence[int] | None = None, **sampling: object) -> list[list[Decoded]]:
        """The completions of each arm; `eos` instead of the tokenizer's."""
        ends = self.tokenizer.eos if eos is None else eos
        settings = Sampling(samples=samples, **sampling)
        (finished,) = decode(self.network, [self.request], settings, ends, len(self.prompt))
        return [list(arm) for arm in finished.arms]


def steer(folder: Path, *additions: dict, prompt: str = PROMPT, bos: str = "auto") -> Steered:
    network, tokenizer = open_model(folder).network, open_tokenizer(folder, bos)
    alignments = align_additions(recipe_of(*additions), tokenizer, network.depth)
    ids = tokenizer.prompt(prompt)
    steering = Steering(alignments, tuple(compute(network, alignments)))
    [lengths] = stream_lengths(network, [ids], steering.relative_layers)
    arm = steering.on(place(alignments, tokenizer, ids, prompt), lengths)
    return Steered(folder, network, tokenizer, ids, arm)


def vectors_of(folder: Path, *additions: dict, bos: str = "auto") -> list[Tensor]:
    network = open_model(folder).network
    return compute(
        network, align_additions(recipe_of(*additions), open_tokenizer(folder, bos), network.depth)
    )


def drawn(rows: Sequence[Decoded]) -> list[tuple[tuple[int, ...], str]]:
    """Of each completion its tokens and how it ended."""
    return [(row.ids, row.finish) for row in rows]


@torch.no_grad()
def hidden_states(folder: Path, ids: Sequence[int]) -> list[Tensor]:
    """By transformers: what enters each block, [positions, width] each."""
    model = by_transformers(folder)
    streams = model(torch.tensor([list(ids)]), output_hidden_states=True, use_cache=False).hidden_states
    return [stream[0] for stream in streams[:-1]]


@torch.no_grad()
def plain_logits(folder: Path, ids: Sequence[int]) -> Tensor:
    """By transformers, without a cache: [positions, vocabulary]."""
    return by_transformers(folder)(torch.tensor([list(ids)]), use_cache=False).logits[0]


@contextmanager
def watching(network: Network) -> Iterator[dict[int, Tensor]]:
    """The streams that enter the blocks, changed ones as changed: block -> stream of the last pass."""
    seen: dict[int, Tensor] = {}

    def kept(changes) -> dict[int, Callable[[Tensor], Tensor]]:
        def keep(layer: int) -> Callable[[Tensor], Tensor]:
            def change(stream: Tensor) -> Tensor:
                seen[layer] = changes[layer](stream) if layer in changes else stream
                return seen[layer]

            return change

        return {layer: keep(layer) for layer in range(network.depth)}

    run, next_logits = network.run, network.next_logits

    def watched_run(stream, start, stop, attention, changes=NO_CHANGES):
        return run(stream, start, stop, attention, kept(changes))

    def watched_logits(ids, attention, changes=NO_CHANGES, ends=None):
        return next_logits(ids, attention, kept(changes), ends)

    with patch.object(network, "run", watched_run), patch.object(network, "next_logits", watched_logits):
        yield seen


@contextmanager
def passing(network: Network, block: int, called: Callable[[], object]) -> Iterator[None]:
    """Within the `with`, `called` is called whenever that block runs."""
    with ExitStack() as stack:
        if isinstance(network, Adapter):
            hook = network.blocks[block].register_forward_hook(lambda *_: called() and None)
            stack.callback(hook.remove)
        for kind in () if isinstance(network, Adapter) else (Causal, AfterPrefix, KVCache):
            stack.enter_context(patch.object(kind, "attend", _calling(kind.attend, block, called)))
        yield


def _calling(attend: Callable, block: int, called: Callable[[], object]) -> Callable:
    def attending(attention, layer, *args, **kwargs):
        if layer == block:
            called()
        return attend(attention, layer, *args, **kwargs)

    return attending


@contextmanager
def embedding(network: Network) -> Iterator[list[tuple[int, ...]]]:
    """The shapes of the ids that are embedded within the `with`, pass by pass."""
    shapes: list[tuple[int, ...]] = []
    if isinstance(network, Adapter):
        table = network.model.get_input_embeddings()
        hook = table.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
        try:
            yield shapes
        finally:
            hook.remove()
        return
    embed = network.embed
    with patch.object(network, "embed", lambda ids, at: shapes.append(tuple(ids.shape)) or embed(ids, at)):
        yield shapes


def hooks(network: Network) -> list[int]:
    """How many hooks stand before each block; a plain network has none."""
    if not isinstance(network, Adapter):
        return [0] * network.depth
    return [len(block._forward_pre_hooks) for block in network.blocks]
