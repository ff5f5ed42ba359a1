"""netwright design list | show | draw."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

from cyclopts import App

from netwright.cli.console import write, write_json
from netwright.core.errors import UnknownName

app = App(name="design", help="1  Blocks, families and spaces: list, show, draw.", help_format="plaintext")


def _entries() -> dict[str, dict[str, Any]]:
    from netwright.design import blocks
    from netwright.design.models import VARIANTS
    from netwright.pipeline.spaces import SPACES
    from netwright.spike.models import VARIANTS as SPIKING

    found: dict[str, dict[str, Any]] = {}
    for name, cls in blocks.CATALOGUE.items():
        found[name] = {"kind": "block", "about": (inspect.getmodule(cls).__doc__ or "").splitlines()[0], "object": cls}
    for name, config in VARIANTS.items():
        about = f"{len(config.stages)} stages of {config.stages[0].block}, {config.classes} classes"
        found[name] = {"kind": "model", "about": about, "object": config}
    for name, config in SPIKING.items():
        found[name] = {"kind": "model", "about": f"spiking, {config.name}, {config.classes} classes", "object": config}
    for name, cls in SPACES.items():
        found[name] = {"kind": "space", "about": (inspect.getmodule(cls).__doc__ or "").splitlines()[0], "object": cls}
    return found


@app.command
def list(*, json: bool = False) -> None:
    """All blocks, models and spaces.

    Parameters
    ----------
    json: print JSON.
    """
    entries = _entries()
    if json:
        return write_json([{"name": n, "kind": e["kind"], "about": e["about"]} for n, e in entries.items()])
    from rich.table import Table

    table = Table("name", "kind", "what it is")
    for name, entry in entries.items():
        table.add_row(name, entry["kind"], entry["about"])
    return write(table)


@app.command
def show(name: str, *, json: bool = False) -> None:
    """One block, model or space: what it computes, its options, its paper.

    Parameters
    ----------
    name: as `netwright design list` prints it.
    json: print JSON.
    """
    entries = _entries()
    if name not in entries:
        raise UnknownName("block, model or space", name, entries)
    entry = entries[name]
    subject = entry["object"]
    cls = subject if isinstance(subject, type) else type(subject)
    options = {f.name: getattr(subject, f.name, None) for f in dataclasses.fields(cls)}
    paper = getattr(cls, "paper", None)
    if json:
        facts = {"name": name, "kind": entry["kind"], "about": inspect.getmodule(cls).__doc__, "options": options}
        plain = {k: (v if isinstance(v, (int, float, str, bool, tuple)) or v is None else str(v)) for k, v in options.items()}
        if entry["kind"] == "model":
            plain = dataclasses.asdict(subject)
        return write_json({**facts, "options": plain, "paper": dataclasses.asdict(paper) if paper else None})
    write(f"{name} ({entry['kind']})\n\n{(inspect.getmodule(cls).__doc__ or '').strip()}\n\n{inspect.getdoc(cls)}\n")
    for option, value in options.items():
        write(f"  {option} = {value}")
    if paper:
        write(f"\n{paper}\n{paper.url}")
    return None


@app.command
def draw(model: str, *, input: str | None = None, out: Path = Path("network.svg"), json: bool = False) -> None:
    """Draw a network as SVG, with shapes on the arrows.

    Parameters
    ----------
    model: a name of ours, timm:NAME, file.py:callable, a .pt2 program, a bundle, or a block's name.
    input: shape of one input, like 1x3x224x224.
    out: file to write.
    json: print JSON.
    """
    from netwright.cli.model import load_graph, shape
    from netwright.core.files import write_text
    from netwright.design import blocks
    from netwright.design.draw import draw as draw_graph

    if model in blocks.CATALOGUE:
        model = f"digits_{model}"
    graph = load_graph(model, shape(input) if input else None)
    write_text(out, draw_graph(graph, model))
    if json:
        write_json({"model": model, "svg": str(out), "nodes": len(graph.nodes)})
    else:
        write(f"{out}: {len(graph.nodes)} operations, {graph.parameters:,} parameters, {graph.macs:,} MACs")
