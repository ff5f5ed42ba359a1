"""MST-compression of binary weights: filters as differences along a minimum spanning tree.

The Hamming distances between the filters of a layer are the lengths of a complete graph; its minimum spanning tree gives each
filter a parent that it differs from in few bits. Stored are the root, the parents, and where each filter differs: gaps
between differing bits in Rice codes. The complement of a filter serves as parent too, for one bit more. Of equally short edges
the one to the filter nearest the root is taken, so that the tree is shallow.

In the paper's hardware a filter's sums are its parent's plus the differing bits' share, n + (length of the tree) bit operations
in place of O*n. Here that is counted only: words of 512 bits are compared at once, and a tree of single bits would be
slower. What is used is the smaller file; the weights are the same to the bit. `layers` says both for every binary layer of a
network; the training that makes the trees short is `compress.binarise.mst`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netwright.core.errors import BundleError
from netwright.core.graph import Graph
from netwright.core.paper import Paper

paper = Paper(
    "vo2023mst", "MST-compression: Compressing and Accelerating Binary Neural Networks with Minimum Spanning Tree",
    "Vo, Quang Hieu and Tran, Linh-Tam and Bae, Sung-Ho and Kim, Lok-Won and Hong, Choong Seon", "ICCV", 2023,
    "https://arxiv.org/abs/2308.13735", "S160",
)  # fmt: skip

Bits = NDArray[np.bool_]


@dataclass(frozen=True)
class Tree:
    """Spanning tree of O filters: `order` from the root, `parents` and `turned` (differs from the parent's complement) by
    filter (the root is its own parent), `length` the differing bits of all edges, `depth` the most edges to the root."""

    order: NDArray[np.intp]
    parents: NDArray[np.intp]
    turned: Bits
    length: int
    depth: int


def spanning_tree(filters: Bits) -> Tree:
    """Prim's algorithm on the Hamming distances of filters [O, n]; the root is the filter nearest to all others."""
    count, n = filters.shape
    signs = np.where(filters, np.float32(1), np.float32(-1))
    distance = np.rint((n - signs @ signs.T) / 2).astype(np.int64)
    edges = np.minimum(distance, n - distance)
    root = int(edges.sum(1).argmin())
    parents, depth, inside = np.full(count, root), np.zeros(count, np.int64), np.zeros(count, bool)
    inside[root] = True
    nearest, order, length = edges[root].copy(), [root], 0
    for _ in range(count - 1):
        away = np.where(inside, n + 1, nearest)
        new = int(np.lexsort((depth[parents], away))[0])
        inside[new] = True
        depth[new] = depth[parents[new]] + 1
        length += int(nearest[new])
        order.append(new)
        closer = ~inside & ((edges[new] < nearest) | ((edges[new] == nearest) & (depth[new] < depth[parents])))
        parents[closer], nearest[closer] = new, edges[new][closer]
    turned = distance[np.arange(count), parents] > n - distance[np.arange(count), parents]
    return Tree(np.asarray(order), parents, turned, length, int(depth.max(initial=0)))


def bit_operations(filters: Bits) -> tuple[int, int]:
    """Bit operations of one output position: all filters apart, and along the tree. Counted, not run."""
    return filters.size, filters.shape[1] + spanning_tree(filters).length


@dataclass(frozen=True)
class LayerTree:
    """A binary layer and the tree of its filters.

    Attributes:
        filters, bits: O filters of n bits.
        length, depth: of the tree; the mean edge is length / (O - 1).
        plain_bytes, tree_bytes: of the weights in a file, as bits and along the tree; a bundle takes the smaller.
        operations, tree_operations: XNORs of one inference, all filters apart and along the tree (of each group of a grouped
            convolution its own, because groups read different inputs). Counted, not run.
    """

    name: str
    filters: int
    bits: int
    length: int
    depth: int
    plain_bytes: int
    tree_bytes: int
    operations: int
    tree_operations: int


def layers(graph: Graph) -> list[LayerTree]:
    """The binary layers of an integer graph, with the trees that their weights have."""
    found = []
    for node in graph:
        if "weight" not in node.weights or graph.params[node.weights["weight"]].bits != 1:
            continue
        value = graph.value(node, "weight")
        filters = (value < 0).reshape(len(value), -1)
        tree, positions = spanning_tree(filters), node.macs // value.size
        apart, along = np.sum([bit_operations(g) for g in np.split(filters, node.attrs.get("groups", 1))], 0)
        sizes = -(-value.size // 8), len(encode(filters))
        work = int(apart) * positions, int(along) * positions
        found.append(LayerTree(node.name, *filters.shape, tree.length, tree.depth, *sizes, *work))
    return found


def _rice(gaps: NDArray[np.int64]) -> tuple[int, Bits, Bits]:
    """The parameter with the fewest bits, the quotients in unary, and the remainders."""
    costs = [int((gaps >> k).sum()) + len(gaps) * (1 + k) for k in range(16)]
    k = int(np.argmin(costs))
    ends = np.cumsum((gaps >> k) + 1)
    unary = np.zeros(int(ends[-1]) if len(ends) else 0, bool)
    unary[ends - 1] = True
    return k, unary, ((gaps[:, None] >> np.arange(k)) & 1).astype(bool).reshape(-1)


def encode(filters: Bits) -> bytes:
    """Filters [O, n] as bytes; `decode` gives them back."""
    count, n = filters.shape
    tree = spanning_tree(filters)
    children = tree.order[1:]
    differ = filters[children] ^ filters[tree.parents[children]] ^ tree.turned[children, None]
    at = np.flatnonzero(differ)
    k, unary, remainders = _rice(np.diff(at, prepend=-1) - 1)
    places = np.empty(count, np.int64)
    places[tree.order] = np.arange(count)
    streams = [filters[tree.order[0]], tree.turned[children], unary, remainders]
    ids = np.concatenate([tree.order, places[tree.parents[children]]]).astype("<u2" if count < 2**16 else "<u4")
    head = struct.pack("<IIIB", n, count, len(at), k)
    return head + struct.pack("<II", ids.nbytes, len(unary)) + ids.tobytes() + b"".join(np.packbits(s).tobytes() for s in streams)


def decode(data: bytes, count: int, n: int) -> Bits:
    """Filters [count, n] that `encode` wrote.

    Raises:
        BundleError: the bytes are damaged, or those of other filters.
    """
    try:
        found_n, found, differing, k, id_bytes, unary_bits = struct.unpack_from("<IIIBII", data)
        if (found_n, found) != (n, count) or differing > count * n or count < 1 or n < 1:
            raise ValueError(f"{found} filters of {found_n} bits, where {count} of {n} are expected")
        at = struct.calcsize("<IIIBII")
        ids = np.frombuffer(data, "<u2" if count < 2**16 else "<u4", id_bytes // (2 if count < 2**16 else 4), at).astype(np.int64)
        at += id_bytes
        streams = []
        for bits in (n, count - 1, unary_bits, differing * k):
            raw = np.frombuffer(data, np.uint8, -(-bits // 8), at)
            streams.append(np.unpackbits(raw, count=bits).astype(bool))
            at += len(raw)
        root, turned, unary, remainders = streams
        ends = np.flatnonzero(unary)
        order, parents = ids[:count], ids[count:]
        ahead = np.any(parents > np.arange(count - 1)) or len(parents) != count - 1
        if at != len(data) or len(ends) != differing or ahead or not np.array_equal(np.sort(order), np.arange(count)):
            raise ValueError("parts that do not fit together")
        gaps = (np.diff(ends, prepend=-1) - 1 << k) + (remainders.reshape(differing, k) << np.arange(k)).sum(1)
        places = np.cumsum(gaps + 1) - 1
        if differing and places[-1] >= (count - 1) * n:
            raise ValueError("a difference outside the filters")
    except (struct.error, ValueError) as error:
        raise BundleError(f"The compressed binary weights cannot be read: {error}.") from error
    differ = np.zeros((count - 1) * n, bool)
    differ[places] = True
    rows = np.empty((count, n), bool)
    rows[0] = root
    for i, (parent, row, turn) in enumerate(zip(parents, differ.reshape(count - 1, n), turned, strict=True), start=1):
        rows[i] = rows[parent] ^ row ^ turn
    filters = np.empty_like(rows)
    filters[order] = rows
    return filters
