"""0 the whole chain from Python, on a tiny budget: a recipe in, compiled networks and a report out."""

import tempfile
from pathlib import Path

from netwright.pipeline import RunRecipe, run
from netwright.report.table import summary_text


def main() -> None:
    recipe = RunRecipe.read(
        {
            "name": "tiny",
            "threads": 1,
            "calibration": 128,
            "task": {"data": "digits", "augment": ["affine"]},
            "design": {"stages": 2, "depths": (1, 1), "widths": (8, 16), "kernels": (3,), "expansions": (1, 2)},
            "search": {"trials": 8, "population": 4, "supernet": {"steps": 60, "lr": 5e-3, "evaluations": 1}},
            "train": {"steps": 150, "lr": 2e-3, "evaluations": 3},
            "compress": {
                "ternary": {"method": "bitnet", "train": {"steps": 80, "evaluations": 2}},
                "binary": {"method": "biper", "train": {"steps": 120, "evaluations": 2}},
            },
            "spike": {"steps": 8},
            "measure": {"rounds": 10},
        }
    )
    root = Path(tempfile.mkdtemp()) / recipe.name
    summary = run(recipe, root)
    print(summary_text(summary))
    print("report:", root / "report" / "index.html")


if __name__ == "__main__":
    main()
