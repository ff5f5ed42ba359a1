"""Space: a design configuration with domains where values would stand.

Everything a search needs (sample, mutate, crossover, neighbours, encode, size) is written once here, for any frozen
dataclass that holds `choice(...)` or `ints(a, b)` in place of values, at any depth.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from netwright.core.errors import NetwrightError, UnknownName


@dataclass(frozen=True)
class Domain:
    """A finite set of values. `ordered` is true where larger means a larger network (numbers)."""

    values: tuple[Any, ...]
    ordered: bool

    def __post_init__(self) -> None:
        if len(set(self.values)) != len(self.values) or not self.values:
            raise NetwrightError(f"a domain needs distinct values, got {self.values}")

    @property
    def largest(self) -> Any:
        return max(self.values) if self.ordered else self.values[0]

    @property
    def smallest(self) -> Any:
        return min(self.values) if self.ordered else self.values[0]


def choice(*values: Any) -> Domain:
    """One of `values`; numbers are ordered, names are not."""
    return Domain(tuple(values), all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values))


def ints(low: int, high: int) -> Domain:
    """An integer from `low` to `high`, both included."""
    return Domain(tuple(range(low, high + 1)), True)


@dataclass(frozen=True)
class Arch:
    """A space's name and the chosen values: the key of caches, stores and reports. Hashable, JSON both ways."""

    space: str
    values: tuple[tuple[str, Any], ...]

    def __getitem__(self, decision: str) -> Any:
        return dict(self.values)[decision]

    def to_json(self) -> dict[str, Any]:
        return {"space": self.space, "values": dict(self.values)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | str) -> Arch:
        """Read what `to_json` wrote (a mapping or its JSON text)."""
        if isinstance(data, str):
            return cls.from_json(json.loads(data))
        return cls(data["space"], tuple((k, v) for k, v in data["values"].items()))

    def __str__(self) -> str:
        return ",".join(str(v) for _, v in self.values)


def _domains(config: Any, prefix: str = "") -> Iterator[tuple[str, Domain]]:
    if isinstance(config, Domain):
        yield prefix, config
    elif dataclasses.is_dataclass(config) and not isinstance(config, type):
        for field in dataclasses.fields(config):
            yield from _domains(getattr(config, field.name), f"{prefix}.{field.name}" if prefix else field.name)
    elif isinstance(config, tuple):
        for i, item in enumerate(config):
            yield from _domains(item, f"{prefix}.{i}")


def _fill(config: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    if isinstance(config, Domain):
        return values[prefix]
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        filled = {
            f.name: _fill(getattr(config, f.name), values, f"{prefix}.{f.name}" if prefix else f.name)
            for f in dataclasses.fields(config)
        }
        return dataclasses.replace(config, **filled)
    if isinstance(config, tuple):
        return tuple(_fill(item, values, f"{prefix}.{i}") for i, item in enumerate(config))
    return config


@dataclass(frozen=True)
class Space:
    """A configuration with domains. Decisions are named by their path, for example ``stages.0.block``."""

    name: str
    config: Any

    @property
    def decisions(self) -> dict[str, Domain]:
        return dict(_domains(self.config))

    @property
    def size(self) -> int:
        """Number of architectures (product of the domains' sizes)."""
        return math.prod(len(d.values) for d in self.decisions.values())

    def arch(self, values: Mapping[str, Any]) -> Arch:
        """Check `values` (decision -> value) and freeze them, in the space's own order."""
        decisions = self.decisions
        for name, value in values.items():
            if name not in decisions:
                raise UnknownName(f"decision of the space {self.name!r}", name, decisions)
            if value not in decisions[name].values:
                raise NetwrightError(f"{name} = {value!r} is not in {list(decisions[name].values)}")
        if missing := decisions.keys() - values.keys():
            raise NetwrightError(f"the architecture lacks {sorted(missing)}")
        return Arch(self.name, tuple((name, values[name]) for name in decisions))

    def fill(self, arch: Arch) -> Any:
        """The configuration of one architecture: `config` with values in place of domains."""
        return _fill(self.config, dict(arch.values))

    def sample(self, rng: random.Random) -> Arch:
        return self.arch({name: rng.choice(d.values) for name, d in self.decisions.items()})

    def mutate(self, arch: Arch, rng: random.Random, rate: float | None = None) -> Arch:
        """Redraw each decision with probability `rate` (default 1/decisions), at least one of them."""
        decisions = self.decisions
        rate = 1 / len(decisions) if rate is None else rate
        forced = rng.choice(list(decisions))
        values = dict(arch.values)
        for name, domain in decisions.items():
            others = [v for v in domain.values if v != values[name]]
            if others and (name == forced or rng.random() < rate):
                values[name] = rng.choice(others)
        return self.arch(values)

    def crossover(self, a: Arch, b: Arch, rng: random.Random) -> Arch:
        """Each decision from one parent or the other."""
        return self.arch({name: rng.choice((a, b))[name] for name in self.decisions})

    def neighbours(self, arch: Arch) -> Iterator[Arch]:
        """All architectures that differ in exactly one decision."""
        for name, domain in self.decisions.items():
            for value in domain.values:
                if value != arch[name]:
                    yield self.arch({**dict(arch.values), name: value})

    def encode(self, arch: Arch) -> list[float]:
        """Ordered decisions as one number in [0, 1], the others one-hot."""
        code: list[float] = []
        for name, domain in self.decisions.items():
            position = domain.values.index(arch[name])
            if domain.ordered:
                code.append(position / max(1, len(domain.values) - 1))
            else:
                code.extend(float(i == position) for i in range(len(domain.values)))
        return code

    def largest(self, **fixed: Any) -> Arch:
        """The largest architecture, with unordered decisions at their first value unless `fixed`."""
        return self.arch({name: fixed.get(name, d.largest) for name, d in self.decisions.items()})

    def smallest(self, **fixed: Any) -> Arch:
        return self.arch({name: fixed.get(name, d.smallest) for name, d in self.decisions.items()})

    def corners(self) -> Iterator[Arch]:
        """Architectures that between them reach the largest shape of every parameter in the space.

        The i-th corner takes the i-th value of every unordered decision and the largest of every ordered one.
        """
        unordered = {name: d.values for name, d in self.decisions.items() if not d.ordered}
        for i in range(max((len(v) for v in unordered.values()), default=1)):
            yield self.largest(**{name: values[i % len(values)] for name, values in unordered.items()})
