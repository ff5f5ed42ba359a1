"""Functions of PyTorch compiled to C, and as ONNX files, against themselves; and the C under sanitizers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from modules import Call, Compare, random
from test_c99_packing import MAIN
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.deploy.c99 import emit, find_compiler
from netwright.design.trace import trace


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
    lambda x: F.pad(x, (-1, 2, 1, -2), value=0.5) + F.pad(x, (1, 0, -1, 0)),
    lambda x: torch.roll(x, (2, -3), (2, 3)),
    lambda x: F.normalize(x, dim=1),
    lambda x: x.var(1) + x.std(1, unbiased=False),
    lambda x: F.log_softmax(x, 1),
    lambda x: F.rms_norm(x, (7,), torch.linspace(0.5, 1, 7)),
    lambda x: F.glu(x, 1) + F.linear(x, torch.ones(7, 7), x[0, 0, 0])[:, :3],
    lambda x: torch.stack([x, x * 2], 2).sum(2),
    lambda x: x[:, :1].expand(-1, 6, -1, -1) * x.mean(3, keepdim=True),
    lambda x: x.mean((2, 3), keepdim=True) * x.mean(1, keepdim=True),
    lambda x: x.repeat(1, 2, 1, 3),
    lambda x: x.repeat_interleave(2, 2),
    lambda x: x[:, [2, 0, 5]][:, :, torch.tensor([[0, 1], [2, 3]])],
    lambda x: x[:, :1][:, [0, 0, 0]] + x[:, 1:4],
    lambda x: x.mean((2, 3), keepdim=True)[:, :, [0, 0]],
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
    flags = ["-O0", "-fno-strict-aliasing", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", path]
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
