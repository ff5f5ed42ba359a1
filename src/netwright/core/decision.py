"""Decision: which part of a dynamic network runs next, as a tree over the outputs of one graph.

The graph of a dynamic network (early exits, skipped blocks) computes everything that any input may need. Some of its outputs
are conditions, scalars that are not 0 where the condition holds; the others are results. A tree says which result counts:
a `Decision` looks at a condition, an `Exit` ends. So every other room sees a plain graph, and compression, execution and
drawing need to know nothing of control flow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Exit:
    """The end of a path: positions of its results among the outputs of the graph."""

    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Decision:
    """`then` where output `condition` is not 0, else `otherwise`."""

    condition: int
    then: Tree
    otherwise: Tree


NEVER = 2.0  # a confidence that no softmax reaches


@dataclass(frozen=True)
class Confident:
    """Of a spiking network: stop at the first time step where the largest softmax(alpha * sum) reaches `confidence`, where the
    sum is that of the logits of the steps counted so far (Li, Jones and Furber, ICCV 2023, whose alpha divides: ours is one over
    theirs). A sum grows with time, a mean does not: early steps must be much surer. The result is the mean over those steps.

    `confidence` > 0 (`NEVER`, which is more than 1, goes to the last step, in the memory of one), `alpha` > 0.
    """

    confidence: float
    alpha: float = 1.0


@dataclass(frozen=True)
class Quiet:
    """Of a spiking network whose input flows once: stop after the first time step in which no neuron fires. Nothing changes
    after it, so the result is that of all steps."""


Tree = Decision | Exit
OverTime = Confident | Quiet
Control = Tree | OverTime


def exits(tree: Tree) -> Iterator[Exit]:
    """The ends of all paths, from the one where every condition holds; their order numbers them."""
    if isinstance(tree, Exit):
        yield tree
    else:
        yield from exits(tree.then)
        yield from exits(tree.otherwise)


def taken(tree: Tree, holds: Callable[[int], bool]) -> tuple[int, Exit]:
    """Number of the exit that is taken, and the exit, where `holds` says whether an output is not 0."""
    end = tree
    while isinstance(end, Decision):
        end = end.then if holds(end.condition) else end.otherwise
    return next(i for i, e in enumerate(exits(tree)) if e is end), end


def to_json(tree: Control) -> Any:
    """Nested lists: [condition, then, otherwise], an exit as {"outputs": [...]}; of time steps {"confidence": c, "alpha": a}
    or {"quiet": true}."""
    if isinstance(tree, Quiet):
        return {"quiet": True}
    if isinstance(tree, Confident):
        return {"confidence": tree.confidence, "alpha": tree.alpha}
    if isinstance(tree, Exit):
        return {"outputs": list(tree.outputs)}
    return [tree.condition, to_json(tree.then), to_json(tree.otherwise)]


def from_json(data: Any) -> Control:
    """Read what `to_json` made.

    Raises:
        ValueError: it is nothing of the kind.
    """
    if data == {"quiet": True}:
        return Quiet()
    if isinstance(data, dict) and set(data) == {"confidence", "alpha"}:
        numbers = [v for v in data.values() if isinstance(v, (int, float)) and not isinstance(v, bool)]
        if len(numbers) == 2 and 0 < data["confidence"] < float("inf") and 0 < data["alpha"] < float("inf"):
            return Confident(float(data["confidence"]), float(data["alpha"]))
        raise ValueError(f"no confidence: {data!r:.60}")
    return _tree(data)


def _tree(data: Any) -> Tree:
    outputs = data.get("outputs") if isinstance(data, dict) and len(data) == 1 else None
    if isinstance(outputs, list) and all(type(i) is int for i in outputs):
        return Exit(tuple(outputs))
    if isinstance(data, list) and len(data) == 3 and type(data[0]) is int:
        return Decision(data[0], _tree(data[1]), _tree(data[2]))
    raise ValueError(f"no tree of decisions: {data!r:.60}")
