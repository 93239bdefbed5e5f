"""Find a model's folder by catalogue name, local folder, .gguf file or hub id.

Every file is known to exist before anything slow begins.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from steer_cli.errors import ModelError
from steer_cli.events import Note, Progress, silent
from steer_cli.models import catalogue
from steer_cli.models.atomic_folder import SEAL
from steer_cli.models.inspect_folder import (
    PICKLED,
    check_code_paths,
    check_files,
    weight_names,
)
from steer_cli.models.located import Located
from steer_cli.planning.json_file import read_object
from steer_cli.recipe.quoting import show

HUB_SECONDS = 10  # without an answer for this long, the hub is considered out of reach
LARGEST_NAME = 96  # characters of a hub id


def pull(name: str, progress: Progress = silent, note: Note = silent) -> Path:
    """The folder of a catalogue model, fetched and converted if needed.

    Raises:
        CatalogueError: there is no such model, or it cannot be fetched.
    """
    return catalogue.pull(name, _convert_gguf, progress, note)


def _convert_gguf(gguf: Path, folder: Path) -> None:
    # torch and transformers are imported only if there is something to convert.
    from steer_cli.models.pretrained import convert_gguf

    convert_gguf(gguf, folder)


def locate(
    name: str,
    weights: bool = True,
    progress: Progress = silent,
    note: Note = silent,
) -> Located:
    """Find a model; fetch or convert it if needed.

    Args:
        name: catalogue name, folder, .gguf file or hub id, looked up in this order.
        weights: False if only the tokenizer's files are needed.

    Raises:
        ModelError: there is no such model, it is incomplete or pickled, or the hub is out of reach.
        CatalogueError: a catalogue model cannot be fetched.
    """
    path = Path(os.path.expanduser(name))
    if name in catalogue.CATALOGUE:
        located = Located(name, pull(name, progress, note), catalogue.CATALOGUE[name].bos)
    elif os.path.isdir(path):
        located = Located(name, path, _begins_with(path, name))
    elif path.suffix == ".gguf":
        located = Located(name, catalogue.converted(path, _convert_gguf, progress, note))
    elif path.suffix in PICKLED or os.path.isfile(path):
        raise ModelError(f"model {show(name)}: not a folder or a .gguf file; pickled weights are refused")
    elif (
        name.count("/") > 1
        or name.startswith((".", "/", "~"))
        or len(name) > LARGEST_NAME
        or not name.strip()
    ):
        raise ModelError(f"model {show(name)}: no such folder or file; {_ways()}")
    else:
        located = Located(name, _from_hub(name, weights, note))
    try:
        check_files(located.folder, name)
        if weights:
            _check_weights(located.folder, name)
            check_code_paths(located.folder, name)
            located.check()
    except OSError as error:
        raise ModelError(
            f"model {show(name)}: {error.filename or located.folder}: {error.strerror}"
        ) from None
    return located


def _begins_with(folder: Path, name: str) -> str:
    """The token that begins the documents of a baked checkpoint, which its source's tokenizer may not say.

    Raises:
        ModelError: the file that says it cannot be read.
    """
    try:
        said = read_object(folder / SEAL).get("bos", "auto")
    except ValueError as error:
        raise ModelError(f"model {show(name)}: {folder / SEAL}: {error}") from None
    return said if isinstance(said, str) and said else "auto"


def _ways() -> str:
    return f"models that need no hub: {', '.join(catalogue.CATALOGUE)} (`steer models`)"


def missing_weights(folder: Path, name: str) -> list[str]:
    """Names of the files missing from a folder; empty if it is complete.

    Raises:
        ModelError: the index of the weights is invalid.
    """
    wanted = ["config.json", *weight_names(folder, name)]
    return [file for file in wanted if not (folder / file).is_file()]


def _check_weights(folder: Path, name: str) -> None:
    check_files(folder, name, weight_names(folder, name))
    missing = missing_weights(folder, name)
    if missing and any(file.suffix in PICKLED for file in folder.iterdir()):
        raise ModelError(
            f"model {show(name)}: only pickled weights, which are refused; save them as safetensors "
            "with transformers: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    if missing:
        raise ModelError(f"model {show(name)}: {', '.join(missing[:3])} missing in {folder}; fetch it again")


def _from_hub(name: str, weights: bool, note: Callable[[str], None]) -> Path:
    # Read once at import; the default waits much longer for an unresponsive hub.
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(HUB_SECONDS))
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", str(HUB_SECONDS))
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    texts = ["*.json", "merges.txt", "chat_template.jinja"]
    wanted = [*texts, "*.safetensors"] if weights else texts
    try:
        folder = Path(snapshot_download(name, allow_patterns=wanted, local_files_only=True))
        if not (missing_weights(folder, name) if weights else not (folder / "tokenizer.json").is_file()):
            return folder
    except (LocalEntryNotFoundError, OSError):
        pass
    except HFValidationError:
        raise ModelError(f"model {show(name)}: not a hub id, a folder or a file; {_ways()}") from None
    note(f"looking for {name} on the hub")
    try:
        # Called first because only this call accepts a time limit.
        HfApi().model_info(name, timeout=HUB_SECONDS)
        return Path(snapshot_download(name, allow_patterns=wanted, etag_timeout=HUB_SECONDS))
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        meaning = {401: "no such model, or a private one", 403: "access is refused", 404: "no such model"}
        answer = meaning.get(status or 0, f"the hub answered {status}")
        raise ModelError(f"model {show(name)}: {answer}; {_ways()}") from None
    except Exception as error:  # the hub's library passes on errors of its HTTP client
        cause = error.__cause__ or error
        reason = f"not on this machine, and the hub is out of reach ({type(cause).__name__})"
        raise ModelError(f"model {show(name)}: {reason}; {_ways()}") from None
