"""Cost: named quantities that carry their unit and how they came about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

How = Literal["counted", "modelled", "predicted", "measured"]
HOWS: tuple[str, ...] = ("counted", "modelled", "predicted", "measured")


@dataclass(frozen=True)
class Quantity:
    """A value with its unit, how it was obtained, and (low, high) where it was repeated. `note` names the source."""

    value: float
    unit: str
    how: How
    spread: tuple[float, float] | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.how not in HOWS:
            raise ValueError(f"how must be one of {HOWS}, got {self.how!r}")

    def __str__(self) -> str:
        spread = f" [{self.spread[0]:.4g}, {self.spread[1]:.4g}]" if self.spread else ""
        return f"{self.value:.6g}{spread} {self.unit} ({self.how})"


@dataclass(frozen=True)
class Cost(Mapping[str, Quantity]):
    """A set of named quantities, for example ``macs``, ``weight_bytes``, ``latency``."""

    quantities: Mapping[str, Quantity] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Quantity:
        return self.quantities[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.quantities)

    def __len__(self) -> int:
        return len(self.quantities)

    def __or__(self, other: Cost) -> Cost:
        return Cost({**self.quantities, **other.quantities})

    def to_json(self) -> dict[str, Any]:
        return {name: asdict(q) for name, q in self.quantities.items()}
