import pytest
import torch

from netwright.core.errors import NetwrightError
from netwright.design import blocks, merge, trace
from netwright.design.blocks.gnconv import RecursiveGatedConv
from netwright.design.merge import fade
from netwright.design.models import VARIANTS


@pytest.mark.parametrize("name", blocks.CATALOGUE)
@pytest.mark.parametrize("dim", [8, 24])
def test_a_block_keeps_the_shape_and_trains_every_parameter(name, dim):
    torch.manual_seed(0)
    module = blocks.CATALOGUE[name](kernel=5).build(dim)
    x = torch.randn(2, dim, 7, 6)
    y = module(x)
    assert y.shape == x.shape
    (y * torch.randn_like(y)).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters())


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_gnconv_follows_the_recursion(order):
    torch.manual_seed(0)
    dim = 16
    op = RecursiveGatedConv(dim, order, 3, 0.5).double()
    x = torch.randn(2, dim, 5, 5, dtype=torch.double)
    fused = op.proj_in(x)
    widths = [dim // 2 ** (order - 1 - k) for k in range(order)]
    p, start = fused[:, : widths[0]], widths[0]
    depthwise, offset = op.dwconv.weight, 0
    for k, w in enumerate(widths):
        q = fused[:, start : start + w]
        f = torch.nn.functional.conv2d(
            q, depthwise[offset : offset + w], op.dwconv.bias[offset : offset + w], padding=1, groups=w
        )
        p = (p if k == 0 else op.pws[k - 1](p)) * f * 0.5
        start, offset = start + w, offset + w
    assert torch.allclose(op(x), op.proj_out(p), atol=1e-12)


def test_gnconv_names_the_widths_it_can_take():
    with pytest.raises(NetwrightError, match="multiple of 16"):
        blocks.GnConv(order=5).build(24)


def trained_vanilla(amount):
    torch.manual_seed(0)
    module = blocks.Vanilla(kernel=3).build(8)
    for _ in range(3):
        module(torch.randn(16, 8, 5, 5) * 2 + 1)
    fade(module, amount)
    return module.eval()


def test_a_vanilla_pair_merges_exactly_once_its_activation_is_gone():
    module = trained_vanilla(1.0).double()
    x = torch.randn(4, 8, 5, 5, dtype=torch.double)
    merged = merge(module).double()
    assert sum(isinstance(m, torch.nn.Conv2d) and m.kernel_size == (1, 1) for m in merged.modules()) == 1
    assert torch.allclose(merged(x), module(x), atol=1e-6)


def test_a_vanilla_pair_does_not_merge_too_early():
    with pytest.raises(NetwrightError, match="merge at fade 1"):
        merge(torch.nn.Sequential(trained_vanilla(0.5)))


def test_vanilla_fades_from_relu_to_identity():
    module = trained_vanilla(0.0)
    x = torch.randn(4, 8, 5, 5)
    pre = module.norm1(module.conv1(x))
    assert torch.allclose(module(x), module.series(module.norm2(module.conv2(pre.relu()))), atol=1e-6)
    fade(module, 1.0)
    assert torch.allclose(module(x), module.series(module.norm2(module.conv2(pre))), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "parameters", "gmacs"),
    # timm and the official repositories print these counts
    [("convnext_tiny", 28_589_128, 4.456), ("convnext_small", 50_223_688, 8.684), ("hornet_tiny_7x7", 22_409_512, 3.968)],
)
def test_published_variants_have_the_published_counts(name, parameters, gmacs):
    with torch.device("meta"):
        graph = trace(VARIANTS[name].build(), torch.zeros(1, 3, 224, 224))
    assert graph.parameters == parameters
    assert graph.macs / 1e9 == pytest.approx(gmacs, abs=6e-4)
