"""Python versions that pyproject.toml promises: all files compile, modules without dependencies import."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
VERSIONS = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PROJECT)
WITHOUT_PACKAGES = [
    *("steer_cli", "steer_cli.errors", "steer_cli.events", "steer_cli.recipe.quoting"),
    *("steer_cli.planning.json_file", "steer_cli.planning.token_files", "steer_cli.models.fingerprint"),
    "steer_cli.models.download",
]
SCRIPT = """\
import importlib, pathlib, sys, warnings
warnings.simplefilter("error")
for file in pathlib.Path("steer_cli").rglob("*.py"):
    compile(file.read_text(encoding="utf-8"), str(file), "exec")
for name in sys.argv[1:]:
    importlib.import_module(name)
print("%d.%d" % sys.version_info[:2])
"""


def interpreter(version: str) -> str | None:
    """A Python of this version on the machine, if there is one that starts."""
    if version == "%d.%d" % sys.version_info[:2]:  # noqa: UP031 - as in the script
        return sys.executable
    found = [shutil.which(f"python{version}")]
    found += sorted(map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python")))
    for name in filter(None, found):
        if subprocess.run([name, "--version"], capture_output=True).returncode == 0:
            return name
    return None


def test_the_lowest_version_is_the_required_one():
    assert f'requires-python = ">={VERSIONS[0]}"' in PROJECT


@pytest.mark.parametrize("version", VERSIONS)
def test_a_supported_version_compiles_and_imports(version):
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    # -I would hide PYTHONPATH too; -B writes no caches.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [python, "-B", "-c", SCRIPT, *WITHOUT_PACKAGES],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == version
