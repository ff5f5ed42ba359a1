"""netwright search | train RECIPE, compress RECIPE FORM and spike RECIPE: the chain up to one stage; train --family NAME."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netwright.cli.console import progress, write, write_json
from netwright.cli.run import _slug, overrides

if TYPE_CHECKING:
    from netwright.pipeline import Chain
    from netwright.pipeline.family import TrainedFamily


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


def train(
    recipe: Path | None = None,
    *,
    family: str | None = None,
    data: str | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    option: Sequence[str] = (),
    augment: Sequence[str] | None = None,
    size: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    out: Path = Path("runs"),
    json: bool = False,
) -> None:
    """Train one of our families on your data (--family), or run a recipe up to its trained float network.

    A training that was stopped, even killed, goes on when the same command is given again.

    Parameters
    ----------
    recipe: TOML file.
    family: spikformer, meta-spikeformer, lif-cnn, lmuformer, spiking-lmuformer, phcssm, lif-rnn, a block (conv, convnext, ...),
        or a variant by its name (netwright design list).
    data: digits, a folder or archive of images, idx files, an npz; with a recipe, another data set for it.
    steps: time steps T of spiking families that see the same image in each (sequence families read row by row).
    epochs: passes over the training images; default: as many as 600 gradient steps need.
    lr: the highest learning rate; default: the family's.
    option: a field of the configuration, like width=48; may be repeated.
    augment: an augmentation (shift, flip, affine, ...); may be repeated; default: what suits the data.
    size: bring the images to this side.
    limit: use at most this many training images.
    seed: of weights, batches and augmentation.
    out: folder of the runs; this one is in OUT/FAMILY-DATA.
    json: print JSON.
    """
    from netwright.core.errors import NetwrightError

    if (recipe is None) == (family is None):
        raise NetwrightError("Say either a recipe, or --family NAME with --data PATH.")
    if recipe is not None:
        if (steps, epochs, lr, option, augment, size, limit, seed) != (None, None, None, (), None, None, None, 0):
            raise NetwrightError(
                f"A recipe says how to train; write it into {recipe}. Only --data, --out and --json go with one."
            )
        return _trained(recipe, data, out, json)
    assert family is not None
    if data is None:
        raise NetwrightError("Which data? Add --data digits, or the path of a folder, an archive or an npz.")
    from netwright.cli.compress import fields_of
    from netwright.pipeline.family import FamilyTraining, variant
    from netwright.tasks import load_task

    options = fields_of(type(variant(family)), family, option)
    with progress(quiet=json) as bars:
        task = load_task(data, seed=seed, limit=limit, size=size, progress=bars)
        found = FamilyTraining(
            family, task, out / f"{family}-{_slug(data)}", steps, epochs, lr, options, augment, seed, bars
        ).train()
    return write_json(found.facts()) if json else _print_family(found)


def _print_family(found: TrainedFamily) -> None:
    from rich.table import Table

    for note in found.notes:
        write(note)
    if found.firing:
        table = Table("layer", "spikes a step", "never fire", "always fire", "largest potential", "what is wrong")
        for name, f in found.firing.items():
            table.add_row(
                name, f"{f.rate:.3f}", f"{f.dead:.1%}", f"{f.saturated:.1%}", f"{f.largest:.3g}", "; ".join(f.troubles())
            )
        write(table)
    if found.over_time:
        write("Test accuracy after step " + ", ".join(f"{t}: {a:.2%}" for t, a in found.over_time.items()))
    write(f"{found.parameters:,} parameters, accuracy {found.validation:.2%} on validation, {found.test:.2%} on test images")
    write(f"Weights and configuration: {found.folder}")
    return write(f"Go on with MODEL = {found.folder / 'config.json'} in netwright estimate, deploy, compress, spike.")


def _trained(recipe: Path, data: str | None, out: Path, json: bool) -> None:
    """Search if need be, then train the chosen architecture; weights in RUN/train/weights.safetensors."""
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
