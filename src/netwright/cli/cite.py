"""netwright cite RUN."""

from __future__ import annotations

from pathlib import Path

from netwright.cli.console import write, write_json
from netwright.cli.report import facts_of


def cite(run: Path, *, json: bool = False) -> None:
    """BibTeX of the methods a run used.

    Parameters
    ----------
    run: folder of the run, like runs/digits.
    json: print JSON.
    """
    entries = facts_of(run)["bibliography"]
    write_json(entries) if json else write("\n\n".join(e["bibtex"] for e in entries))
