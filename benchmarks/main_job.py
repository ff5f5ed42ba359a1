"""The whole chain on digits, for several seeds: does every form keep its floor, and is the compiled network faster?

    python benchmarks/main_job.py [--seeds 0 1 2] [--runs runs/bench]

Prints each claim with its bound and whether it holds, and writes one line a seed and claim to
benchmarks/results/<machine>/<date>-<version>.csv. Runs that are finished are read back.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import operator
import re
import statistics
from pathlib import Path
from typing import Any

from netwright import __version__
from netwright.measure.machine import machine
from netwright.pipeline import RunRecipe, run

HERE = Path(__file__).parent
OPERATORS = {">=": operator.ge, "<=": operator.le, "<": operator.lt, "==": operator.eq}
FLOORS = {"float": 0.98, "int8": 0.975, "ternary": 0.965, "binary": 0.95, "spiking": 0.97}


def claims(summary: dict[str, Any]) -> dict[str, tuple[str, float, float, str, str]]:
    """Claim -> (operator, bound, value, unit, how) of one run."""
    v = {x["name"]: x for x in summary["variants"]}
    found = {
        f"{name}_accuracy": (">=", floor, v[name]["accuracy"], "share of 360 test images", "measured")
        for name, floor in FLOORS.items()
    }
    for name in ("int8", "ternary", "binary", "spiking"):
        found[f"{name}_agreement"] = ("==", 1.0, v[name]["agreement"], "share of predictions equal to PyTorch's", "measured")
        found[f"{name}_max_abs_diff"] = ("==", 0.0, v[name]["max_abs_diff"], "logits", "measured")
    f = v["float"]
    found["float_max_abs_diff"] = ("<", 1e-4, f["max_abs_diff"], "logits", "measured")
    ratio = f["onnxruntime_latency_us"]["median"] / f["latency_us"]["median"]
    found["float_vs_onnxruntime"] = (">=", 1.5, ratio, "ratio of medians, 1 thread, interleaved", "measured")
    for name, share in (("int8", 0.32), ("ternary", 0.16), ("binary", 0.14)):
        found[f"{name}_weights_vs_float"] = (
            "<=",
            share + 4096 / f["weight_bytes"],
            v[name]["weight_bytes"] / f["weight_bytes"],
            "ratio",
            "counted",
        )
    found["space_size"] = (">=", 1e6, float(summary["search"]["space_size"]), "architectures", "counted")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    table: dict[str, list[tuple[int, tuple[str, float, float, str, str]]]] = {}
    for seed in arguments.seeds:
        recipe = RunRecipe.load(HERE.parent / "examples" / "digits.toml", {"seed": seed})
        for claim, row in claims(run(recipe, arguments.runs / f"seed{seed}")).items():
            table.setdefault(claim, []).append((seed, row))
    name = re.sub(r"[^a-z0-9]+", "-", f"{machine()['cpu']} {machine()['usable_threads']} threads".lower()).strip("-")
    out = HERE / "results" / name / f"{datetime.date.today()}-{__version__}.csv"
    out.parent.mkdir(parents=True, exist_ok=True)
    failed = 0
    with out.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["claim", "seed", "value", "operator", "bound", "holds", "unit", "how"])
        for claim, rows in table.items():
            values = [row[2] for _, row in rows]
            holds = [OPERATORS[row[0]](row[2], row[1]) for _, row in rows]
            failed += not all(holds)
            mark, bound = "holds" if all(holds) else "OPEN ", f"{rows[0][1][0]} {rows[0][1][1]:.4g}"
            values_shown = f"median {statistics.median(values):.4g} ({min(values):.4g}..{max(values):.4g})"
            print(f"{mark} {claim:<26} {values_shown} {bound}")
            for (seed, row), ok in zip(rows, holds, strict=True):
                writer.writerow([claim, seed, f"{row[2]:.6g}", row[0], f"{row[1]:.6g}", ok, row[3], row[4]])
    print(f"{failed} open of {len(table)} claims, seeds {arguments.seeds}; {out}")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
