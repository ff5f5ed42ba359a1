"""3 search: NSGA-II against random search on two objectives that need no training."""

import math

import torch

from netwright.core import Arch
from netwright.design import trace
from netwright.design.spaces import Tiny
from netwright.search.hypervolume import compare
from netwright.search.strategies import NSGA2, Random
from netwright.search.study import run


def main() -> None:
    torch.set_num_threads(1)
    space = Tiny(stages=2).space((1, 8, 8), classes=10)

    def objective(arch: Arch) -> dict[str, float]:
        """Few MACs and many parameters pull against each other."""
        with torch.device("meta"):
            graph = trace(space.fill(arch).build(), torch.zeros(1, 1, 8, 8))
        return {"macs": float(graph.macs), "smallness": 1 / math.log(graph.parameters)}

    found = {s.name: run(space, s, objective, ("macs", "smallness"), trials=60, seed=0) for s in (NSGA2(), Random())}
    for name, study in found.items():
        print(f"{name}: {len(study.front)} of {len(study.trials)} trials are on the front")
    result = compare(found["nsga2"].trials, found["random"].trials)
    print(f"hypervolume: nsga2 {result.search:.3f}, random {result.baseline:.3f}, the same number of trials")


if __name__ == "__main__":
    main()
