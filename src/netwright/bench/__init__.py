"""Benchmarks: what the project claims, as numbers that one command prints again (`netwright bench NAME`)."""

from netwright.bench.claim import Bench as Bench
from netwright.bench.claim import Claim as Claim

BENCHES = {"deploy": "netwright.bench.deploy", "compress": "netwright.bench.compress", "binarise": "netwright.bench.binarise",
           "spike": "netwright.bench.spike", "estimate": "netwright.bench.estimate"}  # fmt: skip
