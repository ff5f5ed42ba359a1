"""Sections: the steps of a dynamic network, cut where a decision is taken, with the host program between them.

Along the tree of decisions, each section holds the steps that its condition or its results need and that no section before
it on the path has made. A step that two branches need stands in both; its function and its weights are there once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from netwright.core.decision import Exit, OverTime, Quiet, Tree
from netwright.core.graph import Node
from netwright.deploy.c99.lower import Buffer, Lowering, Pointer, Step, whole

Line = Step | str  # a call, or C text
CONFIDENT = "nw_confident"
BRANCH, END = "if", "}"  # stand for a kernel in the step that reads a condition, and in that which ends a loop


def needed(steps: Sequence[Step], wanted: Iterable[Pointer]) -> list[int]:
    """Numbers of the steps that fill `wanted`, and of those that fill what they read, in order."""
    ids, kept = {id(whole(p)) for p in wanted}, []
    for i in range(len(steps) - 1, -1, -1):
        if id(steps[i].writes.whole) in ids:
            kept.append(i)
            ids.update(id(whole(p)) for p in steps[i].pointers)
    return kept[::-1]


def sections(steps: Sequence[Step], tree: Tree, outputs: Mapping[int, Pointer]) -> list[Line]:
    """The program that runs along `tree`, where `outputs` are the places of the graph's outputs; an exit returns its number."""
    lines: list[Line] = []
    exits = 0

    def walk(tree: Tree, done: frozenset[int]) -> None:
        nonlocal exits
        wanted = [outputs[i] for i in tree.outputs] if isinstance(tree, Exit) else [outputs[tree.condition]]
        section = [i for i in needed(steps, wanted) if i not in done]
        lines.extend(steps[i] for i in section)
        done |= set(section)
        if isinstance(tree, Exit):
            lines.append(f"return {exits};")
            exits += 1
            return
        lines.append(Step(BRANCH, wanted, (), Buffer(0)))
        walk(tree.then, done)
        lines.append("}")
        walk(tree.otherwise, done)

    walk(tree, frozenset())
    return lines


def over_time(work: Lowering, control: OverTime) -> list[Line]:
    """The program of a spiking network lowered step by step: what does not change with time, the loop over time steps, which
    ends when the logits are confident or when no neuron fires, and the way from the summed currents to the logits. It returns
    the number of time steps that it took.

    Raises:
        Unsupported: no readout over time steps, or several outputs; or a stop at rest of a network that is driven on.
    """
    graph = work.graph
    found = [n for n in graph if n.op == "readout"]
    if len(found) != 1 or len(graph.outputs) != 1:
        work.node = graph[graph.outputs[0]]
        raise work.refuse("with an exit over time steps (the network needs one readout and one output)")
    time, start = int(found[0].attrs["steps"]), int(found[0].attrs["start"])
    stage: dict[str, int] = {}  # 0 before the loop, 1 in it, 2 behind the readout
    for node in graph:
        before = max((2 if i == found[0].name else stage[i] for i in node.inputs), default=0)
        stage[node.name] = max(before, int(node.op in ("integrate", "difference")))
    output = work.outputs[0]
    steps = [work.steps[i] for i in needed(work.steps, [output])]
    at = [0 if s.kernel in ("nw_rest", "nw_clear") else 2 if s.node == found[0].name else stage[s.node] for s in steps]
    first, loop, behind = ([s for s, a in zip(steps, at, strict=True) if a == i] for i in range(3))
    made = {id(s.writes.whole) for s in (*loop, *behind)} - {id(s.writes.whole) for s in first}
    outer = {id(p): p for s in (*loop, *behind) for p in map(whole, s.pointers) if isinstance(p, Buffer) and id(p) not in made}
    end = Step(END, list(outer.values()), (), Buffer(0))
    if isinstance(control, Quiet):
        return _until_quiet(work, found[0], first, loop, behind, end)
    counted = f"(float)(t + 1 - {start})"
    logits = work.graph[graph.outputs[0]].spec.elements
    return [
        *first,
        f"for (int t = 0; t < {time}; t++) {{",
        *loop,
        f"if (t < {start}) continue;",
        *behind,
        f"if ({CONFIDENT}(out, {logits}, {float(time - start)!r}f / {counted}, {control.alpha!r}f * {counted}, "
        f"{control.confidence!r}f)) return t + 1;",
        end,
        f"return {time};",
    ]


def _until_quiet(work: Lowering, readout: Node, first: list[Step], loop: list[Step], behind: list[Step], end: Step) -> list[Line]:
    from netwright.design.dynamic import driven  # here: the room of designs loads torch, which running a bundle does not need

    node = driven(work.graph)
    if node is not None or readout.attrs["start"]:
        work.node = node or readout
        raise work.refuse("with a stop at rest (the input must flow once, and the output count from the first step)")
    flag = Buffer(4)
    lines: list[Line] = []
    for step in loop:
        lines.append(step)
        if step.kernel == "nw_integrate_step":
            positions, channels = step.literals[:2]
            assert isinstance(positions, int) and isinstance(channels, int)
            lines.append(Step("nw_hear", [step.pointers[2], flag], (positions * channels,), flag))
    return [
        *first,
        "int t = 0;",
        f"for (; t < {int(readout.attrs['steps'])}; t++) {{",
        Step("nw_hush", [flag], (), flag),
        *lines,
        *[s for s in behind if s.node == readout.name],
        Step(BRANCH, [flag], (), Buffer(0)),
        "t++;",
        "break;",
        "}",
        end,
        *[s for s in behind if s.node != readout.name],
        "return t;",
    ]
