"""Check once per model that its network decodes what a full pass computes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from steer_cli.decoding.kv_cache import KVCache
from steer_cli.errors import ModelError
from steer_cli.models.atomic_folder import home
from steer_cli.networks.adapter import Adapter
from steer_cli.networks.attention import Causal
from steer_cli.networks.network import Network
from steer_cli.recipe.quoting import show
from steer_cli.version import __version__

LENGTHS = (3, 6)  # of two rows that decode side by side
STEPS = 2
WINDOW = 4  # shorter than these rows become
# Share of the logits' spread allowed for rounding; a wrong mask or position moves them by all of it.
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.05}


def check_once(network: Network, folder: Path, name: str) -> None:
    """Check a network, unless one with the same configuration and releases has passed before.

    Raises:
        ModelError: its decoding does not match a full pass.
    """
    if not _passed(network, folder).is_file():
        check(network, folder, name)


def check(network: Network, folder: Path, name: str) -> None:
    """Check a network, and remember that it passed.

    Raises:
        ModelError: its decoding does not match a full pass.
    """
    passed = _passed(network, folder)
    if (said := fault(network)) is not None:
        with suppress(OSError):
            passed.unlink(missing_ok=True)
        raise ModelError(f"model {show(name)}: {said}; it cannot be used, please report it")
    with suppress(OSError):
        passed.parent.mkdir(parents=True, exist_ok=True)
        passed.touch()


def _passed(network: Network, folder: Path) -> Path:
    """A file that exists once the network has passed; its name covers everything that affects
    whether decoding is right. Weights do not.
    """
    config = (folder / "config.json").read_text(encoding="utf-8")
    releases = [__version__, torch.__version__, version("transformers")]
    way = [type(network).__name__, str(network.dtype), network.device.type]
    setting = hashlib.sha256(json.dumps([config, *releases, *way]).encode()).hexdigest()[:32]
    return home() / "checked" / setting


@torch.inference_mode()
def fault(network: Network) -> str | None:
    """What is wrong when rows of different lengths decode together; None if nothing is.

    Models with windows are checked with windows shorter than the rows.
    """
    with _short_windows(network) if isinstance(network, Adapter) else nullcontext():
        difference = _difference(network)
    if difference <= TOLERANCES[network.dtype]:
        return None
    return (
        f"decoded beside another row, its logits differ by {difference:.2g} of their spread from those of a "
        "full pass"
    )


def _difference(network: Network) -> float:
    longest = max(LENGTHS)
    ids = torch.arange(len(LENGTHS) * (longest + STEPS), device=network.device).view(len(LENGTHS), -1)
    ids = (ids * 7919 + 11) % network.embeddings  # any tokens, mostly different ones
    prompts = Causal(longest, network.device, keep=True)
    ends = torch.tensor(LENGTHS, device=network.device) - 1
    found = [network.next_logits(ids[:, :longest], prompts, ends=ends)]
    cache = KVCache(prompts.prefix, len(LENGTHS), longest + STEPS)
    for row, length in enumerate(LENGTHS):
        cache.fill(slice(row, row + 1), prompts.prefix.row(row, length), length)
    for step in range(STEPS):
        cache.begin_step(len(LENGTHS), longest + step)
        found.append(network.next_logits(ids.gather(1, ends[:, None] + 1 + step), cache))
        cache.end_step()
    distances = []
    for row, length in enumerate(LENGTHS):
        for step in range(STEPS + 1):
            alone = network.next_logits(
                ids[row, None, : length + step], Causal(length + step, network.device)
            )
            distances.append(_distance(found[step][row], alone[0]))
    return max(distances)


def _distance(found: Tensor, wanted: Tensor) -> float:
    wanted = wanted.float()
    spread = (wanted.max() - wanted.min()).clamp(min=1e-9)  # a network of zeros passes too
    return float((found.float() - wanted).abs().max() / spread)


@contextmanager
def _short_windows(network: Adapter) -> Iterator[None]:
    """Within the `with`, shorten windows to a few positions, in the network's masks and in ours."""
    config = network.model.config.get_text_config()
    windows = network.windows
    if not any(windows.values()):
        yield
        return
    window = config.sliding_window
    config.sliding_window = WINDOW
    network.windows = {kind: None if size is None else WINDOW for kind, size in windows.items()}
    try:
        yield
    finally:
        config.sliding_window = window
        network.windows = windows
