"""What `steer bake` wrote, and how to use it, in a few lines."""

from __future__ import annotations

from steer_cli.report.printable import one_line
from steer_cli.results import Baked

NAMED = 3  # layers that have a line


def baked_lines(found: Baked) -> list[str]:
    """Lines for a person."""
    lines = [
        f"wrote {found.folder}: {found.model} as a {found.network} network, {found.dtype}, steered by itself"
    ]
    lines += [f"layer {layer}: {name}" for layer, name in list(found.places.items())[:NAMED]]
    if len(found.places) > NAMED:
        lines.append(f"and {len(found.places) - NAMED} more layers: see README.md in it")
    lines.append(f"checked: its logits are the steered ones, to {found.difference:.1g} of their spread")
    lines.append(f"with steer: any recipe, with {found.folder} as its model")
    return [one_line(line) for line in lines]
