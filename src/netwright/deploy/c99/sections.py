"""Sections: the steps of a dynamic network, cut where a decision is taken, with the host program between them.

Along the tree of decisions, each section holds the steps that its condition or its results need and that no section before
it on the path has made. A step that two branches need stands in both; its function and its weights are there once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from netwright.core.decision import Exit, Tree
from netwright.deploy.c99.lower import Buffer, Pointer, Step

Line = Step | str  # a call, or C text
BRANCH = "if"  # stands for a kernel in the step that reads a condition


def needed(steps: Sequence[Step], wanted: Iterable[Pointer]) -> list[int]:
    """Numbers of the steps that fill `wanted`, and of those that fill what they read, in order."""
    ids, kept = {id(p) for p in wanted}, []
    for i in range(len(steps) - 1, -1, -1):
        if id(steps[i].writes) in ids:
            kept.append(i)
            ids.update(id(p) for p in steps[i].pointers)
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
