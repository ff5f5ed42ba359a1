"""Strips give what the whole network gives, need less memory, and say what they compute twice."""

from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from nets import Builder
from torch import nn

from netwright.core.errors import NetwrightError
from netwright.deploy.c99 import build, emit
from netwright.deploy.c99.patches import in_strips, patched, segments
from netwright.deploy.c99.picture import draw_arena
from netwright.design import trace
from netwright.design.execute import GraphModule
from netwright.design.fold import fold


def mobile():
    """A stem with large tensors, depthwise layers, a residual; odd sizes."""
    torch.manual_seed(0)

    class Residual(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    net = nn.Sequential(
        nn.Conv2d(3, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU6(), nn.Conv2d(12, 12, 3, 1, 1, groups=12), nn.Hardswish(),
        nn.Conv2d(12, 10, 1),
        Residual(nn.Conv2d(10, 24, 1), nn.ReLU(), nn.Conv2d(24, 24, 5, 1, 2, groups=24), nn.Conv2d(24, 10, 1)),
        nn.MaxPool2d(2), nn.Conv2d(10, 16, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    ).eval()  # fmt: skip
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 45, 37), dtype=np.float32))
    return fold(trace(net, x)), x


def codes():
    """int8, ternary and binary convolutions with signed codes, an addition, a concatenation of channels."""
    b = Builder((1, 5, 27, 14))
    x = b.conv("qconv2d", b.quantize("x"), 16, 3)
    y = b.conv("bconv2d", x, 16, 3, bits=1)
    added = b.add("qadd", x, y, attrs={"ma": 3, "mb": 5, "shift": 3, "lo": -127, "hi": 127})
    z = b.conv("qconv2d", added, 16, 3, bits=2, stride=2, lo=0, hi=255)
    z = b.conv("qconv2d", z, 16, 5, groups=16)
    z = b.add("max_pool2d", z, attrs={"kernel": [2, 2], "stride": [2, 2], "padding": [0, 0]})
    return b.gather([z]), torch.from_numpy(b.input)


def tokens():
    """Two blocks of a transformer's wide layers behind a patch embedding."""
    torch.manual_seed(1)

    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.up, self.down = nn.LayerNorm(20), nn.Linear(20, 80), nn.Linear(80, 20)

        def forward(self, x):
            return x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.blocks = nn.Conv2d(3, 20, 4, 4), nn.Sequential(Wide(), Wide())

        def forward(self, x):
            return self.blocks(self.embed(x).flatten(2).transpose(1, 2) * 0.5).mean(1)

    x = torch.from_numpy(np.random.default_rng(1).standard_normal((1, 3, 28, 28), dtype=np.float32))
    return fold(trace(Net().eval(), x)), x


def difference(a, b):
    return float((a - b).abs().max())


@pytest.mark.parametrize("case", [mobile, codes, tokens])
def test_every_segment_in_two_and_three_strips(case):
    graph, x = case()
    exact = case is codes
    with torch.no_grad():
        expected = GraphModule(graph).eval()(x)
        found = 0
        for segment in segments(graph):
            for strips in (2, 3):
                if graph.nodes[segment.last].spec.shape[2 if len(graph.nodes[segment.last].spec.shape) == 4 else 1] < strips:
                    continue
                got = GraphModule(in_strips(graph, segment, strips)).eval()(x)
                assert difference(got, expected) <= (0 if exact else 2e-6), (segment, strips)
                found += 1
    assert found > 20


@pytest.mark.parametrize("case", [mobile, codes, tokens])
@pytest.mark.parametrize("isa", ["native", "portable"])
def test_the_c_file_in_strips(case, isa, tmp_path):
    graph, x = case()
    whole = build(graph, tmp_path / "whole", isa=isa).run(x.numpy())
    large = [s for s in segments(graph) if s.last - s.first >= 3]
    for number, segment in enumerate(large[:: max(1, len(large) // 3)]):
        got = build(in_strips(graph, segment, 3), tmp_path / str(number), isa=isa).run(x.numpy())
        if case is codes:
            np.testing.assert_array_equal(got, whole)
        else:
            np.testing.assert_allclose(got, whole, atol=2e-6)


def test_the_arena_gets_smaller():
    graph, _ = mobile()
    whole, strips = emit(graph), emit(graph, most_repeated=0.5)
    assert strips.arena_bytes < 0.6 * whole.arena_bytes
    assert strips.strips is not None and 0 < strips.strips.repeated <= 0.5
    assert strips.weight_bytes == whole.weight_bytes, "weights stand there once"
    assert emit(graph, most_repeated=0.0).strips.repeated <= 0  # below: rows that a pool drops are not computed


def test_the_picture_of_the_arena():
    emitted = emit(mobile()[0], most_repeated=0.5)
    picture = ElementTree.fromstring(draw_arena(emitted))
    boxes = picture.findall("{http://www.w3.org/2000/svg}rect")
    assert len(boxes) == len(emitted.places) and f"{emitted.arena_bytes:,}" in picture.attrib["aria-label"]
    assert all(float(b.attrib["width"]) > 0 and float(b.attrib["height"]) >= 0 for b in boxes)


def test_tokens_overwrite_tokens(tmp_path):
    """The wide tensors exist one strip at a time, and the results lie where their tokens were."""
    graph, x = tokens()
    segment = max((s for s in segments(graph) if graph.nodes[s.last].op == "add" and graph.nodes[s.first].op == "layer_norm"),
                  key=lambda s: (s.last - s.first, s.last))  # fmt: skip
    strips = in_strips(graph, segment, 7)
    assert "nw_add_in_place_f32" in emit(strips).c
    assert emit(strips).arena_bytes < emit(graph).arena_bytes
    one, other = build(strips, tmp_path / "strips").run(x.numpy()), build(graph, tmp_path / "whole").run(x.numpy())
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_long_network_is_searched():
    graph, x = tokens()
    found = patched(graph, 0.3, rounds=6)
    assert found.segments and found.repeated <= 0.3
    with torch.no_grad():
        assert difference(GraphModule(found.graph).eval()(x), GraphModule(graph).eval()(x)) <= 2e-6


def test_more_strips_than_rows():
    graph, _ = mobile()
    segment = next(iter(segments(graph)))
    with pytest.raises(NetwrightError, match="strips"):
        in_strips(graph, segment, 1000)
