"""Check whether a family of networks handles every key of a model's config.json.

An unknown key may change what the network computes, so such a model is run by transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from steer_cli.networks.rotary import VARIANTS

# Keys that do not affect a forward pass: names, ids, training, and how outputs are packed.
WITHOUT_EFFECT = frozenset(
    {
        *("_name_or_path", "_model_name_or_path", "architectures", "model_type", "transformers_version"),
        *("dtype", "torch_dtype", "initializer_range", "use_cache", "pretraining_tp", "attention_dropout"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id"),
        *("resid_pdrop", "embd_pdrop", "attn_pdrop", "task_specific_params"),
    }
)


@dataclass(frozen=True)
class Keys:
    """The keys of config.json that a family handles.

    Args:
        counts: whole numbers above 0.
        numbers: numbers above 0.
        optional_counts: whole numbers above 0, or null, or absent.
        flags: true or false, or absent.
        fixed: the only values that a key may have; it may be absent if null or false is among them.
        others: keys that the family checks itself.
    """

    counts: frozenset[str]
    numbers: frozenset[str]
    optional_counts: frozenset[str] = frozenset()
    flags: frozenset[str] = frozenset()
    fixed: Mapping[str, tuple] = field(default_factory=dict)
    others: frozenset[str] = frozenset()

    def also(self, **more: frozenset[str]) -> Keys:
        """These keys, with some more."""
        return replace(self, **{name: getattr(self, name) | keys for name, keys in more.items()})

    @property
    def known(self) -> frozenset[str]:
        """All keys that the family handles or may ignore."""
        groups = (self.counts, self.numbers, self.optional_counts, self.flags, self.fixed, self.others)
        return frozenset().union(WITHOUT_EFFECT, *groups)

    def fault(self, values: Mapping[str, Any]) -> str | None:
        """Why the family does not handle this config; None if it does."""
        wrong = [
            *(key for key in self.counts if not _is_count(values.get(key))),
            *(key for key in self.numbers if not _is_number(values.get(key))),
            *(
                key
                for key in self.optional_counts
                if values.get(key) is not None and not _is_count(values[key])
            ),
            *(key for key in self.flags if not isinstance(values.get(key, False), bool)),
            *(key for key, allowed in self.fixed.items() if not _is_one_of(values.get(key), allowed)),
        ]
        if wrong:
            return f"{wrong[0]} is {values.get(wrong[0])!r}"
        unknown = [key for key in values if key not in self.known]
        if unknown:
            return f"{unknown[0]} is not a key that it handles"
        return _kinds_fault(values) or _rotary_fault(values)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")


def _is_count(value: object) -> bool:
    return _is_number(value) and isinstance(value, int)


def _is_one_of(value: object, allowed: tuple) -> bool:
    return any(value is one or (isinstance(value, str) and value == one) for one in allowed) or (
        value is None and False in allowed
    )


def _kinds_fault(values: Mapping[str, Any]) -> str | None:
    """What is wrong with the kinds of attention listed for the blocks, if anything."""
    kinds = values.get("layer_types")
    if kinds is None:
        return None
    known = ("full_attention", "sliding_attention")
    if not isinstance(kinds, list) or len(kinds) != values.get("num_hidden_layers"):
        return "layer_types does not name a kind for each block"
    other = [kind for kind in kinds if kind not in known]
    return f"layer_types holds {other[0]!r}" if other else None


@dataclass(frozen=True)
class Config:
    """A config.json whose keys a family handles."""

    values: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def get(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    def flag(self, key: str) -> bool:
        return bool(self.values.get(key, False))

    def rope(self, kind: str | None = None) -> dict[str, Any]:
        """`rope_theta`, `rope_type` and that type's keys, for one kind of block if kinds differ."""
        return _rope(self.values, kind)


def _rope(values: Mapping[str, Any], kind: str | None = None) -> dict[str, Any]:
    # Newer files have `rope_parameters`; older ones have `rope_theta` and `rope_scaling`, which calls its
    # type `type`.
    written = values.get("rope_parameters") or values.get("rope_scaling") or {}
    parameters = dict(written.get(kind) or {} if kind in written else written)
    old_name = parameters.pop("type", "default")
    parameters.setdefault("rope_type", old_name)
    parameters.setdefault("rope_theta", values.get("rope_theta", 10_000.0))
    return parameters


def _rotary_fault(values: Mapping[str, Any]) -> str | None:
    written = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(written, dict):
        return "rope_parameters is not a mapping"
    kinds = [kind for kind, inner in written.items() if isinstance(inner, dict)]
    faults = (_rope_fault(_rope(values, kind)) for kind in kinds or [None])
    return next(filter(None, faults), None)


def _rope_fault(parameters: Mapping[str, Any]) -> str | None:
    kind = parameters["rope_type"]
    if not isinstance(kind, str) or kind not in VARIANTS:
        return f"rope_type is {kind!r}"
    wanted = {"rope_theta", *VARIANTS[kind]}
    wrong = sorted(key for key in wanted if not _is_number(parameters.get(key)))
    if wrong:
        return f"{wrong[0]} of its rotary embedding is {parameters.get(wrong[0])!r}"
    extra = sorted(parameters.keys() - wanted - {"rope_type"})
    return f"{extra[0]} of its rotary embedding is not a key that it handles" if extra else None


def windows(kinds: Sequence[str], window: int | None) -> list[int | None]:
    """How many positions each block sees, from its kind of attention; None for all."""
    return [window if kind == "sliding_attention" else None for kind in kinds]
