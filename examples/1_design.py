"""1 design: blocks, a search space, and sub-networks that share one set of weights."""

import random
import tempfile
from pathlib import Path

import torch

from netwright.design import Supernet, trace
from netwright.design.blocks import GnConv
from netwright.design.draw import draw
from netwright.design.spaces import Tiny


def main() -> None:
    torch.set_num_threads(1)
    block = GnConv(kernel=5, order=3).build(16)
    print("a block keeps the shape:", tuple(block(torch.randn(1, 16, 8, 8)).shape))

    space = Tiny(stages=2).space((1, 8, 8), classes=10)
    print(f"{space.size:,} architectures over {len(space.decisions)} decisions")

    supernet = Supernet(space, seed=0)
    rng = random.Random(0)
    x = torch.randn(4, 1, 8, 8)
    for _ in range(3):
        arch = space.sample(rng)
        module = supernet.subnet(arch).train()
        same = torch.equal(module(x), supernet.call(arch, x))
        graph = trace(module, x[:1])
        print(f"{arch}: {graph.parameters:,} parameters, {graph.macs:,} MACs, equals the call on slices: {same}")

    out = Path(tempfile.mkdtemp()) / "network.svg"
    out.write_text(draw(graph, "a sampled network"))
    print("drawn:", out)


if __name__ == "__main__":
    main()
