"""docs/directions.md is true: its commands and its code run from top to bottom, in one folder."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "directions.md").read_text(encoding="utf-8")


def test_the_page_runs_from_top_to_bottom(tmp_path, real_folder):
    shim = tmp_path / "bin" / "steer"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m steer_cli "$@"\n')
    shim.chmod(0o755)
    path = f"{shim.parent}{os.pathsep}{os.environ['PATH']}"
    options = {"cwd": tmp_path, "env": {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}}
    blocks = re.findall(r"```(console|python)\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 5
    for language, block in blocks:
        line = ["sh", "-c", block] if language == "console" else [sys.executable, "-c", block]
        done = subprocess.run(line, capture_output=True, text=True, **options)
        assert done.returncode == 0, f"{block}\n{done.stderr}"
        assert done.stdout.strip() or language == "python"
