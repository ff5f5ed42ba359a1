"""Tables of the spiking chapter come from kept cells, and say what they say there."""

from __future__ import annotations

from pathlib import Path

import torch

from netwright.bench.cells import Cells
from netwright.bench.networks import BasicBlock
from netwright.bench.spike.approximation import ACTIVATIONS, BOUNDS, NETWORKS, PRODUCTS, Approximating, network
from netwright.bench.spike.exits import SMALL, STEPS, Exits
from netwright.bench.spike.networks import Residual, resnet14

KEPT = Path(__file__).parents[2] / "benchmarks" / "cells" / "spike"


def test_approximations_are_read_from_their_cells():
    cells = Cells(KEPT)
    made = Approximating(cells)
    claims = {claim.id: claim for measure, _ in made.stages().values() for claim in measure()}
    assert set(claims) == set(BOUNDS) and not cells.made
    rows = claims["approximated_t16_gap_points"].reference
    assert set(rows) == {"name", *ACTIVATIONS} and all("T=8" in rows[name] for name in ACTIVATIONS)
    worst = max(rows[name]["float"] - rows[name]["T=16"] for name in set(ACTIVATIONS) - set(PRODUCTS))
    assert abs(claims["approximated_t16_gap_points"].value - worst) < 0.02
    assert set(claims["timm_networks_converted_share"].reference) == {"name", *NETWORKS}


def test_every_activation_has_a_network():
    for name in ACTIVATIONS:
        assert network(name).eval()(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_energies_are_read_from_their_cells():
    cells = Cells(KEPT)
    found = Exits(cells).energies({"digits": ("digits", 4), "cifar": ("cifar", SMALL), "more": ("cifar", STEPS)})
    assert not cells.made and len(found) == 3
    assert all(row["memory"] > row["operations"] and row["int8"] > 0 for row in found.values())


def test_the_residual_block_keeps_its_names_and_adds_behind_the_second_norm():
    block, x = resnet14()[5].train(False), torch.rand(2, 12, 8, 8)
    assert isinstance(block, Residual) and set(block.state_dict()) == set(BasicBlock(12, 24, 2).state_dict())
    with torch.no_grad():
        y = block.norm2(block.conv2(torch.relu(block.norm1(block.conv1(x))))) + block.shortcut(x)
        assert torch.equal(block(x), torch.relu(y))
