"""netwright init --data PATH: a commented recipe."""

from __future__ import annotations

from pathlib import Path

from netwright.cli.console import progress, write, write_json
from netwright.cli.run import _slug
from netwright.core.errors import NetwrightError

TEMPLATE = """\
# netwright recipe for {data}
# {count}
# Run it with:  netwright run {out}

name = "{name}"            # the run's folder is runs/{name}
seed = 0
forms = ["float", "int8", "ternary", "binary", "spiking"]   # float is always needed; leave out what you do not want
calibration = 512          # training images used by quantisers and the spiking converter

[task]
data = "{data}"
# size = 32                # resize images to 32 x 32
# limit = 10000            # use only so many training images
# augment = ["shift", "flip"]   # default: what suits the data

[design]                   # the space that is searched, for each of `stages` stages
space = "tiny"
stages = {stages}
depths = [1, 2]            # from, to
widths = {widths}
kernels = [3, 5]
expansions = [1, 2, 3]

[search]
strategy = "nsga2"         # or "random"
trials = {trials}
population = 12
tolerance = 0.005          # accuracy that may be given up for a smaller, faster network
# max_latency_us = 500     # hard budgets of the compiled float network
# max_bytes = 200000

[search.supernet]          # training of the shared weights, in gradient steps
steps = {supernet}
lr = 0.005

[train]                    # fine-tuning of the chosen network
steps = {train}
lr = 0.002
batch_size = 64
label_smoothing = 0.1
ema = 0.99

[compress.ternary]
method = "bitnet"
[compress.ternary.train]
steps = {ternary}

[compress.binary]
method = "biper"
[compress.binary.train]
steps = {binary}

[spike]
method = "fit"
steps = 8
"""


def init(*, data: str, out: Path | None = None, force: bool = False, json: bool = False) -> None:
    """Look at a data set and write a commented recipe for it.

    Parameters
    ----------
    data: image folder or archive (train/<class>/*, test/<class>/*), folder of idx files, .npz, or digits.
    out: file to write; default: NAME.toml after the data.
    force: write over an existing file.
    json: print JSON.
    """
    from netwright.core.files import write_text
    from netwright.tasks import load_task

    with progress(quiet=json) as bars:
        task = load_task(data, seed=0, progress=bars)
    name = _slug(data)
    path = out or Path(f"{name}.toml")
    if path.exists() and not force:
        raise NetwrightError(f"{path} exists. Give another name with --out, or --force to write over it.")
    c, h, w = task.shape
    side = max(h, w)
    sizes = f"{len(task.train)} training, {len(task.validation)} validation, {len(task.test)} test images"
    scale = 1 if side <= 12 else 2
    text = TEMPLATE.format(
        data=data,
        count=f"{sizes} of {c} x {h} x {w}, {len(task.classes)} classes",
        out=path,
        name=name,
        stages=3 if side > 4 else 2,
        widths=[16, 24, 32] if scale == 1 else [16, 32, 48, 64],
        trials=60,
        supernet=400 * scale,
        train=500 * scale,
        ternary=500 * scale,
        binary=1000 * scale,
    )
    write_text(path, text)
    facts = {
        "recipe": str(path),
        "shape": [c, h, w],
        "classes": len(task.classes),
        "train": len(task.train),
        "test": len(task.test),
    }
    write_json(facts) if json else write(f"{path}: {sizes}\nNow: netwright run {path}")
