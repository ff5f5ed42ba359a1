"""The same C file on other processors, in an emulator: are its outputs those of this machine?"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from netwright.bench.claim import Claim
from netwright.bench.networks import Layers
from netwright.core.errors import CompilerError
from netwright.deploy.c99 import build, emit
from netwright.deploy.cross import cross_build

INPUTS = 20


def equal_outputs(id: str, target: str, seed: int, folder: Path) -> Claim:
    """Share of outputs that equal those of the plain C kernels here, of networks of digits' size: int8, ternary and binary ones
    identically, float ones within 1e-5 of the largest."""
    x = np.random.default_rng(seed).standard_normal((INPUTS, 1, 8, 8), dtype=np.float32)
    equal, total, instructions = 0, 0, {}
    for name, bits in (("int8", 8), ("ternary", 2), ("binary", 1), ("float", 32)):
        layers = Layers((1, 1, 8, 8), seed)
        if bits == 32:
            graph = layers.conv(16, 3, 32).conv(24, 3, 32).graph
        else:
            graph = layers.codes().conv(16, 3, 8).conv(24, 3, bits).conv(33, 1, bits).floats().graph
        emitted = emit(graph)
        try:
            got, counted = cross_build(emitted, target, Path(tempfile.mkdtemp(dir=folder))).run(x)
        except CompilerError as error:
            return Claim(id, None, "", "measured", 0, why=str(error))
        here = build(graph, Path(tempfile.mkdtemp(dir=folder)), isa="portable").run(x)
        near = np.abs(got - here) <= (1e-5 * np.abs(here).max() if bits == 32 else 0.0)
        equal, total = equal + int(near.sum()), total + near.size
        instructions[name] = int(np.median(counted))
    counts = {k: v for k, v in instructions.items() if v}
    reference = {"name": "plain C on this machine", **({"instructions": counts} if counts else {})}
    return Claim(id, equal / total, f"share of {total} outputs equal, in QEMU", "measured", INPUTS * 4, reference=reference)
