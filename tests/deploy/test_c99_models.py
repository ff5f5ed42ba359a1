"""PyTorch modules compiled to C, for this processor and in plain C, and as ONNX files, against the modules themselves."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_c99_packing import MAIN
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.core.errors import BundleError, Unsupported
from netwright.deploy.c99 import build, emit, find_compiler
from netwright.deploy.onnx import OrtModel, to_onnx
from netwright.design.execute import GraphModule
from netwright.design.trace import trace
from netwright.design.zoo import timm_model

AWKWARD = [1, 31, 32, 33, 65]
Compare = Callable[..., None]


class Call(nn.Module):
    """Functions as a module; the results of all are its outputs."""

    def __init__(self, *functions: Callable[..., Any], **layers: nn.Module):
        super().__init__()
        self.functions, self.layers = functions, nn.ModuleDict(layers)

    def forward(self, *xs: Tensor) -> Any:
        return tuple(f(*xs) for f in self.functions)


def flat(value: Any) -> list[Any]:
    return [v for part in value for v in flat(part)] if isinstance(value, (tuple, list)) else [value]


def close(found: Any, expected: Any, tolerance: float, label: str) -> None:
    """Within `tolerance` of the largest value of each output."""
    found, expected = flat(found), flat(expected)
    assert len(found) == len(expected)
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        a, b = np.asarray(a), b.detach().numpy()
        assert a.shape == b.shape, f"{label}, output {i}"
        scale = np.abs(b, where=np.isfinite(b), out=np.zeros_like(b)).max(initial=1e-6)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale, err_msg=f"{label}, output {i}")


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compare:
    def check(module: nn.Module, *xs: Tensor, tolerance: float = 2e-6, onnx: bool = True, native: bool = True) -> None:
        module = module.eval()
        with torch.no_grad():
            expected = module(*xs)
            graph = trace(module, xs)
            close([v.numpy() for v in flat(GraphModule(graph).eval()(*xs))], expected, tolerance, "graph")
        arrays = [x.numpy() for x in xs]
        for name in ("native", "portable")[not native :]:
            monkeypatch.setenv("CFLAGS", "-O1 -Wall -Wextra -Werror")
            model = build(graph, tmp_path / name, portable=name == "portable")
            close(model.run(*arrays), expected, tolerance, name)
            close(model.run_one(*arrays), expected, tolerance, name)
        if onnx:
            close(OrtModel(to_onnx(graph)).run(*arrays), expected, 10 * tolerance, "onnx")

    return check


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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


def windows(x: Tensor) -> Tensor:
    """A batch of four images of one example: [1, 6, 5, 7] -> [4, 3, 4, 5]."""
    return F.pad(x, (0, 1, 0, 3)).reshape(1, 2, 3, 2, 4, 8).permute(0, 1, 3, 2, 4, 5).reshape(4, 3, 4, 8)[..., :5]


def written(x: Tensor) -> Tensor:
    """Writes into parts of a tensor, and what is read afterwards sees them."""
    x[:, 1:3] = x[:, :2] * 2
    x[:, 4] += 1
    x[:, :, 0] = 0.5
    x[..., 2:] *= x[..., :1]
    return x


def residual(x: Tensor) -> Tensor:
    return x.relu_() + x


FUNCTIONS: list[Callable[[Tensor], Tensor]] = [
    lambda x: F.group_norm(x, 3, torch.linspace(0.5, 2, 6), torch.linspace(-1, 1, 6)),
    lambda x: F.group_norm(x, 1),
    lambda x: F.instance_norm(x),
    lambda x: x.sum((1, 3)),
    lambda x: x.amax(2, keepdim=True),
    lambda x: x.max(1)[0],
    lambda x: x.amin((2, 3)),
    lambda x: torch.where(x > 0, x, x * 2 - 1),
    lambda x: x.masked_fill(torch.eye(5, 7) > 0, -3.0),
    lambda x: (x >= x.mean((2, 3), keepdim=True)) * 2.0 + (x != x.relu()) * 0.5,
    lambda x: x.clamp(min=-0.5).clamp(max=0.25),
    lambda x: torch.maximum(x, x.flip(3)) - torch.minimum(x, x.flip(2)),
    lambda x: x**2 + x.abs() ** 1.5 + x**3,
    lambda x: x.abs().sqrt() + (x.abs() + 1).rsqrt() + x.exp() + (x.abs() + 0.1).log(),
    lambda x: x.sin() + x.cos() * 2 + x.erf(),
    lambda x: F.softplus(x, 2, 5) + F.mish(x) + F.selu(x) + F.celu(x, 0.7) + F.logsigmoid(x) + F.softsign(x),
    lambda x: F.prelu(x, torch.linspace(0, 0.5, 6)) + F.prelu(x, torch.tensor([0.3])),
    lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
    lambda x: F.adaptive_max_pool2d(x, 1),
    lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"),
    lambda x: F.pad(x, (1, 2, 0, 3), mode="replicate"),
    lambda x: F.pad(x, (2, 1, 1, 2), mode="circular"),
    lambda x: torch.roll(x, (2, -3), (2, 3)),
    lambda x: F.normalize(x, dim=1),
    lambda x: x.var(1) + x.std(1, unbiased=False),
    lambda x: F.log_softmax(x, 1),
    lambda x: F.rms_norm(x, (7,), torch.linspace(0.5, 1, 7)),
    lambda x: F.glu(x, 1),
    lambda x: torch.stack([x, x * 2], 2).sum(2),
    lambda x: x[:, :1].expand(-1, 6, -1, -1) * x.mean(3, keepdim=True),
    lambda x: x.mean((2, 3), keepdim=True) * x.mean(1, keepdim=True),
    lambda x: x.repeat(1, 2, 1, 3),
    lambda x: x.repeat_interleave(2, 2),
    lambda x: x[:, [2, 0, 5]][:, :, torch.tensor([[0, 1], [2, 3]])],
    lambda x: x[:, :, [0, 1, 4], [3, 2, 6]],
    lambda x: x.unfold(2, 3, 2).unfold(3, 3, 1),
    lambda x: torch.cat(x.chunk(3, 1)[::-1], 1) + x.unbind(2)[1][:, :, None],
    lambda x: torch.addcmul(x, x, x * 2, value=0.3),
    lambda x: torch.einsum("bchw,bdhw->bcd", x, x),
    lambda x: F.pixel_shuffle(F.pad(x, (0, 0, 0, 0, 0, 2)), 2),
    lambda x: F.channel_shuffle(x, 3),
    lambda x: F.max_pool1d(x.flatten(2), 3, 2, 1) + F.avg_pool1d(x.flatten(2), 3, 2, 1),
    lambda x: F.conv1d(x.flatten(2), torch.linspace(-1, 1, 36).reshape(4, 3, 3), padding=2, dilation=2, groups=2),
    lambda x: F.conv_transpose2d(x, torch.linspace(-1, 1, 180).reshape(6, 5, 2, 3), torch.arange(5.0), 2, 1, 1),
    lambda x: F.conv_transpose2d(x, torch.linspace(-1, 1, 108).reshape(6, 2, 3, 3), None, (3, 1), 0, (1, 0), 2, 2),
    lambda x: F.conv3d(x[:, None], torch.linspace(-1, 1, 36).reshape(4, 1, 3, 3, 1), padding=(1, 0, 0), stride=(2, 1, 1)),
    lambda x: F.conv3d(x[:, None], torch.linspace(-1, 1, 36).reshape(4, 1, 1, 3, 3), torch.arange(4.0), dilation=(1, 2, 1)),
    lambda x: F.unfold(x, 3, padding=1, stride=2),
    lambda x: F.fold(F.unfold(x, (2, 3), stride=(2, 1)), (5, 7), (2, 3), stride=(2, 1)),
    lambda x: F.interpolate(x, (9, 4), mode="bicubic") + F.interpolate(x, (9, 4), mode="bicubic", align_corners=True),
    lambda x: F.interpolate(x, (3, 3), mode="bilinear", antialias=True),
    lambda x: F.conv2d(windows(x), torch.linspace(-1, 1, 81).reshape(3, 3, 3, 3), torch.arange(3.0), 2, 1).relu(),
    lambda x: F.max_pool2d(windows(x), 2) + F.avg_pool2d(windows(x), 2) + F.adaptive_avg_pool2d(windows(x), (2, 2)),
    lambda x: F.interpolate(windows(x), scale_factor=2) + F.interpolate(windows(x), scale_factor=2, mode="bilinear"),
    lambda x: F.linear(F.avg_pool2d(windows(x), 2).flatten(1), torch.linspace(-1, 1, 36).reshape(3, 12)),
    lambda x: written(x.clone()),
    lambda x: x.clone().relu_() + residual(x.clone()),
    lambda x: torch.var_mean(x, (2, 3), keepdim=True)[0] + x,
    lambda x: x,
]


def test_functions(compare: Compare) -> None:
    compare(Call(*FUNCTIONS), random(1, 6, 5, 7))


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
            return sequences, cells

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


@pytest.mark.parametrize(
    ("module", "what"),
    [
        (nn.LSTM(4, 4, proj_size=2, batch_first=True), "aten.lstm"),
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


class Everything(nn.Module):
    """All functions above, attention and recurrent layers of one input, as one vector."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(42, 3, batch_first=True)
        self.lstm, self.gru = nn.LSTM(42, 9, 2, bidirectional=True, batch_first=True), nn.GRU(42, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.transpose(1, 2).flatten(2)
        lstm, (h, c) = self.lstm(tokens)
        parts = [lstm, h, c, self.gru(tokens.transpose(0, 1))[0], self.attention(tokens, tokens, tokens)[0]]
        return torch.cat([p.reshape(1, -1) for p in [f(x) for f in FUNCTIONS] + parts], 1)


@pytest.mark.parametrize("path", ["-DNETWRIGHT_PORTABLE", "-march=native"])
def test_clean_under_sanitizers(tmp_path: Path, path: str) -> None:
    """Address and undefined-behaviour sanitizers, on numbers, extremes, infinities and NaN."""
    flags = ["-O1", "-g", "-fno-strict-aliasing", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", path]
    compiler, probe = find_compiler(), tmp_path / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    if subprocess.run(
        [*compiler, *flags, str(probe), "-o", str(tmp_path / "probe")], capture_output=True, check=False
    ).returncode:
        pytest.skip("this compiler has no sanitizers")
    torch.manual_seed(0)
    net = Everything().eval()
    emit(trace(net, random(1, 6, 5, 7))).write(tmp_path)
    (tmp_path / "main.c").write_text(MAIN)
    files = [str(tmp_path / "model.c"), str(tmp_path / "main.c"), "-o", str(tmp_path / "run"), "-lm"]
    subprocess.run([*compiler, *flags, *files], check=True, capture_output=True)
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    x = random(1, 6, 5, 7)
    for scale in (1.0, 3e38, float("inf"), float("nan")):
        given = (x * scale).numpy().tobytes()
        done = subprocess.run([str(tmp_path / "run")], input=given, capture_output=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr.decode()
        if scale == 1:
            with torch.no_grad():
                np.testing.assert_allclose(np.frombuffer(done.stdout, np.float32), net(x).numpy()[0], rtol=1e-5, atol=1e-5)
