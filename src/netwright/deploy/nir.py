"""NIR files: spiking graphs for other simulators and chips, and back.

Converted networks are integer graphs; NIR knows floats. Weights, biases and thresholds are written as floats that are those
integers, which double precision adds without rounding. What NIR has no word for stands in metadata:

| node | metadata |
|---|---|
| graph | producer ("netwright"), format, steps T |
| Input | scale, lo, hi: the code clip(round(x / scale), lo, hi) that enters, the same in every step |
| IF | reset ("subtract": v -= v_threshold s; NIR's own IF sets v to v_reset), rule, limit, v0 [C], fires ("v >= v_threshold") |
| Output | start, steps, v0, scale [K]: logits are scale * (v0 + the sum of what leaves in the steps start..T-1) |

and path, rate (share of non-zero elements), and how a layer came to its form. A reader that does not know these metadata
runs another network: `nir_interpreter` knows them.

NIR's own reader checks shapes with groups = 1 and square kernels, and NIR pads both sides alike. So grouped kernels are
written with zeros between the groups, and kernels are widened by zeros until they are square with equal padding. Slices,
choices and concatenations of channels are 1x1 convolutions of zeros and ones; sums over windows and over the image are
SumPool2d; sums of tensors are several edges into one node; a running sum is I, and the change since the last step an edge
through a Delay of one step beside the direct one. NIR has no max pooling: such a network is refused.

Pedersen et al., Neuromorphic Intermediate Representation, Nature Communications 15, 2024. Files are HDF5 without Python
objects.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import torch
from numpy.typing import NDArray

from netwright.core.errors import NetwrightError, Unsupported
from netwright.core.files import write_bytes
from netwright.core.graph import Graph, Node, Spec
from netwright.deploy.nir_interpreter import Interpreter, flat, order, text
from netwright.design.execute import RUN

WHO = "NIR"
FORMAT = 1
MOST_BYTES = 4 << 30
DEEPEST = 32
INT32 = {"lo": -(2**31), "hi": 2**31 - 1}
Array = NDArray[Any]


def _floats(values: Array) -> Array:
    """Whole numbers as float32 where that holds them all, else as float64."""
    return values.astype(np.float32 if np.abs(values.astype(np.int64)).max(initial=0) < 2**24 else np.float64)


def _whole(name: str, values: Any, dtype: type) -> Array:
    found = np.asarray(values)
    codes = np.rint(found).astype(np.int64)
    if (codes != found).any() or (codes != codes.astype(dtype)).any():
        raise NetwrightError(
            f"The node {name!r} of the NIR graph holds numbers that are no {np.dtype(dtype).name}; it was edited."
        )
    return codes.astype(dtype)


# --- kernels --------------------------------------------------------------------------------------------------------------
def ungrouped(weight: Array, groups: int) -> Array:
    """[O, I/groups, kh, kw] -> [O, I, kh, kw] with zeros between the groups."""
    if groups == 1:
        return weight
    out, inner = weight.shape[:2]
    full = np.zeros((out, inner * groups, *weight.shape[2:]), weight.dtype)
    for g in range(groups):
        rows = slice(g * out // groups, (g + 1) * out // groups)
        full[rows, g * inner : (g + 1) * inner] = weight[rows]
    return full


def grouped(weight: Array, groups: int) -> Array:
    """The blocks on the diagonal: undoes `ungrouped`."""
    out, inner = weight.shape[0] // groups, weight.shape[1] // groups
    return np.concatenate([weight[g * out : (g + 1) * out, g * inner : (g + 1) * inner] for g in range(groups)])


def squared(sides: tuple[int, int], pads: tuple[int, int, int, int]) -> tuple[int, tuple[int, int, int, int]] | None:
    """(K, (top, left, bottom, right)): zeros around a kernel of `sides` that make it K x K, with equal padding on both sides.

    Zeros and padding on the same side grow together, so nothing moves: of K - k zeros, e stand before and e' behind with
    before + e = behind + e'. None where the parities of the two dimensions exclude each other.
    """
    for side in range(max(sides), max(sides) + 2 + max(pads)):
        around = []
        for k, before, behind in ((sides[0], pads[0], pads[2]), (sides[1], pads[1], pads[3])):
            twice = side - k + behind - before  # 2 e
            if twice % 2 == 0 and 0 <= twice // 2 <= side - k:
                around.append((twice // 2, side - k - twice // 2))
        if len(around) == 2:
            (top, bottom), (left, right) = around
            return side, (top, left, bottom, right)
    return None


def selection(count: int, channels: Sequence[int], places: Sequence[int], width: int) -> Array:
    """[width, count] zeros and ones: output `places[i]` is input `channels[i]`."""
    matrix = np.zeros((width, count), np.float32)
    matrix[list(places), list(channels)] = 1
    return matrix


# --- export ---------------------------------------------------------------------------------------------------------------
class _Export:
    """One method `op_NAME` an operation of a spiking graph; `made[name]` are the NIR nodes whose sum the tensor is."""

    def __init__(self, graph: Graph, unit: bool):
        self.graph, self.unit, self.specs = graph, unit, {n.name: n.spec for n in graph}
        self.steps = max((int(n.attrs["steps"]) for n in graph if n.op == "integrate"), default=0)
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self.made: dict[str, tuple[str, ...]] = {}
        if not self.steps or len(graph.inputs) != 1 or len(graph.outputs) != 1:
            raise Unsupported(
                WHO, "graph", "", "It takes spiking networks of one input and one output: convert the network first."
            )
        for node in graph:
            if (method := getattr(self, f"op_{node.op}", None)) is None:
                raise Unsupported(WHO, node.op, node.origin, self.way_out(node.op))
            method(node)

    @staticmethod
    def way_out(op: str) -> str:
        if op == "max_pool2d":
            return "NIR has no max pooling: use average pooling or strided convolutions, or deploy as C."
        return "NIR takes spiking networks as the converters make them: convert the network first."

    def put(self, node: Node, made: Any, name: str | None = None, sources: tuple[str, ...] | None = None) -> None:
        name = self.key(node.name if name is None else name)
        self.nodes[name] = made
        self.edges += [(source, name) for source in (self.made[node.inputs[0]] if sources is None else sources)]
        self.made[node.name] = (*self.made.get(node.name, ()), name)

    @staticmethod
    def key(name: str) -> str:
        return name.replace("/", ":")  # HDF5 reads a slash as a folder

    def shape(self, name: str) -> tuple[int, ...]:
        return self.specs[name].shape[1:]

    def value(self, node: Node, role: str) -> Array:
        return np.asarray(self.graph.value(node, role))

    def op_input(self, n: Node) -> None:
        self.made[n.name] = ()

    def op_quantize(self, n: Node) -> None:
        code = {"scale": float(n.attrs["scale"]), "lo": int(n.attrs["lo"]), "hi": int(n.attrs["hi"]), "codes": n.name}
        name = n.inputs[0]
        if self.graph[name].op != "input":
            raise Unsupported(WHO, n.op, n.origin, "Only the input is coded: convert the network first.")
        self.put(n, nir.Input({"input": np.array(self.shape(n.name))}, metadata=code), name, ())

    def op_qconv2d(self, n: Node) -> None:
        a, codes = n.attrs, self.value(n, "weight")
        if self._sums(n, codes):
            window = (np.array(v, np.int64) for v in (codes.shape[2:], a["stride"], a["pads"][:2]))
            facts = {"path": n.path, "rate": float(n.spec.rate), "bits": n.spec.bits}
            return self.put(n, nir.SumPool2d(*window, metadata=facts))
        self._plain(n)
        sides, pads = codes.shape[2:], tuple(int(p) for p in a["pads"])
        dilation = tuple(int(d) for d in a["dilation"])
        found = squared((sides[0], sides[1]), (pads[0], pads[1], pads[2], pads[3])) if dilation == (1, 1) else None
        if found is None:
            if sides[0] != sides[1] or pads[:2] != pads[2:]:
                raise Unsupported(
                    WHO, n.op, n.origin, f"A kernel of {sides} with pads {pads} has no square form of equal padding."
                )
            found = sides[0], (0, 0, 0, 0)
        top, left, bottom, right = found[1]
        weight = np.pad(ungrouped(codes, a["groups"]), ((0, 0), (0, 0), (top, bottom), (left, right)))
        bias = self.value(n, "bias") if "bias" in n.weights else np.zeros(len(codes), np.int32)
        form = {"groups": int(a["groups"]), "kernel": np.array(sides), "pads": np.array(pads), "biased": int("bias" in n.weights)}
        made = nir.Conv2d(
            self.shape(n.inputs[0])[1:], _floats(weight), tuple(int(s) for s in a["stride"]), (pads[0] + top, pads[1] + left),
            dilation, 1, _floats(bias), metadata={**form, "path": n.path},
        )  # fmt: skip
        self.put(n, made)

    def op_qlinear(self, n: Node) -> None:
        self._plain(n)
        if len(self.shape(n.inputs[0])) != 1:
            raise Unsupported(WHO, n.op, n.origin, f"It reads {self.shape(n.inputs[0])}; NIR's linear layers read vectors.")
        weight, path = _floats(self.value(n, "weight")), {"path": n.path}
        bias = _floats(self.value(n, "bias")) if "bias" in n.weights else None
        self.put(n, nir.Linear(weight, metadata=path) if bias is None else nir.Affine(weight, bias, metadata=path))

    def _sums(self, n: Node, codes: Array) -> bool:
        """Whether the convolution sums windows of every channel: weights of one, and no rescaling or one that changes nothing."""
        a = n.attrs
        alike = a["pads"][:2] == a["pads"][2:] and tuple(a["dilation"]) == (1, 1) and codes.shape[1] == 1
        kept = "mult" not in n.weights
        if not kept and math.prod(codes.shape[2:]) <= min(-a["lo"], a["hi"]):
            kept = bool((self.value(n, "mult") == 1 << self.value(n, "shift").astype(np.int64)).all())
        return alike and kept and "bias" not in n.weights and a["groups"] == len(codes) and bool((codes == 1).all())

    def _plain(self, n: Node) -> None:
        if "mult" in n.weights:
            raise Unsupported(WHO, n.op, n.origin, "It rescales its sums, as int8 networks do: NIR takes spiking ones.")

    def op_iadd(self, n: Node) -> None:
        summed = tuple(name for source in n.inputs for name in self.made[source])
        if len(set(summed)) != len(summed):
            raise Unsupported(WHO, n.op, n.origin, "It adds a tensor to itself; NIR allows one edge between two nodes.")
        self.made[n.name] = summed

    def op_integrate(self, n: Node) -> None:
        a, shape = n.attrs, self.shape(n.name)
        theta, v0 = _floats(self.value(n, "theta")), _floats(self.value(n, "v0"))
        if self.unit:
            self._divide(n, theta)
            theta, v0 = np.ones_like(theta), v0 / theta
        threshold = np.ascontiguousarray(np.broadcast_to(theta.reshape(-1, *[1] * (len(shape) - 1)), shape))
        rule = {"reset": "subtract", "fires": "v >= v_threshold", "rule": str(a["rule"]), "limit": int(a["limit"])}
        facts = {**rule, "v0": v0, "path": n.path, "rate": float(n.spec.rate)}
        self.put(n, nir.IF(np.ones_like(threshold), threshold, np.zeros_like(threshold), metadata=facts))

    def _divide(self, n: Node, theta: Array) -> None:
        """The currents of a layer in units of its thresholds."""
        for name in self.made[n.inputs[0]]:
            layer = self.nodes[name]
            if not hasattr(layer, "weight") or "op" in layer.metadata or any(source == name for source, _ in self.edges):
                raise Unsupported(
                    WHO, n.op, n.origin, "Its current has another reader, or is moved about: write it without unit."
                )
            layer.weight = layer.weight / theta.reshape(-1, *[1] * (layer.weight.ndim - 1))
            if hasattr(layer, "bias"):
                layer.bias = layer.bias / theta

    def op_isum(self, n: Node) -> None:
        sides = np.array(self.shape(n.inputs[0])[1:])
        facts = {"path": n.path, "rate": float(n.spec.rate)}
        self.put(n, nir.SumPool2d(sides, sides, np.zeros(2, np.int64), metadata=facts))

    def op_reshape(self, n: Node) -> None:
        shape = self.shape(n.inputs[0])
        if self.shape(n.name) != (math.prod(shape),):
            raise Unsupported(WHO, n.op, n.origin, f"It makes {self.shape(n.name)} of {shape}; NIR can only flatten.")
        facts = {"path": n.path, "rate": float(n.spec.rate)}
        self.put(n, nir.Flatten({"input": np.array(shape)}, 0, -1, metadata=facts))

    def _select(self, n: Node, matrix: Array, facts: Mapping[str, Any], name: str, source: str) -> None:
        shape, facts = self.shape(source), {**facts, "path": n.path, "rate": float(n.spec.rate)}
        if len(shape) == 1:
            made = nir.Linear(matrix, metadata=facts)
        else:
            zeros = np.zeros(len(matrix), np.float32)
            made = nir.Conv2d(shape[1:], matrix[..., None, None], 1, 0, 1, 1, zeros, metadata=facts)
        self.put(n, made, name, self.made[source])

    def op_take(self, n: Node) -> None:
        channels, count = [int(i) for i in self.value(n, "index")], self.shape(n.inputs[0])[0]
        if n.attrs["dim"] != 1:
            raise Unsupported(WHO, n.op, n.origin, "Only channels can be chosen.")
        self._select(n, selection(count, channels, range(len(channels)), len(channels)), {"op": "take"}, n.name, n.inputs[0])

    def op_accumulate(self, n: Node) -> None:
        self.put(n, nir.I(np.ones(self.shape(n.name), np.float32), metadata={"path": n.path}))

    def op_difference(self, n: Node) -> None:
        ones, facts = np.ones(self.shape(n.name), np.float32), {"op": "part"}
        before, minus = self.key(f"{n.name}.before"), self.key(f"{n.name}.minus")
        sources = self.made[n.inputs[0]]
        self.put(n, nir.Delay(ones, metadata=facts), before, sources)
        self.put(n, nir.Scale(-ones, metadata=facts), minus, (before,))
        self.made[n.name] = ()
        self.put(n, nir.Scale(ones, metadata={"op": "difference", "path": n.path}), n.name, (*sources, minus))

    def op_slice(self, n: Node) -> None:
        a, count = n.attrs, self.shape(n.inputs[0])[0]
        channels = range(count)[a["start"] : a["end"] : a.get("step", 1)]
        if a["dim"] != 1:
            raise Unsupported(WHO, n.op, n.origin, "Only channels can be sliced.")
        facts = {"op": "slice", "start": channels.start, "end": channels.stop, "step": channels.step}
        self._select(n, selection(count, channels, range(len(channels)), len(channels)), facts, n.name, n.inputs[0])

    def op_cat(self, n: Node) -> None:
        if n.attrs["dim"] != 1:
            raise Unsupported(WHO, n.op, n.origin, "Only channels can be concatenated.")
        width, first = self.shape(n.name)[0], 0
        for i, source in enumerate(n.inputs):
            count = self.shape(source)[0]
            matrix = selection(count, range(count), range(first, first + count), width)
            self._select(n, matrix, {"op": "cat", "cat": n.name, "part": i}, f"{n.name}.{i}", source)
            first += count

    def op_readout(self, n: Node) -> None:
        self.made[n.name] = self.made[n.inputs[0]]
        self.window: dict[str, Any] = {key: int(n.attrs.get(key, 0)) for key in ("start", "steps", "delay")}
        if "v0" in n.weights:
            self.window["v0"] = self.value(n, "v0").astype(np.int64)

    def op_dequantize(self, n: Node) -> None:
        if self.graph[n.inputs[0]].op != "readout" or n.name not in self.graph.outputs:
            raise Unsupported(WHO, n.op, n.origin, "Only the sum of the output's currents becomes real numbers.")
        facts = {**self.window, "readout": n.inputs[0], "scale": self.value(n, "scale").astype(np.float32), "logits": n.name}
        self.put(n, nir.Output({"output": np.array(self.shape(n.name))}, metadata=facts), "output")

    def network(self) -> nir.NIRGraph:
        if "output" not in self.nodes:
            raise Unsupported(WHO, "graph", "", "Its output is no sum over time of currents: convert the network first.")
        facts = {"producer": "netwright", "format": FORMAT, "steps": self.steps}
        return nir.NIRGraph(self.nodes, self.edges, metadata=facts)


def to_nir(graph: Graph, unit: bool = False) -> nir.NIRGraph:
    """A converted spiking graph as NIR: the same spikes and sums under `nir_interpreter`.

    Args:
        graph: with its values.
        unit: divide currents by thresholds, so that every threshold is 1: some readers know one threshold only. Rounding may
            then move a spike where a sum meets its threshold, and `from_nir` cannot have the integers back.

    Raises:
        Unsupported: an operation that NIR has no node for (max pooling), or a graph that is not a spiking one.
    """
    return _Export(graph, unit).network()


def nir_bytes(graph: Graph, unit: bool = False) -> bytes:
    """The file of `to_nir`; equal graphs give equal bytes. Raises Unsupported."""
    buffer = io.BytesIO()
    nir.write(buffer, to_nir(graph, unit))
    return buffer.getvalue()


def write_nir(graph: Graph, path: Path | str, unit: bool = False) -> None:
    """`nir_bytes` into a file. Raises Unsupported."""
    write_bytes(Path(path), nir_bytes(graph, unit))


# --- import ---------------------------------------------------------------------------------------------------------------
def _check(group: Any, where: str, depth: int = 0) -> int:
    """Bytes of all that a group holds. Raises ValueError for links, objects, and groups inside each other without end."""
    if depth > DEEPEST:
        raise ValueError(f"groups lie more than {DEEPEST} deep")
    total = 0
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{where}{name} is a link")
        item = group[name]
        if isinstance(item, h5py.Group):
            total += _check(item, f"{where}{name}/", depth + 1)
        elif isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise ValueError(f"{where}{name} is kept in another file")
            if item.dtype.kind == "O" and h5py.check_string_dtype(item.dtype) is None:
                raise ValueError(f"{where}{name} holds {item.dtype}, neither numbers nor text")
            total += int(item.nbytes)
    if total > MOST_BYTES:
        raise ValueError(f"it unpacks to more than {MOST_BYTES >> 30} GiB")
    return total


def read_nir(path: Path | str) -> nir.NIRGraph:
    """A NIR file, ours or another's. Nothing is unpickled, and no other file is opened.

    Raises:
        NetwrightError: no file, no HDF5, not NIR, or damaged; says which.
    """
    path = Path(path)
    if not path.is_file():
        raise NetwrightError(f"There is no NIR file at {path}.")
    if not h5py.is_hdf5(os.fspath(path)):
        raise NetwrightError(f"{path} is not a NIR file: it is not HDF5, or it is cut short.")
    try:
        with h5py.File(path, "r") as file:
            if "node" not in file:
                raise ValueError("it has no graph ('node'); another kind of HDF5 file?")
            _check(file, "")
        graph = nir.read(path, type_check=False)  # NIR's check refuses grouped and oblong kernels
        if not isinstance(graph, nir.NIRGraph):
            raise ValueError(f"its top is a {type(graph).__name__} node, not a graph")
        graph.validate_structure()
    except (OSError, ValueError, KeyError, TypeError, AssertionError, AttributeError, RuntimeError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NetwrightError(
            f"{path} cannot be read as NIR: {reason}. Damaged, or of another version? Write it again."
        ) from error
    return graph


class _Import:
    """The integer Graph of a NIR graph of ours, one method a type of node; every node is run once as it is made, on zeros."""

    def __init__(self, graph: nir.NIRGraph):
        if not Interpreter(graph).ours:
            raise Unsupported(
                "Import as an integer graph", "NIR graph", "", "netwright did not write it: run it with Interpreter."
            )
        if int(graph.metadata.get("format", 0)) > FORMAT:
            raise NetwrightError(f"The NIR graph has format {graph.metadata['format']}; this netwright reads up to {FORMAT}.")
        self.source, self.edges = flat(graph)
        names, closing = order(self.source, self.edges)
        if closing:
            raise Unsupported("Import as an integer graph", "loop", " -> ".join(next(iter(closing))), "Run it with Interpreter.")
        self.T = int(graph.metadata["steps"])
        self.nodes: list[Node] = []
        self.values: dict[str, Array] = {}
        self.tensors: dict[str, torch.Tensor] = {}
        self.steps: dict[str, int] = {}
        self.parts: dict[str, dict[int, str]] = {}
        self.made: dict[str, str] = {}
        for name in names:
            getattr(self, f"node_{type(self.source[name]).__name__}", self.unknown)(name, self.source[name])

    def unknown(self, name: str, node: Any) -> None:
        raise Unsupported("Import as an integer graph", type(node).__name__, name, "Run it with Interpreter.")

    def emit(self, name: str, op: str, inputs: tuple[str, ...], steps: int, attrs: Mapping[str, Any], facts: Mapping[str, Any],
             weights: Mapping[str, Array] | None = None) -> str:  # fmt: skip
        keys = {role: f"{name}.{role}" for role in weights or {}}
        self.values |= {keys[role]: array for role, array in (weights or {}).items()}
        held = {role: torch.from_numpy(array) for role, array in (weights or {}).items()}
        path = text(facts.get("path", ""))
        node = Node(name, op, inputs, Spec(()), attrs, keys, 0, path)
        value = RUN[op](node, held, *(self.tensors[i] for i in inputs))
        shape = (1, *value.shape[1:])
        kind = "float" if value.is_floating_point() else ("uint" if value.dtype == torch.uint8 else "int")
        sums = "weight" not in held or isinstance(self.source.get(name), nir.SumPool2d)
        macs = 0 if sums else math.prod(shape) * held["weight"][0].numel()
        spec = Spec(shape, value.element_size() * 8, kind, float(facts.get("rate", 1.0)), steps)
        self.nodes.append(Node(name, op, inputs, spec, attrs, keys, macs, path))
        self.tensors[name], self.steps[name] = value, steps
        return name

    def summed(self, name: str) -> str:
        """The tensor that reaches a node: the sum over its edges."""
        sources = list(dict.fromkeys(self.made[a] for a, b in self.edges if b == name and a in self.made))
        total = sources[0]
        for i, other in enumerate(sources[1:], 1):
            steps = self.steps[total], self.steps[other]
            attrs = {"a_steps": steps[0], "b_steps": steps[1]}
            total = self.emit(f"{name}_s{i}", "iadd", (total, other), max(steps), attrs, {})
        return total

    def one(self, name: str, node: Any, op: str, attrs: Mapping[str, Any], weights: Mapping[str, Array] | None = None) -> None:
        source = self.summed(name)
        self.made[name] = self.emit(name, op, (source,), self.steps[source], attrs, node.metadata, weights)

    def node_Input(self, name: str, node: Any) -> None:
        code, shape = node.metadata, tuple(int(n) for n in node.input_type["input"])
        self.nodes.append(Node(name, "input", (), Spec((1, *shape))))
        self.tensors[name], self.steps[name] = torch.zeros(1, *shape), 1
        attrs = {"scale": float(code["scale"]), "lo": int(code["lo"]), "hi": int(code["hi"])}
        self.made[name] = self.emit(text(code["codes"]), "quantize", (name,), 1, attrs, {})

    def node_Conv2d(self, name: str, node: Any) -> None:
        facts = node.metadata
        if "op" in facts:
            return self._selected(name, facts)
        full, groups = np.asarray(node.weight), int(facts["groups"])
        sides, pads = tuple(int(s) for s in facts["kernel"]), [int(p) for p in facts["pads"]]
        top, left = (int(p) - q for p, q in zip(node.padding, pads[:2], strict=True))
        codes = grouped(full[:, :, top : top + sides[0], left : left + sides[1]], groups)
        around = ((0, 0), (0, 0), (top, full.shape[2] - sides[0] - top), (left, full.shape[3] - sides[1] - left))
        if not np.array_equal(np.pad(ungrouped(codes, groups), around), full):
            raise NetwrightError(f"The kernel of {name!r} is not the one that its metadata describe; the NIR graph was edited.")
        weights = {"weight": _whole(name, codes, np.int8)}
        if int(facts["biased"]):
            weights["bias"] = _whole(name, node.bias, np.int32)
        attrs = {"stride": [int(s) for s in node.stride], "pads": pads, "dilation": [int(d) for d in node.dilation]}
        self.one(name, node, "qconv2d", {**attrs, "groups": groups, **INT32, "bits": 8}, weights)

    def node_Affine(self, name: str, node: Any) -> None:
        weights = {"weight": _whole(name, node.weight, np.int8), "bias": _whole(name, node.bias, np.int32)}
        self.one(name, node, "qlinear", {**INT32, "bits": 8}, weights)

    def node_Linear(self, name: str, node: Any) -> None:
        if "op" in node.metadata:
            return self._selected(name, node.metadata)
        self.one(name, node, "qlinear", {**INT32, "bits": 8}, {"weight": _whole(name, node.weight, np.int8)})

    def _selected(self, name: str, facts: Mapping[str, Any]) -> None:
        """Ones and zeros that stand for a slice, or for a part of a concatenation."""
        source = self.summed(name)
        if text(facts["op"]) == "slice":
            attrs = {"dim": 1, **{k: int(facts[k]) for k in ("start", "end", "step")}}
            self.made[name] = self.emit(name, "slice", (source,), self.steps[source], attrs, facts)
            return
        if text(facts["op"]) == "take":
            index = {"index": np.asarray(self.source[name].weight).reshape(-1, self.tensors[source].shape[1]).argmax(1)}
            self.made[name] = self.emit(name, "take", (source,), self.steps[source], {"dim": 1}, facts, index)
            return
        whole, part = text(facts["cat"]), int(facts["part"])
        siblings = [n for n, v in self.source.items() if text(v.metadata.get("cat", "")) == whole]
        self.made[name] = whole
        parts = self.parts.setdefault(whole, {})
        parts[part] = source
        if len(parts) == len(siblings):
            inputs = tuple(parts[i] for i in sorted(parts))
            self.emit(whole, "cat", inputs, self.steps[source], {"dim": 1}, facts)

    def node_IF(self, name: str, node: Any) -> None:
        facts, threshold = node.metadata, np.asarray(node.v_threshold)
        theta = _whole(name, threshold.reshape(len(threshold), -1)[:, 0], np.int32)
        source = self.summed(name)
        attrs = {"steps": self.T, "current_steps": self.steps[source], "rule": text(facts["rule"]), "limit": int(facts["limit"])}
        weights = {"theta": theta, "v0": _whole(name, facts["v0"], np.int32)}
        self.made[name] = self.emit(name, "integrate", (source,), self.T, attrs, facts, weights)

    def node_SumPool2d(self, name: str, node: Any) -> None:
        if "bits" not in node.metadata:
            return self.one(name, node, "isum", {})
        channels, (high, wide) = self.tensors[self.summed(name)].shape[1], (int(p) for p in node.padding)
        attrs: dict[str, Any] = {"stride": [int(s) for s in node.stride], "pads": [high, wide, high, wide], "dilation": [1, 1]}
        attrs |= {"groups": channels, "bits": 8, **INT32}
        weights: dict[str, Array] = {"weight": np.ones((channels, 1, *(int(s) for s in node.kernel_size)), np.int8)}
        if int(node.metadata["bits"]) == 8:  # (2 v + 1) >> 1 = v
            weights |= {"mult": np.full(channels, 2, np.int32), "shift": np.ones(channels, np.int32)}
            attrs |= {"lo": -127, "hi": 127}
        self.one(name, node, "qconv2d", attrs, weights)

    def node_I(self, name: str, node: Any) -> None:
        self.one(name, node, "accumulate", {"steps": self.T})

    def node_Delay(self, name: str, node: Any) -> None:
        if text(node.metadata.get("op", "")) != "part":
            self.unknown(name, node)

    def node_Scale(self, name: str, node: Any) -> None:
        if text(node.metadata.get("op", "")) == "difference":
            source = self.summed(name)
            attrs = {"steps": self.T, "current_steps": self.steps[source]}
            self.made[name] = self.emit(name, "difference", (source,), self.T, attrs, node.metadata)
        else:
            self.node_Delay(name, node)

    def node_Flatten(self, name: str, node: Any) -> None:
        source = self.summed(name)
        elements = self.tensors[source][0].numel()
        self.nodes.append(Node(name, "reshape", (source,), Spec((1, elements))))
        self.tensors[name] = self.tensors[source].flatten(1)
        old, rate = self.spec(source), float(node.metadata.get("rate", 1.0))
        spec = Spec((1, elements), old.bits, old.kind, rate, old.steps)
        self.nodes[-1] = Node(name, "reshape", (source,), spec, path=text(node.metadata.get("path", "")))
        self.steps[name], self.made[name] = self.steps[source], name

    def spec(self, name: str) -> Spec:
        return next(n.spec for n in self.nodes if n.name == name)

    def node_Output(self, name: str, node: Any) -> None:
        facts, source = node.metadata, self.summed(name)
        window = {"steps": self.steps[source], "start": int(facts["start"]), "delay": int(facts["delay"])}
        start = {"v0": _whole(name, facts["v0"], np.int32)} if "v0" in facts else {}
        total = self.emit(text(facts["readout"]), "readout", (source,), 1, window, {}, start)
        scale = {"scale": np.asarray(facts["scale"], np.float32)}
        self.output = self.emit(text(facts["logits"]), "dequantize", (total,), 1, {}, {}, scale)

    def network(self) -> Graph:
        params = {
            key: Spec(array.shape, array.itemsize * 8, "float" if array.dtype.kind == "f" else "int")
            for key, array in self.values.items()
        }
        return Graph(tuple(self.nodes), (self.output,), params, self.values)


def from_nir(graph: nir.NIRGraph) -> Graph:
    """The integer Graph that `to_nir` was given: the same nodes, weights and results.

    Raises:
        Unsupported: a graph that netwright did not write; `nir_interpreter.Interpreter` runs those.
        NetwrightError: one of ours that somebody edited.
    """
    try:
        return _Import(graph).network()
    except (KeyError, ValueError, IndexError, RuntimeError, AttributeError) as error:
        raise NetwrightError(f"The NIR graph says netwright wrote it, but it is incomplete: {error!r:.200}.") from error
