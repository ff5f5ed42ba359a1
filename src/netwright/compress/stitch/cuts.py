"""Cuts: the places of a graph where everything that is known of the input lies in one tensor."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from netwright.core.graph import Graph


@dataclass(frozen=True)
class Cut:
    """A node through which everything flows; `axis` is where its channels stand, the other axes are places.

    A feature map is [1, C, H, W] ([1, H, W, C] where a layer norm or a linear layer reads it), tokens are [1, T, C].
    """

    node: str
    shape: tuple[int, ...]
    axis: int

    @property
    def channels(self) -> int:
        return self.shape[self.axis]

    @property
    def places(self) -> tuple[int, ...]:
        """Size without batch and channels: (H, W), (T,) or ()."""
        return tuple(size for i, size in enumerate(self.shape) if i not in (0, self.axis))


def cuts(graph: Graph) -> list[Cut]:
    """The cuts of a graph in execution order, one between two blocks.

    A node is a cut where no other tensor that depends on the input is read behind it; inputs and outputs are none. Of
    cuts with no multiply-accumulates between them (convolution, norm, activation) the last one stands for all.
    """
    readers = graph.consumers()
    known: set[str] = set()  # what depends on the input; constants are at hand on both sides of a cut
    last: dict[str, int] = {}
    for i, node in enumerate(graph):
        if node.op == "input" or known.intersection(node.inputs):
            known.add(node.name)
        last.update(dict.fromkeys(node.inputs, i))
    last.update(dict.fromkeys(graph.outputs, len(graph.nodes)))
    found: list[Cut] = []
    farthest, macs = -1, 0  # the last reader of all that came before; work since the cut before
    for i, node in enumerate(graph):
        macs += node.macs
        if node.name in known:
            shape = node.spec.shape
            alone = farthest <= i < last[node.name] < len(graph.nodes)
            if alone and node.op != "input" and shape[0] == 1 and 2 <= len(shape) <= 4:
                by_place = any(r.op in ("layer_norm", "linear") for r in readers[node.name])
                axis = 1 if len(shape) == 4 and not by_place else len(shape) - 1
                if found and macs == 0:
                    found.pop()
                found.append(Cut(node.name, shape, axis))
                macs = 0
            farthest = max(farthest, last.get(node.name, i))
    return found[:-1] if found and macs == 0 else found


def stages(graph: Graph) -> dict[tuple[int, ...], list[Cut]]:
    """The cuts by their places (resolution or number of tokens), in execution order."""
    found: dict[tuple[int, ...], list[Cut]] = defaultdict(list)
    for cut in cuts(graph):
        found[cut.places].append(cut)
    return dict(found)
