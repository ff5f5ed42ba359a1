"""Catalogue: the methods of one folder, found from its explicit imports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from netwright.core.errors import UnknownName


@dataclass(frozen=True)
class Catalogue(Mapping[str, Any]):
    """Name -> class, for one role; an unknown name raises `UnknownName` with suggestions."""

    kind: str
    entries: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        try:
            return self.entries[name]
        except KeyError:
            raise UnknownName(self.kind, name, self.entries) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries


def catalogue(namespace: Mapping[str, Any], role: type, kind: str) -> Catalogue:
    """Collect the classes of `namespace` that subclass `role`, and the plug-ins that do.

    The name is the class attribute `name`, else the class name in lower case. Third parties add
    entries through the entry-point group ``netwright.plugins`` (a class that subclasses `role`).
    """
    found = {}
    plugins = [p.load() for p in entry_points(group="netwright.plugins")]
    for value in [*namespace.values(), *plugins]:
        if isinstance(value, type) and issubclass(value, role) and value is not role:
            found[value.__dict__.get("name") or value.__name__.lower()] = value
    return Catalogue(kind, found)
