"""netwright spike MODEL --data PATH [--steps T | --auto | --method NAME]; netwright spike RECIPE."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netwright.cli.console import progress, write, write_json

if TYPE_CHECKING:
    from netwright.pipeline.spikes import Measured
    from netwright.spike.convert import Approximation, Choice, Replacement
    from netwright.spike.exits import CalibratedExit


def spike(
    model: str,
    *,
    data: str | None = None,
    steps: int = 8,
    auto: bool = False,
    method: str | None = None,
    binary: bool = False,
    early: bool = False,
    max_drop: float | None = None,
    option: Sequence[str] = (),
    weights: Path | None = None,
    size: int | None = None,
    limit: int | None = None,
    calibration: int = 2048,
    train_steps: int = 2000,
    seed: int = 0,
    out: Path = Path("runs"),
    json: bool = False,
) -> None:
    """Turn a trained network into a spiking one from calibration data alone: your model and data, or a recipe.

    Without --method, networks of binary and of bipolar (signed) spikes are made side by side, and the one that agrees most
    often with the float network on calibration images that did not make it is kept.

    Parameters
    ----------
    model: timm:NAME, file.py:callable, a name of ours; or a recipe (TOML).
    data: digits, a folder or archive of images, idx files, an npz.
    steps: time steps T.
    auto: try all methods at 1, 2, 4, 8, 16 and 32 steps, print accuracy, steps and operations, pick one and say why.
    method: one of `netwright status`'s conversions: fit, ltb, channel, mmse, signed, burst, qcfs, lossless, ...
    binary: spikes of 0 and 1 only, for hardware without signed ones.
    early: stop each input as soon as the network is sure of it (calibrated on the validation split, compiled in).
    max_drop: losing more points of test accuracy than this is an error.
    option: a field of the method, like bits=3; may be repeated.
    weights: a safetensors file with the model's state (otherwise as the model builds itself).
    size: bring the images to this side.
    limit: use at most this many training images.
    calibration: training images that the conversion sees.
    train_steps: for methods that train (qcfs, bridge).
    seed: of everything random.
    out: folder for runs and bundles.
    json: print JSON.
    """
    from netwright.core.errors import NetwrightError

    if model.endswith(".toml"):
        from netwright.cli.stages import spiking_form

        return spiking_form(Path(model), data, out, json)
    if data is None:
        raise NetwrightError("Which data was it trained for? Add --data digits, or the path of a folder, an archive or an npz.")
    if auto and method is not None:
        raise NetwrightError("Say either --auto or --method NAME.")
    from netwright.cli.compress import fields_of
    from netwright.cli.model import load_trained
    from netwright.core.errors import UnknownName
    from netwright.pipeline.spikes import BOTH, STEPS, Spikes, seeded
    from netwright.spike.convert import CATALOGUE

    if method is not None and method not in CATALOGUE:
        raise UnknownName("conversion", method, CATALOGUE)
    choice: Choice | None = None
    with progress(quiet=json) as bars:
        module, task = load_trained(model, weights, data, size=size, limit=limit, seed=seed, progress=bars)
        spikes = Spikes(module, task, calibration, seed, bars)
        if method is not None:
            cls = CATALOGUE[method]
            found = spikes.convert(seeded(steps, seed, cls, fields_of(cls, method, option)), train_steps)
        else:
            replaced = [r for r in spikes.approximated.replaced if not r.exact]
            if not json:
                _print_replaced(replaced, spikes.approximated)
            choice = spikes.choose(STEPS) if auto else spikes.choose((steps,), BOTH, binary)
            found = spikes.measure(choice.made, choice.picked.method, choice.picked.seconds)
        exit_rule = spikes.exit(found.made) if early else None
        folder = out / f"{Path(model.replace(':', '-')).name}-spiking"
        bundle = spikes.bundle(found, folder, exit_rule)
        energy = spikes.energy(found.made)
    facts = {**found.facts(), "bundle": str(bundle.path), "sizes": bundle.sizes, **_chosen(choice), **_exit(exit_rule)}
    facts["energy"] = {"columns": energy.to_cost().to_json(), "verdict": energy.verdict}
    if json:
        write_json(facts)
    else:
        _print(found, choice, exit_rule)
        for name, quantity in energy.to_cost().items():
            write(f"{name:>24}  {quantity.value / 1e6:,.4g} uJ ({quantity.how})")
        write(energy.verdict)
        write(f"Bundle: {bundle.path}")
    return spikes.require(found, max_drop)


def _print_replaced(replaced: Sequence[Replacement], of: Approximation) -> None:
    """What is approximated by rectifiers, before anything is converted."""
    for r in replaced:
        error = f"largest error {r.worst:.3g}, rms {r.rms:.3g}"
        write(
            f"  {r.path or r.what}: {r.what} becomes {r.rectifiers} rectifiers on [{r.low:.3g}, {r.high:.3g}], {error} {r.line}"
        )
    if replaced:
        write(f"  Together they change the outputs by {of.rms:.2%} of their deviation; {of.agreement:.1%} of the answers stay.")


def _chosen(choice: Choice | None) -> dict[str, Any]:
    from dataclasses import asdict

    return {} if choice is None else {"tried": [asdict(r) for r in choice.rows], "why": choice.why}


def _exit(rule: CalibratedExit | None) -> dict[str, Any]:
    return {} if rule is None else {"exit": {**rule.to_json(), "speedup": rule.speedup}}


def _print(found: Measured, choice: Choice | None, rule: CalibratedExit | None) -> None:
    from rich.table import Table

    if choice is not None:
        table = Table("", "method", "T", "counted from", "agreement", "operations", "spikes", "seconds")
        for r in choice.rows:
            mark = "picked" if r == choice.picked else "front" if r.best else ""
            table.add_row(mark, r.method, str(r.steps), str(r.start), f"{r.agreement:.2%}", f"{r.operations:,.0f}",
                          "-1, 0, 1" if r.signed else "0, 1", f"{r.seconds:.1f}")  # fmt: skip
        write(table)
        write(choice.why)
    table = Table("layer", "rule", "threshold", "error", "spikes a step", "never fire", "what is wrong")
    for layer in found.made.layers:
        health = found.health.get(layer.name)
        ailments = "; ".join(health.ailments) if health else ""
        table.add_row(layer.path or layer.name, layer.rule, f"{layer.threshold[1]:.3g}", f"{layer.error:.1%}",
                      f"{layer.rate:.3f}", f"{layer.dead:.1%}", ailments)  # fmt: skip
    write(table)
    shown = sorted({t for t in (1, 2, 4, 8, 16, 32, 64, 128, found.made.steps) if t <= found.made.steps})
    over_time = ", ".join(f"{t}: {found.over_time[t - 1]:.2%}" for t in shown)
    write(f"Accuracy on the test split after step {over_time}; the float network has {found.accuracy:.2%}")
    if rule is not None:
        write(f"Early exit, expected from validation: {rule.chosen.steps:.2f} of {rule.steps} steps on average "
              f"({rule.speedup:.2f} times fewer) at {rule.chosen.accuracy:.2%}, all steps {rule.full:.2%}")  # fmt: skip
