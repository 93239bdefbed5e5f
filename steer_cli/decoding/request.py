"""A prompt and its arms on the way through decoding: asked for, prefilled, some samples begun, all ended."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from steer_cli.activations.arms import Arm
from steer_cli.networks.attention import Prefix
from steer_cli.results import Receipt, Sum


@dataclass(frozen=True)
class Request:
    """One prompt (token ids with BOS) and its arms, of which each gets as many samples.

    `receipts`: whether to measure where the arms' additions act.
    """

    prompt: tuple[int, ...]
    arms: tuple[Arm, ...]
    receipts: bool = False


@dataclass(frozen=True)
class ArmReceipts:
    """Where one arm acted on the prompt; empty where it was not asked for."""

    receipts: tuple[Receipt, ...] = ()
    sums: tuple[Sum, ...] = ()


@dataclass(frozen=True)
class Started:
    """A request after its prompt: for each arm keys and values, receipts, and logits [arms, vocabulary]."""

    request: Request
    prefixes: tuple[Prefix, ...]
    logits: Tensor
    receipts: tuple[ArmReceipts, ...]


@dataclass(frozen=True)
class Decoded:
    """One completion: token ids with the EOS that ended it, if one did.

    `logprob` is the sum of its tokens' log probabilities under the unsteered model, in nats; None for an arm
    that adds something, whose logits do not tell.
    """

    ids: tuple[int, ...]
    finish: str  # eos or length
    logprob: float | None


@dataclass
class SampleGroup:
    """The samples of a started request: which have begun, and which have ended."""

    started: Started
    samples: int  # of each arm
    begun: int = 0
    decoded: dict[tuple[int, int], Decoded] = field(default_factory=dict)  # (arm, sample) ->
    first: dict[int, list[int]] = field(default_factory=dict)  # arm -> tokens of its sample 0, if watched

    @property
    def arms(self) -> int:
        return len(self.started.request.arms)

    def first_by_arm(self) -> tuple[tuple[int, ...], ...]:
        """For each arm what its first sample has drawn so far; nothing unless the batch is watched."""
        return tuple(tuple(self.first.get(arm, ())) for arm in range(self.arms))

    def by_arm(self) -> tuple[tuple[Decoded, ...], ...] | None:
        """For each arm its samples in order; None while some have not ended."""
        if len(self.decoded) < self.arms * self.samples:
            return None
        return tuple(
            tuple(self.decoded[arm, sample] for sample in range(self.samples)) for arm in range(self.arms)
        )
