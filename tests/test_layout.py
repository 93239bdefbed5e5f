"""The house: imports go down one list, heavy libraries stay in their rooms, no file has two of them."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "steer_cli"
FILES = sorted(PACKAGE.rglob("*.py"))

# A folder is a stage: its files may import each other, and what stands above it. Results stand above what
# makes them, so that every stage may give them back; models stand below decoding, which checks them when they
# are loaded.
ORDER = [
    *("version", "errors", "events", "recipe", "exchange", "planning", "results"),
    *("networks", "activations", "decoding", "models"),
    *("workers", "measure", "exports", "sweeps", "run_plan", "tuning", "api"),
    *("report", "cli", "__main__"),
]
# All that report knows: plain data.
SHOWN = {"version", "errors", "events", "recipe", "planning", "results", "report"}
WITH_TORCH = {
    *("models", "networks", "activations", "decoding", "measure", "exports", "sweeps", "run_plan"),
    *("tuning", "api"),
}
ROOMS = {  # library -> the only places that import it
    "torch": WITH_TORCH,
    "transformers": {"models"},
    "typer": {"cli"},
    "rich": {"cli", "report"},
    "yaml": {"recipe"},
    "pydantic": {"recipe"},
    "tokenizers": {"planning"},
    "jinja2": {"planning"},
    "huggingface_hub": {"models"},
    "ray": {"workers"},
}
LIGHT = {"version", "errors", "events", "recipe", "planning", "results"}


def place(file: Path) -> str:
    """The name in ORDER that a file belongs to."""
    first = file.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(file: Path) -> list[tuple[str, int]]:
    """Every module that a file imports, inside functions too, with the line; relative ones made absolute."""
    found = []
    package = ["steer_cli", *file.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            # `from steer_cli import run` imports a module, `from steer_cli.api import plan` a name of one.
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "steer_cli" else [module]
            found += [(name, node.lineno) for name in names]
    return found


def inside(file: Path) -> list[tuple[str, int]]:
    """The places of ORDER that a file imports from; the package itself, which is above all of them, is ""."""
    modules = [(name.partition("."), line) for name, line in imports(file)]
    return [(below.split(".")[0], line) for (package, _, below), line in modules if package == "steer_cli"]


def names(files: list[Path]) -> list[str]:
    return [str(file.relative_to(PACKAGE)) for file in files]


@pytest.mark.parametrize("file", FILES, ids=names(FILES))
def test_imports_go_down(file):
    here = place(file)
    if here == "__init__":
        return  # the public face, which loads what it names when it is asked for
    # A new module takes its place in the order first.
    assert {here, *(there for there, _ in inside(file))} <= {*ORDER}
    for there, line in inside(file):
        folder = (PACKAGE / there).is_dir() and there == here
        assert folder or ORDER.index(there) < ORDER.index(here), f"{file.name}:{line} imports {there}"


def test_the_order_holds_no_name_twice():
    assert len(set(ORDER)) == len(ORDER)


@pytest.mark.parametrize("file", FILES, ids=names(FILES))
def test_libraries_stay_in_their_rooms(file):
    for name, line in imports(file):
        rooms = ROOMS.get(name.split(".")[0])
        assert rooms is None or place(file) in rooms, f"{file.name}:{line} imports {name}"


@pytest.mark.parametrize("file", [file for file in FILES if place(file) in LIGHT], ids=place)
def test_what_the_alignment_table_needs_imports_no_model_code(file):
    heavy = {"torch", "transformers", "accelerate", "safetensors", "numpy"}
    assert not [name for name, _ in imports(file) if name.split(".")[0] in heavy]


@pytest.mark.parametrize(
    "file", [file for file in FILES if place(file) == "report"], ids=lambda file: file.stem
)
def test_report_takes_plain_data(file):
    assert {there for there, _ in inside(file)} <= SHOWN


@pytest.mark.parametrize("file", FILES, ids=names(FILES))
def test_no_module_imports_click(file):
    # Typer brings its own.
    assert not [name for name, _ in imports(file) if name.split(".")[0] == "click"]


@pytest.mark.parametrize("file", FILES, ids=names(FILES))
def test_a_module_says_what_it_is_for_is_no_attic_and_short_enough_to_read(file):
    text = file.read_text(encoding="utf-8")
    assert (ast.get_docstring(ast.parse(text)) or "").strip()
    assert not {"utils", "util", "common", "core", "helpers", "helper", "manager", "misc"} & {
        part.removesuffix(".py") for part in file.relative_to(PACKAGE).parts
    }
    assert len(text.splitlines()) <= 260


@pytest.mark.parametrize("file", FILES, ids=names(FILES))
def test_a_function_is_short_enough_to_read(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < 60, f"{file.name}:{node.lineno} {node.name}"


def test_each_command_is_one_file_of_its_name():
    import typer

    from steer_cli.cli import app

    commands = set(typer.main.get_command(app).commands)
    assert commands == {file.stem for file in (PACKAGE / "cli").glob("*.py")} - {
        "__init__",
        "changes",
        "direction",
        "inputs",
        "options",
        "plain_help",
        "output",
        "saving",
        "scanning",
        "unknown_option",
        "waiting",
    }


def test_the_files_that_the_tests_read_are_there():
    assert len(FILES) > 20
    assert {place(file) for file in FILES} >= {*ORDER}


def test_the_package_and_its_project_have_one_version():
    from steer_cli.version import __version__

    project = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{__version__}"\n' in project
