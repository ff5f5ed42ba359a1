"""netwright run RECIPE."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from netwright.cli.console import progress, write, write_json


def run(
    recipe: Path,
    *,
    data: str | None = None,
    name: str | None = None,
    seed: int | None = None,
    out: Path = Path("runs"),
    json: bool = False,
) -> None:
    """The whole chain: search, train, compress, spike, compile, measure, report.

    A run that was stopped, even killed, goes on from what it had finished.

    Parameters
    ----------
    recipe: TOML file, see examples/digits.toml; write your own with netwright init.
    data: another data set for the same recipe (image folder or archive, idx folder, .npz).
    name: folder of the run under --out; default: the recipe's name, or the data's where --data is given.
    seed: another seed.
    out: where runs are kept.
    json: print the summary as JSON.
    """
    from netwright.pipeline import Chain, RunRecipe, prove

    loaded = RunRecipe.load(recipe, overrides(data, name, seed))
    root = out / loaded.name
    command = " ".join(
        ["netwright run", str(recipe)]
        + [f"--{k} {v}" for k, v in (("data", data), ("name", name), ("seed", seed)) if v is not None]
    )
    with progress(quiet=json) as bars:
        summary = prove(Chain(loaded, root, bars), command)
    if json:
        return write_json(summary)
    from netwright.report.table import summary_table, summary_text

    wide = sys.stdout.isatty() and shutil.get_terminal_size().columns >= 110
    write(summary_table(summary) if wide else summary_text(summary))
    return write(f"Report: {root / 'report' / 'index.html'}")


def overrides(data: str | None, name: str | None, seed: int | None) -> dict[str, object]:
    """Command-line values that replace the recipe's."""
    found: dict[str, object] = {}
    if data is not None:
        found["task.data"] = data
        found["name"] = name or _slug(data)
    if name is not None:
        found["name"] = name
    if seed is not None:
        found["seed"] = seed
    return found


def _slug(data: str) -> str:
    stem = Path(data.rstrip("/")).name
    for suffix in (".tar.gz", ".tgz", ".tar", ".npz"):
        stem = stem.removesuffix(suffix)
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in stem).strip(".-_") or "run"
