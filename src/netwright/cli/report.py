"""netwright report RUN."""

from __future__ import annotations

import json as js
from pathlib import Path

from netwright.cli.console import write, write_json
from netwright.core.errors import NetwrightError


def facts_of(run: Path) -> dict:
    """facts.json of a finished run; raises NetwrightError."""
    path = run / "facts.json"
    if not path.exists():
        raise NetwrightError(f"{run} holds no finished run (no facts.json). Finish it with: netwright run RECIPE")
    return js.loads(path.read_text())


def report(run: Path, *, json: bool = False) -> None:
    """Write the report of a finished run again.

    Parameters
    ----------
    run: folder of the run, like runs/digits.
    json: print JSON.
    """
    from netwright.report import write_report

    path = write_report(run, facts_of(run))
    write_json({"report": str(path)}) if json else write(f"Report: {path}")
