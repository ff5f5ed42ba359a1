"""Paths: a module whose Python branches on its data, as one graph and a tree of decisions.

    if y.softmax(-1).max() > 0.9:     # an early exit; a skipped block or a choice of resolution is the same
        return y

The module is exported once, run along every path: where a tensor is asked for its truth value, the path splits. What paths
have in common is then merged, so that each operation stands in the graph once. Control flow becomes parts without
conditions and a host program that chooses between them (DyCL).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from netwright.core.decision import Decision, Exit, Tree, exits
from netwright.core.errors import TraceError
from netwright.core.graph import CONSTANT, Graph, Node
from netwright.core.paper import Paper
from netwright.design.trace import trace

paper = Paper(
    "chen2023dycl", "DyCL: Dynamic Neural Network Compilation Via Program Rewriting and Graph Optimization",
    "Chen, Simin and Wei, Shiyi and Liu, Cong and Yang, Wei", "ISSTA", 2023, "https://arxiv.org/abs/2307.04963", "S238",
)  # fmt: skip
MOST = 64  # paths of one module
_PATCHING = threading.Lock()


@contextmanager
def _deciding(decisions: list[bool], conditions: list[Tensor]) -> Iterator[None]:
    """Answer the truth values of tensors that are traced from `decisions`, in the order they are asked, and True beyond its
    end, where it grows; the tensors are kept in `conditions`."""
    truth, item = Tensor.__bool__, Tensor.item

    def decide(t: Tensor) -> bool:
        if not isinstance(t, FakeTensor):
            return bool(truth(t))
        if len(conditions) == MOST:
            raise TraceError(f"one path has more than {MOST} conditions. Is there a loop without a bound?")
        conditions.append(t.to(torch.float32))
        if len(decisions) < len(conditions):
            decisions.append(True)
        return decisions[len(conditions) - 1]

    def keep(t: Tensor) -> Any:
        return t.reshape(()) if isinstance(t, FakeTensor) else item(t)

    with _PATCHING:
        Tensor.__bool__, Tensor.item = decide, keep  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            Tensor.__bool__, Tensor.item = truth, item  # type: ignore[method-assign]


class _Everything(nn.Module):
    """All paths of `module` one after another; the outputs are all conditions and all results."""

    def __init__(self, module: nn.Module, found: Callable[[Tree], None]):
        super().__init__()
        self.module = module
        self.found = found  # a function: what is assigned to a module while it is exported is taken back

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs: list[Tensor] = []
        self.found(self._explore(inputs, (), outputs, count(1)))
        return tuple(outputs)

    def _explore(self, inputs: tuple[Tensor, ...], prefix: tuple[bool, ...], outputs: list[Tensor], paths: Iterator[int]) -> Tree:
        """All paths that begin with the decisions of `prefix`."""

        def add(output: Tensor) -> int:
            outputs.append(output.clone())
            return len(outputs) - 1

        decisions, conditions = list(prefix), list[Tensor]()
        with _deciding(decisions, conditions):
            results = self.module(*inputs)
        if next(paths) > MOST:
            raise TraceError(f"there are more than {MOST} paths. Decide less often, or once for several blocks.")
        tree: Tree = Exit(tuple(add(r) for r in (results if isinstance(results, (tuple, list)) else (results,))))
        for i in range(len(conditions) - 1, len(prefix) - 1, -1):
            otherwise = self._explore(inputs, (*decisions[:i], False), outputs, paths)
            tree = Decision(add(conditions[i]), tree, otherwise)
        return tree


def merged(graph: Graph) -> Graph:
    """The graph with operations that compute the same thing kept once, the first of them."""
    known: dict[Any, str] = {}
    same: dict[str, str] = {}
    nodes: list[Node] = []

    def content(key: str) -> Any:
        value = graph.values.get(key) if key.startswith(CONSTANT) else None
        return key if value is None else (value.shape, value.dtype.str, value.tobytes())

    for node in graph:
        node = graph.rename_inputs(node, same)
        weights = tuple((role, content(key)) for role, key in sorted(node.weights.items()))
        identity = (node.op, node.inputs, repr(sorted(node.attrs.items())), weights, node.spec)
        if node.op != "input" and identity in known:
            same[node.name] = known[identity]
        else:
            known[identity] = node.name
            nodes.append(node)
    return graph.replace(nodes, [same.get(o, o) for o in graph.outputs])


def trace_paths(module: nn.Module, example: Tensor | tuple[Tensor, ...]) -> tuple[Graph, Tree]:
    """Trace a module (at inference, batch 1) whose control flow depends on its data.

    Every tensor whose truth value is asked (``if``, ``while``, ``and``, ``not``, also after ``.item()``) is a condition; `int`
    and `float` of a tensor are not taken.

    Returns:
        The graph of all paths, whose outputs are the conditions and the results, and the tree that chooses among them; an
        `Exit` alone where nothing depends on the data.

    Raises:
        TraceError: as `trace`; more than 64 paths (a loop without a bound, say); exits with results of different shapes.
    """
    trees: list[Tree] = []
    training = module.training
    try:
        graph = merged(_unwrapped(trace(_Everything(module, trees.append), example)))
    finally:
        module.train(training)
    tree = trees[-1]
    shapes = {tuple(graph[graph.outputs[i]].spec.shape for i in end.outputs) for end in exits(tree)}
    if len(shapes) > 1:
        raise TraceError(
            f"The exits of {type(module).__name__} give results of different shapes: {sorted(shapes)}. Make them equal."
        )
    return graph, tree


def _unwrapped(graph: Graph) -> Graph:
    """Names as the user's module has them."""

    def own(name: str) -> str:
        return name.removeprefix("module.").replace(f"{CONSTANT}module.", CONSTANT)

    nodes = [
        replace(n, path=own(n.path) if n.path != "module" else "", weights={r: own(k) for r, k in n.weights.items()})
        for n in graph
    ]
    params = {own(k): v for k, v in graph.params.items()}
    return Graph(tuple(nodes), graph.outputs, params, {own(k): v for k, v in graph.values.items()})
