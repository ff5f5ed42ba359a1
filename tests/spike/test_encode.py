"""Input codings: the contracts of both faces, and what each promises."""

from __future__ import annotations

import pytest
import torch

from netwright.core.errors import NetwrightError
from netwright.spike import encode
from netwright.testing.spike import check_coding, check_encoder

OVER_TIME = ("direct", "rate", "latency")


@pytest.mark.parametrize("name", encode.CATALOGUE)
def test_encoder_contract(name):
    check_encoder(encode.CATALOGUE[name]())


@pytest.mark.parametrize("name", OVER_TIME)
def test_coding_contract(name):
    check_coding(encode.CATALOGUE[name]())


def test_direct_is_the_input_itself():
    x = torch.rand(2, 3)
    assert torch.equal(encode.Direct().encode(x, 5), x.expand(5, 2, 3))


def test_rate_means_are_the_values(generator):
    x = torch.linspace(-1, 1, 21, dtype=torch.float64)[None].expand(500, 21)
    spikes = encode.Rate().encode(x, 20, generator)
    assert set(spikes.unique().tolist()) == {-1.0, 0.0, 1.0}
    deviation = (x[0].abs() * (1 - x[0].abs()) / 10_000).sqrt()
    assert bool(((spikes.mean((0, 1)) - x[0]).abs() <= 4.5 * deviation + 1e-12).all())
    follows = (spikes[1:, :, 10:] * spikes[:-1, :, 10:]).mean((0, 1))
    assert torch.allclose(follows, x[0, 10:] ** 2, atol=0.02)  # steps are independent
    with pytest.raises(NetwrightError, match="generator"):
        encode.Rate().encode(x, 4)


def test_latency_sends_one_spike_that_tells_the_value():
    x = torch.linspace(0, 1, 11, dtype=torch.float64)
    spikes = encode.Latency().encode(x, 11)
    assert spikes.sum(0).tolist() == [0] + [1] * 10
    assert torch.allclose(1 - spikes.argmax(0)[1:].double() / 10, x[1:])
    assert encode.Latency(threshold=0.35).encode(x, 11).sum(0).tolist() == [0] * 4 + [1] * 7
    assert torch.equal(encode.Latency().encode(-x, 11), -spikes)


def test_a_coding_of_converted_networks_alone_says_so():
    class Other(encode.Encoder):
        name = "other"

    with pytest.raises(NetwrightError, match="direct, rate or latency"):
        Other().encode(torch.zeros(1), 3)
