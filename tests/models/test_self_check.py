"""A network is believed once it decodes what a full pass computes; what does not is refused by name."""

import json
import shutil

import pytest
import torch
from conftest import ADAPTED, ARCHITECTURES

from steer_cli.decoding.kv_cache import KVCache
from steer_cli.errors import ModelError
from steer_cli.models import self_check
from steer_cli.models.hardware import Hardware
from steer_cli.models.load import load
from steer_cli.models.located import Located
from steer_cli.networks import families
from steer_cli.networks.adapter import Adapter

torch.set_num_threads(1)
LOVE = {"plus": "Love", "minus": "Hate", "layer": 2, "coefficient": 3}
BOTH_WAYS = pytest.mark.parametrize("arch", ["gpt2", "llama", "gemma3", *ADAPTED])


def opened(folder):
    return load(Located(folder.name, folder), Hardware(device="cpu")).network


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder of its own for what is remembered."""
    monkeypatch.setenv("STEER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def checks(monkeypatch):
    """The networks that are checked, as they are."""
    made, fault = [], self_check.fault
    monkeypatch.setattr(self_check, "fault", lambda network: made.append(network) or fault(network))
    return made


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_tiny_network_passes(arch, dtype, tiny_folder, home, checks):
    network = load(Located(arch, tiny_folder(arch)), Hardware(dtype=dtype, device="cpu")).network
    assert checks == [network]
    if dtype == "float32":
        assert self_check._difference(network) < 1e-5


def test_the_real_model_passes(real_folder, home, checks):
    assert checks == [opened(real_folder)]


@pytest.mark.parametrize("arch", ADAPTED)
def test_the_adapted_are_those_that_plain_networks_do_not_know(arch, tiny_folder):
    folders = [tiny_folder(kind) for kind in (arch, ADAPTED[arch])]
    values, plain = (json.loads((folder / "config.json").read_text("utf-8")) for folder in folders)
    assert families.why_not(plain) is None
    assert "unknown_to_plain_networks" in families.why_not(values)
    assert isinstance(opened(folders[0]), Adapter) and not isinstance(opened(folders[1]), Adapter)


def shifted(cache):
    return cache.lengths[: cache.used, None] + 1


def seeing_padding(attention, window, dtype, always=False):
    """A mask that hides nothing, whatever is behind the end of a row."""
    return torch.zeros(attention.used, 1, 1, attention._longest, dtype=dtype) if always else None


# What is wrong -> what is patched, by what, and the kinds of network that it spoils.
FAULTS = {
    "positions": ("positions", property(shifted), ("gpt2", "llama", "gemma3", *ADAPTED)),
    "padding": ("mask", seeing_padding, ("gpt2", "llama", "gemma3", *ADAPTED)),
}


@pytest.mark.parametrize(
    ("wrong", "arch"), [(wrong, arch) for wrong, (*_, kinds) in FAULTS.items() for arch in kinds]
)
def test_a_network_that_decodes_otherwise_is_refused_in_one_line(
    wrong, arch, command, recipe_file, tiny_folder, home, monkeypatch
):
    name, patched, _ = FAULTS[wrong]
    recipe = recipe_file(tiny_folder(arch), LOVE, prompt="I went up to my friend")
    with monkeypatch.context() as patch:
        patch.setattr(KVCache, name, patched)
        code, out, err = command("generate", recipe)
        assert (code, out) == (1, "") and err.count("\n") == 1
        assert err.startswith("error: model ") and "differ" in err and "full pass" in err
    assert not (home / "checked").exists(), "what has failed is not remembered"
    code, _, err = command("generate", recipe, "--samples", 1, "--set", "sampling.max_new_tokens=2")
    assert code == 0, err


@pytest.mark.parametrize("size", [None, 3, 5])
def test_a_window_that_is_not_the_networks_is_refused(
    size, command, recipe_file, tiny_folder, home, monkeypatch
):
    """As of an architecture whose configuration names a window that its attention does not use so."""
    recipe = recipe_file(tiny_folder("gemma3_adapted"), LOVE, prompt="I went up to my friend")
    asked = Adapter._asked

    def otherwise(network, attention):
        right = network.windows
        network.windows = {kind: size if window else None for kind, window in right.items()}
        try:
            return asked(network, attention)
        finally:
            network.windows = right

    monkeypatch.setattr(Adapter, "_asked", otherwise)
    code, out, err = command("generate", recipe)
    assert (code, out) == (1, "") and err.count("\n") == 1 and "full pass" in err


def test_windows_are_what_they_were_after_a_check(tiny_folder, home):
    network = opened(tiny_folder("gemma3_adapted"))
    assert network.windows == {"sliding_attention": 200, "full_attention": None}
    assert network.model.config.sliding_window == 200
    whole = network.windows
    with pytest.raises(KeyboardInterrupt), self_check._short_windows(network):
        assert network.windows["sliding_attention"] == network.model.config.sliding_window == 4
        raise KeyboardInterrupt
    assert network.windows == whole and network.model.config.sliding_window == 200


@BOTH_WAYS
def test_it_is_asked_once_of_a_configuration(arch, tiny_folder, home, checks, tmp_path):
    opened(tiny_folder(arch))
    opened(tiny_folder(arch))
    assert len(checks) == 1
    assert len(list((home / "checked").iterdir())) == 1
    # Weights are no part of it; what config.json says, or another precision, is.
    other = shutil.copytree(tiny_folder(arch), tmp_path / "other")
    opened(other)
    assert len(checks) == 1
    file = other / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), "use_cache": False}), "utf-8")
    opened(other)
    load(Located(arch, tiny_folder(arch)), Hardware(dtype="bfloat16", device="cpu"))
    assert len(checks) == 3


def test_one_that_has_failed_is_checked_again(tiny_folder, home, monkeypatch):
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(self_check, "fault", lambda _: "it is odd")
            with pytest.raises(ModelError, match=r"model .*llama.*: it is odd; it cannot be used"):
                opened(tiny_folder("llama"))


def test_a_home_that_cannot_be_written_only_costs_time(tiny_folder, tmp_path, monkeypatch, checks):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("STEER_HOME", str(tmp_path / "file" / "home"))
    for number in (1, 2):
        opened(tiny_folder("llama"))
        assert len(checks) == number
