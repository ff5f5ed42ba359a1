"""netwright search | train RECIPE, compress RECIPE FORM and spike RECIPE: the chain up to one stage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from netwright.cli.console import progress, write, write_json
from netwright.cli.run import overrides

if TYPE_CHECKING:
    from netwright.pipeline import Chain


def _chain(recipe: Path, data: str | None, out: Path, bars: Any) -> Chain:
    from netwright.pipeline import Chain, RunRecipe

    loaded = RunRecipe.load(recipe, overrides(data, None, None))
    return Chain(loaded, out / loaded.name, bars)


def search(recipe: Path, *, data: str | None = None, out: Path = Path("runs"), json: bool = False) -> None:
    """Train the shared weights, search, print the front.

    Parameters
    ----------
    recipe: TOML file.
    data: another data set for the same recipe.
    out: where runs are kept.
    json: print JSON.
    """
    with progress(quiet=json) as bars:
        found = _chain(recipe, data, out, bars).searched
    if json:
        return write_json({"front": [t.to_json() for t in found.front], "chosen": found.chosen.to_json()})
    from rich.table import Table

    table = Table("", "trial", "error", "bytes", "latency us", "architecture")
    for t in sorted(found.front, key=lambda t: t.objectives["error"]):
        o = t.objectives
        mark = "chosen" if t.number == found.chosen.number else ""
        table.add_row(mark, str(t.number), f"{o['error']:.3%}", f"{o['bytes']:,.0f}", f"{o['latency_us']:.1f}", str(t.arch))
    return write(table)


def train(recipe: Path, *, data: str | None = None, out: Path = Path("runs"), json: bool = False) -> None:
    """Search if need be, then train the chosen architecture; weights in RUN/train/weights.safetensors.

    Parameters
    ----------
    recipe: TOML file.
    data: another data set for the same recipe.
    out: where runs are kept.
    json: print JSON.
    """
    from netwright.train.evaluate import accuracy

    with progress(quiet=json) as bars:
        chain = _chain(recipe, data, out, bars)
        score = accuracy(chain.network, chain.data.validation)
    path = chain.root / "train" / "weights.safetensors"
    if json:
        return write_json({"validation_accuracy": score, "weights": str(path), "history": chain.history})
    return write(f"Validation accuracy {score:.2%}; weights in {path}")


def _form(recipe: Path, name: str, data: str | None, out: Path, json: bool) -> None:
    with progress(quiet=json) as bars:
        form = _chain(recipe, data, out, bars).form(name)
    facts = {"form": name, "bundle": str(form.bundle.path), "sizes": form.bundle.sizes, "info": dict(form.info)}
    if json:
        return write_json(facts)
    sizes = ", ".join(f"{key.replace('_', ' ')} {value:,}" for key, value in form.bundle.sizes.items())
    return write(f"{name}: {sizes}\nBundle: {facts['bundle']}")


def compressed_form(recipe: Path, form: str | None, data: str | None, out: Path, json: bool) -> None:
    """Run a recipe up to one compressed form, compiled into a bundle."""
    from netwright.core.errors import UnknownName

    if form not in ("int8", "ternary", "binary"):
        raise UnknownName("compressed form", form or "", ("int8", "ternary", "binary"))
    _form(recipe, form, data, out, json)


def spiking_form(recipe: Path, data: str | None, out: Path, json: bool) -> None:
    """Run a recipe up to the spiking network, compiled into a bundle."""
    _form(recipe, "spiking", data, out, json)
