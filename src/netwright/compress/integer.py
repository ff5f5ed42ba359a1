"""The integer engine: a float graph, codes for its weights and ranges for its activations become an integer graph.

Every step ``y = clip(a[c] * op(x) + b[c])`` of the plan turns into one integer operation. With ``x = sx*qx``,
``W[o] = sw[o]*qw[o]`` and ``y = sy*qy``, a weighted step is

    qy = clamp((sum(qx*qw) + bias[o]) * mult[o] >> shift[o]),   mult/2**shift = a*sx*sw/sy,   bias = b/(a*sx*sw)

(batch norm, scales and a learnt alpha, negative too, all lie in `mult`, `shift`, `bias`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netwright.compress.calibrate import Rule, check, collect, step_size
from netwright.compress.coded import CodedLayer
from netwright.compress.codes import Codes, Range, accumulator, fixed_point, quantise_weights, shared_shift
from netwright.compress.plan import ON_CODES, POINTWISE, WEIGHTED, Plan, Step, channels, compose, plan, refusals
from netwright.core.graph import Graph, Node, Spec
from netwright.design.execute import RUN, GraphModule

BINARY = {"conv2d": "bconv2d", "linear": "blinear"}
INTEGER = {"conv2d": "qconv2d", "linear": "qlinear"}


def unsupported(graph: Graph) -> list[str]:
    """Why the integer form cannot take this graph, one line a node; empty where it can."""
    return [str(error) for error in refusals(graph)]


def ranges_of(p: Plan, samples: Mapping[str, Tensor], rule: Rule = "mse") -> dict[str, Range]:
    """A range for every point of the plan, from samples of its values."""
    found = {}
    for name, signed in p.points.items():
        blank = Range(1.0, signed)
        found[name] = Range(step_size(samples[name], blank.lo, blank.hi, rule), signed)
    return found


def integerise(
    network: GraphModule | Graph,
    weights: Mapping[str, Codes] | None = None,
    calibration: Tensor | None = None,
    rule: Rule = "mse",
) -> GraphModule:
    """Turn a float network into one that computes in whole numbers, from its input codes to its last sums where it can.

    Args:
        network: a float graph with values, one input [N, ...].
        weights: trained codes by node name; weighted nodes without any get 8-bit codes, one scale an output channel.
        calibration: inputs [N, ...] from which activation ranges are taken.
        rule: how a range is chosen, see `calibrate.step_size`.

    Returns: a GraphModule: input, quantize, steps on codes, dequantize; float logits. What has no integer form stays in float,
        between a dequantize and a quantize.

    Raises:
        Unsupported: an operation that has neither an integer form nor a float one, with its module's path.
        DataError: the calibration data is missing, empty or not finite.
    """
    graph = network.to_graph() if isinstance(network, GraphModule) else network
    data = check(calibration if calibration is not None else torch.empty(0))
    p = plan(graph, bool(data.min() >= 0))
    weights = dict(weights or {})
    layers = {name: CodedLayer(p.graph[name], codes, _bias(p.graph, name)) for name, codes in weights.items()}
    return write(p, weights, ranges_of(p, collect(GraphModule(p.graph, layers).eval(), data, p.points), rule))


def write(p: Plan, weights: Mapping[str, Codes], ranges: Mapping[str, Range]) -> GraphModule:
    """The integer network of a plan, with codes by node name and ranges by point."""
    return GraphModule(_Writer(p, weights, ranges).write()).eval()


def _bias(graph: Graph, name: str) -> np.ndarray | None:
    node = graph[name]
    return graph.value(node, "bias") if "bias" in node.weights else None


class _Writer:
    """Writes the integer graph of a plan, one method a kind of step."""

    def __init__(self, p: Plan, weights: Mapping[str, Codes], ranges: Mapping[str, Range]):
        self.plan, self.graph, self.weights = p, p.graph, weights
        self.ranges = {name: ranges[root] for name, root in p.root.items()}
        self.nodes: list[Node] = []
        self.params: dict[str, Spec] = {}
        self.values: dict[str, np.ndarray] = {}
        self.here: dict[str, str] = {}  # float node -> integer node
        self.floats: dict[str, str] = {}  # float node -> the node that holds its value in float

    def write(self) -> Graph:
        for step in self.plan.steps:
            op = step.head.op
            if step.head.name in self.plan.floats:
                self.in_float(step.head)
            elif op in WEIGHTED:
                self.weighted(step)
            elif op in ON_CODES:
                self.on_codes(step)
            elif op in POINTWISE:
                self.pointwise(step)
            elif step.prelu is not None:
                self.bent(step)
            elif len(step.head.inputs) == 1 and op in ("add", "sub", "mul", "div", "batch_norm", "affine"):
                self.standalone(step)
            else:
                getattr(self, f"op_{op}")(step)
        outputs = tuple(self.value(name) for name in self.graph.outputs)
        return Graph(tuple(self.nodes), outputs, self.params, self.values)

    def value(self, name: str) -> str:
        """The node that holds a float node's value in float."""
        if name not in self.floats:
            scale, like = np.array([self.ranges[name].scale], np.float32), self.graph[name]
            self.floats[name] = self.emit("dequantize", like, [self.here[name]], like.spec, weights={"scale": scale})
        return self.floats[name]

    def in_float(self, node: Node) -> None:
        weights = {role: np.asarray(self.graph.values[key]) for role, key in node.weights.items()}
        inputs = [self.value(i) for i in node.inputs]
        self.floats[node.name] = self.emit(node.op, node, inputs, node.spec, node.attrs, node.macs, weights=weights)

    # --- one node -------------------------------------------------------------------------------------------------
    def emit(self, op: str, like: Node, inputs: list[str], spec: Spec, attrs: Mapping[str, Any] | None = None, macs: int = 0,
             name: str = "", weights: Mapping[str, np.ndarray] | None = None) -> str:  # fmt: skip
        """Append a node `op` in the place of the float node `like`; `weights` are its parameters by role."""
        weights = weights or {}
        taken = {n.name for n in self.nodes}
        name = name or (like.name if like.name not in taken else f"{like.name}_{op}")
        while name in taken:
            name += "_"
        bits = (attrs or {}).get("bits", 8)
        for role, value in weights.items():
            key = f"{name}.{role}"
            kind = "float" if value.dtype == np.float32 else "int"
            stored = bits if role == "weight" and kind == "int" else value.itemsize * 8
            self.params[key] = Spec(value.shape, stored, kind)
            self.values[key] = value
        roles = {role: f"{name}.{role}" for role in weights}
        self.nodes.append(Node(name, op, tuple(inputs), spec, dict(attrs or {}), roles, macs, like.path))
        return name

    def code_spec(self, node: Node) -> Spec:
        return Spec(node.spec.shape, 8, "int" if self.ranges[node.name].signed else "uint")

    def limits(self, step: Step) -> dict[str, int]:
        """Codes between which the step's output is clamped: its range, narrowed by its clip."""
        r = self.ranges[step.end.name]
        low, high = -math.inf, math.inf
        if step.clip is not None:
            a = step.clip.attrs
            low, high = {"relu": (0.0, math.inf), "relu6": (0.0, 6.0)}.get(step.clip.op) or (a["min"], a["max"])
        lo = r.lo if low == -math.inf else max(r.lo, round(low / r.scale))
        hi = r.hi if high == math.inf else min(r.hi, round(high / r.scale))
        return {"lo": int(lo), "hi": int(max(hi, lo))}

    def finish(self, step: Step, name: str) -> None:
        self.here[step.end.name] = name

    # --- kinds of steps -------------------------------------------------------------------------------------------
    def op_input(self, step: Step) -> None:
        node = step.head
        self.finish(step, self.codes_of(node, self.emit("input", node, [], node.spec)))

    def codes_of(self, node: Node, source: str) -> str:
        """Codes of a float tensor at the range of `node`."""
        r = self.ranges[node.name]
        return self.emit("quantize", node, [source], self.code_spec(node), {"scale": r.scale, "lo": r.lo, "hi": r.hi})

    def weighted(self, step: Step) -> None:
        node = step.head
        codes = self.weights.get(node.name) or quantise_weights(self.graph.value(node, "weight"))
        source = node.inputs[0]
        sx = 1.0 if codes.signs else self.ranges[source].scale
        a, b = compose(self.graph, step.affine, len(codes.codes))
        if (bias := _bias(self.graph, node.name)) is not None:
            b = b + a * bias
        unit, whole, dead = accumulator(a * codes.scale * sx, b)
        kept = codes.codes
        if dead.any() and codes.bits != 1:
            kept = kept.copy()
            kept[dead] = 0
        op = (BINARY if codes.signs else INTEGER)[node.op]
        attrs: dict[str, Any] = {**node.attrs, "lo": -127, "hi": 127, "bits": codes.bits}
        if step.end.name in self.plan.finals:
            out = self.graph[self.plan.finals[step.end.name]]
            sums = Spec(node.spec.shape, 32, "int")
            name = self.emit(op, node, [self.here[source]], sums, attrs, node.macs, weights={"weight": kept, "bias": whole})
            if out.name != step.end.name:
                name = self.emit("reshape", out, [name], replace(sums, shape=out.spec.shape))
            self.floats[out.name] = self.emit("dequantize", out, [name], out.spec, weights={"scale": unit.astype(np.float32)})
            return
        attrs |= self.limits(step)
        mult, shift = fixed_point(unit / self.ranges[step.end.name].scale)
        arrays = {"weight": kept, "bias": whole, "mult": mult, "shift": shift}
        self.finish(step, self.emit(op, node, [self.here[source]], self.code_spec(step.end), attrs, node.macs, weights=arrays))

    def requantize(
        self, like: Node, source: str, a: np.ndarray, b: np.ndarray, limits: dict[str, int], spec: Spec, name: str = ""
    ) -> str:
        """``code * a[c] + b[c]`` in output codes (both already divided by the output's scale)."""
        largest = 255
        shift = shared_shift(a[:, None], b, largest)
        mult, bias = (np.clip(np.rint(np.ldexp(v, shift)), -(2**31) + 1, 2**31 - 1).astype(np.int32) for v in (a, b))
        weights = {"mult": mult, "bias": bias}
        return self.emit("requantize", like, [source], spec, {"shift": shift, **limits}, name=name, weights=weights)

    def standalone(self, step: Step) -> None:
        node, source = step.head, step.head.inputs[0]
        a, b = compose(self.graph, step.affine, channels(node))
        s = self.ranges[step.end.name].scale
        a, b = a * self.ranges[source].scale / s, b / s
        self.finish(step, self.requantize(node, self.here[source], a, b, self.limits(step), self.code_spec(step.end)))

    def bent(self, step: Step) -> None:
        """Affine chains around a prelu: a line where its input is positive and another where it is not."""
        node, source, at = step.head, step.head.inputs[0], step.prelu
        assert at is not None
        count = channels(node)
        (a, b), (c, d) = (compose(self.graph, part, count) for part in (step.affine[:at], step.affine[at + 1 :]))
        slope = np.broadcast_to(self.graph.value(step.affine[at], "weight").astype(np.float64).reshape(-1), (count,))
        s, x = self.ranges[step.end.name].scale, self.ranges[source]
        positive, negative = (np.stack([c * k * a * x.scale, c * k * b + d]) / s for k in (np.ones(count), slope))
        right = np.where(a >= 0, positive, negative)  # the line of the larger codes; a prelu is continuous where they meet
        left = np.where(a >= 0, negative, positive)
        meet = -b / np.where(a == 0, 1.0, a * x.scale)
        meet = np.where(a == 0, np.where(b >= 0, -np.inf, np.inf), meet)
        gate = np.clip(np.ceil(meet), -(2**15), 2**15).astype(np.int32)
        slopes, constants = np.stack([right[0], left[0]], 1), np.maximum(abs(right[1]), abs(left[1]))
        shift = shared_shift(slopes, constants, max(x.largest, 255))
        whole = [np.clip(np.rint(np.ldexp(v, shift)), -(2**31) + 1, 2**31 - 1).astype(np.int32) for v in (*right, *left)]
        weights = dict(zip(("gate", "mult", "bias", "below_mult", "below_bias"), (gate, *whole), strict=True))
        attrs = {"shift": shift, **self.limits(step)}
        self.finish(step, self.emit("qprelu", node, [self.here[source]], self.code_spec(step.end), attrs, weights=weights))

    def on_codes(self, step: Step) -> None:
        node = step.head
        if node.name not in self.ranges:  # the reshape behind the last sums is written with them
            return
        if node.inputs[0] not in self.here:  # a float tensor
            self.finish(step, self.codes_of(node, self.value(node.inputs[0])))
            return
        self.finish(step, self.emit(node.op, node, [self.here[node.inputs[0]]], self.code_spec(node), node.attrs))

    def pointwise(self, step: Step) -> None:
        """``table[code] = clamp(rint(f(code*sx)/sy))``."""
        node, x, y = step.head, self.ranges[step.head.inputs[0]], self.ranges[step.end.name]
        values = np.arange(-128, 128) if x.signed else np.arange(256)
        out = RUN[node.op](node, {}, torch.from_numpy(values * x.scale)).numpy()
        limits = self.limits(step)
        table = np.clip(np.rint(out / y.scale), limits["lo"], limits["hi"]).astype(np.int16)
        source = self.here[node.inputs[0]]
        self.finish(step, self.emit("lut", node, [source], self.code_spec(node), limits, weights={"table": table}))

    def op_matmul(self, step: Step) -> None:
        """A product of computed tensors: of signs (one bit each) or of codes; its sums become floats."""
        node, out = step.head, step.end
        signs = node.attrs["product"] == "signs"
        unit, _ = compose(self.graph, step.affine, channels(out))
        if not signs:
            unit = unit * math.prod(self.ranges[i].scale for i in node.inputs)
        unit = unit[:1] if (unit == unit[0]).all() else unit
        sums, inputs = Spec(node.spec.shape, 32, "int"), [self.here[i] for i in node.inputs]
        attrs = {"lo": -127, "hi": 127}
        name = self.emit("bmatmul" if signs else "qmatmul", node, inputs, sums, attrs, node.macs)
        self.floats[out.name] = self.emit("dequantize", out, [name], out.spec, weights={"scale": unit.astype(np.float32)})

    def op_add(self, step: Step, sign: float = 1.0) -> None:
        node, y = step.head, self.ranges[step.end.name]
        factors = np.array([self.ranges[i].scale / y.scale for i in node.inputs]) * (1.0, sign)
        shift = shared_shift(factors, np.zeros(()), max(self.ranges[i].largest for i in node.inputs))
        ma, mb = (round(math.ldexp(f, shift)) for f in factors)
        attrs = {"ma": ma, "mb": mb, "shift": shift, **self.limits(step)}
        self.finish(step, self.emit("qadd", node, [self.here[i] for i in node.inputs], self.code_spec(step.end), attrs))

    def op_sub(self, step: Step) -> None:
        self.op_add(step, -1.0)

    def scalar_mult(self, m: float, largest: int) -> dict[str, int]:
        """mult, shift for sums up to `largest`; the product fits in 32 bits where 14 bits of mult are left."""
        mult, shift = fixed_point(np.float64(m), min(30, max(14, 30 - math.ceil(math.log2(largest)))))
        return {"mult": int(mult), "shift": int(shift)}

    def op_mul(self, step: Step) -> None:
        node, y = step.head, self.ranges[step.end.name]
        full, gate = sorted(node.inputs, key=lambda i: self.graph[i].spec.shape != node.spec.shape)
        a, b = self.ranges[full], self.ranges[gate]
        attrs = {**self.scalar_mult(a.scale * b.scale / y.scale, a.largest * b.largest), **self.limits(step)}
        self.finish(step, self.emit("qmul", node, [self.here[full], self.here[gate]], self.code_spec(step.end), attrs))

    def op_mean(self, step: Step) -> None:
        node, source = step.head, self.graph[step.head.inputs[0]]
        x, area = self.ranges[source.name], math.prod(source.spec.shape[2:])
        attrs = {**self.scalar_mult(x.scale / self.ranges[node.name].scale / area, x.largest * area), **self.limits(step)}
        spec = self.code_spec(node)
        pooled = replace(spec, shape=(*source.spec.shape[:2], 1, 1))
        name = self.emit("qmean", node, [self.here[source.name]], pooled, attrs)
        if not node.attrs["keepdim"]:
            name = self.emit("reshape", node, [name], spec)
        self.finish(step, name)

    def op_avg_pool2d(self, step: Step) -> None:
        """A depthwise convolution with ones."""
        node, source = step.head, self.graph[step.head.inputs[0]]
        kernel, count = node.attrs["kernel"], source.spec.shape[1]
        ones = np.ones((count, 1, *kernel), np.int8)
        m = self.ranges[source.name].scale / self.ranges[node.name].scale / math.prod(kernel)
        mult, shift = fixed_point(np.full(count, m))
        attrs = {"stride": node.attrs["stride"], "pads": [*node.attrs["padding"]] * 2, "dilation": [1, 1], "groups": count,
                 "bits": 8, **self.limits(step)}  # fmt: skip
        arrays = {"weight": ones, "bias": np.zeros(count, np.int32), "mult": mult, "shift": shift}
        macs = node.spec.elements * math.prod(kernel)
        self.finish(step, self.emit("qconv2d", node, [self.here[source.name]], self.code_spec(node), attrs, macs, weights=arrays))

    def op_cat(self, step: Step) -> None:
        """Inputs at another scale are brought to the common one."""
        node, y = step.head, self.ranges[step.head.name]
        inputs = []
        for source in node.inputs:
            x, name = self.ranges[source], self.here[source]
            if x != y:
                like = self.graph[source]
                a = np.full(channels(like), x.scale / y.scale)
                spec = replace(self.code_spec(like), kind="int" if y.signed else "uint")
                name = self.requantize(node, name, a, np.zeros_like(a), {"lo": y.lo, "hi": y.hi}, spec, f"{node.name}_{source}")
            inputs.append(name)
        self.finish(step, self.emit("cat", node, inputs, self.code_spec(node), node.attrs))
