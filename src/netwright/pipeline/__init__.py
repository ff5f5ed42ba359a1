"""The whole chain, the only place where the rooms meet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from netwright.pipeline.chain import Chain as Chain
from netwright.pipeline.chain import no_progress
from netwright.pipeline.proof import prove as prove
from netwright.pipeline.recipe import RunRecipe as RunRecipe


def run(recipe: RunRecipe | str | Path, root: str | Path | None = None, progress: Any = no_progress) -> dict[str, Any]:
    """Run a recipe to its report; returns the summary that is also written to ``<root>/summary.json``.

    Args:
        recipe: a `RunRecipe`, or the path of a TOML file.
        root: the run's folder; ``runs/<name>`` when None. A run that was stopped goes on from what it has finished.
        progress: called with (done, total, "stage: text").

    Raises:
        RecipeError, DataError, TrainingDiverged, Unsupported, CompilerError: see `netwright.core.errors`.
    """
    loaded = recipe if isinstance(recipe, RunRecipe) else RunRecipe.load(recipe)
    where = Path(root) if root is not None else Path("runs") / loaded.name
    source = "recipe.toml" if isinstance(recipe, RunRecipe) else str(recipe)
    return prove(Chain(loaded, where, progress), f"netwright run {source}")
