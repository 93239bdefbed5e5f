"""What only a process of its own shows: exit codes, pipes, full disks, signals, terminals, cold imports."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest
from emulator import Emulator
from forked import python

from steer_cli.cli.waiting import SLEEP, SPIN, how_to_wait
from steer_cli.models.same_sums import SAME, same_sums

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(os.name == "nt", reason="pipes, devices and signals of POSIX")

# The command `steer`, without an installation.
START = "import sys; sys.argv[0] = 'steer'; from steer_cli.cli import main; main()"
# A shell that runs these tests in the background has them ignore Ctrl-C, and so would their children.
HEARING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); " + START

RECIPE = """\
name: love
prompt: I hate you because
model: {model}
additions:
  - {{plus: Love, minus: Hate, layer: 2, coefficient: 3}}
sampling: {{max_new_tokens: 4, samples: 1}}
"""


def environment(**more: str | None) -> dict[str, str]:
    unwanted = ("HF_", "PYTHON", "FORCE_", "NO_COLOR")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    # Passes over a tiny model are milliseconds of work, which threads only slow down.
    kept |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"} | more
    return {name: value for name, value in kept.items() if value is not None}


def steer(*args: object, start: str = START, env: dict[str, str | None] | None = None, **more):
    """Run the command to its end, with its output as text unless `more` sends it elsewhere."""
    pipe = subprocess.PIPE
    more = {"stdin": subprocess.DEVNULL, "stdout": pipe, "stderr": pipe, "timeout": 60} | more
    command = [sys.executable, "-c", start, *map(str, args)]
    return subprocess.run(command, env=environment(**env or {}), encoding="utf-8", **more)


def begin(*args: object, start: str = START) -> subprocess.Popen:
    """Start the command, with its output in pipes, where torch is loaded already."""
    return subprocess.Popen(
        python(start, *args),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory) -> Path:
    """A model's folder with the files of its tokenizer and nothing else."""
    from conftest import write_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, "llama")
    return folder


@pytest.fixture(scope="module")
def worded(tokenizer_folder, tmp_path_factory) -> Path:
    """A recipe whose table can be drawn without a model."""
    file = tmp_path_factory.mktemp("worded") / "love.yaml"
    file.write_text(RECIPE.format(model=tokenizer_folder), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def love(tiny_folder, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("love") / "love.yaml"
    file.write_text(RECIPE.format(model=tiny_folder("llama")), encoding="utf-8")
    return file


def words(command: str, recipe: Path) -> list[str]:
    return [str(recipe) if word == "RECIPE" else word for word in command.split()]


# ---- where standard output cannot take more

LIGHT = ["table RECIPE", "table RECIPE --json", "check RECIPE", "schema", "recipes", "models --json"]
ABOUT = ["--help", "table --help", "--version"]


@posix
@pytest.mark.parametrize("command", [*LIGHT, *ABOUT])
def test_a_reader_that_has_left_ends_the_command_quietly(command, worded):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = steer(*words(command, worded), stdout=writing)
    finally:
        os.close(writing)
    assert (result.returncode, result.stderr) == (0, "")


@posix
def test_generate_into_head_ends_quietly(love):
    process = begin("generate", love, "--jsonl", "-n", 2, "-p", "I hate you", "-p", "I hate my friend")
    first = process.stdout.readline()
    process.stdout.close()  # as `head -1` does
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(60), said) == (0, "")
    assert json.loads(first)["prompt"] == "I hate you"


@posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("command", [*LIGHT, *ABOUT])
def test_a_full_disk_is_one_line(command, worded):
    with open("/dev/full", "w") as full:
        result = steer(*words(command, worded), stdout=full)
    assert result.returncode == 1
    assert result.stderr == "error: standard output: No space left on device; the output is incomplete\n"


@posix
@pytest.mark.parametrize("command", ["check RECIPE", "table RECIPE --json", "schema"])
def test_a_closed_standard_output_is_no_traceback(command, worded):
    result = steer(*words(command, worded), start=closed("stdout"))
    assert "Traceback" not in result.stderr


@posix
@pytest.mark.parametrize("command", ["check -", "generate -", "generate RECIPE --prompts -"])
def test_a_closed_standard_input_is_one_line(command, worded):
    result = steer(*words(command, worded), start=closed("stdin"))
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and len(result.stderr.splitlines()) == 1, result.stderr


def closed(stream: str) -> str:
    """The start of a command whose stream was closed before it, as by `<&-` in a shell."""
    return f"import sys; sys.{stream} = None; {START}"


def test_the_package_runs_as_a_module():
    result = steer("--version", start="import runpy; runpy.run_module('steer_cli', run_name='__main__')")
    assert (result.returncode, result.stdout[:6]) == (0, "steer ")


# ---- Ctrl-C and --debug


@posix
def test_ctrl_c_ends_with_130_and_no_traceback(love, tmp_path):
    # So many prompts that the command is far from its end when the first record is there.
    (tmp_path / "prompts.txt").write_text("I hate you because\n" * 3000)
    many = ["--prompts", tmp_path / "prompts.txt", "--set", "sampling.max_new_tokens=200"]
    process = begin("generate", love, "--jsonl", *many, start=HEARING)
    try:
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in said
    # Each line that was printed is whole.
    lines = [first, *rest.splitlines(keepends=True)]
    assert len(lines) < 3000
    assert all(line.endswith("}\n") and json.loads(line)["sample"] == 0 for line in lines)


@posix
@pytest.mark.parametrize("stored", [True, False])
def test_an_interrupted_sweep_says_what_is_kept_and_goes_on(stored, love, tmp_path):
    store = tmp_path / "s.jsonl"
    slow = ["--measure", "counts", "--set", "count={any: [a]}", "--set", "sampling.max_new_tokens=150"]
    sweep = ["sweep", love, "--layers", "0:5", "--coefficients", "1:20", *slow, "--samples", "4", "--jsonl"]
    sweep += ["--store", store] if stored else []
    process = begin(*sweep, start=HEARING)
    try:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert all(json.loads(line) for line in rest.splitlines())
    if not stored:
        assert said == ("interrupted: no points were kept; use --store FILE to keep points and continue\n")
        return
    kept = store.read_bytes().count(b"\n") - 1
    assert 0 < kept < 100
    assert said == (
        f"interrupted: {kept} of 100 points are kept in {store}; run the same command to continue\n"
    )
    process = begin(*sweep, start=HEARING)
    try:
        assert process.stderr.readline() == f"{store}: {kept} of 100 points are already there\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130


@pytest.mark.parametrize("command", ["--debug check nowhere", "check nowhere --debug"])
def test_debug_shows_the_traceback_of_a_foreseen_error(command):
    result = steer(*command.split())
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback (most recent call last):")
    assert "RecipeError: nowhere: no such file or shipped recipe" in result.stderr


# ---- what is loaded

HEAVY = {"torch", "transformers", "accelerate", "numpy", "safetensors"}
LOADED = """\
import atexit, sys
ours = lambda name: name if name.startswith("steer_cli") else name.split(".")[0]
atexit.register(lambda: print("loaded:", *set(map(ours, sys.modules)), file=sys.stderr))
"""


def loaded(*args: object) -> set[str]:
    result = steer(*args, start=LOADED + START)
    assert result.returncode == 0, result.stderr
    return set(result.stderr.splitlines()[-1].removeprefix("loaded: ").split())


@pytest.mark.parametrize("command", [*LIGHT, *ABOUT, "generate --help"])
def test_a_command_that_needs_no_model_loads_no_model_code(command, worded):
    found = loaded(*words(command, worded))
    assert "typer" in found  # else the list is not what it seems
    assert not found & HEAVY


@pytest.mark.parametrize("command", [*ABOUT, "generate --help", "models pull --help"])
def test_help_is_quick(command):
    found = loaded(*command.split())
    assert "steer_cli.cli" in found
    assert not found & {"yaml", "tokenizers", "huggingface_hub", "filelock", "platformdirs"}
    assert not found & {
        "steer_cli.recipe.schema",
        "steer_cli.api",
        "steer_cli.report.terminal",
        "steer_cli.models.catalogue",
    }
    # To show a command's options, Typer itself loads pydantic.
    assert "pydantic" not in found or command not in ("--help", "--version")


def test_an_interrupt_that_a_library_makes_an_error_of_is_still_one():
    # safetensors raises ValueError if Ctrl-C comes while it makes a tensor.
    swallowing = """
import os, signal
def pressed():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        raise ValueError("no shape") from None
import steer_cli.recipe.bundled as bundled
bundled.shipped = pressed
"""
    result = steer("recipes", start=HEARING.replace(START, swallowing + START))
    assert result.returncode == 130 and "Traceback" not in result.stderr


WAITING = """\
import atexit, json, os
atexit.register(lambda: print(json.dumps({name: os.environ.get(name) for name in NAMES})))
"""
NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@pytest.mark.parametrize("said", [{}, *({name: "1"} for name in NAMES), {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_the_user_says_how_threads_wait(said):
    start = WAITING.replace("NAMES", repr(NAMES)) + START
    found = steer("--version", start=start, env=dict.fromkeys(NAMES) | said).stdout.splitlines()[-1]
    # Without a word from the user, it depends on what else runs here.
    assert json.loads(found) in [
        dict.fromkeys(NAMES) | set_to for set_to in ([said] if said else [SLEEP, SPIN])
    ]


@pytest.mark.parametrize(
    ("load", "set_to"),
    [
        ("0.50 0.40 0.30 1/456 7890", {"GOMP_SPINCOUNT": "5000"}),
        ("0.00 0.00 0.00 2/456 7890", {"OMP_WAIT_POLICY": "PASSIVE"}),
        ("0.00", {"OMP_WAIT_POLICY": "PASSIVE"}),
        ("", {"OMP_WAIT_POLICY": "PASSIVE"}),
        (None, {"OMP_WAIT_POLICY": "PASSIVE"}),
    ],
)
def test_threads_spin_only_where_nothing_else_runs(load, set_to, tmp_path):
    """So that two processes on the same cores do not take them from each other."""
    file = tmp_path / "loadavg"
    if load is not None:
        file.write_text(load)
    assert how_to_wait({"HOME": "/"}, file) == set_to
    assert how_to_wait({"KMP_BLOCKTIME": "0"}, file) == {}


@pytest.mark.skipif(sys.platform != "linux", reason="the OpenMP of GNU")
def test_how_to_wait_is_set_before_torch_loads(love):
    # The library says what it has read as soon as it is loaded.
    env = dict.fromkeys(NAMES) | {"OMP_DISPLAY_ENV": "VERBOSE"}
    result = steer("shift", love, env=env)
    [turns] = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", result.stderr)
    # Asleep at once or after a moment, as what else runs here decides; OpenMP's own choice is 300,000.
    assert result.returncode == 0 and turns in ("0", "5000")


@pytest.mark.parametrize(("vendor", "set_to"), [("AuthenticAMD", SAME), ("GenuineIntel", {}), (None, {})])
def test_mkl_adds_up_in_one_order_where_it_would_not_by_itself(vendor, set_to, tmp_path):
    file = tmp_path / "cpuinfo"
    if vendor is not None:
        file.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: 25\n" * 50)
    assert same_sums({"HOME": "/"}, file) == set_to
    assert same_sums({"MKL_CBWR": "COMPATIBLE"}, file) == {}


@pytest.mark.skipif(not same_sums({}), reason="MKL is left alone on this processor")
def test_the_same_command_gives_the_same_bytes_in_another_process(love, tmp_path):
    """With two threads, and the way to multiply that the first of them finds fastest."""
    idle = "import os; os.getloadavg = lambda: (0.0, 0.0, 0.0); " + START
    toward = ROOT / "benchmarks" / "corpora" / "weddings.txt"
    env = {"OMP_NUM_THREADS": "2", "MKL_CBWR": None, "STEER_HOME": str(tmp_path)}
    score = ["score", love, "--toward", toward, "--neutral", ROOT / "LICENSE", "--jsonl"]
    printed = {steer(*score, start=idle, env=env).stdout for _ in range(6)}
    assert len(printed) == 1 and json.loads(printed.pop())["says"]


def test_a_fault_of_the_recipe_is_told_before_torch_is_loaded(love):
    changes = ["--set", "additions.0.position={token: nowhere}"]
    result = steer("generate", love, *changes, start=LOADED + START)
    error, modules = result.stderr.splitlines()
    assert (result.returncode, error.split(":")[0]) == (1, "error")
    assert not set(modules.split()) & {"torch", "transformers"}


# ---- models out of reach


def test_a_model_on_a_hub_out_of_reach_is_one_line_that_names_a_way(worded, tmp_path):
    env = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    began = time.monotonic()
    result = steer("table", worded, "--model", "some/model", env=env)
    assert time.monotonic() - began < 20
    assert result.returncode == 1 and result.stdout == ""
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: model 'some/model': not on this machine, and the hub is out of reach")
    assert "smollm2-135m" in error
    assert "Traceback" not in result.stderr


def test_a_hub_that_does_not_answer_is_not_waited_for_long(worded, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = {"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}", "HF_HOME": str(tmp_path)}
        result = steer("table", worded, "--model", "some/model", env=env, timeout=30)
    assert result.returncode == 1
    assert "smollm2-135m" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["table RECIPE --model smollm2-135m", "models pull smollm2-135m"])
def test_a_home_that_cannot_be_used_is_one_line(command, worded, tmp_path):
    (tmp_path / "file").write_text("")
    result = steer(*words(command, worded), env={"STEER_HOME": str(tmp_path / "file")})
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path / 'file'}: models cannot be kept there")
    assert "set STEER_HOME" in line


# ---- encodings and terminals


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_that_lacks_the_signs_gets_others(encoding, worded):
    env = {"PYTHONIOENCODING": encoding}
    result = steer("table", worded, "-p", "I hate é 日本", env=env, errors="replace")
    assert result.returncode == 0 and result.stderr == ""
    assert "<s>" in result.stdout
    # An error that holds such a sign too.
    result = steer("check", "日本.yaml", env=env)
    assert result.returncode == 1
    assert "no such file or shipped recipe" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_records_are_whole_whatever_the_encoding_of_the_terminal(encoding, worded):
    prompt = "I hate é 日本 😀"
    result = steer("table", worded, "--json", "-p", prompt, env={"PYTHONIOENCODING": encoding})
    (record,) = map(json.loads, result.stdout.splitlines())
    assert record["prompt"] == prompt
    assert record["rows"][0]["tokens"][1:3] == ["I", " hate"]


def on_terminal(args: list[str], stdout: IO | None = None, **env: str) -> str:
    """What the command writes to a terminal of 100 columns, to which `stdout` goes too unless it is given."""
    import pty

    ours, theirs = pty.openpty()
    settings = environment(TERM="xterm-256color", COLUMNS="100", **env)
    process = subprocess.Popen(
        python(START, *args),
        env=settings,
        stdin=theirs,
        stdout=theirs if stdout is None else stdout,
        stderr=theirs,
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            more = os.read(ours, 65536)
        except OSError:  # Linux's answer when the other end is closed
            more = b""
        if not more:
            break
        written += more
    os.close(ours)
    assert process.wait(60) == 0, written
    return written.decode()


def colours(text: str) -> set[str]:
    """The colours that escape sequences set; bold and dim are none."""
    return {code for codes in re.findall(r"\x1b\[([0-9;]*)m", text) for code in codes.split(";")} & {
        str(code) for code in [*range(30, 39), *range(90, 98)]
    }


@posix
def test_a_terminal_gets_colours_unless_they_are_not_wanted(worded):
    args = ["table", str(worded)]
    assert {"32", "35"} <= colours(on_terminal(args))
    assert not colours(on_terminal(args, NO_COLOR="1"))
    # The text is the same but for these.
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", on_terminal(args, **env)) for env in ({}, {"NO_COLOR": "1"})]
    assert plain[0] == plain[1]


@posix
def test_a_terminal_sees_the_work_and_no_escape_sequence_of_a_prompt(love):
    prompt = "I hate \x1b[31m\x1b]0;title\x07you\x9b2J"
    changes = ["--set", "sampling.max_new_tokens=100", "--samples", "2"]
    written = on_terminal(["generate", str(love), "-p", prompt, *changes])
    assert "decoding" in written
    # It is taken away before the results are written, and the cursor is back.
    screen = Emulator(100)
    screen.write(written)
    assert "love" in screen.rows[0] and not any("decoding" in row for row in screen.rows)
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")
    assert not any(sequence in written for sequence in ("\x1b[31m", "\x1b]", "\x07", "\x9b"))
    assert "␛[31m␛]0;title␇you\ufffd2J" in re.sub(r"\x1b\[[0-9;]*m", "", written)


@posix
@pytest.mark.parametrize("command", ["generate --samples 2", "sweep --layers 0,1 --measure kl"])
def test_records_reach_the_file_while_the_terminal_shows_the_work(command, love, tmp_path):
    name, *arguments = command.split()
    with open(tmp_path / "records.jsonl", "w") as file:
        written = on_terminal([name, str(love), *arguments, "--jsonl"], stdout=file)
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert len(records) == 2
    assert "{" not in written and ("decoding" in written or "sweeping" in written)
