"""The recipe of a run as TOML text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{k} = {_value(v)}' for k, v in value.items() if v is not None)} }}"
    return json.dumps(value, ensure_ascii=False)


def to_toml(recipe: Mapping[str, Any] | str, prefix: str = "") -> str:
    """TOML of nested mappings, plain values before tables; None, which TOML has not, is left out; text stays as it is."""
    if isinstance(recipe, str):
        return recipe
    tables = {k: v for k, v in recipe.items() if isinstance(v, Mapping) and v}
    plain = [f"{k} = {_value(v)}" for k, v in recipe.items() if v is not None and not isinstance(v, Mapping)]
    head = [f"[{prefix}]"] if prefix and plain else []
    parts = ["\n".join(head + plain)] if plain else []
    parts += [to_toml(v, f"{prefix}.{k}" if prefix else k) for k, v in tables.items()]
    return "\n\n".join(p for p in parts if p)
