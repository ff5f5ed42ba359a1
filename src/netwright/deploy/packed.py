"""The values of a graph as bytes: safetensors, in which weights of one and two bits take one and two bits."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from netwright.core.errors import BundleError
from netwright.core.graph import Graph

SHAPES = "#shapes"  # of the packed arrays, as JSON


def pack(graph: Graph) -> bytes:
    """All values; int8 arrays of -1 and 1 as their signs, those of -1, 0 and 1 as two planes of bits."""
    arrays, shapes = {}, {}
    for key, value in graph.values.items():
        value, bits = np.ascontiguousarray(value), graph.params[key].bits
        if value.dtype == np.int8 and bits <= 2 and np.abs(value).max(initial=0) <= 1:
            planes = [value < 0] if bits == 1 and value.all() else [value < 0, value > 0]
            arrays[f"{key}#{len(planes)}"] = np.concatenate([np.packbits(p.reshape(-1)) for p in planes])
            shapes[key] = list(value.shape)
        else:
            arrays[key] = value
    arrays[SHAPES] = np.frombuffer(json.dumps(shapes).encode(), np.uint8)
    return save(arrays)


def unpack(data: bytes) -> Mapping[str, np.ndarray]:
    """What `pack` packed.

    Raises:
        BundleError: it is something else.
    """
    try:
        arrays = load(data)
        shapes = json.loads(arrays.pop(SHAPES).tobytes())
        return {key.partition("#")[0]: _bits(key, value, shapes) for key, value in arrays.items()}
    except (SafetensorError, ValueError, KeyError, TypeError, IndexError) as error:
        raise BundleError(f"The packed weights cannot be read: {error}.") from error


def _bits(key: str, value: np.ndarray, shapes: Mapping[str, list[int]]) -> np.ndarray:
    name, packed, planes = key.partition("#")
    if not packed:
        return value
    count = int(np.prod(shapes[name]))
    negative, *positive = (
        np.unpackbits(p, count=count).reshape(shapes[name]).astype(np.int8) for p in value.reshape(int(planes), -1)
    )
    return positive[0] - negative if positive else 1 - 2 * negative
