"""Weights of one and two bits take one and two bits in the file, or less; what comes back is the same."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Builder

from netwright.core.errors import BundleError
from netwright.deploy import mst
from netwright.deploy.bundle import Bundle, write_bundle
from netwright.deploy.packed import pack, unpack

SHAPES = [(1, 1), (2, 1), (1, 70), (3, 8), (64, 27), (17, 100), (200, 65)]


def related(count, n, share, seed=0):
    """Filters that each differ from one pattern in a share of their bits."""
    rng = np.random.default_rng(seed)
    return (rng.random(n) < 0.5) ^ (rng.random((count, n)) < share)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_filters_come_back(shape, share):
    filters = related(*shape, share)
    np.testing.assert_array_equal(mst.decode(mst.encode(filters), *shape), filters)


@pytest.mark.parametrize("seed", range(5))
def test_the_tree_is_a_shortest_one(seed):
    """Kruskal's algorithm finds the same length."""
    filters = np.random.default_rng(seed).random((12, 9)) < 0.5
    tree = mst.spanning_tree(filters)
    edges = sorted((min(d := int((filters[i] ^ filters[j]).sum()), 9 - d), i, j) for i in range(12) for j in range(i))
    group, total = list(range(12)), 0
    for length, i, j in edges:
        if group[i] != group[j]:
            total += length
            group = [group[i] if g == group[j] else g for g in group]
    assert tree.length == total
    assert sorted(tree.order) == list(range(12)) and tree.parents[tree.order[0]] == tree.order[0]
    assert mst.bit_operations(filters) == (108, 9 + total)


def test_equal_edges_give_a_shallow_tree():
    filters = np.zeros((9, 6), bool)
    assert mst.spanning_tree(filters).depth == 1


def test_related_filters_need_fewer_bytes_and_random_ones_stay_plain():
    close, random = related(64, 1152, 0.05), related(64, 1152, 0.5)
    plain = np.packbits(close).tobytes()
    assert len(mst.encode(close)) < 0.6 * len(plain) and len(mst.encode(close)) < len(zlib.compress(plain, 9))
    b = Builder((1, 128, 4, 4))
    codes = b.quantize("x")
    for filters in (close, random):
        node = b.conv("bconv2d", codes, 64, 3, bits=1)
        b.values[f"{node}.weight"][...] = np.where(filters, -1, 1).reshape(64, 128, 3, 3)
    graph = b.gather([f"n{i}" for i in (2, 3)])
    sizes = {key: len(pack(graph.replace(graph.nodes, values={key: graph.values[key]}))) for key in ("n2.weight", "n3.weight")}
    assert sizes["n2.weight"] < 0.7 * sizes["n3.weight"] < 0.7 * (64 * 1152 / 8 + 300)


@pytest.mark.parametrize("bits", [8, 2, 1])
def test_a_bundle_stores_bits(bits, tmp_path):
    b = Builder((1, 16, 6, 6))
    graph = b.graph(b.dequantize(b.conv("bconv2d" if bits == 1 else "qconv2d", b.quantize("x"), 48, 3, bits=bits)))
    bundle = Bundle.load(write_bundle(graph, tmp_path, form="binary").path)
    for key, value in graph.values.items():
        np.testing.assert_array_equal(bundle.graph.values[key], value)
    assert (tmp_path / "weights.safetensors").stat().st_size < 48 * 16 * 9 * bits / 8 + 48 * 9 + 1500


@settings(max_examples=150, deadline=None, derandomize=True)
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), keep=st.floats(0, 1))
def test_damaged_trees_are_refused_or_read(place, value, keep):
    filters = related(20, 60, 0.1)
    data = bytearray(mst.encode(filters))
    data[int(place * len(data))] = value
    for damaged in (bytes(data), bytes(data[: int(keep * len(data))])):
        try:
            assert mst.decode(damaged, 20, 60).shape == (20, 60)
        except BundleError as error:
            assert "cannot be read" in str(error)


def test_hostile_shapes_are_refused():
    b = Builder((1, 8, 4, 4))
    graph = b.graph(b.dequantize(b.conv("bconv2d", b.quantize("x"), 8, 3, bits=1)))
    data = pack(graph)
    text = data[8:].split(b"#shapes")[0]
    assert text
    for wrong in (b"[8, 8, 3, 9]", b"[8, 8, 3,-3]", b'[8, 8, 3,"a]'):
        with pytest.raises(BundleError):
            unpack(data.replace(b"[8, 8, 3, 3]", wrong))
