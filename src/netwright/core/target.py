"""Target: hardware as data; every number carries its source."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from netwright.core.errors import NetwrightError, UnknownName


@dataclass(frozen=True)
class Target:
    """A device: what it can do at most (`peak`: ``mac_float32``, ``mac_int8``, ``mac_binary`` in MACs a second, ``byte`` in
    bytes a second of its main memory), energy per event in pJ, memory sizes in bytes (flash, ram), how programs for it are
    built and run elsewhere (`build`: compiler, flags, machine, packages), and where each figure comes from (`source`, by the
    figure's name; that of a peak as ``peak.mac_int8``)."""

    name: str
    description: str
    peak: Mapping[str, float] = field(default_factory=dict)
    energy_pj: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    build: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, name: str) -> Target:
        """A target of ours by name, or a TOML file by path."""
        path = Path(name)
        if path.suffix != ".toml":
            shipped = {f.name.removesuffix(".toml"): f for f in files("netwright.targets").iterdir() if f.name.endswith(".toml")}
            if name not in shipped:
                raise UnknownName("target", name, shipped)
            data: dict[str, Any] = tomllib.loads(shipped[name].read_text())
        elif not path.exists():
            raise NetwrightError(f"There is no target file {name}.")
        else:
            data = tomllib.loads(path.read_text())
        return cls(path.stem, **data)
