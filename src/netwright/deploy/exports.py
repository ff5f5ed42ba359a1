"""Exports: the files that other engines read, beside the C file in a bundle.

| name | files | read by |
|---|---|---|
| onnx | model.onnx | ONNX Runtime; float, int8, ternary |
| openvino | model.xml, model.bin | OpenVINO; float, int8, binary |
| qonnx | model.qonnx | FINN, hls4ml; float, int8, ternary, binary |
| nir | model.nir | neuromorphic simulators and chips; spiking |
| torch | model.pt2 | PyTorch, with the compiled network as an operator; everything that compiles to C |
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterable

from netwright.core.errors import UnknownName, Unsupported
from netwright.core.graph import Graph


def _onnx(graph: Graph) -> dict[str, bytes]:
    from netwright.deploy.onnx import to_onnx

    return {"model.onnx": to_onnx(graph, ternary="auto")}


def _openvino(graph: Graph) -> dict[str, bytes]:
    from netwright.deploy.openvino import save_openvino

    with tempfile.TemporaryDirectory() as folder:
        return save_openvino(graph, folder)


def _qonnx(graph: Graph) -> dict[str, bytes]:
    from netwright.deploy.qonnx import to_qonnx

    return {"model.qonnx": to_qonnx(graph)}


def _nir(graph: Graph) -> dict[str, bytes]:
    from netwright.deploy.nir import nir_bytes

    return {"model.nir": nir_bytes(graph)}


def _torch(graph: Graph) -> dict[str, bytes]:
    import torch

    from netwright.deploy.torch_program import to_program

    buffer = io.BytesIO()
    torch.export.save(to_program(graph), buffer)
    return {"model.pt2": buffer.getvalue()}


EXPORTS: dict[str, Callable[[Graph], dict[str, bytes]]] = {
    "onnx": _onnx, "openvino": _openvino, "qonnx": _qonnx, "nir": _nir, "torch": _torch,
}  # fmt: skip
FILES = {"onnx": ("model.onnx",), "openvino": ("model.xml", "model.bin"), "qonnx": ("model.qonnx",), "nir": ("model.nir",),
         "torch": ("model.pt2",)}  # fmt: skip


def export(graph: Graph, names: Iterable[str]) -> tuple[dict[str, bytes], list[str]]:
    """The files of the engines in `names`, and a line for each that cannot take this network.

    Raises:
        UnknownName: there is no such engine.
        NetwrightError: the engine's package is not installed.
    """
    files: dict[str, bytes] = {}
    notes: list[str] = []
    for name in names:
        if name not in EXPORTS:
            raise UnknownName("backend", name, EXPORTS)
        try:
            files |= EXPORTS[name](graph)
        except Unsupported as error:
            notes.append(f"no {' or '.join(FILES[name])}: {error}")
    return files, notes


def backends(files: Iterable[str]) -> tuple[str, ...]:
    """The engines for which a bundle with these files is ready; the C file is always there."""
    there = set(files)
    return ("c99", *(name for name, needs in FILES.items() if set(needs) <= there))
