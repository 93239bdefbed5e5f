"""`steer export` on the command line: what it prints, its record, and what it answers to what is at fault."""

import json
import re
import resource
import shlex
import signal
import subprocess
import sys

import pytest

from steer_cli.exchange.stored import read_vectors
from steer_cli.version import __version__

ALL = {"every": "all"}
LOVE = {"plus": "Love", "minus": "Hate", "layer": 2, "coefficient": 3, "position": ALL}
PAIR = ["--plus", "Love", "--minus", "Hate", "--layer", "2", "-c", "3", "--position", "every=all"]


@pytest.fixture(scope="module")
def llama(tiny_folder):
    import torch

    torch.set_num_threads(1)
    return tiny_folder("llama")


@pytest.fixture
def love(llama, recipe_file):
    """A recipe without a prompt."""
    return recipe_file(llama, LOVE)


def test_the_screen_says_what_was_written_and_how_to_use_it(love, llama, command, tmp_path):
    code, out, err = command("export", love, "-o", "love.gguf")
    assert (code, out) == (0, "")
    assert err.splitlines() == [
        f"wrote love.gguf: layer 2 of {llama}, 48 values per row",
        "with llama.cpp: llama-cli -m MODEL.gguf --control-vector love.gguf",
    ]
    assert (tmp_path / "love.gguf").is_file()
    code, out, err = command("export", love, "-o", "it's.safetensors", "--layer", "all")
    assert (code, out) == (0, "")
    wrote, used = err.splitlines()
    assert wrote == f"wrote it's.safetensors: layers 0-4 of {llama}, 48 values per row"
    assert used == 'in a recipe: vector: "it\'s.safetensors"'


def test_the_command_for_llama_cpp_can_be_pasted(love, command):
    for name in ("my love.gguf", "a,b.gguf", "a:b.gguf"):
        err = command("export", love, "-o", name)[2]
        words = shlex.split(err.splitlines()[1].removeprefix("with llama.cpp: "))
        assert words == ["llama-cli", "-m", "MODEL.gguf", "--control-vector", name]
        # llama.cpp divides what it is given at these.
        assert ("rename the file" in err) == ("," in name) and ("--control-vector-scaled" in err) == (
            ":" in name
        )


def test_a_record_is_complete_by_itself(love, llama, records, tmp_path):
    import hashlib

    [record] = records("export", love, "-o", "love.gguf")
    assert record == {
        "recipe": "r",
        "recipe_sha256": hashlib.sha256(love.read_bytes()).hexdigest(),
        "file": "love.gguf",
        "format": "gguf",
        "sha256": hashlib.sha256((tmp_path / "love.gguf").read_bytes()).hexdigest(),
        "additions": [0],
        "layers": [2],
        "width": 48,
        "model": str(llama),
        "revision": None,
        "dtype": "float32",
        "version": __version__,
        "approximations": [],
    }
    [record] = records("export", love, "-o", "a.safetensors", "--dtype", "bfloat16", "--set", "name=mine")
    assert (record["dtype"], record["recipe"], record["format"]) == ("bfloat16", "mine", "safetensors")
    # Of a stored vector, its file.
    stored = ["--set", "additions.0={vector: love.gguf, position: {every: all}}"]
    [record] = records("export", love, *stored, "-o", "b.gguf")
    assert record["files"]["additions.0.vector"]["file"] == "love.gguf"


@pytest.mark.parametrize("suffix", ["gguf", "safetensors"])
def test_the_same_command_gives_the_same_bytes(suffix, love, llama, command, tmp_path):
    for name in ("a", "b"):
        assert command("export", love, "-o", f"{name}.{suffix}")[0] == 0
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    # With options alone, the same vector.
    assert command("export", *PAIR, "-m", llama, "-o", f"c.{suffix}")[0] == 0
    one, other = (read_vectors(tmp_path / f"{name}.{suffix}").of(0) for name in "ac")
    assert one[2].tobytes() == other[2].tobytes()


def test_a_recipe_may_come_from_standard_input(love, tmp_path):
    from typer.testing import CliRunner

    from steer_cli.cli import app

    result = CliRunner().invoke(
        app, ["export", "-", "-o", str(tmp_path / "a.gguf"), "--jsonl"], input=love.read_text()
    )
    assert result.exit_code == 0 and json.loads(result.stdout)["recipe"] == "stdin"


def test_approximate_says_what_differs_on_the_screen_and_in_the_record(love, command, records):
    said = "additions.0: its last row acts at every position, BOS too; the recipe leaves BOS alone"
    code, out, err = command("export", love, "--position", "every", "--approximate", "-o", "a.gguf")
    assert (code, out) == (0, "") and f"approximate: {said}\n" in err
    [record] = records("export", love, "--position", "every", "--approximate", "-o", "b.gguf")
    assert record["approximations"] == [said]
    err = command("export", love, "--approximate", "-o", "c.gguf")[2]
    assert "--approximate changes nothing: c.gguf holds exactly what the recipe says\n" in err


def test_what_is_refused_names_the_option(love, fault, tmp_path):
    said = fault("export", love, "--position", "back", "-o", "a.gguf")
    assert said.endswith("write `position: {every: all}`, which is what llama.cpp does, or use --approximate")
    said = fault("export", love, "--layer", "1,2", "-o", "a.gguf")
    assert said.endswith("choose deeper layers, or leave out this one with --approximate")
    said = fault("export", love, "--set", "additions.0.operation=ablate", "--approximate", "-o", "a.gguf")
    assert said.endswith("or keep its direction with `steer export -o FILE.safetensors`")
    assert not list(tmp_path.glob("a.*"))


def test_the_file_is_looked_at_before_the_model(fault, tmp_path):
    (tmp_path / "taken.gguf").write_bytes(b"mine")
    (tmp_path / "d.gguf").mkdir()
    both = "ends in .gguf (a control vector for llama.cpp) or .safetensors (all positions, for steer)"
    for name, reason in (
        ("love.txt", both),
        ("-", both),
        ("", both),
        ("nowhere/love.gguf", "there is no folder nowhere; create it first"),
        ("d.gguf", "is a folder"),
        ("taken.gguf", "the file already exists; choose another name, or remove it first"),
    ):
        # A model that there is not would be looked for on the hub.
        said = fault("export", *PAIR, "--model", "no/such-model", "-o", name)
        assert said.startswith("--output ") and reason in said
    assert (tmp_path / "taken.gguf").read_bytes() == b"mine"
    for command, name in (("export", "love.gguf"), ("bake", "love")):
        where = ["--save", f"./{name}", "-o", name]
        said = fault(command, *PAIR, "--position", "every=all", "--model", "no/such-model", *where)
        assert said.startswith(f"--save {name}: is the --output too")
    said = fault("export", *PAIR, code=2)
    assert said.startswith("no --output: ") and both in said
    assert fault("export", "-o", "a.gguf", code=2).startswith("no recipe and no --plus")


@pytest.mark.parametrize("suffix", ["gguf", "safetensors"])
def test_a_full_disk_is_one_line_and_leaves_nothing(suffix, love, fault, tmp_path):
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        said = fault("export", love, "-o", f"love.{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert re.fullmatch(rf"--output love\.{suffix}: .+; choose another place", said)
    assert {file.name for file in tmp_path.iterdir()} == {"r.yaml", "five.txt"}


def test_the_file_can_be_read_by_whoever_may_read_new_files(love, command, tmp_path):
    import os

    for mask, mode in ((0o022, 0o644), (0o077, 0o600)):
        before = os.umask(mask)
        try:
            assert command("export", love, "-o", f"{mask}.gguf")[0] == 0
        finally:
            os.umask(before)
        assert (tmp_path / f"{mask}.gguf").stat().st_mode & 0o777 == mode


def test_the_output_is_completed_as_a_path():
    from typer.testing import CliRunner

    from steer_cli.cli import app

    def complete(words):
        asked = {"_STEER_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": words}
        return CliRunner().invoke(app, [], env=asked, prog_name="steer").stdout.strip()

    # The shell's own files.
    assert complete("steer export love-hate -o lo") == "_files"
    assert "love-hate" in complete("steer export love")
    assert "every=all" in complete("steer export love-hate --position every=")


def test_the_command_for_llama_cpp_names_a_model_that_is_a_gguf_file():
    from steer_cli.report.exported import exported_lines
    from steer_cli.results import Exported

    where = {"recipe": "r", "recipe_sha256": "", "file": "a.gguf", "format": "gguf", "sha256": ""}
    what = {"additions": (0,), "layers": (2, 3, 4), "width": 48, "revision": None, "dtype": "float32"}
    found = Exported(**where, **what, model="my models/x.gguf", version=__version__)
    wrote, used = exported_lines(found)
    assert wrote == "wrote a.gguf: layers 2-4 of my models/x.gguf, 48 values per row"
    assert used == "with llama.cpp: llama-cli -m 'my models/x.gguf' --control-vector a.gguf"


def test_a_recipe_that_is_refused_loads_no_torch(love):
    code = (
        "import sys\nfrom steer_cli.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "finally: print({'torch', 'transformers', 'gguf'} & {*sys.modules})"
    )
    words = ["export", love, "--position", "front", "-o", "a.gguf"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "set()\n"), done.stderr
    assert "`position: front` is not every position" in done.stderr
