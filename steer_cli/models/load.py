"""Load a model's network from its files, on a device and in a precision."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from steer_cli.errors import ModelError
from steer_cli.events import Progress, silent
from steer_cli.models.atomic_folder import home
from steer_cli.models.hardware import MOST_THREADS, Hardware
from steer_cli.models.inspect_folder import read_config, weight_names
from steer_cli.models.located import Located
from steer_cli.models.self_check import check, check_once
from steer_cli.networks import families
from steer_cli.networks.adapter import Adapter
from steer_cli.networks.fastest import fastest
from steer_cli.networks.layout import Layout
from steer_cli.networks.network import Network, Plain
from steer_cli.networks.refusals import check_kind, find_blocks
from steer_cli.planning.json_file import text_part
from steer_cli.planning.plan import ModelFacts
from steer_cli.planning.token_files import check_vocabulary
from steer_cli.planning.tokens import open_tokenizer
from steer_cli.recipe.quoting import show
from steer_cli.results import ModelCheck

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Model:
    """A loaded causal language model: its files and its network."""

    located: Located
    network: Network
    _facts: dict[str, ModelFacts] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.located.name

    @property
    def dtype(self) -> str:
        """The precision that it computes in, such as float32."""
        return str(self.network.dtype).removeprefix("torch.")

    def facts(self, bos: str = "auto") -> ModelFacts:
        """What planning needs to know about the model, with BOS as in a recipe's `bos`."""
        if bos not in self._facts:
            self._facts[bos] = self.located.facts(bos)
        return self._facts[bos]


def load(located: Located, hardware: Hardware | None = None, progress: Progress = silent) -> Model:
    """Load the weights, which takes seconds.

    Raises:
        ModelError: no such device, not a causal language model, weights that do not fit, or a network whose
            decoding does not match a full pass.
    """
    network, _ = _loaded(located, hardware or Hardware(), progress)
    check_once(network, located.folder, located.name)
    progress("load", 1, 1)
    return Model(located, network)


def examine(located: Located, hardware: Hardware | None = None, progress: Progress = silent) -> ModelCheck:
    """Load a model, run its self-test even if it has passed before, and report how it is computed.

    Raises:
        ModelError: as `load`.
    """
    network, reason = _loaded(located, hardware or Hardware(), progress)
    check(network, located.folder, located.name)
    progress("load", 1, 1)
    return ModelCheck(
        model=located.name,
        way="plain" if reason is None else "transformers",
        network=type(network.model if isinstance(network, Adapter) else network).__name__,
        reason=reason,
        blocks=network.depth,
        width=network.width,
        context=located.context,
        dtype=str(network.dtype).removeprefix("torch."),
        device=network.device.type,
    )


def _loaded(located: Located, hardware: Hardware, progress: Progress) -> tuple[Network, str | None]:
    """An unchecked network, and the reason if it is not a plain one."""
    _use_threads(hardware.threads)
    progress("load", 0, None)
    device = _device(hardware.device)
    dtype = _dtype(hardware.dtype, device, hardware.device_map)
    reason = why_not_plain(located, hardware.device_map)
    network: Network
    if reason is None:
        network = _plain(located, dtype, device)
    else:
        network = _adapted(located, dtype, hardware.device_map or device)
    _check_tokenizer(located.folder, network.embeddings, located.name)
    return network, reason


def why_not_plain(located: Located, device_map: str | None = None) -> str | None:
    """Why transformers runs a model; None if a plain network does."""
    if device_map is not None:
        return "a model spread over devices is run by transformers"
    return families.why_not(read_config(located.folder, located.name))


def _plain(located: Located, dtype: torch.dtype | str, device: torch.device) -> Plain:
    values = read_config(located.folder, located.name)
    wanted = DTYPES.get(_saved_dtype(values), torch.float32) if isinstance(dtype, str) else dtype
    files = [located.folder / name for name in weight_names(located.folder, located.name)]
    network = families.build(values, files, wanted, device, f"model {show(located.name)}")
    if device.type == "cpu":
        network.layout = Layout(network.linears, fastest(network.linears, home() / "products.json"))
    return network


def _adapted(located: Located, dtype: torch.dtype | str, place: torch.device | str) -> Adapter:
    from steer_cli.models.pretrained import from_pretrained, new_cache

    model = from_pretrained(located.folder, located.name, dtype, place)
    check_kind(model, located.name)
    blocks = find_blocks(model, model.config.get_text_config().num_hidden_layers, located.name)
    return Adapter(model, blocks, new_cache)


def resolved(located: Located, hardware: Hardware) -> tuple[str, str]:
    """Names of the precision and kind of device that `load` would use, without loading.

    Raises:
        ModelError: no such device.
    """
    device = _device("auto" if hardware.device_map else hardware.device)
    dtype = _dtype(hardware.dtype, device, hardware.device_map)
    if isinstance(dtype, torch.dtype):
        return str(dtype).removeprefix("torch."), device.type
    return _saved_dtype(read_config(located.folder, located.name)) or "as saved", device.type


def _saved_dtype(values: dict[str, Any]) -> str:
    return values.get("dtype") or values.get("torch_dtype") or ""


def _dtype(dtype: str, device: torch.device, device_map: str | None) -> torch.dtype | str:
    return DTYPES.get(dtype, torch.float32 if device.type == "cpu" and device_map is None else "auto")


def _use_threads(threads: int | None) -> None:
    if threads is None:
        return
    if not 1 <= threads <= MOST_THREADS:
        raise ModelError(f"threads {threads}: 1 to {MOST_THREADS}", "threads")
    torch.set_num_threads(threads)


def _device(device: str) -> torch.device:
    accelerators = [kind for kind, there in _accelerators() if there]
    if device == "auto":
        return torch.device((*accelerators, "cpu")[0])
    try:
        found = torch.device(device)
        if found.type not in ("cuda", "mps", "xpu", "cpu"):
            raise RuntimeError(found.type)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError):  # NotImplementedError is a RuntimeError
        known = ", ".join([*accelerators, "cpu"])
        raise ModelError(
            f"device {show(device)}: not on this machine; it has {known}", parameter="device"
        ) from None
    return found


def _accelerators() -> list[tuple[str, bool]]:
    return [("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())]


def _check_tokenizer(folder: Path, embeddings: int, name: str) -> None:
    """Check a tokenizer against the weights if config.json does not state the number of tokens."""
    if text_part(read_config(folder, name)).get("vocab_size") is None:
        tokenizer = open_tokenizer(folder, bos="none").backend
        check_vocabulary(folder, tokenizer.get_vocab_size(with_added_tokens=False), embeddings)
