"""2 estimate: what a network of your own costs, functional calls included."""

import torch
from torch import nn
from torch.nn import functional as F

from netwright.core import Target
from netwright.design import trace
from netwright.estimate.count import cost, table


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


if __name__ == "__main__":
    main()
