"""Write docs/generate.svg: the screen of `steer generate`, as the README shows it.

Run `.venv/bin/python docs/picture.py` after changing the screen or the recipe.
"""

from pathlib import Path

from rich.console import Console

from steer_cli.api import generate, load_model, load_recipe
from steer_cli.report import terminal

WIDTH = 100


def main() -> None:
    console = Console(
        record=True, width=WIDTH, highlight=False, markup=False, emoji=False, force_terminal=True
    )
    recipe = load_recipe("love-hate")
    for comparison in generate(load_model(recipe.model, device="cpu"), recipe):
        console.print(terminal.title(comparison.recipe, comparison.model))
        for part in terminal.comparison_parts(comparison, WIDTH):
            console.print(part)
    console.save_svg(str(Path(__file__).with_name("generate.svg")), title="steer generate love-hate")


if __name__ == "__main__":
    main()
