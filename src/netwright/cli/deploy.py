"""netwright deploy MODEL."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netwright.cli.console import write, write_json

if TYPE_CHECKING:
    from netwright.core.decision import Control
    from netwright.core.graph import Graph


def deploy(
    model: str,
    *,
    input: str | None = None,
    out: Path = Path("bundle"),
    weights: Path | None = None,
    backend: str = "onnx",
    plan: bool = False,
    picture: Path | None = None,
    strips: float | None = None,
    target: str | None = None,
    json: bool = False,
) -> None:
    """Compile a network to one C file; the bundle holds model.c, model.h, its graph and weights, and files of other engines.

    Parameters
    ----------
    model: a name of ours, timm:NAME, file.py:callable, a .pt2 program, a bundle.
    input: shape of one input, like 1x3x32x32.
    out: folder of the bundle.
    weights: a safetensors file with the model's state (otherwise as the model builds itself).
    backend: other engines to write files for, of onnx, openvino, qonnx, nir, torch; several with commas, none for none.
    plan: only say how much flash and RAM it will take, and which step needs most; nothing is compiled or written.
    picture: with --plan, draw the arena over time into this SVG file.
    strips: compute large parts strip by strip to need less RAM; at most this share of the operations is done twice, 0.3 say.
    target: also build it for another processor (cortex-m4, cortex-m7, aarch64) and run it there in QEMU.
    json: print JSON.
    """
    from netwright.cli.model import load_module, load_network, shape
    from netwright.core.decision import OverTime, exits
    from netwright.core.errors import NetwrightError
    from netwright.deploy.bundle import Bundle, write_bundle
    from netwright.deploy.exports import export

    sizes = shape(input) if input else None
    tree = None
    if weights is None:
        graph, tree = load_network(model, sizes)
    else:
        import torch
        from safetensors.torch import load_file

        from netwright.design import merge, trace

        if sizes is None:
            raise NetwrightError("--weights needs --input, the shape of one input.")
        module = load_module(model)
        try:
            module.load_state_dict(load_file(weights))
        except (RuntimeError, OSError) as error:
            raise NetwrightError(f"{weights} does not fit {model}: {str(error).splitlines()[0]}") from error
        graph = trace(merge(module), torch.zeros(sizes))
    if plan:
        return _plan(graph, tree, strips, picture, target, json)
    wanted = [name for name in backend.split(",") if name not in ("", "none")]
    exported: dict[str, bytes] = {}
    if tree is not None:
        ways = "time steps" if isinstance(tree, OverTime) else f"{len(list(exits(tree)))} exits"
        notes = [f"a dynamic network with {ways}; the C file alone can decide, so there are no other files"]
    else:
        exported, notes = export(graph, wanted)
    form = Bundle.load(model).form if Path(model).is_dir() else "float"
    bundle = write_bundle(graph, out, form=form, info={"model": model}, exports=exported, tree=tree, most_repeated=strips)
    note = "\n".join(notes)
    facts: dict[str, Any] = {"bundle": str(bundle.path), "sizes": bundle.sizes, "macs": graph.macs,
                             "backends": list(bundle.backends), "note": note}  # fmt: skip
    if target is not None:
        facts["target"] = _on(graph, tree, strips, target, out)
    if json:
        return write_json(facts)
    if target is not None:
        note = "\n".join([*([note] if note else []), *(f"  {k.replace('_', ' '):<28} {v}" for k, v in facts["target"].items())])
    lines = [f"  {key.replace('_', ' '):<14} {value:>12,}" for key, value in bundle.sizes.items()]
    return write("\n".join([f"Bundle: {bundle.path}", *lines, *([note] if note else [])]))


def _plan(graph: Graph, tree: Control | None, strips: float | None, picture: Path | None, target: str | None, json: bool) -> None:
    """Flash and RAM before anything is compiled."""
    from netwright.core.files import write_text
    from netwright.core.target import Target
    from netwright.deploy.c99 import emit
    from netwright.deploy.c99.picture import draw_arena
    from netwright.deploy.cross import STACK_BYTES, check_budget

    small = target is not None and bool(Target.load(target).memory_bytes)
    emitted = emit(graph, tree=tree, most_repeated=strips, dense_spikes=not small)
    floats = sum(4 * math.prod(s) for s in (*emitted.input_shapes, *emitted.output_shapes))
    facts: dict[str, Any] = {"flash_weight_bytes": emitted.weight_bytes, "ram_arena_bytes": emitted.arena_bytes,
             "ram_in_and_out_bytes": floats, "ram_stack_bytes": STACK_BYTES,
             "how": "counted; the code comes on top of the flash, some 10 to 60 KB"}  # fmt: skip
    if strips is not None and emitted.strips is not None:
        facts |= {"strips": dict(emitted.strips.segments), "repeated_share": round(emitted.strips.repeated, 4)}
    if picture is not None:
        write_text(picture, draw_arena(emitted))
    steps = [{"step": i, "kernel": kernel, "live_bytes": live} for i, (kernel, live) in enumerate(emitted.live)]
    if target is not None:
        check_budget(emitted, Target.load(target))
    if json:
        return write_json({**facts, "steps": steps})
    from rich.table import Table

    table, peak = Table("step", "kernel", "bytes in use", ""), max((live for _, live in emitted.live), default=1)
    for i, (kernel, live) in enumerate(emitted.live):
        table.add_row(str(i), kernel, f"{live:,}", "#" * max(1, 30 * live // max(peak, 1)) + (" peak" if live == peak else ""))
    write(table)
    return write(
        "\n".join(
            f"{key.replace('_', ' '):<22} {value:,}" if isinstance(value, int) else f"{key.replace('_', ' ')}: {value}"
            for key, value in facts.items()
        )
    )


def _on(graph: Graph, tree: Control | None, strips: float | None, target: str, out: Path) -> dict[str, Any]:
    """The network on another processor, in QEMU: its size, its instructions, and how its outputs compare with this machine's."""
    import numpy as np

    from netwright.core.target import Target
    from netwright.deploy.c99 import build, emit
    from netwright.deploy.cross import cross_build

    small = bool(Target.load(target).memory_bytes)
    emitted = emit(graph, tree=tree, most_repeated=strips, dense_spikes=not small)
    x = np.random.default_rng(0).standard_normal((3, *emitted.input_shape[1:]), dtype=np.float32)
    made = cross_build(emitted, target, out / target)
    got, instructions = made.run(x)
    here = build(graph, out / "build" / "portable", isa="portable", tree=tree).run(x)
    return {"target": target, "flash_bytes": made.flash_bytes, "ram_bytes": made.ram_bytes,
            "instructions": int(np.median(instructions)), "instructions_how": "counted by QEMU, not cycles of silicon",
            "max_abs_diff_from_here": float(np.abs(got - here).max())}  # fmt: skip
