"""What a terminal shows of completions that grow: lines that fit, and nothing that stays."""

import io
import random
import sys
import time

import pytest
from emulator import Emulator
from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from steer_cli.report import live
from steer_cli.report.folding import GrowingText, cells_of
from steer_cli.report.growing import GrowingColumns
from steer_cli.report.live import Live
from steer_cli.report.progress import Display
from steer_cli.report.region import AboveRegion, Region
from steer_cli.results import Partial

PROSE = (
    "The ship sailed to Rome with a cargo of salt, wine and stone.\n\nTo see the tower in Paris, people"
    " flock to France;  to see extraordinarilylongwordswithoutanyspacesinthem, people go to Rome.\n - "
    "日本語の文章は空白なしに続きます。 One 😀 two ❤️ three.\n"
)


# ---- text in lines


@pytest.mark.parametrize("width", [2, 3, 8, 20, 40, 200])
def test_growing_text_is_folded_as_if_it_had_come_at_once(width):
    growing = GrowingText()
    for end in range(len(PROSE) + 1):
        lines = growing.lines(PROSE[:end], width)
        assert lines == GrowingText().lines(PROSE[:end], width)
        assert all(cells_of(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == PROSE.replace(" ", "").replace("\n", "")


@pytest.mark.parametrize("width", [8, 20, 40, 200])
def test_words_are_folded_where_rich_folds_them(width):
    prose = PROSE.replace("\ufe0f", "")
    console = Console(file=io.StringIO(), width=width)
    wanted = [line.plain.rstrip() for line in Text(prose).wrap(console, width, overflow="fold")]
    assert GrowingText().lines(prose, width) == wanted


def test_folding_goes_over_the_new_part_alone():
    growing, text, times = GrowingText(), "", []
    for _ in range(3000):
        text += " word"
        started = time.perf_counter()
        growing.lines(text, 40)
        times.append(time.perf_counter() - started)
    assert sorted(times[-500:])[250] < 0.001


def test_a_text_that_is_another_one_or_another_width_begins_anew():
    growing = GrowingText()
    growing.lines("one two three", 7)
    assert growing.lines("one two three four", 9) == ["one two", "three", "four"]
    assert growing.lines("eins zwei", 9) == ["eins zwei"]


def test_what_a_model_writes_reaches_no_terminal_as_a_code():
    (line,) = GrowingText().lines("a\x1b[31m\x9b\u202eb\tc", 40)
    assert line == "a␛[31m\ufffd\ufffdb    c"


# ---- lines in a window


def shown(partial, width, height, columns=None):
    lines = (columns or GrowingColumns()).lines(partial, "decoding: 1 of 6 completions done", width, height)
    return ["".join(segment.text for segment in line) for line in lines]


def two(unsteered="", steered="", prompt="I hate you because"):
    return Partial(0, prompt, {"unsteered": unsteered, "steered": steered})


def test_the_whole_view():
    assert shown(two(" you are late.", " I love you\nso much."), 42, 24) == [
        "",
        "I hate you because …",
        "unsteered             steered",
        "─" * 41,
        "you are late.         I love you",
        "                      so much.",
        "decoding: 1 of 6 completions done",
    ]


@pytest.mark.parametrize("width", [1, 2, 3, 5, 20, 100])
@pytest.mark.parametrize("height", [1, 2, 3, 4, 5, 8, 24])
@pytest.mark.parametrize("names", [("unsteered", "steered"), ("unsteered", "steered", "control: random")])
def test_any_window_is_large_enough(width, height, names):
    columns = GrowingColumns()
    for end in range(0, len(PROSE), 7):
        lines = shown(Partial(0, PROSE[:40], dict.fromkeys(names, PROSE[:end])), width, height, columns)
        assert 1 <= len(lines) <= max(1, height - 1)
        assert all(cells_of(line) <= max(1, width - 1) for line in lines)


def test_of_a_text_that_is_too_long_the_end_is_shown():
    text = "".join(f" word{number}" for number in range(500))
    lines = shown(two(text, " short"), 60, 5)
    assert len(lines) == 4
    assert "word499" in lines[-2] and "short" in lines[1]
    assert "word0 " not in "".join(lines)


# ---- a region of a terminal


class Screen(io.StringIO):
    """What rich takes for a terminal."""

    def __init__(self, emulator):
        super().__init__()
        self.emulator, self.written = emulator, ""

    def write(self, text):
        self.emulator.write(text)
        self.written += text
        return len(text)

    def isatty(self):
        return True


@pytest.fixture
def opened(monkeypatch):
    """A function: columns -> a terminal that has a line of something else, a console on it, a region."""
    for name in ("XTERM_VERSION", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")

    def on(width, folds=True):
        emulator = Emulator(width, folds)
        emulator.write("$ steer\n")
        console = Console(file=Screen(emulator), force_terminal=True, width=width, height=30)
        return emulator, console, Region(console)

    return on


def lines_of(*texts):
    return [[Segment(text)] if text else [] for text in texts]


def test_a_region_shows_the_newest_lines_and_leaves_nothing(opened):
    emulator, _, region = opened(20)
    chance = random.Random(0)
    for _ in range(300):
        texts = [chance.choice(["", "a", "b" * 19, "c c"]) for _ in range(chance.randint(1, 8))]
        region.draw(lines_of(*texts, "end"))
        assert emulator.rows == ["$ steer", *texts, "end"]
        assert not emulator.cursor_shown
        if chance.random() < 0.1:
            region.clear()
            assert emulator.rows == ["$ steer"] and emulator.cursor_shown
    region.clear()
    region.clear()
    emulator.write("result")
    assert emulator.rows == ["$ steer", "result"] and emulator.cursor_shown


def test_lines_that_stay_are_not_written_again(opened):
    _, console, region = opened(40)
    region.draw(lines_of("first", "second", "state"))
    before = len(console.file.written)
    region.draw(lines_of("first", "second one", "state"))
    assert "first" not in console.file.written[before:]


@pytest.mark.parametrize("folds", [True, False])
@pytest.mark.parametrize("then", ["draw", "clear"])
def test_a_window_of_another_width_keeps_nothing(folds, then, opened, monkeypatch):
    if not folds:
        monkeypatch.setenv("XTERM_VERSION", "XTerm(390)")
    for widths in ([60, 25, 31, 90], [60, 20, 10, 60], [30, 80, 29]):
        emulator, console, region = opened(widths[0], folds)
        region.draw(lines_of("", "─" * (widths[0] - 1), "x" * (widths[0] - 1), "state"))
        for width in widths[1:]:
            emulator.resize(width)
            console.width = width
            if then == "draw":
                region.draw(lines_of("", "─" * (width - 1), "y", "state"))
                assert emulator.rows == ["$ steer", "", "─" * (width - 1), "y", "state"]
        region.clear()
        assert emulator.rows == ["$ steer"] and emulator.cursor_shown


def test_another_stream_writes_whole_lines_in_place_of_the_region(opened):
    emulator, console, region = opened(40)
    errors = AboveRegion(console.file, region)
    region.draw(lines_of("one", "state"))
    errors.write("a warn")
    assert emulator.rows == ["$ steer", "one", "state"]
    errors.write("ing\nof two lines\nand")
    assert emulator.rows == ["$ steer", "a warning", "of two lines"]
    region.draw(lines_of("one", "state"))
    region.clear()
    errors.close()
    assert emulator.rows == ["$ steer", "a warning", "of two lines", "and"]
    assert errors.isatty()


# ---- the view of a run


@pytest.fixture
def streams(opened, monkeypatch):
    """A function that puts standard output and error on a terminal of 60 columns."""

    def open_terminal():
        emulator, console, _ = opened(60)
        monkeypatch.setattr(sys, "stdout", console.file)
        monkeypatch.setattr(sys, "stderr", console.file)
        monkeypatch.setattr(live, "console", lambda: console)
        return emulator

    return open_terminal


def soon(condition):
    until = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_the_last_state_is_shown_though_nothing_follows(streams):
    terminal = streams()
    with Live(Display()) as view:
        for text in (" a", " a b", " a b c"):
            view.watch(two(text, text))
            view.progress("decode", 2, 6)
        soon(lambda: ["a", "b", "c"] * 2 in [row.split() for row in terminal.rows])
        assert terminal.rows[-1] == "decoding: 2 of 6 completions done"
        view.clear()
        assert terminal.rows == ["$ steer"]
        print("result")
        view.progress("decode", 3, 6)  # not shown while there is no text
        view.watch(two(" of the second prompt"))
        soon(lambda: terminal.rows[-1] == "decoding: 3 of 6 completions done")
    assert terminal.rows == ["$ steer", "result"] and terminal.cursor_shown


def test_drawing_is_rare_and_soon(streams, monkeypatch):
    streams()
    drawn = []
    monkeypatch.setattr(Region, "draw", lambda *_: drawn.append(time.monotonic()))
    with Live(Display()) as view:
        began = time.monotonic()
        while time.monotonic() < began + 1:
            view.watch(two(f" {time.monotonic()}"))
            time.sleep(0.001)
    assert 3 <= len(drawn) <= 20
    assert drawn[0] - began < 0.5  # at once, but for a machine that is busy
    assert live.INTERVAL < 0.09  # so that a token is seen within 0.1 s


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_nothing_stays_after_an_error(error, streams):
    terminal = streams()
    before = sys.stderr
    with pytest.raises(error), Live(Display()) as view:
        view.watch(two(" a"))
        soon(lambda: len(terminal.rows) > 4)
        print("a warning", file=sys.stderr)
        raise error
    assert terminal.rows == ["$ steer", "a warning"] and terminal.cursor_shown
    assert sys.stderr is before


def test_a_terminal_that_has_gone_is_no_error_of_the_thread(streams, monkeypatch):
    terminal = streams()

    def gone(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Region, "draw", gone)
    with Live(Display()) as view:
        for count in range(5):
            view.watch(two(" a" * count))
            time.sleep(0.02)
    assert terminal.rows == ["$ steer"]


@pytest.mark.parametrize("reason", ["records", "a pipe", "dumb", "no output"])
def test_there_is_nothing_to_watch_where_nothing_can_be_drawn(reason, streams, monkeypatch):
    streams()
    if reason == "a pipe":
        monkeypatch.setattr(sys, "stdout", io.StringIO())
    elif reason == "no output":
        monkeypatch.setattr(sys, "stdout", None)
    elif reason == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    with Live(Display(), wanted=reason != "records") as view:
        assert view.watch is None
