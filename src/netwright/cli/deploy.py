"""netwright deploy MODEL."""

from __future__ import annotations

from pathlib import Path

from netwright.cli.console import write, write_json


def deploy(
    model: str,
    *,
    input: str | None = None,
    out: Path = Path("bundle"),
    weights: Path | None = None,
    onnx: bool = True,
    json: bool = False,
) -> None:
    """Compile a network to one C file; the bundle holds model.c, model.h, its graph and weights, and model.onnx.

    Parameters
    ----------
    model: a name of ours, timm:NAME, file.py:callable, a .pt2 program.
    input: shape of one input, like 1x3x32x32.
    out: folder of the bundle.
    weights: a safetensors file with the model's state (otherwise as the model builds itself).
    onnx: also write model.onnx.
    json: print JSON.
    """
    from netwright.cli.model import load_graph, load_module, shape
    from netwright.core.errors import NetwrightError, Unsupported
    from netwright.deploy.bundle import write_bundle
    from netwright.deploy.onnx import to_onnx

    sizes = shape(input) if input else None
    if weights is None:
        graph = load_graph(model, sizes)
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
    exported, note = None, ""
    if onnx:
        try:
            exported = to_onnx(graph)
        except Unsupported as error:
            note = f"no model.onnx: {error}"
    bundle = write_bundle(graph, out, form="float", info={"model": model}, onnx=exported)
    facts = {"bundle": str(bundle.path), "sizes": bundle.sizes, "macs": graph.macs, "note": note}
    if json:
        return write_json(facts)
    lines = [f"  {key.replace('_', ' '):<14} {value:>12,}" for key, value in bundle.sizes.items()]
    return write("\n".join([f"Bundle: {bundle.path}", *lines, *([note] if note else [])]))
