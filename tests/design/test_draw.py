# ruff: noqa: RUF001  the signs of multiplication are meant
from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from netwright.core import Graph, Node, Spec
from netwright.design import trace
from netwright.design.draw import LARGEST, draw
from netwright.design.models import VARIANTS

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [t.text or "" for t in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def boxes(svg: str) -> list[ElementTree.Element]:
    return [g for g in ElementTree.fromstring(svg).iter(f"{SVG}g") if g.find(f"{SVG}title") is not None]


@pytest.mark.parametrize("name", sorted(n for n in VARIANTS if n.startswith("digits_")))
def test_every_family_is_well_formed_and_shows_every_shape_and_layer(name: str):
    graph = trace(VARIANTS[name].build(), torch.zeros(1, 1, 8, 8))
    svg = draw(graph, name)
    found = texts(svg)
    assert name in found and "1 × 8 × 8" in found and "linear 32 → 10" in found
    assert sum("conv" in t and "stages" not in t and "stem" not in t for t in found) >= sum(n.op == "conv2d" for n in graph)
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")


def test_conv_norm_and_activation_are_one_box_and_a_residual_is_a_lane():
    svg = draw(trace(VARIANTS["digits_mbconv"].build(), torch.zeros(1, 1, 8, 8)), "m")
    stem = next(b for b in boxes(svg) if "stem.conv" in (b.find(f"{SVG}title").text or ""))
    assert [t.text for t in stem.iter(f"{SVG}text")][:3] == ["conv 3×3", "batch norm", "relu"]
    assert svg.count('class="arrow skip"') == 2


def test_boxes_do_not_overlap_and_lie_on_the_page():
    for name in ("digits_gnconv", "digits_inception_dw"):
        svg = draw(trace(VARIANTS[name].build(), torch.zeros(1, 1, 8, 8)), name)
        x0, y0, width, height = map(float, re.search(r'viewBox="([^"]+)"', svg).group(1).split())
        rects = [[float(b.find(f"{SVG}rect").get(k)) for k in ("x", "y", "width", "height")] for b in boxes(svg)]
        for i, (x, y, w, h) in enumerate(rects):
            assert x >= x0 and x + w <= x0 + width and y >= y0 and y + h <= y0 + height
            for x2, y2, w2, h2 in rects[:i]:
                assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y


def test_a_large_network_is_drawn_by_module_and_repeats_are_counted():
    graph = trace(VARIANTS["convnext_tiny"].build(), torch.zeros(1, 3, 64, 64))
    svg = draw(graph, "convnext")
    assert len(graph.nodes) > 2 * LARGEST and len(boxes(svg)) <= LARGEST
    assert any("× 9 in a row" in t for t in texts(svg))


def test_two_thousand_operations_without_modules_are_drawn():
    spec = Spec((1, 4))
    nodes = [Node("x", "input", (), spec)]
    nodes += [
        Node(f"n{i}", "softmax" if i % 2 else "fft", (nodes[-1].name if i == 0 else f"n{i - 1}",), spec) for i in range(2000)
    ]
    assert len(boxes(draw(Graph(tuple(nodes), ("n1999",)), "long"))) <= LARGEST


def test_names_are_escaped():
    class Odd(nn.Module):
        def forward(self, x):
            return x.relu()

    graph = trace(Odd(), torch.zeros(1, 2))
    evil = '<script>alert("1")</script>&'
    nodes = tuple(Node(n.name, n.op, n.inputs, n.spec, n.attrs, n.weights, n.macs, evil) for n in graph)
    svg = draw(Graph(nodes, graph.outputs), evil)
    assert "<script" not in svg
    assert evil in texts(svg)


def test_low_bits_and_spikes_are_named():
    train = Spec((1, 4, 8, 8), 8, "int", 0.125, 8)
    weights = {"w": Spec((4, 1, 3, 3), 1, "int")}
    geometry = {"stride": [1, 1], "pads": [1] * 4, "dilation": [1, 1], "groups": 1, "bits": 1}
    nodes = (
        Node("x", "input", (), Spec((1, 1, 8, 8), 8, "int")),
        Node("c", "bconv2d", ("x",), Spec((1, 4, 8, 8), 32, "int"), geometry, {"weight": "w"}, 4 * 64 * 9),
        Node("n", "integrate", ("c",), train, {"steps": 8, "current_steps": 1, "rule": "if", "limit": 0}),
        Node("o", "isum", ("n",), Spec((1, 4, 1, 1), 32, "int", 1.0, 8)),
    )
    found = texts(draw(Graph(nodes, ("o",), weights), "s"))
    assert "binary conv 3×3" in found and "integrate and fire, T = 8" in found
    assert "4 × 8 × 8 · 8 steps, 12% spikes" in found
    assert math.isclose(train.rate, 0.125)
