"""`steer generate` on a terminal: completions grow, and are gone when the results are printed."""

import json
import os
import signal
import struct
import subprocess
import time
from functools import cache
from pathlib import Path

import pytest
from emulator import Emulator
from forked import python

from steer_cli.report.printable import visible

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.name == "nt", reason="terminals of POSIX")

# A shell that runs these tests in the background has them ignore Ctrl-C, and so would their children.
START = """\
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv[0] = "steer"
from steer_cli.cli import main
"""
FAILING = """\
import time
from steer_cli.decoding.batch import Batch
from steer_cli.errors import SteerError
forward, passes = Batch._forward, []
def failing(batch, tokens):
    passes.append(1)
    time.sleep(0.02)  # so that something is drawn before, also where the machine is busy
    if len(passes) > 30:
        raise SteerError("it broke")
    forward(batch, tokens)
Batch._forward = failing
"""
SLOW = """\
import time
from steer_cli.decoding.batch import Batch
forward = Batch._forward
def slowly(batch, tokens):
    time.sleep(0.02)
    forward(batch, tokens)
Batch._forward = slowly
"""


def environment(**more):
    unwanted = ("HF_", "PYTHON", "FORCE_", "NO_COLOR", "COLUMNS", "LINES", "XTERM_VERSION")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"} | more


class Terminal:
    """The command on a terminal, what it has written, and the screen that this makes."""

    def __init__(self, *args, size=(100, 30), before="", stdout=None, stderr=None, **env):
        import pty

        self._ours, theirs = pty.openpty()
        self.resize(*size)
        self.written, self.screen = "", Emulator(size[0])
        self._rest = b""
        self.process = subprocess.Popen(
            python(f"{START}{before}main()", *args),
            env=environment(**{"TERM": "xterm-256color", **env}),
            stdin=theirs,
            stdout=theirs if stdout is None else stdout,
            stderr=theirs if stderr is None else stderr,
        )
        os.close(theirs)

    def resize(self, columns, lines):
        import fcntl
        import termios

        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self):
        """Read what has been written since; False at its end."""
        try:
            more = os.read(self._ours, 65536)
        except OSError:  # Linux's answer when the other end is closed
            return False
        # A code that is cut in two is read when it is whole.
        whole, sign, rest = (self._rest + more).rpartition(b"\x1b")
        self._rest = sign + rest
        self._write(whole)
        return bool(more)

    def _write(self, some):
        text = some.decode(errors="replace")
        self.written += text
        self.screen.write(text)

    def until(self, seen):
        """Read until the screen is as asked."""
        while not seen(self.screen.rows):
            assert self.read(), self.written

    def end(self):
        """Its exit code."""
        while self.read():
            pass
        self._write(self._rest)
        os.close(self._ours)
        return self.process.wait(60)


@pytest.fixture(scope="module")
def love(tiny_folder, tmp_path_factory):
    file = tmp_path_factory.mktemp("love") / "love.yaml"
    recipe = {
        "name": "love",
        "prompt": "I hate you because",
        "model": str(tiny_folder("llama")),
        "additions": [{"plus": "Love", "minus": "Hate", "layer": 2, "coefficient": 3}],
        "sampling": {"max_new_tokens": 200, "samples": 2, "seed": 3},
    }
    file.write_text(json.dumps(recipe))
    return file


def counts(rows):
    """Whether the last line says how many completions are done."""
    return rows[-1].startswith("decoding: ") and rows[-1].endswith(" completions done")


def first_row(rows):
    """The first row of the growing texts."""
    return next((rows[index + 1] for index, row in enumerate(rows) if row.startswith("───")), "")


@cache
def plain(*args, width=100):
    """The screen of a terminal on which nothing grows."""
    size = {"size": (width, 30), "COLUMNS": str(width), "LINES": "30"}  # which rich doubts if it is dumb
    terminal = Terminal(*args, TERM="dumb", stderr=subprocess.DEVNULL, **size)
    assert terminal.end() == 0
    assert not any("decoding" in row for row in terminal.screen.rows)
    return terminal.screen.rows


def records(*args):
    command = python(f"{START}main()", *args, "--jsonl")
    done = subprocess.run(command, env=environment(), capture_output=True, timeout=60, check=True)
    assert b"\x1b" not in done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_first_tokens_are_seen_long_before_the_command_ends(love):
    changes = ["--set", "sampling.max_new_tokens=60"]
    first = records("generate", love, *changes)[0]
    terminal = Terminal("generate", love, *changes, before=SLOW)
    terminal.until(lambda rows: counts(rows) and first_row(rows)[:47].strip() and first_row(rows)[51:])
    assert terminal.process.poll() is None
    rows = terminal.screen.rows
    assert rows[-1].startswith("decoding: 0 of 4 ")
    body = first_row(rows)
    for start, arm in ((0, "unsteered"), (51, "steered")):
        shown = body[start : start + 47].strip()
        assert shown and visible(first[arm]["text"]).lstrip().startswith(shown[:20].rstrip())
    assert terminal.end() == 0
    assert terminal.screen.rows == plain("generate", love, *changes)
    assert terminal.screen.cursor_shown


CASES = {
    "prompts": ["-p", "I hate you", "-p", "The wedding", "--batch-rows", "2", "-n", "1"],
    "a control": ["--control", "random"],
    "plain prompting": ["--control", "prompt", "--batch-rows", "2"],
    "a long prompt": ["-p", "I went up to my friend and said that " * 4],
    "an escape sequence": ["-p", "I hate \x1b[31m\x1b]0;title\x07you\x9b2J"],
}


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_left_of_what_was_seen(case, love):
    terminal = Terminal("generate", love, *CASES[case], size=(60, 30))
    assert terminal.end() == 0
    assert "completions done" in terminal.written
    assert terminal.screen.rows == plain("generate", love, *CASES[case], width=60)
    assert terminal.screen.cursor_shown


@pytest.mark.parametrize("size", [(20, 30), (100, 5), (20, 5), (100, 1), (3, 3)])
def test_a_small_window_is_large_enough(size, love):
    terminal = Terminal("generate", love, size=size)
    assert terminal.end() == 0
    assert "\x1b[1A" in terminal.written or min(size) < 4
    assert terminal.screen.rows == plain("generate", love, width=size[0])


def test_no_colour_is_no_hindrance(love):
    terminal = Terminal("generate", love, NO_COLOR="1")
    assert terminal.end() == 0 and "completions done" in terminal.written
    assert terminal.screen.rows == plain("generate", love)


def test_standard_error_may_be_elsewhere(love, tmp_path):
    with open(tmp_path / "errors", "w") as errors:
        terminal = Terminal("generate", love, stderr=errors)
        assert terminal.end() == 0 and "completions done" in terminal.written
    assert terminal.screen.rows == plain("generate", love)
    assert (tmp_path / "errors").read_text() == ""


def test_standard_output_may_be_elsewhere(love, tmp_path):
    with open(tmp_path / "results", "w") as results:
        terminal = Terminal("generate", love, stdout=results, COLUMNS="100")
        assert terminal.end() == 0
    assert "completions done" not in terminal.written and "decoding" in terminal.written
    assert terminal.screen.rows == [""]
    lines = [line.rstrip() for line in (tmp_path / "results").read_text().rstrip().split("\n")]
    assert lines == plain("generate", love)


def test_records_on_a_terminal_do_not_grow(love):
    terminal = Terminal("generate", love, "--jsonl", size=(40_000, 30))
    assert terminal.end() == 0
    assert "completions done" not in terminal.written
    lines = [row for row in terminal.screen.rows if row.startswith("{")]
    assert [json.loads(line) for line in lines] == records("generate", love)


def test_a_dumb_terminal_gets_the_results_alone(love):
    assert "\x1b" not in "".join(plain("generate", love))


def test_a_window_may_be_resized(love):
    terminal = Terminal("generate", love, "-p", "I hate you", "-p", "I hate my friend")
    terminal.until(counts)
    for size in ((40, 10), (120, 40), (20, 5), (100, 30)):
        terminal.resize(*size)
        time.sleep(0.15)
    assert terminal.end() == 0
    assert terminal.screen.cursor_shown


def title_of(rows):
    """The rows above the completions, up to that of the addition; the model's path may need several."""
    return rows[: 1 + next(index for index, row in enumerate(rows) if "layer 2, front" in row)]


def test_ctrl_c_leaves_a_sane_terminal(love):
    terminal = Terminal("generate", love, "--set", "sampling.max_new_tokens=240", "-n", "40")
    terminal.until(counts)
    title = title_of(terminal.screen.rows)
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 130
    assert terminal.screen.cursor_shown and terminal.written.endswith("\x1b[?25h")
    assert terminal.screen.rows == title and title[0].startswith("love")


def test_an_error_stands_on_a_clean_screen(love):
    terminal = Terminal("generate", love, before=FAILING)
    assert terminal.end() == 1
    assert "completions done" in terminal.written
    *title, error = terminal.screen.rows
    assert (title[0][:4], title_of(title), error) == ("love", title, "error: it broke")
    assert terminal.screen.cursor_shown


def test_a_warning_stands_above_what_grows(love):
    warning = FAILING.replace("raise SteerError(", "import warnings; warnings.warn(")
    terminal = Terminal("generate", love, before=warning)
    assert terminal.end() == 0
    rows = terminal.screen.rows
    assert any("UserWarning: it broke" in row for row in rows)
    kept = [row for row in rows if "it broke" not in row and "passes.append" not in row]
    assert "decoding" not in "".join(kept)
