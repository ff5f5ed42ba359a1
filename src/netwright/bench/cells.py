"""Cells: results of experiments that take minutes each, kept in files so that a table can be filled over several runs.

A cell is one JSON file: what was asked (`key`), what came out (`values`), and where and when. It is used again only where the
key is the same to the last number, so a change of a recipe or a method's field asks for a new one.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netwright import __version__
from netwright.core.files import write_json
from netwright.measure.machine import machine

Values = dict[str, Any]


@dataclass
class Cells:
    """The cells of one benchmark in a folder.

    Args:
        folder: made if need be.
        again: make every cell anew, also those that are there.
    """

    folder: Path
    again: bool = False
    made: list[str] = field(default_factory=list)
    used: list[str] = field(default_factory=list)

    def find(self, name: str, key: Mapping[str, Any]) -> Values | None:
        """The values of the cell, where it is there and answers `key`."""
        path = self.folder / f"{name}.json"
        if (self.again and name not in self.made) or not path.exists():
            return None
        kept = json.loads(path.read_text())
        return dict(kept["values"]) if kept["key"] == json.loads(json.dumps(key)) else None

    def get(self, name: str, key: Mapping[str, Any], make: Callable[[], Values]) -> Values:
        """The values of the cell, from its file or from `make`, whose time is taken.

        Args:
            name: file name without its ending.
            key: everything that decides the result, as JSON.
            make: () -> numbers and texts by name.
        """
        found = self.find(name, key)
        if found is None:
            start = time.monotonic()
            found = make()
            found["seconds"] = round(time.monotonic() - start, 1)
            here = machine()
            where = {"cpu": here["cpu"], "torch": here["versions"]["torch"]} if "versions" in here else {"cpu": here["cpu"]}
            facts = {"date": f"{datetime.date.today():%Y-%m-%d}", "version": __version__, **where}
            write_json(self.folder / f"{name}.json", {"key": dict(key), "values": found, "made": facts})
            self.made.append(name)
        else:
            self.used.append(name)
        return found
