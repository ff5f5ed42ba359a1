"""OpenVINO's binary convolution gives our integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from nets import Builder

from netwright.core.errors import Unsupported
from netwright.design.execute import GraphModule

pytest.importorskip("openvino", reason="pip install 'netwright[openvino]'")
from netwright.deploy.openvino import OpenVinoModel, save_openvino, to_openvino


@pytest.mark.parametrize(
    "channels, outputs, k, stride, pad", [(8, 7, 3, 2, 1), (48, 64, 3, 1, 2), (64, 10, 1, 1, 0), (96, 33, 5, 1, 0)]
)
def test_sums_of_binary_layers_are_exact(channels: int, outputs: int, k: int, stride: int, pad: int) -> None:
    b = Builder((1, channels, 9, 7))
    y = b.conv("bconv2d", b.quantize("x"), outputs, k, stride=stride, pads=[pad] * 4, bits=1, rescale=False)
    graph = b.graph(b.dequantize(y))
    expected = GraphModule(graph)(torch.from_numpy(b.input)).numpy()
    np.testing.assert_array_equal(OpenVinoModel(to_openvino(graph)).run(b.input), expected)


def test_a_network_of_codes(tmp_path: Path) -> None:
    """Signs read behind a rescaling, a residual, pooling; codes differ only where a tie is rounded."""
    b = Builder((1, 16, 8, 8))
    x = b.conv("qconv2d", b.quantize("x"), 32, 3)
    y = b.conv("bconv2d", b.conv("bconv2d", x, 32, 3, bits=1), 32, 3, bits=1)
    y = b.add("qadd", x, y, attrs={"ma": 9000, "mb": 11000, "shift": 14, "lo": -127, "hi": 127})
    y = b.add("max_pool2d", y, attrs={"kernel": [2, 2], "stride": [2, 2], "padding": [0, 0], "ceil": False})
    y = b.linear("qlinear", b.flatten(b.add("qmean", y, attrs={"mult": 2**20, "shift": 22, "lo": -127, "hi": 127})), 10)
    graph = b.graph(b.dequantize(y))
    expected = GraphModule(graph)(torch.from_numpy(b.input)).numpy()
    files = save_openvino(graph, tmp_path)
    assert set(files) == {"model.xml", "model.bin"}
    got = OpenVinoModel(str(tmp_path / "model.xml")).run(b.input)
    np.testing.assert_allclose(got, expected, atol=3 * 127)  # one code of a few of 32 channels, by weights up to 127


@pytest.mark.parametrize("channels, groups, why", [(8, 2, "bconv2d with 2 groups"), (9, 1, "bconv2d with 9 input channels")])
def test_what_its_kernel_cannot_is_refused(channels: int, groups: int, why: str) -> None:
    b = Builder((1, channels, 5, 5))
    y = b.conv("bconv2d", b.quantize("x"), 8, 3, groups=groups, bits=1, rescale=False)
    with pytest.raises(Unsupported, match=why):
        to_openvino(b.graph(b.dequantize(y)))
