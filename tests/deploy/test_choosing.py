"""Choosing by data: tokens dropped, sorted and fetched, in PyTorch, in C and in ONNX Runtime."""

import numpy as np
import pytest
import torch
from torch import nn

from netwright.core.errors import Unsupported
from netwright.deploy.c99 import build, emit
from netwright.deploy.onnx import OrtModel, to_onnx
from netwright.design import trace
from netwright.design.execute import GraphModule


class Function(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x)


def _rows(x):
    """The five tokens with the largest first channel, and the class token."""
    index = x[:, 1:, 0].topk(5, 1).indices + 1
    return torch.cat([x[:, :1], x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[2]))], 1)


FUNCTIONS = {
    "token dropping": _rows,
    "rows by one index": lambda x: x[:, x[0, :, 2].argsort(descending=True)[:7]],
    "index_select": lambda x: x.index_select(2, x[0, 3].topk(4, largest=False).indices),
    "topk values": lambda x: x.topk(3, 1).values,
    "sort": lambda x: x.sort(2).values,
    "descending sort of columns": lambda x: x.sort(1, descending=True).values,
    "argmax": lambda x: x.argmax(2).float(),
    "argmin of all": lambda x: x.argmin().float() + x[0, 0, :2],
    "max with places": lambda x: torch.stack([x.max(1).values, x.max(1).indices.float()]),
    "element by element": lambda x: x.gather(1, x.argsort(1)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name, tmp_path):
    module = Function(FUNCTIONS[name])
    x = torch.from_numpy(np.random.default_rng(len(name)).standard_normal((1, 13, 6), dtype=np.float32))
    graph = trace(module, x)
    want = module(x).numpy()
    np.testing.assert_array_equal(GraphModule(graph)(x).numpy(), want)
    np.testing.assert_array_equal(OrtModel(to_onnx(graph)).run(x.numpy()), want)
    for isa in ("native", "portable"):
        np.testing.assert_array_equal(build(graph, tmp_path / isa, isa=isa).run(x.numpy()), want)


def test_equal_elements_keep_their_order(tmp_path):
    x = torch.tensor([[2.0, 5, 2, 5, 5, 1, 2]])
    graph = trace(Function(lambda x: torch.cat([x.topk(7).indices, x.topk(7, largest=False).indices], 1).float()), x)
    want = [[1, 3, 4, 0, 2, 6, 5, 5, 0, 2, 6, 1, 3, 4]]
    assert GraphModule(graph)(x).tolist() == want
    assert build(graph, tmp_path).run(x.numpy()).tolist() == want
    assert OrtModel(to_onnx(graph)).run(x.numpy()).tolist() == want


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_no_number_leads_outside(value, tmp_path):
    """Places beyond the ends, which only arithmetic on places can make, read what is nearest."""
    module = Function(lambda x: x.gather(1, (x.argsort(1) * 3 - 4).clamp(-100, 100)))
    graph = trace(module, torch.zeros(1, 9))
    x = np.arange(9, dtype=np.float32)[None] / 10
    x[0, 4] = value
    got = build(graph, tmp_path).run(x)
    np.testing.assert_array_equal(np.isin(got, x) | np.isnan(got), True)


def test_dropping_saves_work():
    """Layers behind the choice see fewer tokens."""
    graph = trace(nn.Sequential(Function(_rows), nn.Linear(6, 8)), torch.zeros(1, 13, 6))
    assert graph.macs == 6 * 6 * 8


def test_what_is_not_covered_is_said():
    graph = trace(Function(lambda x: x.gather(1, x[:, :4, :2].argsort(1))), torch.zeros(1, 13, 6))
    with pytest.raises(Unsupported, match=r"gather.*of some of the rows"):
        emit(graph)
