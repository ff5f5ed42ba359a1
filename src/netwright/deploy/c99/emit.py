"""C source of a network: one file with the kernels it needs, its weights and the calls in order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from netwright.core.decision import Confident, Control, Exit, OverTime, exits
from netwright.core.errors import BundleError
from netwright.core.files import write_text
from netwright.core.graph import Graph
from netwright.deploy.c99 import floats, integers, products, recurrent, shapes
from netwright.deploy.c99.lower import Buffer, Const, Literal, Pointer, Rule, Step, lower, whole
from netwright.deploy.c99.numbers import numbers
from netwright.deploy.c99.patches import Patched, patched
from netwright.deploy.c99.plan import ALIGNMENT, Interval, aligned, place
from netwright.deploy.c99.sections import BRANCH, CONFIDENT, END, Line, over_time, sections
from netwright.deploy.c99.signature import Signature
from netwright.deploy.c99.threads import RATES, TOGETHER, shared

RULES: dict[str, Rule] = {**shapes.RULES, **floats.RULES, **products.RULES, **recurrent.RULES, **integers.RULES}
C_TYPE = {"float32": "float", **{f"{sign}int{n}": f"{sign}int{n}_t" for sign in ("", "u") for n in (8, 16, 32)}}
SLACK = ALIGNMENT  # vector loads of the last channels may read this far beyond a buffer


@dataclass(frozen=True)
class Place:
    """A buffer in the arena: its size and the steps it lives in, and where it starts, in bytes."""

    interval: Interval
    offset: int


@dataclass(frozen=True)
class Emitted:
    """Source of a network and what it needs.

    `weight_bytes`: bytes of all constant arrays; `arena_bytes`: bytes of the arena; shapes with batch 1, in the order of the
    arguments of the C function. `live`: kernel and bytes in use of every step; `places`: of every buffer; `strips`: what is
    computed in parts; `nodes`: what each call in the C function is for, in order, as the graph names it.
    """

    name: str
    c: str
    h: str
    weight_bytes: int
    arena_bytes: int
    input_shapes: tuple[tuple[int, ...], ...]
    output_shapes: tuple[tuple[int, ...], ...]
    live: tuple[tuple[str, int], ...] = ()
    places: tuple[Place, ...] = ()
    strips: Patched | None = None
    nodes: tuple[str, ...] = ()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of the first input."""
        return self.input_shapes[0]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of the first output."""
        return self.output_shapes[0]

    @property
    def signature(self) -> Signature:
        """Arguments of the C functions."""
        return Signature.of(self.name, self.input_shapes, self.output_shapes)

    @property
    def several(self) -> bool:
        """More than one input, or more than one output."""
        return len(self.input_shapes) > 1 or len(self.output_shapes) > 1

    def write(self, folder: Path) -> Path:
        """Write NAME.c and NAME.h into `folder`; the path of the C file."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / f"{self.name}.h", self.h)
        write_text(folder / f"{self.name}.c", self.c)
        return folder / f"{self.name}.c"


def emit(
    graph: Graph,
    name: str = "model",
    tree: Control | None = None,
    most_repeated: float | None = None,
    dense_spikes: bool = True,
) -> Emitted:
    """Compile a graph (float, integer, binary or spiking; batch 1, float inputs and outputs) to C99.

    Args:
        graph: carries its values; float batch norms and constant factors are folded into the layers before them.
        name: prefix of the C functions, a C identifier.
        tree: of a dynamic network, which outputs are conditions and which are results (see `design.paths`); the function then
            computes only what the path of its input needs, and returns the number of the exit that it took. Of a spiking
            network a `Confident` or `Quiet`: time steps one by one until the answer is sure, or no neuron fires; it returns how
            many it took.
        most_repeated: make the arena smaller by computing parts of the network strip by strip (see `patches`), where at most this
            share of all multiply-accumulates is done twice; None: no strips.
        dense_spikes: layers of spikes choose for each step, by density, between the event-driven form and products of all
            channels; False: events only, which needs less memory.

    Raises:
        Unsupported: an operation without a kernel, by name and module path.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise BundleError(f"{name!r} cannot name C functions. Use letters, digits and underscores.")
    from netwright.design.fold import fold  # here: the room of designs loads torch, which running a bundle does not need

    graph = fold(graph)
    strips = Patched(graph, 0.0, {}) if most_repeated is None else patched(graph, most_repeated)
    graph = strips.graph
    if isinstance(tree, OverTime):
        results: Sequence[int] = (0,)
        work = lower(graph, RULES, stepwise=True)
        lines: Sequence[Line] = over_time(work, tree)
    else:
        results = next(exits(tree)).outputs if tree else range(len(graph.outputs))
        work = lower(graph, RULES, tree, dense_spikes=dense_spikes)
        lines = sections(work.steps, tree or Exit(tuple(results)), work.outputs)
    steps = [line for line in lines if isinstance(line, Step)]
    buffers = _buffers(steps)
    offsets, arena = place([interval for _, interval in buffers])
    arena += SLACK
    at = {id(b): offset for (b, _), offset in zip(buffers, offsets, strict=True)}
    consts = {id(p): p for s in steps for p in s.pointers if isinstance(p, Const)}
    shapes_in = tuple(graph[i].spec.shape for i in graph.inputs)
    shapes_out = tuple(work.values[graph.outputs[o]].shape for o in results)
    signature = Signature.of(name, shapes_in, shapes_out)
    split = {id(steps[i]) for i in shared(steps, graph)}
    functions, calls = _calls(lines, at, split)
    extra = ({CONFIDENT} if isinstance(tree, Confident) else set()) | ({TOGETHER} if split else set())
    headers = kernels({s.kernel for s in steps} - {BRANCH, END} | extra)
    arrays = "\n".join(_array(c, name) for c in consts.values())
    body = signature.body(calls)
    narrow = "#define NW_MULT16\n" if work.mult16 else ""
    pool = f"#if NETWRIGHT_THREADS > 1\n#define _GNU_SOURCE\n#define {TOGETHER} {name}_together\n#endif\n" if split else ""
    source = "\n".join([f'{pool}#include "{name}.h"\n{narrow}', headers, arrays, "\n".join(functions), body])
    weights = sum(c.data.nbytes for c in consts.values())
    intervals = [interval for _, interval in buffers]
    places = tuple(Place(interval, at[id(b)]) for b, interval in buffers)
    live = tuple((s.kernel, sum(aligned(b.size) for b in intervals if b.first <= i <= b.last)) for i, s in enumerate(steps))
    nodes = tuple(s.node for s in steps if s.kernel not in (BRANCH, END))
    return Emitted(name, source, signature.header(arena), weights, arena, shapes_in, shapes_out, live, places, strips, nodes)


def _buffers(steps: Sequence[Step]) -> list[tuple[Buffer, Interval]]:
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    found: dict[int, Buffer] = {}
    for i, step in enumerate(steps):
        for p in map(whole, step.pointers):
            if isinstance(p, Buffer) and not p.external:
                found[id(p)] = p
                first.setdefault(id(p), i)
                last[id(p)] = i
    return [(b, Interval(b.size, first[k], last[k])) for k, b in found.items()]


def _literal(v: Literal) -> str:
    if isinstance(v, float):
        if v in (float("inf"), float("-inf")):
            return "INFINITY" if v > 0 else "-INFINITY"
        return f"{float(np.float32(v)).hex()}f"
    if isinstance(v, int) and abs(v) >= 2**31:
        return f"INT64_C({v})"
    return str(v)


def _calls(lines: Iterable[Line], at: dict[int, int], split: set[int]) -> tuple[list[str], list[str]]:
    """One function for each distinct kernel and sizes, and the calls of them in order, with the C text between them. Steps in
    `split` are done by several threads."""
    functions: dict[tuple[str, ...], str] = {}
    calls = []
    for step in lines:
        if isinstance(step, str):
            calls.append(step)
            continue
        if step.kernel == END:
            calls.append(END)
            continue
        if step.kernel == BRANCH:
            calls.append(f"if (*(const float *)({_pointer(step.pointers[0], at)}) != 0.0f) {{")
            continue
        literals = tuple(_literal(v) for v in step.literals)
        together = id(step) in split
        key = (step.kernel, str(together), *("0" if p is None else "1" for p in step.pointers), *literals)
        number = list(functions).index(key) if key in functions else len(functions)
        if key not in functions:
            given = [f"p{i}" for i, p in enumerate(step.pointers) if p is not None]
            last = _written(step)
            parameters = ", ".join(f"{'' if f'p{i}' in last else 'const '}void *NW_RESTRICT p{i}"
                                   for i, p in enumerate(step.pointers) if p is not None)  # fmt: skip
            share = ["share" if together else "NW_ALL"] if step.kernel in RATES else []
            arguments = ", ".join([*(f"p{i}" if f"p{i}" in given else "0" for i in range(len(step.pointers))), *literals, *share])
            more = ", nw_share share" if together else ""
            functions[key] = f"NW_NOINLINE void step{number}({parameters}{more}) {{\n  {step.kernel}({arguments});\n}}"
            if together:
                places = ", ".join(f"p[{i}]" for i in range(len(given)))
                functions[key] += (
                    f"\nstatic void part{number}(void *const *p, nw_share share) {{ step{number}({places}, share); }}"
                )
        given_to = [_pointer(p, at) for p in step.pointers if p is not None]
        if together:
            array = ", ".join(f"(void *)({p})" for p in given_to)
            calls.append(f"{TOGETHER}(part{number}, (void *[]){{{array}}});")
        else:
            calls.append(f"step{number}({', '.join(given_to)});")
    return list(functions.values()), calls


def _written(step: Step) -> set[str]:
    """Names of the pointers that are written: the result, and scratch that follows it."""
    places = [i for i, p in enumerate(step.pointers) if p is step.writes]
    return {f"p{i}" for i in range(places[0], len(step.pointers))}


def _pointer(p: Pointer, at: dict[int, int]) -> str:
    if isinstance(p, Const):
        return p.name
    assert isinstance(p, Buffer)
    if p.whole.external:
        return f"(unsigned char *){p.whole.external} + {p.start}" if p.inside else p.external
    return f"a + {at[id(p.whole)] + p.start}"


def kernels(names: set[str]) -> str:
    """Text of the headers that define `names`, and of those they include, each once."""
    folder = resources.files("netwright.deploy.c99") / "kernels"
    texts = {f.name: f.read_text() for f in folder.iterdir() if f.name.endswith(".h")}
    done: dict[str, str] = {}

    def take(file: str) -> None:
        if file in done:
            return
        text = texts[file]
        for other in re.findall(r'^#include "(\w+\.h)"', text, re.M):
            take(other)
        done[file] = re.sub(r'^#include "\w+\.h"\n', "", text, flags=re.M)

    for name in sorted(names):
        take(next(f for f, text in sorted(texts.items()) if re.search(rf"((void|int) |MAX_POOL\(){name}\b", text)))
    return "\n".join(done.values())


def _array(const: Const, name: str) -> str:
    """One copy in a library of several instruction sets: NW_PART objects only declare it."""
    data = const.data.reshape(-1)
    declared = f"NW_SHARED const {C_TYPE[data.dtype.name]} {const.name}[{data.size}] NW_ALIGNED"
    renamed = f"#define {const.name} {name}_{const.name}"
    return f"{renamed}\n{declared}\n#if !defined(NW_PART)\n= {{\n{numbers(data)}\n}}\n#endif\n;"
