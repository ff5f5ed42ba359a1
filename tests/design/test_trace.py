import pytest
import torch
from torch import nn
from torch.nn import functional as F

from netwright.core.errors import TraceError
from netwright.design import GraphModule, trace
from netwright.design.execute import RUN
from netwright.design.models import VARIANTS


class Functional(nn.Module):
    """No module but the weights: everything is a function call."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 10)
        self.scale = nn.Parameter(torch.rand(8, 1, 1))
        self.bn = nn.BatchNorm2d(8)

    def forward(self, x):
        y = F.relu(self.a(x))
        y = y + F.gelu(self.b(y))
        y = self.bn(y * self.scale)
        p, q = y.chunk(2, dim=1)
        y = torch.cat([F.max_pool2d(p, 2), F.avg_pool2d(q, 2)], 1)
        y = F.interpolate(y, scale_factor=2, mode="nearest")
        y = 1 - torch.sigmoid(y[:, :, 1:])
        y = F.adaptive_avg_pool2d(y, 1).flatten(1)
        return F.softmax(F.linear(y, self.c.weight, self.c.bias), dim=1) @ torch.eye(10)


def test_functional_calls_are_counted_like_modules():
    graph = trace(Functional(), torch.zeros(1, 1, 8, 8))
    assert graph.macs == 8 * 9 * 64 + 8 * 8 * 9 * 64 + 80 + 100
    assert graph.parameters == sum(p.numel() for p in Functional().parameters())
    assert {"relu", "add", "gelu", "mul", "slice", "cat", "interpolate", "sub", "softmax", "matmul"} <= {n.op for n in graph}


@pytest.mark.parametrize("name", [n for n, c in VARIANTS.items() if c.classes == 10])
def test_the_graph_computes_what_the_module_computes(name):
    torch.manual_seed(0)
    module = VARIANTS[name].build()
    module(torch.randn(32, 1, 8, 8))  # batch statistics that are not trivial
    x = torch.randn(5, 1, 8, 8)
    graph = trace(module, torch.zeros(1, 1, 8, 8))
    assert torch.allclose(GraphModule(graph).eval()(x), module.eval()(x), atol=1e-5)


def test_a_graph_module_trains_like_the_module():
    torch.manual_seed(0)
    module = VARIANTS["digits_mbconv"].build()
    copy = GraphModule(trace(module, torch.zeros(1, 1, 8, 8)))
    x = torch.randn(16, 1, 8, 8)
    for m in (module, copy):
        m.train()
        optimiser = torch.optim.SGD(m.parameters(), 0.1)
        for _ in range(3):
            optimiser.zero_grad()
            m(x).square().sum().backward()
            nn.utils.clip_grad_norm_(m.parameters(), 1.0)
            optimiser.step()
        m.eval()
    assert torch.allclose(copy(x), module(x), atol=1e-3)


def test_tracing_leaves_the_mode_alone():
    module = VARIANTS["digits_conv"].build().train()
    trace(module, torch.zeros(1, 1, 8, 8))
    assert module.training


class Branch(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("module", "shape"), [(Branch(), (1, 4)), (nn.Conv2d(3, 4, 3), (1, 1, 8, 8))], ids=["data-dependent", "wrong shape"]
)
def test_what_cannot_be_traced_is_explained(module, shape):
    with pytest.raises(TraceError, match="could not be traced with input"):
        trace(module, torch.zeros(shape))


def test_recurrent_and_attention_layers_are_counted():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(4, 8, batch_first=True)

        def forward(self, x):
            y, _ = self.rnn(x)
            return F.scaled_dot_product_attention(y, y, y)

    graph = trace(Both(), torch.zeros(1, 5, 4))
    assert graph.macs == 5 * (4 * 8 * 4 + 4 * 8 * 8) + 2 * 5 * 5 * 8


def test_an_unknown_operation_keeps_its_name():
    class Fft(nn.Module):
        def forward(self, x):
            return torch.fft.rfft2(x).real

    assert any(n.op.startswith("aten.") and n.op not in RUN for n in trace(Fft(), torch.zeros(1, 1, 4, 4)))


def test_exported_programs_are_read(tmp_path):
    module = VARIANTS["digits_conv"].build().eval()
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(module, (torch.zeros(1, 1, 8, 8),)), path)
    assert trace(torch.export.load(path)).macs == trace(module, torch.zeros(1, 1, 8, 8)).macs
