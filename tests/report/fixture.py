"""Facts of an invented run, to test the report: no number here was measured, and every text says so."""

from __future__ import annotations

import math
import random
from typing import Any

import torch

from netwright.deploy.c99 import emit
from netwright.deploy.c99.picture import draw_arena
from netwright.design import trace
from netwright.design.draw import draw
from netwright.design.models import VARIANTS
from netwright.estimate import table

MARK = "FIXTURE, invented numbers"
FORMS = ("float", "int8", "ternary", "binary", "spiking")
BLOCKS = ("conv", "mbconv", "gnconv", "convnext")


def variant(name: str, accuracy: float, weights: int, latency: float, energy: float, ort: float | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "accuracy": accuracy,
        "torch_accuracy": accuracy,
        "n_test": 360,
        "agreement": 1.0,
        "max_abs_diff": 2.4e-6 if name == "float" else 0.0,
        "weight_bytes": weights,
        "arena_bytes": 9216 if name != "float" else 24576,
        "code_bytes": 14000 + weights,
        "params": 21418,
        "macs": 411_648,
        "binary_ops": 388_000 if name == "binary" else 0,
        "synaptic_ops": 512_345.6 if name == "spiking" else 0,
        "latency_us": {"median": latency, "p10": latency * 0.96, "p90": latency * 1.18, "how": "measured", "threads": 1},
        "onnxruntime_latency_us": {"median": ort, "p10": ort * 0.9, "p90": ort * 1.3, "how": "measured", "threads": 1}
        if ort
        else None,
        "energy_pj": {"value": energy, "how": "modelled", "note": f"{MARK}: 411,648 mac x 4.6 pJ (Horowitz, ISSCC 2014)"},
        "time_steps": 16 if name == "spiking" else 1,
        "bundle": f"forms/{name}/bundle",
    }


def summary() -> dict[str, Any]:
    return {
        "task": "digits",
        "seed": 7,
        "machine": {
            "cpu": MARK,
            "architecture": "x86_64",
            "cores": 2,
            "isa": ["avx2", "fma"],
            "memory_bytes": 8 << 30,
            "os": "Fixture OS",
        },
        "versions": {"netwright": "0.1.0", "python": "3.11.2", "torch": "2.13.0", "numpy": "2.3.0", "onnxruntime": "1.22.0"},
        "search": {"trials": 60, "space_size": 5_159_780_352, "seconds": 41.3},
        "variants": [
            variant("float", 0.9889, 85_672, 11.8, 1.94e6, 24.1),
            variant("int8", 0.9861, 22_910, 7.9, 1.31e5, 31.5),
            variant("ternary", 0.9750, 7_604, 9.4, 5.1e4),
            variant("binary", 0.9583, 4_988, 5.2, 4.2e4),
            variant("spiking", 0.9806, 23_500, 212.0, 8.9e4),
        ],
        "devices": [
            {
                "form": "int8",
                "device": "cortex-m4",
                "why": "",
                "flash_bytes": 109_976,
                "ram_bytes": 17_896,
                "instructions": 4_131_380,
                "max_abs_diff": 0.0,
            },
            {"form": "spiking", "device": "cortex-m4", "why": f"{MARK}: the network needs more RAM than there is"},
        ],
    }


def trials(rng: random.Random) -> list[dict[str, Any]]:
    found = []
    for number in range(60):
        size = 10 ** rng.uniform(3.9, 5.2)
        error = 0.012 + 0.22 * math.exp(-(math.log10(size) - 3.8) * 2.4) * rng.uniform(0.7, 1.9)
        values = {
            "stages.0.block": rng.choice(BLOCKS),
            "stages.0.depth": rng.randint(1, 2),
            "stages.0.width": 16,
            "stages.0.kernel": 3,
        }
        values |= {k.replace("0", "1"): v for k, v in values.items()}
        objectives = {"error": error, "bytes": size, "latency_us": size / 8000 * rng.uniform(0.7, 1.6) + 3}
        found.append(
            {
                "number": number,
                "arch": {"space": "tiny", "values": values},
                "objectives": objectives,
                "feasible": size < 1.3e5,
                "how": {},
            }
        )
    return found


def dominated(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(b["objectives"][k] <= a["objectives"][k] for k in a["objectives"]) and a is not b


def facts(evil: str = "") -> dict[str, Any]:
    """A whole set of facts; `evil` is put into every name that a user may choose."""
    rng = random.Random(0)
    graph = trace(VARIANTS["digits_mbconv"].build(), torch.zeros(1, 1, 8, 8))
    tried = trials(rng)
    feasible = [t for t in tried if t["feasible"]]
    front = [t["number"] for t in feasible if not any(dominated(t, o) for o in feasible)]
    rows = table(graph)
    rows[0]["path"] += evil
    given = summary()
    given["task"] += evil
    return {
        "name": f"digits{evil}",
        "summary": given,
        "task": {
            "name": "digits",
            "shape": [1, 8, 8],
            "classes": [*"012345678", f"9{evil}"],
            "sizes": {"train": 1077, "validation": 360, "test": 360},
            "how": f"stratified 60/20/20{evil}",
            "fingerprint": "fixture0",
        },
        "forms_wanted": list(FORMS),
        "refused": {"example_block": f"{MARK}: it has no integer form{evil}"},
        "search": {
            "strategy": "nsga2",
            "trials": tried,
            "front": front,
            "chosen": front[len(front) // 2],
            "hypervolume": {"all": 0.913, "first 16 (random)": 0.802},
        },
        "accuracy_over_time": [[t, 0.985 - 0.9 * math.exp(-t / 2.2)] for t in range(1, 17)],
        "exit": {"accuracy": 0.981, "mean_steps": 4.2, "histogram": [0, 40, 90, 120, 70, 25, 9, 3, 1, 0, 0, 0, 0, 0, 0, 2]},
        "spike_rates": {f"layer_{i}{evil}": 0.16 / (1 + i) + 0.02 for i in range(6)},
        "layers": dict.fromkeys(FORMS, rows),
        "drawing": draw(graph, f"digits{evil}: the chosen network ({MARK})"),
        "arena": draw_arena(emit(graph)),
        "recipe": {
            "name": f"digits{evil}",
            "seed": 7,
            "search": {"trials": 60, "max_bytes": 130_000, "supernet": {"lr": 0.005}},
            "none": None,
        },
        "reproduce": f"netwright run examples/digits.toml --seed 7{evil}",
        "history": [
            {
                "step": 10 * i,
                "loss": 2.3 * math.exp(-i / 12) + 0.5,
                "lr": 0.01,
                "accuracy": 0.99 - 0.8 * math.exp(-i / 6) if i % 5 == 0 else None,
            }
            for i in range(51)
        ],
        "bibliography": [
            {
                "key": "horowitz2014computing",
                "title": f"Computing's energy problem (and what we can do about it){evil}",
                "authors": "Mark Horowitz",
                "venue": "ISSCC",
                "year": 2014,
                "url": "https://doi.org/10.1109/ISSCC.2014.6757323",
                "id": "",
                "bibtex": "ignored, made again from the fields",
            }
        ],
        "notes": [f"{MARK}.{evil}"],
    }
