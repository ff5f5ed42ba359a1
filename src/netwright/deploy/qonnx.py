"""QONNX: integer graphs as float graphs whose quantised tensors pass through `Quant`, `BipolarQuant` and `MultiThreshold`,
the dialect that FINN, hls4ml and others turn into circuits (domain qonnx.custom_op.general; batch 1; opset 20).

Codes and weights are whole numbers in float32 with scale 1, so sums below 2**24 are exact. Weights are constants behind a
`Quant` of 8 bits, of 2 (narrow: -1, 0, 1), or a `BipolarQuant`; inputs of binary layers pass through `BipolarQuant`, where 0
counts +1 as in our graphs, and padding counts 0. A rescaling ``(acc * mult + 2**(shift-1)) >> shift`` takes one of two forms:

- exact: a `MultiThreshold` counts the whole numbers t[k] that the sum has reached, ``t[k] = ceil((k*2**shift - 2**(shift-1)) /
  mult) - bias``, k from lo+1 to hi, the form into which FINN itself brings quantisers. A code of which only the sign is read
  has one threshold, that of k = 0. Two added tensors of codes are rescaled in float64.
- otherwise: Mul, Add and `Quant`, in float32 with ties to even. A code next to a tie may differ by one.

`Relu` stands in front of unsigned quantisers, where FINN expects it. Lookup tables are Gather nodes, which FINN does not
take. NaN, which our `quantize` reads as 0, stays NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, shape_inference

from netwright.core.graph import Graph, Node
from netwright.deploy.onnx import Writer

DOMAIN = "qonnx.custom_op.general"
BEYOND = 2**31  # no sum gets here
_KEEP = "Deploy this form as C (c99)."


def thresholds(lo: int, hi: int, mult: Any, shift: Any, offset: Any = 0, bias: Any = 0) -> NDArray[np.float32]:
    """Smallest whole numbers v with ``((v + bias) * mult + offset + 2**(shift-1)) >> shift >= k`` for k = lo+1..hi.

    Args:
        lo, hi: the range of codes.
        mult, shift, offset, bias: whole numbers or vectors [C]; mult > 0.

    Returns:
        [C, hi - lo]; 1 row if all are numbers.
    """
    m, s, o, b = (np.atleast_1d(np.asarray(v, object))[:, None] for v in (mult, shift, offset, bias))
    k = np.arange(lo + 1, hi + 1).astype(object)[None]
    needed = (k << s) - (1 << (s - 1)) - o  # whole numbers of any size: k << s leaves 64 bits
    return np.clip(-(-needed // m) - b, -BEYOND, BEYOND).astype(np.float32)


def width(lo: int, hi: int) -> tuple[int, bool, bool]:
    """Bits, signed and narrow of the smallest `Quant` whose range holds lo..hi."""
    if lo >= 0:
        return max(1, hi.bit_length()), False, False
    bits = 1 + max(1, (-lo - 1).bit_length(), hi.bit_length())
    return bits, True, lo > -(2 ** (bits - 1))


class _Quantised(Writer):
    """Integer operations as QONNX; the float ones are ONNX's."""

    operations = Writer.operations | frozenset("bconv2d blinear qmatmul bmatmul".split())

    def __init__(self, graph: Graph, exact: bool):
        super().__init__(graph)
        self.exact, self.batch = exact, 1
        self.readers = graph.consumers()

    def custom(self, op: str, x: str, *constants: Any, out: str = "", **attrs: Any) -> str:
        return self.emit(op, [x, *(self.const(c) for c in constants)], out, domain=DOMAIN, **attrs)

    def signs(self, x: str) -> str:
        return self.custom("BipolarQuant", x, 1.0)

    def quantise(self, x: str, node: Node, scale: float = 1.0, out: str | None = None) -> str:
        """Real values, in units of the codes, to the codes of `node`."""
        lo, hi = int(node.attrs["lo"]), int(node.attrs["hi"])
        bits, signed, narrow = width(lo, hi)
        if not signed:
            x = self.emit("Relu", [x])
        if (lo, hi) != ((narrow - 2 ** (bits - 1), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)):
            x = self.emit("Clip", [x, self.const(lo), self.const(hi)])
        kind = {"signed": int(signed), "narrow": int(narrow), "rounding_mode": "ROUND"}
        return self.custom("Quant", x, 1.0, 0.0, bits, out=node.name if out is None else out, **kind)

    def weights(self, node: Node, sign: NDArray[Any]) -> str:
        """Codes of the weights, channels times `sign`, as their layer's operator wants them."""
        codes, bits = self.value(node, "weight").astype(np.int64), int(node.attrs["bits"])
        codes = codes * sign.reshape(-1, *[1] * (codes.ndim - 1))
        given = self.const(codes if codes.ndim == 4 else codes.T)
        if bits == 1 and (codes != 0).all():
            return self.signs(given)
        bits = max(bits, 2)
        narrow = int(codes.min() > -(2 ** (bits - 1)))
        return self.custom("Quant", given, 1.0, 0.0, bits, signed=1, narrow=narrow, rounding_mode="ROUND")

    # --- rescaling ------------------------------------------------------------------------------------------------
    def by_channel(self, v: Any, axis: int, rank: int) -> NDArray[Any]:
        """A vector shaped to broadcast along `axis` of a tensor of `rank`."""
        return np.reshape(v, (-1, *[1] * (rank - 1 - axis)))

    def rescale(self, node: Node, x: str, axis: int, mult: Any, shift: Any, offset: Any = 0, bias: Any = 0) -> None:
        """``((x + bias) * mult + offset + 2**(shift-1)) >> shift``, clamped, as the codes of `node`; mult > 0 or a vector."""
        rank, (lo, hi) = len(node.spec.shape), (int(node.attrs[k]) for k in ("lo", "hi"))
        if not self.exact:
            unit = np.ldexp(np.asarray(mult, np.float64), -np.asarray(shift, np.int64))
            added = bias * unit + np.ldexp(np.asarray(offset, np.float64), -np.asarray(shift, np.int64))
            x = self.emit("Mul", [x, self.const(self.by_channel(unit, axis, rank))])
            self.quantise(self.emit("Add", [x, self.const(self.by_channel(added, axis, rank))]), node)
            return
        if rank > 4:
            raise self.refuse(node, f"MultiThreshold knows up to 4 dimensions, this tensor has {rank}. {_KEEP}")
        layout = {"data_layout": ["N", "NC", "NWC", "NHWC"][rank - 1] if axis == rank - 1 else "NCHW"}
        bits, signed, _ = width(lo, hi)
        end: dict[str, Any] = {"out_scale": 1.0, "out_bias": float(lo), "out_dtype": f"{'INT' if signed else 'UINT'}{bits}"}
        read_by = {r.op for r in self.readers[node.name]}
        if lo < 0 <= hi and read_by and read_by <= {"bconv2d", "blinear", "bmatmul"} and node.name not in self.graph.outputs:
            lo, hi, end = -1, 0, {"out_scale": 2.0, "out_bias": -1.0, "out_dtype": "BIPOLAR"}
        self.custom("MultiThreshold", x, thresholds(lo, hi, mult, shift, offset, bias), out=node.name, **layout, **end)

    # --- operations -----------------------------------------------------------------------------------------------
    def quantize(self, n: Node, x: str) -> None:
        self.quantise(self.emit("Mul", [x, self.const(np.float32(1.0 / n.attrs["scale"]))]), n)

    def dequantize(self, n: Node, x: str) -> None:
        rank = len(n.spec.shape)
        self.emit("Mul", [x, self.const(self.by_channel(self.value(n, "scale"), 1 if rank == 4 else rank - 1, rank))], n.name)

    def _weighted(self, n: Node, x: str) -> None:
        """A negative factor moves into the weights, a zero one empties them."""
        rescaled, image, rank = "mult" in n.weights, n.op.endswith("conv2d"), len(n.spec.shape)
        axis, channels = 1 if image else rank - 1, n.spec.shape[1 if image else -1]
        mult = self.value(n, "mult").astype(np.int64) if rescaled else np.ones(channels, np.int64)
        sign = np.sign(mult)
        bias = self.value(n, "bias").astype(np.int64) * sign if "bias" in n.weights else np.zeros(channels, np.int64)
        inputs = [self.signs(x) if n.op.startswith("b") else x, self.weights(n, sign)]
        whole = n.name if not rescaled and not bias.any() else ""
        sums = self._conv(n, inputs, whole) if image else self.emit("MatMul", inputs, whole)
        if rescaled:
            self.rescale(n, sums, axis, np.where(mult == 0, 1, abs(mult)), self.value(n, "shift").astype(np.int64), 0, bias)
        elif not whole:
            self.emit("Add", [sums, self.const(self.by_channel(bias, axis, rank))], n.name)

    qconv2d = bconv2d = qlinear = blinear = _weighted

    def _product(self, n: Node, a: str, b: str) -> None:
        rescaled = n.attrs.get("mult") is not None
        inputs = [self.signs(v) if n.op == "bmatmul" else v for v in (a, b)]
        sums = self.emit("MatMul", inputs, "" if rescaled else n.name)
        if rescaled:
            self.scalar(n, sums)

    qmatmul = bmatmul = _product

    def scalar(self, n: Node, sums: str) -> None:
        """`rescale` by the numbers `mult` and `shift` of a node."""
        if n.attrs["mult"] <= 0:
            raise self.refuse(n, f"Its factor is {n.attrs['mult']}; it must be positive. {_KEEP}")
        self.rescale(n, sums, len(n.spec.shape) - 1, int(n.attrs["mult"]), int(n.attrs["shift"]))

    def qmul(self, n: Node, a: str, b: str) -> None:
        self.scalar(n, self.emit("Mul", [a, b]))

    def qmean(self, n: Node, x: str) -> None:
        self.scalar(n, self.emit("ReduceSum", [x, self.const([2, 3], np.int64)], keepdims=1))

    def requantize(self, n: Node, x: str) -> None:
        rank = len(n.spec.shape)
        axis = 1 if rank == 4 else rank - 1
        mult, offset = (self.value(n, r).astype(np.int64) for r in ("mult", "bias"))
        if (mult <= 0).any():
            x = self.emit("Mul", [x, self.const(self.by_channel(np.sign(mult), axis, rank))])
        self.rescale(n, x, axis, np.where(mult == 0, 1, abs(mult)), int(n.attrs["shift"]), offset)

    def qadd(self, n: Node, a: str, b: str) -> None:
        dtype, kind = (np.float64, TensorProto.DOUBLE) if self.exact else (np.float32, TensorProto.FLOAT)
        parts = []
        for x, factor in ((a, n.attrs["ma"]), (b, n.attrs["mb"])):
            wide = self.emit("Cast", [x], to=kind) if self.exact else x
            parts.append(self.emit("Mul", [wide, self.const(np.ldexp(float(factor), -int(n.attrs["shift"])), dtype)]))
        total = self.emit("Add", parts)
        if self.exact:
            total = self.emit("Floor", [self.emit("Add", [total, self.const(0.5, dtype)])])
            total = self.emit("Cast", [total], to=TensorProto.FLOAT)
        self.quantise(total, n)

    def lut(self, n: Node, x: str) -> None:
        first = 0 if self.specs[x].kind == "uint" else 128
        place = self.emit("Cast", [self.emit("Add", [x, self.const(first)])], to=TensorProto.INT64)
        self.quantise(self.emit("Gather", [self.const(self.value(n, "table")), place], axis=0), n)


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the shape of every tensor, checked: QONNX's operators keep the shape of their first input."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    for node in plain.graph.node:
        if node.domain:
            node.op_type, node.domain = "Identity", ""
            del node.input[1:], node.attribute[:]
    onnx.checker.check_model(plain, full_check=True)
    inferred = shape_inference.infer_shapes(plain, strict_mode=True, data_prop=True)
    model.graph.value_info.extend(inferred.graph.value_info)
    return model


def to_qonnx(graph: Graph, exact: bool = True) -> bytes:
    """A QONNX file of a float, int8, ternary or binary graph with values: one input [1, ...] at a time, all shapes known.

    Args:
        graph: the network.
        exact: rescale by `MultiThreshold` (and additions in float64), which gives the integers of the graph as long as sums
            stay below 2**24; otherwise by Mul, Add and `Quant`, which more tools read and which may differ by one next to ties.

    Raises:
        Unsupported: a spiking layer, a factor that is not positive, or an operation that ONNX cannot take.
        NetwrightError: the graph has no values.
    """
    return _with_shapes(_Quantised(graph, exact).write()).SerializeToString()
