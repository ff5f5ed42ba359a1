"""PyTorch modules compiled to C, for this processor and in plain C, and as ONNX files, against the modules themselves."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from modules import Call, Compare, close, random
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.core.errors import BundleError, Unsupported
from netwright.deploy.bundle import Bundle, write_bundle
from netwright.deploy.c99 import build, emit
from netwright.deploy.onnx import to_onnx
from netwright.design.trace import trace
from netwright.design.zoo import timm_model

AWKWARD = [1, 31, 32, 33, 65]


def test_products_at_awkward_sizes(compare: Compare) -> None:
    functions, xs = [], []
    for i, n in enumerate(AWKWARD):
        m, k = AWKWARD[-1 - i], AWKWARD[(i + 2) % 5]
        xs += [random(1, 2, m, k, seed=i), random(1, 2, k, n, seed=i + 9)]
        functions += [
            lambda *x, i=i: x[2 * i] @ x[2 * i + 1],
            lambda *x, i=i: x[2 * i + 1].transpose(2, 3) @ x[2 * i].transpose(2, 3),
            lambda *x, i=i: x[2 * i] @ x[2 * i + 1][:, :1],
            lambda *x, i=i: (x[2 * i] @ x[2 * i + 1]).transpose(1, 2).flatten(2),
        ]
    compare(Call(*functions), *xs, tolerance=5e-6)


def test_attention_at_awkward_sizes(compare: Compare) -> None:
    xs, functions = [], []
    for i, n in enumerate(AWKWARD):
        m, d, w = AWKWARD[-1 - i], AWKWARD[(i + 1) % 5], AWKWARD[(i + 3) % 5]
        xs += [
            random(1, 3, m, d, seed=i),
            random(1, 3, n, d, seed=i + 9),
            random(1, 3, n, w, seed=i + 20),
            random(1, 3, m, n, seed=i),
        ]
        mask = random(m, n, seed=i) < 0.7
        mask[:, 0] = True
        functions += [
            lambda *x, i=i: F.scaled_dot_product_attention(*x[4 * i : 4 * i + 3]),
            lambda *x, i=i: F.scaled_dot_product_attention(*x[4 * i : 4 * i + 3], x[4 * i + 3], scale=0.3).transpose(1, 2),
            lambda *x, i=i, mask=mask: F.scaled_dot_product_attention(*x[4 * i : 4 * i + 3], mask),
            lambda *x, i=i: F.scaled_dot_product_attention(*[x[4 * i]] * 3, is_causal=True),
        ]
    compare(Call(*functions), *xs, tolerance=5e-6)


@pytest.mark.parametrize("size", AWKWARD)
def test_recurrent_layers_at_awkward_sizes(compare: Compare, size: int) -> None:
    layers: dict[str, nn.Module] = {
        "lstm": nn.LSTM(5, size, 2, bidirectional=True, batch_first=True),
        "gru": nn.GRU(5, size, bidirectional=True, batch_first=True),
        "rnn": nn.RNN(5, size, nonlinearity="relu", bias=False),
        "lstm_cell": nn.LSTMCell(5, size), "gru_cell": nn.GRUCell(5, size), "rnn_cell": nn.RNNCell(5, size),
    }  # fmt: skip

    class Net(Call):
        def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Any:
            cells = [self.layers[n](x[:, 0], *a) for n, a in (("lstm_cell", [(h, c)]), ("gru_cell", [h]), ("rnn_cell", []))]
            sequences = self.layers["lstm"](x), self.layers["gru"](x), self.layers["rnn"](x.transpose(0, 1), c[None])
            several = self.layers["lstm"](x.reshape(2, 2, 5))[0].flatten(0, 1)[None], self.layers["gru"](x.reshape(4, 1, 5))[0]
            return sequences, cells, several

    torch.manual_seed(size)
    compare(Net(**layers), random(1, 4, 5), random(1, size, seed=1), random(1, size, seed=2))


def test_recurrent_layers_are_counted() -> None:
    net = nn.LSTM(5, 7, 2, bidirectional=True, batch_first=True)
    graph = trace(net, torch.zeros(1, 4, 5))
    assert graph.parameters == sum(p.numel() for p in net.parameters())
    assert graph.macs == 4 * sum(p.numel() for p in net.parameters() if p.dim() == 2)
    assert [n.op for n in graph].count("lstm") == 4


class TwoInTwoOut(nn.Module):
    """A network of two inputs, one of which is also an output, and results that share memory."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 5, 3, padding=1), nn.Linear(4, 5)

    def forward(self, image: Tensor, facts: Tensor) -> dict[str, Tensor]:
        y = self.left(image) * self.right(facts)[:, :, None, None]
        return {"sum": y.sum((2, 3)), "map": y, "again": y.flatten(1), "facts": facts}


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    net, image, facts = TwoInTwoOut().eval(), random(3, 3, 6, 5), random(3, 4)
    graph = trace(net, (image[:1], facts[:1]))
    emitted = emit(graph, "two")
    assert "int two_run(const float *in0, const float *in1, float *out0, float *out1, float *out2, float *out3);" in emitted.h
    assert "#define TWO_INPUT1_ELEMENTS 4\n" in emitted.h and "#define TWO_OUTPUT1_ELEMENTS 150\n" in emitted.h
    model = build(graph, tmp_path)
    with torch.no_grad():
        close(model.run(image.numpy(), facts.numpy()), list(net(image, facts).values()), 1e-6, "batch of 3")
        bundle = Bundle.load(write_bundle(graph, tmp_path / "bundle", form="float", exports={"model.onnx": to_onnx(graph)}).path)
        close(bundle.run(image.numpy(), facts.numpy()), list(net(image, facts).values()), 1e-6, "bundle")
    with pytest.raises(BundleError, match="takes 2 inputs and was given 1"):
        model.run(image.numpy())
    with pytest.raises(BundleError, match="hold 3, 2 examples"):
        model.run(image.numpy(), facts[:2].numpy())
    with pytest.raises(BundleError, match=r"Nx4.*3x5"):
        model.run(image.numpy(), random(3, 5).numpy())


def test_one_input_and_one_output_keep_their_names() -> None:
    emitted = emit(trace(nn.Linear(3, 2), torch.zeros(1, 3)))
    assert "int model_run(const float *in, float *out);" in emitted.h
    assert "#define MODEL_INPUT_ELEMENTS 3\n" in emitted.h and "#define MODEL_OUTPUT_ELEMENTS 2\n" in emitted.h


class Spectrum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(x).abs()


def test_an_unknown_operation_is_refused_by_module_and_source_line() -> None:
    line = Spectrum.forward.__code__.co_firstlineno + 1
    graph = trace(nn.Sequential(nn.Linear(8, 8), Spectrum()), torch.zeros(1, 8))
    with pytest.raises(Unsupported, match=rf"aten\.fft_rfft' \(at 1, test_c99_models\.py:{line}\).*ONNX"):
        emit(graph)


def test_two_examples_are_refused() -> None:
    with pytest.raises(Unsupported, match=r"\[2, 3\].*one float example"):
        emit(trace(nn.Linear(3, 2), torch.zeros(2, 3)))


def test_steps_may_stand_before_the_batch(tmp_path: Path) -> None:
    net, x, h = nn.GRU(5, 7).eval(), random(9, 1, 5), random(1, 1, 7)
    model = build(trace(net, (x, h)), tmp_path)
    assert model.in_shapes == ((9, 1, 5), (1, 1, 7)) and model.out_shapes == ((9, 1, 7), (1, 1, 7))
    with torch.no_grad():
        close(model.run(x.numpy(), h.numpy()), net(x, h), 1e-6, "c")
    with pytest.raises(BundleError, match="9Nx1x5"):
        model.run(x[:8].numpy(), h.numpy())


@pytest.mark.parametrize(
    ("module", "what"),
    [
        (nn.LSTM(4, 4, proj_size=2, batch_first=True), "aten.lstm"),
        (Call(lambda x: x + torch.rand(4)), "aten.rand"),
        (Call(lambda x: F.layer_norm(x, (4,), x[0, 0])), "aten.layer_norm"),
        (Call(lambda x: F.conv1d(x, torch.ones(2, 4, 3), x[0, 0, :2])), "aten.conv1d"),
        (nn.BatchNorm1d(4, track_running_stats=False), "aten.batch_norm"),
        (Call(lambda x: F.scaled_dot_product_attention(x, x, x, x > 0)), "computed mask"),
        (Call(lambda x: F.conv_transpose2d(x[:, None], torch.ones(1, 1, 2, 2), padding=2)), "padding that is wider"),
    ],
)
def test_what_has_no_kernel_is_refused(module: nn.Module, what: str) -> None:
    with pytest.raises(Unsupported, match=what):
        emit(trace(module.eval(), torch.zeros(1, 4, 4)))


TIMM = {"test_resnet": 64, "test_vit": 160}


@pytest.mark.parametrize("name", sorted(TIMM))
def test_timm_models(compare: Compare, name: str) -> None:
    if find_spec("timm") is None:
        pytest.skip("timm is not installed (pip install 'netwright[zoo]')")
    torch.manual_seed(0)
    net = timm_model(name)
    compare(net, random(1, 3, TIMM[name], TIMM[name]), tolerance=1e-4, native=False)
