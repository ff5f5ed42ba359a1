"""OpenVINO: a graph as IR (model.xml, model.bin) whose binary layers are `BinaryConvolution`, and a runner for it.

Codes travel as whole numbers in float32. A binary layer is ``FakeQuantize`` to two levels, ``BinaryConvolution`` (XNOR and
population count, padding counts 0: its sums are exact) and one multiply-add by channel; what rescales to codes is rounded by
``FakeQuantize``, except where only signs are read: there a threshold of -1/2 says the same. Sums times factors are rounded to
24 bits, so that a code next to a tie may differ by one from the integer graph; signs of values that are not near a tie do not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from netwright.core.errors import NetwrightError, Unsupported
from netwright.core.graph import Graph, Node

ADVICE = "OpenVINO is not installed; run: pip install 'netwright[openvino]'"
WAY_OUT = "Deploy it with the C99 or the ONNX back end."
BELOW_HALF = float(np.nextafter(np.float32(-0.5), np.float32(-1)))


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise NetwrightError(ADVICE) from error
    return openvino


class _Writer:
    """Nodes of a graph as OpenVINO outputs, by name."""

    def __init__(self, graph: Graph):
        from openvino import opset1, opset8, opset10

        self.ov, self.one, self.eight, self.ten = _openvino(), opset1, opset8, opset10
        self.graph, self.readers = graph, graph.consumers()
        self.at: dict[str, Any] = {}

    def refuse(self, node: Node, why: str = "") -> Unsupported:
        return Unsupported("The OpenVINO back end", f"{node.op} {why}".strip(), node.path or node.name, WAY_OUT)

    def const(self, value: Any) -> Any:
        return self.one.constant(np.asarray(value, np.float32))

    def channels(self, value: Any, rank: int) -> Any:
        """A vector by channel, shaped to broadcast."""
        v = np.asarray(value, np.float32).reshape(-1)
        return self.const(v.reshape(1, -1, *[1] * (rank - 2)) if rank > 1 else v)

    def scaled(self, x: Any, factor: Any, offset: Any, rank: int) -> Any:
        return self.one.add(self.one.multiply(x, self.channels(factor, rank)), self.channels(offset, rank))

    def codes(self, node: Node, x: Any) -> Any:
        """x rounded and limited to the codes of `node`; left as it is where only its sign is read."""
        if all(r.op == "bconv2d" for r in self.readers[node.name]) and node.name not in self.graph.outputs:
            return x
        lo, hi = float(node.attrs["lo"]), float(node.attrs["hi"])
        levels = int(hi - lo) + 1
        if levels < 2 or levels > 256:
            return self.one.clamp(self.eight.round(x, "half_to_even"), lo, hi)
        return self.one.fake_quantize(x, self.const(lo), self.const(hi), self.const(lo), self.const(hi), levels)

    def finish(self, node: Node, sums: Any) -> Any:
        """``(sums + bias) * mult / 2**shift`` as codes, or the sums."""
        g, rank = self.graph, len(node.spec.shape)
        bias = np.asarray(g.value(node, "bias"), np.float64) if "bias" in node.weights else np.zeros(1)
        if "mult" not in node.weights:
            return self.one.add(sums, self.channels(bias, rank))
        unit = np.ldexp(np.asarray(g.value(node, "mult"), np.float64), -np.asarray(g.value(node, "shift"), np.int64))
        return self.codes(node, self.scaled(sums, unit, bias * unit, rank))

    def convolution(self, node: Node, x: Any) -> Any:
        a, w = node.attrs, np.asarray(self.graph.value(node, "weight"))
        top, left, bottom, right = a["pads"]
        window = (a["stride"], [top, left], [bottom, right], a["dilation"])
        if node.op == "bconv2d":
            if a["groups"] != 1:
                raise self.refuse(node, f"with {a['groups']} groups")
            if w.shape[1] % 8:  # its kernel reads whole bytes of channels
                raise self.refuse(node, f"with {w.shape[1]} input channels, no multiple of 8")
            bits = np.packbits((w > 0).reshape(-1), bitorder="little")
            tensor = self.ov.Tensor(bits, self.ov.Shape(list(w.shape)), self.ov.Type.u1)  # shares the memory of `bits`
            weight = self.ov.op.Constant(tensor, shared_memory=False)
            threshold = self.const(np.full((1, w.shape[1], 1, 1), BELOW_HALF))  # one a channel, and 0 and 1: the kernel's form
            signs = self.one.fake_quantize(
                x, threshold, threshold, *(self.const(np.full((1, 1, 1, 1), v)) for v in (0.0, 1.0)), 2
            )
            return self.one.binary_convolution(signs, weight, *window, "xnor-popcount", 0.0)
        if a["groups"] == 1:
            return self.one.convolution(x, self.const(w), *window)
        g = a["groups"]
        return self.one.group_convolution(x, self.const(w.reshape(g, w.shape[0] // g, *w.shape[1:])), *window)

    def conv2d(self, node: Node, x: Any) -> Any:
        y = self.convolution(node, x)
        bias = self.graph.value(node, "bias") if "bias" in node.weights else None
        return y if bias is None else self.one.add(y, self.channels(bias, 4))

    def qconv2d(self, node: Node, x: Any) -> Any:
        return self.finish(node, self.convolution(node, x))

    bconv2d = qconv2d

    def qlinear(self, node: Node, x: Any) -> Any:
        if node.op == "blinear":
            x = self.one.fake_quantize(x, *(self.const(v) for v in (BELOW_HALF, BELOW_HALF, -1.0, 1.0)), 2)
        return self.finish(node, self.one.matmul(x, self.const(self.graph.value(node, "weight")), False, True))

    blinear = qlinear

    def linear(self, node: Node, x: Any) -> Any:
        y = self.one.matmul(x, self.const(self.graph.value(node, "weight")), False, True)
        return self.one.add(y, self.const(self.graph.value(node, "bias"))) if "bias" in node.weights else y

    def quantize(self, node: Node, x: Any) -> Any:
        return self.codes(node, self.one.multiply(x, self.const(np.float32(1.0 / node.attrs["scale"]))))

    def dequantize(self, node: Node, x: Any) -> Any:
        scale = np.asarray(self.graph.value(node, "scale")).reshape(-1)
        return self.one.multiply(x, self.const(scale) if scale.size == 1 else self.channels(scale, len(node.spec.shape)))

    def qadd(self, node: Node, a: Any, b: Any) -> Any:
        ma, mb = (float(np.ldexp(float(node.attrs[k]), -int(node.attrs["shift"]))) for k in ("ma", "mb"))
        total = self.one.add(self.one.multiply(a, self.const(ma)), self.one.multiply(b, self.const(mb)))
        return self.codes(node, total)

    def qmean(self, node: Node, x: Any) -> Any:
        factor = float(np.ldexp(float(node.attrs["mult"]), -int(node.attrs["shift"])))
        axes = self.one.constant(np.array([2, 3], np.int64))
        return self.codes(node, self.one.multiply(self.one.reduce_sum(x, axes, True), self.const(factor)))

    def mean(self, node: Node, x: Any) -> Any:
        axes = self.one.constant(np.array(node.attrs["dims"], np.int64))
        return self.one.reduce_mean(x, axes, bool(node.attrs["keepdim"]))

    def max_pool2d(self, node: Node, x: Any) -> Any:
        a = node.attrs
        if a.get("ceil"):
            raise self.refuse(node, "with ceil_mode")
        return self.one.max_pool(x, a["stride"], a["padding"], a["padding"], a["kernel"])

    def reshape(self, node: Node, x: Any) -> Any:
        return self.one.reshape(x, self.one.constant(np.array(node.spec.shape, np.int64)), False)

    def relu(self, node: Node, x: Any) -> Any:
        return self.one.relu(x)

    def add(self, node: Node, *xs: Any) -> Any:
        if len(xs) != 2:
            raise self.refuse(node, "of a constant")
        return self.one.add(*xs)

    def model(self) -> Any:
        names = frozenset("conv2d linear relu add mean quantize qconv2d bconv2d qlinear blinear qadd qmean max_pool2d reshape "
                          "dequantize".split())  # fmt: skip
        parameters = []
        for node in self.graph:
            if node.op == "input":
                self.at[node.name] = self.one.parameter(list(node.spec.shape), self.ov.Type.f32, name=node.name)
                parameters.append(self.at[node.name])
                continue
            if node.op not in names:
                raise self.refuse(node)
            make: Callable[..., Any] = getattr(self, node.op)
            self.at[node.name] = make(node, *(self.at[i] for i in node.inputs))
        return self.ov.Model([self.at[o] for o in self.graph.outputs], parameters, "netwright")


def to_openvino(graph: Graph) -> Any:
    """An `openvino.Model` of a float, int8 or binary graph with values, batch 1; `save_openvino` writes it.

    Raises:
        NetwrightError: OpenVINO is not installed.
        Unsupported: an operation that is not written yet, or binary convolutions with groups.
    """
    _openvino()
    from netwright.design.fold import fold

    return _Writer(fold(graph)).model()


def save_openvino(graph: Graph, folder: Path | str) -> dict[str, bytes]:
    """model.xml and model.bin of the graph, written into `folder`, and their contents by name."""
    folder = Path(folder)
    _openvino().serialize(to_openvino(graph), str(folder / "model.xml"), str(folder / "model.bin"))
    return {name: (folder / name).read_bytes() for name in ("model.xml", "model.bin")}


class OpenVinoModel:
    """A model in OpenVINO on the processor, in float32 where it is not binary: x float32 [1, ...] -> float32.

    Args:
        model: what `to_openvino` made, or the path of a model.xml.
        threads: of each inference.
    """

    def __init__(self, model: Any, threads: int = 1):
        ov = _openvino()
        options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
        try:
            self.request = ov.Core().compile_model(model, "CPU", options).create_infer_request()
        except RuntimeError as error:
            raise NetwrightError(f"OpenVINO {ov.__version__} cannot run this model: {str(error).splitlines()[0]}") from error

    def run(self, x: np.ndarray) -> np.ndarray:
        """The first output for one input."""
        return np.asarray(self.request.infer([np.ascontiguousarray(x, np.float32)], share_inputs=True, share_outputs=True)[0])
