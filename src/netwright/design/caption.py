# ruff: noqa: RUF001  the signs of multiplication and of ranges are meant
"""Caption: what a node and a tensor are, in a few words, and which kind of box stands for a node."""

from __future__ import annotations

from netwright.core.graph import ACTIVATIONS, WEIGHTED, Graph, Node, Spec

NORMS = frozenset({"batch_norm", "layer_norm", "group_norm", "affine", "requantize"})
FOLLOWS = ACTIVATIONS | NORMS | {"lut", "reshape", "dequantize", "softmax"}
MERGES = frozenset("add sub mul div cat qadd qmul iadd".split())
POOLS = frozenset("max_pool2d avg_pool2d mean qmean isum interpolate".split())
SPIKING = frozenset("integrate iadd isum accumulate difference readout".split())
INTEGER = frozenset("quantize dequantize qadd qmul requantize qprelu lut qmean".split())


def si(value: float) -> str:
    """1234 -> 1.23 k."""
    for limit, sign in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= limit:
            return f"{value / limit:.3g}{sign}"
    return f"{value:g}"


def shape_text(spec: Spec) -> str:
    """Shape without the batch, bit width where it is not 32, time steps where there are several."""
    text = " × ".join(map(str, spec.shape[1:] or spec.shape)) or "scalar"
    kind = {1: "1 bit", 8: f"{spec.kind}8", 16: f"{spec.kind}16"}.get(spec.bits, "int32" if spec.kind == "int" else "")
    if spec.steps > 1:
        kind = f"{spec.steps} steps" + (f", {spec.rate:.0%} spikes" if spec.rate < 1 else "")
    return f"{text} · {kind}" if kind else text


def kind_of(node: Node) -> str:
    """Which kind of box a node is drawn as."""
    op = node.op
    if op in SPIKING:
        return "spike"
    if op in WEIGHTED and node.attrs.get("bits", 8) < 8:
        return "binary"
    if op in INTEGER or op.startswith(("qconv", "qlinear")):
        return "integer"
    if op == "conv2d":
        return "depthwise" if node.attrs["groups"] > 1 and node.attrs["groups"] == node.spec.shape[1] else "conv"
    if op in ("linear", "matmul", "sdpa") or (node.macs and op.startswith("aten.")):
        return "linear"
    if op in MERGES:
        return "merge"
    if op in POOLS:
        return "pool"
    return "act" if op in FOLLOWS and op != "reshape" else "data"


def describe(node: Node, graph: Graph) -> str:
    """What the operation is, in a few words."""
    a, weight = node.attrs, graph.params.get(node.weights.get("weight", ""))
    precision = {1: "binary ", 2: "ternary ", 8: "int8 "}.get(a["bits"], "") if "bits" in a else ""
    if node.op in ("conv2d", "qconv2d", "bconv2d") and weight:
        kernel = "×".join(map(str, weight.shape[2:]))
        groups = a["groups"]
        depthwise = "depthwise " if groups > 1 and weight.shape[1] == 1 else ""
        extra = f", stride {a['stride'][0]}" if max(a["stride"]) > 1 else ""
        extra += f", dilation {a['dilation'][0]}" if max(a["dilation"]) > 1 else ""
        extra += f", {groups} groups" if groups > 1 and not depthwise else ""
        return f"{precision}{depthwise}conv {kernel}{extra}"
    if node.op in ("linear", "qlinear", "blinear") and weight:
        return f"{precision}linear {weight.shape[-1]} → {weight.shape[0]}"
    if node.op in ("max_pool2d", "avg_pool2d"):
        return f"{node.op[:3]} pool {'×'.join(map(str, a['kernel']))}"
    named = {"qmean": "global mean", "isum": "sum of spikes", "sdpa": "attention", "lut": "look-up table", "cat": "concatenate",
             "dequantize": "to float", "quantize": "to codes", "iadd": "add currents", "qadd": "add codes",
             "qmul": "multiply codes", "mul": "multiply", "div": "divide", "sub": "subtract", "matmul": "product"}  # fmt: skip
    if node.op == "integrate":
        return f"integrate and fire, T = {a['steps']}"
    if node.op == "readout":
        return f"read out steps {a['start']}–{a['steps'] - 1}"
    if node.op == "slice":
        return f"slice {a['start']}:{a['end']} of axis {a['dim']}"
    if node.op == "mean":
        return "global mean" if a["dims"] == [2, 3] else f"mean over {', '.join(map(str, a['dims']))}"
    if "scalar" in a:
        return f"{named.get(node.op, node.op)} {a['scalar']:g}"
    return named.get(node.op, node.op.removeprefix("aten.").replace("_", " "))
