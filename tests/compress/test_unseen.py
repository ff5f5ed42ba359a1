"""Every method on networks that nothing here was written for: a small CNN and a small ViT of timm."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from netwright.compress import CATALOGUE
from netwright.core.errors import NetwrightError
from netwright.design import trace
from netwright.design.zoo import timm_model
from netwright.testing.compress import few_steps

pytestmark = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed: pip install netwright[zoo]")
NOT_HERE = {("ftwt", "test_vit"): "no convolution whose filters a gate could switch off"}


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    return {
        "test_resnet": (timm_model("test_resnet", num_classes=10).eval(), torch.randn(6, 3, 64, 64)),
        "test_vit": (timm_model("test_vit", num_classes=10, img_size=64).eval(), torch.randn(6, 3, 64, 64)),
    }


@pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_networks_of_timm(name, model, models):
    network, x = models[model]
    compressor = CATALOGUE[name]()
    fit = lambda trainee, **_: few_steps(trainee, x, torch.arange(6), steps=1)
    if (name, model) in NOT_HERE:
        with pytest.raises(NetwrightError):
            compressor.compress(network, x[:1], x, fit)
        return
    small = compressor.compress(network, x[:1], x, fit)
    with torch.no_grad():
        out = small(x)
    assert out.shape == (6, 10) and bool(out.isfinite().all())
    if compressor.form == "float":
        assert small.graph.macs <= 1.02 * trace(network, x[:1]).macs, "ftwt's predictors are a small part"
    else:
        bits = {n.attrs["bits"] for n in small.graph if n.op in ("qconv2d", "bconv2d", "qlinear", "blinear")}
        assert {"binary": 1, "ternary": 2, "int8": 8}[compressor.form] in bits or 2 in bits
