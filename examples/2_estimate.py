"""2 estimate: what a network of your own costs, functional calls included; and how fast the networks of a space are, of which ten
were timed."""

import random
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from netwright.core import Target
from netwright.design import trace
from netwright.design.spaces import Tiny
from netwright.design.trace import hollow
from netwright.estimate import cost, table
from netwright.estimate.latency import LatencyTable, LatencyTransfer
from netwright.estimate.proxies import CATALOGUE
from netwright.measure import time_side_by_side


class Mine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.a(x))
        y = y + F.gelu(self.b(y))
        return self.head(F.adaptive_avg_pool2d(y, 1).flatten(1))


def main() -> None:
    graph = trace(Mine(), torch.zeros(1, 3, 32, 32))
    for row in table(graph):
        print(f"{row['path'] or row['name']:<24}{row['op']:<10}{row['macs']:>10,} MACs {row['params']:>8,} parameters")
    for name, quantity in cost(graph, Target.load("cmos45")).items():
        print(f"{name:<20}{quantity}")

    # Untrained networks, ranked by a proxy and by the predicted latency of which ten were measured.
    tiny = Tiny(stages=1, blocks=("conv", "convnext", "mbconv"), depths=(1, 4), widths=(8, 16, 32))
    space, x = tiny.space((1, 8, 8), 10), torch.zeros(1, 1, 8, 8)
    rng, synflow = random.Random(0), CATALOGUE["synflow"]()
    archs = list(dict.fromkeys(space.sample(rng) for _ in range(32)))
    networks = {a: space.fill(a).build().eval() for a in archs}
    known = LatencyTable.of_graphs({a: trace(hollow(space.fill(a).build), x, counting=True) for a in archs})
    todo = LatencyTransfer.fit(known, {}).propose(10, np.random.default_rng(0))
    with torch.inference_mode():
        timed = time_side_by_side({str(a): partial(networks[a], x) for a in todo}, rounds=9)
    found = LatencyTransfer.fit(known, {a: timed[str(a)].value for a in todo}).predict(archs)
    scores = [synflow(networks[a], (x, None), None, torch.Generator().manual_seed(0)) for a in archs]
    for i in np.argsort(scores)[::-1][:5]:
        low, middle, high = (f"{v[i]:.0f}" for v in (found.low, found.median, found.high))
        how = "measured" if archs[i] in todo else "predicted"
        print(f"{archs[i]}: synflow {scores[i]:.1f}, {middle} us ({low} to {high}, {how})")


if __name__ == "__main__":
    main()
