"""Tracing for counting: without weights, where export fails, and other people's models."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.core.errors import NetwrightError, TraceError
from netwright.design import GraphModule, trace
from netwright.design.models import VARIANTS
from netwright.design.record import Failed, record
from netwright.design.trace import hollow


class Gate(nn.Module):
    """0 or 1 for each element, by a cast of a comparison."""

    def __init__(self, cast: str):
        super().__init__()
        self.cast = cast

    def forward(self, x: Tensor) -> Tensor:
        on = x >= 0
        number = {"to": on.to(x.dtype), "float": on.float(), "type_as": on.type_as(x), "long": on.long().to(x.dtype)}[self.cast]
        return number @ torch.eye(8) + F.conv1d(number[:, None], torch.ones(1, 1, 3))[:, 0].sum(1, keepdim=True)


@pytest.mark.parametrize("cast", ["to", "float", "type_as", "long"])
def test_booleans_become_numbers(cast: str):
    module, x = Gate(cast), torch.randn(3, 8)
    assert torch.equal(GraphModule(trace(module, x[:1]))(x), module(x))


class Branch(nn.Module):
    """A branch that depends on the data, which no export can follow, with every kind of weighted layer around it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1, groups=1), nn.BatchNorm2d(4)
        self.place = nn.Parameter(torch.zeros(1, 8, 8))
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.small, self.large = nn.Linear(8, 4), nn.Linear(8, 4)
        self.mix = nn.Conv1d(4, 4, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x)).relu().mean(1) + self.place
        y = self.attention(*3 * [self.lstm(y)[0]])[0]
        y = self.large(y) if x.sum() > 0 else self.small(y)
        return self.mix(y.transpose(1, 2)).softmax(1) @ y


MACS = 4 * 9 * 64 + 8 * (32 * 8 + 32 * 8) + 8 * 8 * 24 + 8 * 8 * 8 + 2 * 8 * 8 * 8 + 8 * 8 * 4 + 4 * 4 * 8 + 4 * 8 * 4


def test_what_export_refuses_is_recorded_for_counting():
    module = Branch().eval()
    with pytest.raises(TraceError, match=r"operation aten\.item"):
        trace(module, torch.ones(1, 1, 8, 8))
    graph = trace(module, torch.ones(1, 1, 8, 8), counting=True)
    assert graph.macs == MACS
    assert graph.parameters == sum(p.numel() for n, p in module.named_parameters() if not n.startswith("small"))
    assert {"conv2d", "batch_norm", "relu", "mean", "add", "linear", "softmax", "matmul"} <= {n.op for n in graph}
    assert graph[graph.outputs[0]].spec.shape == (1, 4, 4)
    assert {n.path for n in graph if n.op == "conv2d"} == {"conv"}
    assert "small.weight" in {k for n in trace(module, -torch.ones(1, 1, 8, 8), counting=True) for k in n.weights.values()}


def test_a_recorded_graph_refuses_to_run():
    graph = trace(Branch().eval(), torch.ones(1, 1, 8, 8), counting=True)
    with pytest.raises(NetwrightError, match="without values"):
        GraphModule(graph)


@pytest.mark.parametrize("name", ["digits_conv", "digits_mbconv", "digits_convnext", "digits_gnconv", "digits_vanilla"])
def test_recording_counts_what_tracing_counts(name: str):
    module, x = VARIANTS[name].build().eval(), torch.zeros(1, 1, 8, 8)
    traced, recorded = trace(module, x), record(module, (x,))
    assert recorded.macs == traced.macs
    assert recorded.parameters == traced.parameters == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", [n for n, c in VARIANTS.items() if c.classes == 10])
def test_a_hollow_module_counts_like_a_full_one(name: str):
    x = torch.zeros(1, 1, 8, 8)
    empty, full = trace(hollow(VARIANTS[name].build), x, counting=True), trace(VARIANTS[name].build(), x)
    assert (empty.macs, empty.parameters, empty.peak_bytes) == (full.macs, full.parameters, full.peak_bytes)
    assert [(n.op, n.spec) for n in empty] == [(n.op, n.spec) for n in full]
    assert not empty.values


def test_a_module_that_reads_its_values_is_built_with_them():
    class Reads(nn.Linear):
        def __init__(self):
            super().__init__(4, 4)
            self.norm = float(self.weight.norm())

    assert not any(p.is_meta for p in hollow(Reads).parameters())


def test_a_failure_names_the_operation_and_the_module():
    class Wrong(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) if x.sum() > 0 else self.inner(x[:, :3])

    with pytest.raises(TraceError, match=r"aten\.\w+"):
        trace(nn.Linear(4, 4), torch.zeros(1, 5))
    with pytest.raises(Failed, match=r"aten\.\w+.* in inner"):
        record(Wrong(), (-torch.ones(1, 4),))


def test_tracing_leaves_modes_and_hooks_as_they_were():
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.BatchNorm1d(4))
    module.train()
    module[2].eval()
    trace(module, torch.zeros(2, 4), counting=True)
    record(module, (torch.zeros(2, 4),))
    assert [m.training for m in module] == [True, True, False]
    assert torch.backends.mha.get_fastpath_enabled()


def _transformers(kind: str) -> nn.Module:
    try:
        from transformers import BertModel  # noqa: F401
    except Exception as error:  # a torchvision built for CUDA breaks its import too
        pytest.skip(f"transformers cannot be imported: {str(error).splitlines()[0]}")
    t = pytest.importorskip("transformers")
    small = {"vocab_size": 50, "max_position_embeddings": 32}
    if kind == "encoder":
        config = t.BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, **small)
        return t.BertModel(config, add_pooling_layer=False)
    config = t.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, vocab_size=50, use_cache=False)
    return t.GPT2Model(config)


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_models_of_transformers(kind: str):
    module = _transformers(kind).eval()
    graph = trace(module, torch.ones(1, 8, dtype=torch.long), counting=True)
    tokens, width, layers = 8, 16, 2
    inner = 2 * width if kind == "encoder" else 4 * width
    assert graph.macs == layers * (tokens * (4 * width * width + 2 * width * inner) + 2 * tokens * tokens * width)
    assert graph.parameters == sum(p.numel() for p in module.parameters())
