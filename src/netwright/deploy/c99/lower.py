"""Lower a Graph to steps: calls of kernels on buffers, every size a literal."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from netwright.core.decision import Exit, Tree, exits
from netwright.core.errors import Unsupported
from netwright.core.graph import Graph, Node
from netwright.deploy.c99 import layout
from netwright.deploy.c99.fuse import Fusion, between, find_fusions
from netwright.deploy.c99.gates import gates_first
from netwright.deploy.c99.layout import Order, Shape

WAY_OUT = "Deploy it with the ONNX back end instead, or replace the operation."
SIZES = {"f32": 4, "i32": 4, "u8": 1, "i8": 1}
LIMITS = {"u8": 255, "i8": 128}
C_TYPES = {"u8": "NW_U8", "i8": "NW_I8", "i32": "NW_I32", "f32": "NW_F32"}


@dataclass(eq=False)
class Buffer:
    """Memory for one tensor (all its time steps) or for scratch; `external` names an argument of the C function. A part of
    another buffer lies `offset` bytes `inside` it."""

    size: int
    external: str = ""
    inside: Buffer | None = None
    offset: int = 0

    @property
    def whole(self) -> Buffer:
        """The buffer that it is a part of, or itself."""
        return self.inside.whole if self.inside else self

    @property
    def start(self) -> int:
        """Bytes from the start of `whole`."""
        return self.offset + (self.inside.start if self.inside else 0)


@dataclass(frozen=True, eq=False)
class Const:
    """A constant array of the C file."""

    name: str
    data: NDArray[np.generic]


Pointer = Buffer | Const | None
Literal = int | float | str


@dataclass
class Step:
    """One call: ``kernel(pointers..., literals...)``; `writes` is the buffer it fills, `node` what it is for."""

    kernel: str
    pointers: list[Pointer]
    literals: tuple[Literal, ...]
    writes: Buffer
    node: str = ""


@dataclass(frozen=True)
class Value:
    """A tensor: where it lies, its type, its logical shape and the order of its dimensions, `steps` times.

    `columns[j]` is the logical index of element j of a flattened tensor whose elements were left where they lay.
    `bound` is the largest magnitude that sums can have, 0 where it is not known.
    """

    at: Buffer | Const
    type: str
    shape: Shape
    order: Order
    steps: int = 1
    spikes: bool = False
    columns: NDArray[np.intp] | None = None
    bound: int = 0

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def total(self) -> int:
        return self.elements * self.steps

    @property
    def itemsize(self) -> int:
        return SIZES[self.type]


@dataclass
class Lowering:
    """Steps of a graph as they are collected."""

    graph: Graph
    stepwise: bool = False
    dense_spikes: bool = True
    values: dict[str, Value] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    consts: list[Const] = field(default_factory=list)
    fusions: dict[str, Fusion] = field(default_factory=dict)
    outputs: dict[int, Pointer] = field(default_factory=dict)  # places of the graph's outputs by position
    _known: dict[tuple[str, bytes], Const] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.readers = self.graph.consumers()
        self.node: Node = self.graph.nodes[0]

    @cached_property
    def mult16(self) -> bool:
        """Whether all factors of rescaling fit in 16 bits."""
        keys = [n.weights["mult"] for n in self.graph if "mult" in n.weights and "shift" in n.weights]
        return all(np.abs(self.graph.values[k]).max(initial=0) < 2**15 for k in keys)

    def refuse(self, what: str = "") -> Unsupported:
        op = f"{self.node.op} {what}".strip()
        return Unsupported("The C99 back end", op, self.node.origin, WAY_OUT)

    def const(self, data: NDArray[np.generic], role: str) -> Const:
        """A constant array; equal arrays are stored once."""
        data = np.ascontiguousarray(data)
        key = (data.dtype.str, data.tobytes())
        if key not in self._known:
            self._known[key] = Const(f"{role}{len(self.consts)}", data)
            self.consts.append(self._known[key])
        return self._known[key]

    def step(self, kernel: str, pointers: list[Pointer], *literals: Literal, writes: Buffer) -> None:
        self.steps.append(Step(kernel, pointers, literals, writes, self.node.name))

    def new(self, like: Value, **changes: object) -> Value:
        """A value in a buffer of its own."""
        value = replace(like, **{"at": Buffer(0), "columns": None, "bound": 0, **changes})  # type: ignore[arg-type]
        assert isinstance(value.at, Buffer)
        value.at.size = value.total * value.itemsize
        return value

    def scratch(self, size: int) -> Buffer:
        return Buffer(size)

    def ordered(self, x: Value, order: Order) -> Value:
        """x with its dimensions in `order`, copied only where elements must move."""
        if layout.same(x.shape, x.order, order):
            return replace(x, order=order)
        y = self.new(x, order=order)
        self._copy(x, y, layout.copy_loops(x.shape, x.order, order, x.steps))
        return y

    def _copy(self, x: Value, y: Value, loops: list[tuple[int, int]]) -> None:
        if turned := layout.transposition(loops):
            self.step("nw_transpose", [x.at, y.at], x.itemsize, *turned, writes=buffer(y))
            return
        if len(loops) > 6:
            raise self.refuse(f"with {len(loops)} interleaved dimensions")
        loops = [(1, 0)] * (6 - len(loops)) + loops
        self.step("nw_relayout", [x.at, y.at], x.itemsize, *(n for n, _ in loops), *(s for _, s in loops), writes=buffer(y))

    def images(self, x: Value) -> Value:
        """A batch of images as the channels of one, channels last."""
        if len(x.shape) != 4:
            raise self.refuse(f"of {len(x.shape)} dimensions")
        if x.shape[0] == 1:
            return self.channels_last(x)
        n, c, h, w = x.shape
        return replace(self.ordered(x, (2, 3, 0, 1)), shape=(1, n * c, h, w), order=layout.channels_last(4))

    def batched(self, y: Value, node: Node) -> Value:
        """What was computed of `images`, in the shape of `node`."""
        n, c = node.spec.shape[:2]
        return y if y.shape[1] == c else replace(y, shape=(n, c, *y.shape[2:]), order=(2, 3, 0, 1))

    def copied(self, x: Value, loops: list[tuple[int, int]], shape: Shape, order: Order) -> Value:
        """Elements of x chosen by loops (size, stride), as a tensor of its own."""
        y = self.new(x, shape=shape, order=order)
        self._copy(x, y, loops)
        return y

    def with_rank(self, x: Value, rank: int) -> Value:
        """x with dimensions of length one in front."""
        missing = rank - len(x.shape)
        return replace(x, shape=(1,) * missing + x.shape, order=(*range(missing), *(d + missing for d in x.order)))

    def expanded(self, x: Value, shape: Shape) -> Value:
        """x repeated along its dimensions of length one, and along new ones in front, to fill `shape`."""
        x = self.with_rank(x, len(shape))
        if x.shape == shape:
            return x
        if isinstance(x.at, Const):
            full = np.broadcast_to(x.at.data.reshape([x.shape[d] for d in x.order]).transpose(np.argsort(x.order)), shape)
            return Value(self.const(full, "k"), x.type, shape, layout.natural(len(shape)))
        step = layout.strides(x.shape, x.order)
        order = (*(d for d in x.order if x.shape[d] == 1), *(d for d in x.order if x.shape[d] > 1))
        y = self.new(x, shape=shape, order=order)
        loops = [(x.steps, x.elements)] if x.steps > 1 else []
        self._copy(x, y, loops + layout.merged([(shape[d], step[d] if x.shape[d] > 1 else 0) for d in order]))
        return y

    def floating(self, name: str) -> Value:
        """A tensor of floats, without time steps.

        Raises:
            Unsupported: it holds codes, sums or spikes.
        """
        x = self.values[name]
        if x.type != "f32" or x.steps != 1:
            raise self.refuse(f"of {x.type} over {x.steps} time steps (dequantize first)")
        return x

    def channels_last(self, x: Value) -> Value:
        return self.ordered(x, layout.channels_last(len(x.shape)))

    def last(self, x: Value, dims: tuple[int, ...]) -> Value:
        """x with `dims` fastest in memory, the others in the order they have."""
        return self.ordered(x, (*(d for d in x.order if d not in dims), *dims))

    def together(self, x: Value, dims: tuple[int, ...]) -> tuple[Value, tuple[int, int, int]]:
        """x with `dims` side by side and in logical order, and the sizes (before, of, after) them; steps count as before."""
        inside = [d for d in x.order if d in dims and x.shape[d] > 1]
        sizes = layout.split(x.shape, x.order, dims)
        if sizes is None or inside != sorted(inside):
            x = self.last(x, dims)
            sizes = layout.split(x.shape, x.order, dims)
            assert sizes is not None
        before, of, after = sizes
        return x, (before * x.steps, of, after)

    def weight(self, role: str) -> NDArray[np.generic] | None:
        key = self.node.weights.get(role)
        return None if key is None else np.asarray(self.graph.values[key])

    def floats(self, role: str, default: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        found = self.weight(role)
        if found is None:
            assert default is not None
            return default
        return np.asarray(found, np.float32)

    def ints(self, role: str) -> NDArray[np.int64] | None:
        found = self.weight(role)
        return None if found is None else found.astype(np.int64)


def whole(p: Pointer) -> Pointer:
    """The buffer that a pointer is a part of."""
    return p.whole if isinstance(p, Buffer) else p


def buffer(x: Value) -> Buffer:
    assert isinstance(x.at, Buffer)
    return x.at


Rule = Callable[[Lowering, Node], Value]


def lower(
    graph: Graph, rules: dict[str, Rule], tree: Tree | None = None, stepwise: bool = False, dense_spikes: bool = True
) -> Lowering:
    """Steps for all nodes of `graph`, and where its outputs are.

    The results of every exit of `tree` (all outputs, without one) are in the buffer `out`, or `out0`, `out1`, ... where there
    are several; conditions stay where they are. `stepwise`: neurons take one time step at a time and keep their state.
    `dense_spikes`: layers of spikes may choose their form when they run, for which they need scratch.

    Raises:
        Unsupported: an operation, a shape or a type without a kernel, by the name of its node.
    """
    graph = gates_first(graph)
    work = Lowering(graph, stepwise, dense_spikes)
    work.fusions = find_fusions(graph)
    done: set[str] = set()
    for node in graph:
        work.node = node
        if node.name in done:
            continue
        if node.op not in rules:
            raise work.refuse()
        value = rules[node.op](work, node)
        work.values[node.name] = value
        fusion = work.fusions.get(node.name)
        if fusion is not None:
            fused = between(graph, node.name, fusion.output)
            done |= fused
            work.values |= dict.fromkeys(fused, value)
    for end in exits(tree or Exit(tuple(range(len(graph.outputs))))):
        for i, output in enumerate(end.outputs):
            name = graph.outputs[output]
            work.node = graph[name]
            work.outputs[output] = _finish(work, work.values[name], "out" if len(end.outputs) == 1 else f"out{i}")
    for output, name in enumerate(graph.outputs):
        if output not in work.outputs:
            work.node, condition = graph[name], work.values[name]
            if condition.type != "f32" or condition.total != 1:
                raise work.refuse("as a condition, which must be one number")
            work.outputs[output] = condition.at
    return work


def _finish(work: Lowering, result: Value, name: str) -> Buffer:
    """Let the result lie in `name`, row-major: written there at once where nothing else reads it, else copied."""
    if result.type != "f32" or result.steps != 1:
        raise work.refuse(f"as the output of the network, of type {result.type} (end in floats, with dequantize)")
    result = work.ordered(result, layout.natural(len(result.shape)))
    at = result.at
    others = [s for s in work.steps if s.writes.whole is not at and any(whole(p) is at for p in s.pointers)]
    shared = sum(whole(work.values[o].at) is whole(at) for o in work.graph.outputs) > 1
    if isinstance(at, Const) or at.external or at.inside or others or shared:
        out = Buffer(result.total * 4, name)
        work.step("nw_place", [at, out], 1, result.total, result.total, 0, 4, writes=out)
        return out
    at.external = name
    return at
