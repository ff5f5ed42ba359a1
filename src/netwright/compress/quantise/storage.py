"""Storage: the bits that an integer network needs in a file, whatever width its weights are carried out in."""

from __future__ import annotations

import math

import numpy as np

from netwright.core.graph import Graph


def packed_bits(codes: np.ndarray) -> int:
    """Fewest bits for whole numbers of one fixed width: as they are, or as indices into a table of bytes, table included.

    As they are: ``n * (1 + bit_length(max|q|))``. With a table of the L values that occur: ``n * ceil(log2 L) + 8 L``.
    Codes of -1 and +1 alone take one bit. Both can be undone from what is stored.
    """
    values = np.unique(codes)
    plain = codes.size * (
        1 if set(values.tolist()) <= {-1, 1} else 1 + int(np.abs(values.astype(int)).max(initial=1)).bit_length()
    )
    tabled = codes.size * max(1, math.ceil(math.log2(max(1, values.size)))) + 8 * values.size
    return min(plain, tabled)


def stored_bits(graph: Graph) -> int:
    """Bits of all parameters of an integer graph with its weights packed; ``8 * graph.weight_bytes`` is what it takes unpacked.

    Biases, factors, shifts and tables are counted at the width of the graph, and so are channels' scales, which lie in them.
    A weight is counted from the codes themselves (`packed_bits`), never above the width that the graph gives it.
    """
    weights = {n.weights["weight"] for n in graph if "weight" in n.weights}
    return sum(
        min(packed_bits(np.asarray(graph.values[key])), spec.elements * spec.bits) if key in weights else 8 * spec.bytes
        for key, spec in graph.params.items()
    )
