"""Gates: channels of a convolution that are not computed where a comparison of this input says that they are zero.

Such networks come from dynamic pruning (`compress.prune.ftwt`): y = gate * act(conv(x)), gate in {0, 1} for each channel. What
the gate needs moves before the convolution. The kernel then lists the channels that are on, and for sixteen of them at a time
copies their weights side by side, computes the whole picture, and stores each channel at its place; the others are zero.

Channels that are on lie scattered, so leaving out blocks of sixteen neighbours saves next to nothing (at half of 64 channels on,
never a block). Dot products per channel need no copy of weights but sum across lanes: twice the time, measured on 3x3
convolutions of 64 and 128 channels. The copy costs about as much as ten pixels, more where they are few, and sixteen channels or
fewer are one block whatever is on: hence the limits.
"""

from __future__ import annotations

from netwright.core.graph import ACTIVATIONS, VIEWS, Graph, Node
from netwright.deploy.c99.pack import BLOCK

POINTWISE = ACTIVATIONS | {"affine", "prelu"}  # finite for a channel of zeros, so that a gate behind them makes zeros of it
COMPARISONS = frozenset({"gt", "ge", "lt", "le", "eq", "ne"})
PIXELS = 64  # fewest that are worth the copy of the weights


def find_gates(graph: Graph) -> dict[str, tuple[str, str]]:
    """Names of convolutions worth gating -> the multiplication behind each and its gate."""
    readers, by_name, found = graph.consumers(), graph.by_name, {}
    for node in graph:
        if node.op != "conv2d" or node.attrs["groups"] != 1 or not _large(node.spec.shape):
            continue
        end = node
        while end.name not in graph.outputs and len(readers[end.name]) == 1:
            behind = readers[end.name][0]
            if behind.op == "mul" and len(set(behind.inputs)) == 2:
                gate = next(i for i in behind.inputs if i != end.name)
                if _is_gate(by_name, gate, node.spec.shape[1]):
                    found[node.name] = behind.name, gate
            if behind.op not in POINTWISE:
                break
            end = behind
    return found


def _large(shape: tuple[int, ...]) -> bool:
    batch, channels, height, width = shape
    return batch == 1 and channels > BLOCK and height * width >= PIXELS


def _is_gate(by_name: dict[str, Node], name: str, channels: int) -> bool:
    """Zeros and ones, one for each channel."""
    node = by_name[name]
    if node.spec.shape != (1, channels, 1, 1):
        return False
    while node.op in VIEWS and node.inputs:
        node = by_name[node.inputs[0]]
    return node.op in COMPARISONS


def gates_first(graph: Graph) -> Graph:
    """The same network, where gates that can be known before their convolution are."""
    gates, by_name = find_gates(graph), graph.by_name
    place = {n.name: i for i, n in enumerate(graph.nodes)}
    order: dict[str, Node] = {}
    for node in graph:
        if node.name in gates:
            needed = _needed(by_name, gates[node.name][1])
            if node.name not in needed:
                order |= {name: by_name[name] for name in sorted(needed, key=place.__getitem__)}
        order[node.name] = node
    return graph.replace(order.values())


def _needed(by_name: dict[str, Node], name: str) -> set[str]:
    """The node and all that it is computed from."""
    found, todo = set[str](), [name]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo.extend(by_name[name].inputs)
    return found
