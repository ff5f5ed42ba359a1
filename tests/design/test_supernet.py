import random

import pytest
import torch

from netwright.design import Supernet
from netwright.design.spaces import Tiny


@pytest.fixture(scope="module")
def supernet():
    return Supernet(Tiny(stages=2, widths=(8, 16)).space((1, 8, 8), 10), seed=0)


def test_size_of_the_default_space():
    assert Tiny().space((1, 8, 8), 10).size >= 1e6


def test_a_subnet_equals_the_call_on_slices(supernet):
    rng = random.Random(0)
    x = torch.randn(16, 1, 8, 8)
    for _ in range(12):
        arch = supernet.space.sample(rng)
        assert torch.equal(supernet.call(arch, x), supernet.subnet(arch).train()(x))


def test_gradients_reach_the_slice_and_nothing_else(supernet):
    small = supernet.space.smallest()
    supernet.zero_grad()
    supernet.call(small, torch.randn(8, 1, 8, 8)).square().sum().backward()
    stem = supernet.weights["stem/conv/weight"].grad
    assert stem[:8].abs().sum() > 0 and stem[8:].abs().sum() == 0
    kernel = supernet.weights["stages/0/conv_0/conv1/weight"].grad
    assert kernel[:8, :8, 1:4, 1:4].abs().sum() > 0
    kernel[:8, :8, 1:4, 1:4] = 0
    assert kernel.abs().sum() == 0


def test_operator_choices_share_nothing(supernet):
    names = {k.split("/")[2].rsplit("_", 1)[0] for k in supernet.weights if k.startswith("stages/0/")}
    assert {"conv", "convnext", "gnconv", "inception_dw", "mbconv", "vanilla"} <= names


def test_segments_slice_every_part(supernet):
    """The gates of gnconv are parts of one convolution: each gate keeps its own leading channels."""
    space = supernet.space
    fixed = {"stages.0.block": "gnconv", "stages.1.block": "gnconv"}
    arch = space.arch({**dict(space.largest(**fixed).values), "stages.0.width": 8})
    small = dict(supernet.slices(arch))["stages.0.gnconv_0.gnconv.dwconv.weight"]
    full = supernet.weights["stages/0/gnconv_0/gnconv/dwconv/weight"]
    # width 16, order 3: gates of 4, 8, 16; width 8: 2, 4, 8
    index = [0, 1, 4, 5, 6, 7, *range(12, 20)]
    assert torch.equal(small, full[index])


def test_stem_stride_follows_the_image_size():
    assert [Tiny().space((3, s, s), 10).config.stem_stride for s in (8, 16, 17, 32, 64)] == [1, 1, 2, 2, 4]


def test_initial_weights_depend_on_the_seed_alone():
    space = Tiny(stages=1, widths=(8,)).space((1, 8, 8), 3)
    torch.manual_seed(1)
    a = Supernet(space, seed=5)
    torch.manual_seed(2)
    b = Supernet(space, seed=5)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
