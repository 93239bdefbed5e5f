"""docs/files.md is true: its commands run from top to bottom, and its round trips give equal files."""

import filecmp
import re
import shlex
from pathlib import Path

from gguf import GGUFReader
from safetensors import safe_open

PAGE = (Path(__file__).parents[2] / "docs" / "files.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
FILE = re.compile(r"cat > (\S+) <<'END'\n(.*?)^END\n", re.DOTALL | re.MULTILINE)


def test_the_page_runs_and_its_files_have_the_keys_that_it_names(real_folder, command, tmp_path):
    lines = []
    for block in BLOCKS:
        for name, text in FILE.findall(block):
            (tmp_path / name).write_text(text, encoding="utf-8")
        lines += [part for line in FILE.sub("", block).splitlines() for part in line.split(" && ")]
    assert len(lines) == 8
    # In this process, as each of its own would load torch again.
    for line in lines:
        program, *words = shlex.split(line)
        if program == "cmp":
            assert filecmp.cmp(tmp_path / words[0], tmp_path / words[1], shallow=False), line
        else:
            code, _, err = command(*words)
            assert (program, code) == ("steer", 0), err
    fields = {name for name in GGUFReader(tmp_path / "gloom.gguf").fields if not name.startswith("GGUF.")}
    with safe_open(tmp_path / "love.safetensors", framework="np") as opened:
        fields |= set(opened.metadata())
    assert {name for name in fields if f"`{name}`" not in PAGE} == set()
