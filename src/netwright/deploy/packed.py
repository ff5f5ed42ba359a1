"""The values of a graph as bytes: safetensors, in which weights of one and two bits take one and two bits, or less.

| key | holds |
|---|---|
| NAME | an array as it is |
| NAME#1 | the signs of weights -1 and 1, as bits |
| NAME#2 | weights -1, 0 and 1: the bits of the negative ones, then those of the positive ones |
| NAME#mst | weights -1 and 1 along a minimum spanning tree of their filters, where that is smaller (`mst`) |
| #shapes | the shapes of all but the first kind, as JSON |
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from netwright.core.errors import BundleError
from netwright.core.graph import Graph
from netwright.deploy import mst

SHAPES = "#shapes"
LARGEST = 2**31  # weights of one array; more is a damaged file


def pack(graph: Graph) -> bytes:
    """All values of a graph."""
    arrays: dict[str, np.ndarray] = {}
    shapes: dict[str, list[int]] = {}
    for key, value in graph.values.items():
        value, bits = np.ascontiguousarray(value), graph.params[key].bits if key in graph.params else 0
        if value.dtype != np.int8 or bits not in (1, 2) or not value.size or np.abs(value).max() > 1:
            arrays[key] = value
            continue
        shapes[key] = list(value.shape)
        negative = value < 0
        if not value.all():
            arrays[f"{key}#2"] = np.concatenate([np.packbits(negative), np.packbits(value > 0)])
            continue
        plain, tree = np.packbits(negative), np.frombuffer(mst.encode(negative.reshape(len(value), -1)), np.uint8)
        arrays.update({f"{key}#mst": tree} if tree.size < plain.size else {f"{key}#1": plain})
    if shapes:
        arrays[SHAPES] = np.frombuffer(json.dumps(shapes).encode(), np.uint8)
    return save(arrays)


def unpack(data: bytes) -> Mapping[str, np.ndarray]:
    """What `pack` packed.

    Raises:
        BundleError: it is something else.
    """
    try:
        arrays = load(data)
        shapes = json.loads(arrays.pop(SHAPES).tobytes()) if SHAPES in arrays else {}
        return {key.rpartition("#")[0] or key: _values(key, value, shapes) for key, value in arrays.items()}
    except (SafetensorError, ValueError, KeyError, TypeError, IndexError) as error:
        raise BundleError(f"The packed weights cannot be read: {error}.") from error


def _values(key: str, value: np.ndarray, shapes: Mapping[str, list[int]]) -> np.ndarray:
    name, _, how = key.rpartition("#")
    if not name:
        return value
    shape = shapes[name]
    count = math.prod(shape)
    if not all(type(n) is int and n > 0 for n in shape) or count > LARGEST:
        raise ValueError(f"{name} cannot have the shape {shape}")
    if how == "mst":
        return 1 - 2 * mst.decode(value.tobytes(), shape[0], count // shape[0]).reshape(shape).astype(np.int8)
    planes = {"1": 1, "2": 2}[how]
    if value.dtype != np.uint8 or value.size != planes * -(-count // 8):
        raise ValueError(f"{name} has {value.size} bytes for the shape {shape}")
    negative, *positive = (np.unpackbits(p, count=count).reshape(shape).astype(np.int8) for p in value.reshape(planes, -1))
    return positive[0] - negative if positive else 1 - 2 * negative
