"""Write docs/generate-light.svg and -dark.svg: the screen of `steer generate`, as the README shows it.

Run `.venv/bin/python docs/picture.py` after changing the screen or the recipe.
"""

import re
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME, TerminalTheme

from steer_cli.api.questions import generate, load_model, load_recipe
from steer_cli.report.comparison import comparison_parts
from steer_cli.report.title import title

WIDTH = 96
RECIPE = "king-james"
# No font is fetched from the web: the reader's own monospaced one will do.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}\s*(?=\.|@)", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
LIGHT = TerminalTheme(
    (255, 255, 255),
    (36, 41, 47),
    [
        (36, 41, 47),
        (207, 34, 46),
        (17, 99, 41),
        (77, 45, 0),
        (9, 105, 218),
        (130, 80, 223),
        (0, 95, 115),
        (110, 119, 129),
    ],
)
THEMES = {"light": LIGHT, "dark": SVG_EXPORT_THEME}


def main() -> None:
    recipe = load_recipe(RECIPE)
    (comparison,) = generate(load_model(recipe.model, device="cpu"), recipe)
    console = Console(
        record=True, width=WIDTH, highlight=False, markup=False, emoji=False, force_terminal=True
    )
    console.print(title(comparison.recipe, comparison.model))
    for part in comparison_parts(comparison, WIDTH):
        console.print(part)
    for name, theme in THEMES.items():
        file = Path(__file__).with_name(f"generate-{name}.svg")
        command = f"steer generate {RECIPE}"
        console.save_svg(str(file), title=command, theme=theme, clear=False, code_format=FORMAT)


if __name__ == "__main__":
    main()
