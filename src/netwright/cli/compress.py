"""netwright compress MODEL --method NAME --data PATH, or --advise; netwright compress RECIPE FORM."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netwright.cli.console import progress, write, write_json

if TYPE_CHECKING:
    from netwright.pipeline.shrink import Expected, Point, Shrink

BITS = {1: "1-bit", 2: "2-bit", 8: "8-bit", 32: "float"}


def compress(
    model: str,
    form: str | None = None,
    *,
    method: str | None = None,
    data: str | None = None,
    budget: str = "5m",
    max_drop: float | None = None,
    advise: bool = False,
    option: Sequence[str] = (),
    weights: Path | None = None,
    size: int | None = None,
    limit: int | None = None,
    lr: float = 1.0,
    augment: Sequence[str] = (),
    calibration: int = 256,
    seed: int = 0,
    out: Path = Path("runs"),
    json: bool = False,
) -> None:
    """Make a trained network smaller and faster: your model and data with --method, or a recipe up to one form.

    What stays in float, and the expected size and operations, are printed before anything is trained.

    Parameters
    ----------
    model: timm:NAME, file.py:callable, a name of ours; or a recipe (TOML), with FORM after it.
    form: with a recipe, int8, ternary or binary.
    method: one of `netwright status`'s compressors: int8, nupes, bitnet, biper, react, oto, lottery, ...
    data: digits, a folder or archive of images, idx files, an npz.
    budget: training, in steps (2000) or time (90s, 5m, 1h); methods without training need none.
    max_drop: losing more points of test accuracy than this is an error.
    advise: try the cheap methods, print a table and recommend one.
    option: a field of the method, like bits=3 or target=0.6; may be repeated.
    weights: a safetensors file with the model's state (otherwise as the model builds itself).
    size: bring the images to this side.
    limit: use at most this many training images.
    lr: factor on the learning rates that the method proposes.
    augment: an augmentation for training (shift, flip, ...); may be repeated.
    calibration: training images from which ranges are taken.
    seed: of everything random.
    out: folder for runs and bundles.
    json: print JSON.
    """
    from netwright.core.errors import NetwrightError

    if model.endswith(".toml"):
        from netwright.cli.stages import compressed_form

        return compressed_form(Path(model), form, data, out, json)
    if form is not None:
        raise NetwrightError(f"{form!r} names a form of a recipe; for a model, say --method. Known: netwright status.")
    if data is None:
        raise NetwrightError("Which data was it trained for? Add --data digits, or the path of a folder, an archive or an npz.")
    if (method is None) != advise:
        raise NetwrightError("Say either --method NAME or --advise.")
    from netwright.cli.model import load_trained
    from netwright.pipeline.shrink import CHEAP, TRAINED, Budget, Shrink

    time = Budget.parse(budget)
    chosen = None if method is None else _method(method, option)
    with progress(quiet=json) as bars:
        module, task = load_trained(model, weights, data, size=size, limit=limit, seed=seed, progress=bars)
        shrink = Shrink(module, task, calibration, seed, bars)
        if chosen is None:
            points, best, why = shrink.advise(
                (*CHEAP, *TRAINED), Budget(time.steps, time.seconds / len(TRAINED)), max_drop or 1.0
            )
        else:
            folder = out / f"{Path(model.replace(':', '-')).name}-{chosen.name}"
            expected = shrink.expected(chosen)
            if not json:
                _print_expected(shrink, expected)
            network, point = shrink.run(chosen, time, lr=lr, augment=augment, folder=folder.with_name(f"{folder.name}-training"))
            bundle = shrink.bundle(network, chosen, point, folder)
            float_bundle = shrink.float_bundle(folder.with_name(f"{folder.name}-float"))
            timed = shrink.latency(network)
    if chosen is None:
        if json:
            recommended = None if best is None else best.label
            return write_json({"points": [_facts(p) for p in points], "recommended": recommended, "why": why})
        write(_table(points))
        return write(f"Recommended: {why}" if best else why)
    before = {"bytes": list(expected.bytes), "products": dict(expected.products), "kept": dict(expected.nodes)}
    facts = {
        **_facts(point),
        "latency_us": list(timed),
        "bundle": str(bundle.path),
        "float_bundle": str(float_bundle.path),
        "sizes": bundle.sizes,
        "expected": before,
    }
    if json:
        write_json(facts)
    else:
        write(_table([type(point)(**{**vars(point), "latency_us": timed})]))
        write(
            f"Bundle: {bundle.path}\nTime both again, and in other engines: netwright measure {float_bundle.path} {bundle.path}"
        )
    shrink.check(point, max_drop)
    return None


def _method(name: str, options: Sequence[str]) -> Any:
    """The compressor with its fields."""
    from netwright.compress import CATALOGUE
    from netwright.core.errors import UnknownName

    if name not in CATALOGUE:
        raise UnknownName("compression method", name, CATALOGUE)
    return CATALOGUE[name](**fields_of(CATALOGUE[name], name, options))


def fields_of(cls: Any, name: str, options: Sequence[str]) -> dict[str, Any]:
    """Each --option KEY=VALUE as a field of the method's dataclass. Raises NetwrightError."""
    from dataclasses import fields

    from netwright.core.errors import NetwrightError, UnknownName

    known = [f.name for f in fields(cls)]
    given = {}
    for text in options:
        key, equals, value = text.partition("=")
        if not equals:
            raise NetwrightError(f"--option {text!r} is not KEY=VALUE.")
        if key not in known:
            raise UnknownName(f"option of {name}", key, known)
        try:
            given[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            given[key] = value
    return given


def _facts(p: Point) -> dict[str, Any]:
    return {
        "method": p.method, "fields": dict(p.fields), "float_accuracy": p.accuracy[0], "accuracy": p.accuracy[1],
        "drop_points": p.drop, "float_bytes": p.bytes[0], "bytes": p.bytes[1],
        "latency_us": list(p.latency_us) if p.latency_us else None, "seconds": p.seconds, "error": p.error,
    }  # fmt: skip


def _print_expected(shrink: Shrink, e: Expected) -> None:
    """What will be: before anything is trained."""
    classes = len(shrink.task.classes)
    write(f"Float network: {shrink.accuracy:.2%} on the test split, {e.bytes[0]:,} bytes of weights, {shrink.graph.macs:,} MACs")
    if shrink.accuracy < 2 / classes:
        write(f"  That is near chance ({1 / classes:.0%}): has it been trained? --weights FILE loads a state.")
    for reason, ops in e.kept.items():
        names = ", ".join(f"{op} x{n}" if n > 1 else op for op, n in sorted(ops.items()))
        write(f"  stays in float: {names}. {reason}")
    parts = ", ".join(f"{n:,} {BITS.get(b, f'{b}-bit')}" for b, n in e.products.items())
    write(f"Expected: {e.bytes[1]:,} bytes of weights ({e.bytes[0] / max(1, e.bytes[1]):.1f} times fewer), MACs: {parts}")


def _table(points: list[Point]) -> Any:
    from rich.table import Table

    table = Table("method", "accuracy", "drop", "bytes", "us (C, 1 thread)", "seconds")
    if points:
        first = next((p for p in points if p.latency_us), points[0])
        us = f"{first.latency_us[0]:,.1f}" if first.latency_us else ""
        table.add_row("float", f"{first.accuracy[0]:.2%}", "", f"{first.bytes[0]:,}", us, "")
    for p in points:
        if p.error:
            table.add_row(p.label, "-", "", "", "", p.error)
            continue
        us = f"{p.latency_us[1]:,.1f}" if p.latency_us else ""
        table.add_row(p.label, f"{p.accuracy[1]:.2%}", f"{p.drop:+.2f}", f"{p.bytes[1]:,}", us, f"{p.seconds:g}")
    return table
