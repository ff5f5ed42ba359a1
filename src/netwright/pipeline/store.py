"""Store: what a run has finished, on disk; a stage whose inputs have not changed is read, not made again."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from netwright import __version__
from netwright.core.files import write_json

T = TypeVar("T")


class Store:
    """A run's folder. Every stage has a folder of its own, with `key.json` (its inputs) and `done.json` once finished."""

    def __init__(self, root: Path):
        self.root = Path(root)
        self.keys: dict[str, str] = {}

    def stage(
        self,
        name: str,
        inputs: Mapping[str, Any],
        after: tuple[str, ...],
        make: Callable[[Path], T],
        load: Callable[[Path], T],
    ) -> T:
        """The result of a stage.

        Args:
            name: its folder.
            inputs: JSON data that decides the result.
            after: stages whose results it uses; a change there is a change here.
            make: builds the result in the folder; may find its own unfinished work there (a checkpoint, a study).
            load: reads a finished result.
        """
        folder = self.root / name
        key = {"netwright": __version__, "inputs": inputs, "after": {a: self.keys[a] for a in after}}
        key = json.loads(json.dumps(key))
        self.keys[name] = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        if not (folder / "key.json").exists() or json.loads((folder / "key.json").read_text()) != key:
            shutil.rmtree(folder, ignore_errors=True)
            write_json(folder / "key.json", key)
        if (folder / "done.json").exists():
            return load(folder)
        result = make(folder)
        write_json(folder / "done.json", {"stage": name, "key": self.keys[name]})
        return result

    def finished(self, name: str) -> bool:
        return (self.root / name / "done.json").exists()
