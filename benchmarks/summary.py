"""Turn rounds into medians and ratios, and print the table."""

from statistics import median

from environments import Peer
from rich.console import Console
from rich.table import Table


def medians(peers: list[Peer], rounds: dict[str, list[dict]]) -> list[dict]:
    """One record per peer; `ratio` is steer's tokens per second over the peer's."""
    records = [_record(peer, rounds[peer.name]) for peer in peers]
    ours = next((record for record in records if record["name"] == "steer"), None)
    for record in records:
        if ours is None:
            break
        for run, own in zip(record["runs"], ours["runs"], strict=True):
            run["ratio"] = own["tokens_per_second"] / run["tokens_per_second"]
        same = [text == own for text, own in zip(record["greedy"], ours["greedy"], strict=True)]
        record["same_greedy_text"] = dict(zip(("unsteered", "steered"), same, strict=True))
    return records


def _record(peer: Peer, results: list[dict]) -> dict:
    runs = []
    for index, first in enumerate(results[0]["runs"]):
        of_rounds = [result["runs"][index] for result in results]
        speeds = [run["tokens"] / run["seconds"] for run in of_rounds]
        runs.append(
            {
                "samples": first["samples"],
                "tokens": first["tokens"],
                "tokens_per_second": median(speeds),
                "first_tokens_per_second": median(run["tokens"] / run["first_seconds"] for run in of_rounds),
                "slowest": min(speeds),
                "fastest": max(speeds),
                "peak_rss_mb": median(run["peak_rss_mb"] for run in of_rounds),
            }
        )
    return {
        "name": peer.name,
        "note": peer.note,
        "positions": peer.positions,
        "versions": results[0]["versions"],
        "load_seconds": median(result["load_seconds"] for result in results),
        "greedy": results[0]["greedy"],
        "runs": runs,
    }


def show(result: dict) -> None:
    # A pipe has no width, and the table must not be cut.
    console = Console(highlight=False, markup=False, width=None if Console().is_terminal else 160)
    machine, work = result["machine"], result["work"]
    console.print(", ".join(f"{key} {value}" for key, value in machine.items()))
    console.print(", ".join(f"{key} {value}" for key, value in work.items()))
    table = Table(title="tokens per second (how many times as fast steer is), first run, peak memory")
    table.add_column("peer")
    for run in result["peers"][0]["runs"] if result["peers"] else []:
        table.add_column(f"{run['samples']} per arm", justify="right")
        table.add_column("first", justify="right")
        table.add_column("MB", justify="right")
    table.add_column("load s", justify="right")
    table.add_column("greedy text as ours")
    for record in result["peers"]:
        table.add_row(*_cells(record))
    console.print(table)
    for record in result["peers"]:
        versions = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
        console.print(f"{record['name']}: {record['note']} ({versions})")
    for name, reason in result["skipped"].items():
        console.print(f"{name}: skipped: {reason}")


def _cells(record: dict) -> list[str]:
    cells = [record["name"]]
    for run in record["runs"]:
        ratio = f" ({run['ratio']:.2f})" if "ratio" in run else ""
        first = f"{run['first_tokens_per_second']:.1f}"
        cells += [f"{run['tokens_per_second']:.1f}{ratio}", first, f"{run['peak_rss_mb']:.0f}"]
    same = record.get("same_greedy_text", {})
    agreed = [arm for arm, equal in same.items() if equal]
    return [*cells, f"{record['load_seconds']:.1f}", " and ".join(agreed) or "none"]
