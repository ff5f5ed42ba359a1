"""What every command prints with: JSON or tables on standard output, progress on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from netwright.pipeline.chain import Progress


def write_json(data: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(data, indent=1) + "\n")


def write(renderable: Any) -> None:
    """A rich renderable or a text on standard output."""
    from rich.console import Console

    Console(highlight=False, markup=False, soft_wrap=isinstance(renderable, str)).print(renderable)


@contextmanager
def progress(quiet: bool = False) -> Iterator[Progress]:
    """A bar for every stage on standard error; one line a stage where it is no terminal; silent if `quiet`."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, quiet=quiet)
    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def report(done: int, total: int, text: str) -> None:
            stage = text.split(":")[0]
            if stage not in tasks:
                tasks[stage] = bars.add_task(text, total=total)
                if not console.is_terminal:
                    console.print(f"{stage} ...", highlight=False)
            bars.update(tasks[stage], completed=done, total=total, description=text)

        yield report
