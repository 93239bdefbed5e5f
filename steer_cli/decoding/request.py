"""The stages of a prompt in decoding: requested, prefilled, some samples begun, all ended."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from steer_cli.activations.arms import Arm
from steer_cli.networks.attention import Prefix
from steer_cli.results import Receipt, Sum


@dataclass(frozen=True)
class Request:
    """One prompt (token ids with BOS) and its arms, all with the same number of samples.

    `receipts`: whether to measure where the arms' additions act.
    """

    prompt: tuple[int, ...]
    arms: tuple[Arm, ...]
    receipts: bool = False


@dataclass(frozen=True)
class ArmReceipts:
    """Where one arm acted on the prompt; empty if not requested."""

    receipts: tuple[Receipt, ...] = ()
    sums: tuple[Sum, ...] = ()


@dataclass(frozen=True)
class Started:
    """A prefilled request: keys and values and receipts of each arm, and logits [arms, vocabulary]."""

    request: Request
    prefixes: tuple[Prefix, ...]
    logits: Tensor
    receipts: tuple[ArmReceipts, ...]


@dataclass(frozen=True)
class Decoded:
    """One completion: token ids with the EOS that ended it, if one did.

    `logprob` is the sum of its tokens' log probabilities under the unsteered model, in nats; None for a
    steered arm, whose logits do not give it.
    """

    ids: tuple[int, ...]
    finish: str  # eos or length
    logprob: float | None

    @property
    def mean_logprob(self) -> float | None:
        """Per token; None where `logprob` is."""
        return None if self.logprob is None else self.logprob / len(self.ids)


@dataclass
class SampleGroup:
    """The samples of a started request: which have begun, and which have ended."""

    started: Started
    samples: int  # per arm
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
        """For each arm, its samples in order; None until all have ended."""
        if len(self.decoded) < self.arms * self.samples:
            return None
        return tuple(
            tuple(self.decoded[arm, sample] for sample in range(self.samples)) for arm in range(self.arms)
        )
