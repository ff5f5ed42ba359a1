from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from modules import Compare, close, flat
from torch import Tensor, nn

from netwright.core.graph import Graph
from netwright.deploy.c99 import build
from netwright.deploy.onnx import OrtModel, to_onnx
from netwright.design.execute import GraphModule
from netwright.design.trace import trace

Check = Callable[..., None]
STRICT = "-O1 -Wall -Wextra -Werror"


@pytest.fixture
def same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Compare the compiled graph with GraphModule: identical, or within `tolerance`.

    Compiled for this processor, and in plain C without a warning; with `avx2`, for an older processor too.
    """

    def check(graph: Graph, x: np.ndarray, tolerance: float = 0.0, avx2: bool = False) -> None:
        with torch.no_grad():
            expected = GraphModule(graph).eval()(torch.from_numpy(x)).numpy().reshape(x.shape[0], -1)
        paths = {"native": "-O2 -Wall -Wextra -Werror", "portable": STRICT}
        if avx2 and platform.machine() == "x86_64" and "avx2" in Path("/proc/cpuinfo").read_text():
            paths["avx2"] = STRICT
        for name, flags in paths.items():
            monkeypatch.setenv("CFLAGS", flags)
            got = build(graph, tmp_path / name, isa=name).run(x).reshape(x.shape[0], -1)
            if tolerance:
                np.testing.assert_allclose(got, expected, rtol=2e-6, atol=tolerance, err_msg=name)
            else:
                np.testing.assert_array_equal(got, expected, err_msg=name)

    return check


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compare:
    """Compare the graph, the compiled graph and the ONNX file of a module with the module."""

    def check(module: nn.Module, *xs: Tensor, tolerance: float = 2e-6, onnx: bool = True, native: bool = True) -> None:
        module = module.eval()
        with torch.no_grad():
            expected = module(*xs)
            graph = trace(module, xs)
            close([v.numpy() for v in flat(GraphModule(graph).eval()(*xs))], expected, tolerance, "graph")
        arrays = [x.numpy() for x in xs]
        for name in ("native", "portable")[not native :]:
            monkeypatch.setenv("CFLAGS", "-O1 -Wall -Wextra -Werror")
            model = build(graph, tmp_path / name, isa=name)
            close(model.run(*arrays), expected, tolerance, name)
            close(model.run_one(*arrays), expected, tolerance, name)
        if onnx:
            close(OrtModel(to_onnx(graph)).run(*arrays), expected, 10 * tolerance, "onnx")

    return check
