import json
import random
from dataclasses import dataclass

import pytest

from netwright.core import Arch, Space, choice, ints
from netwright.core.errors import NetwrightError, UnknownName


@dataclass(frozen=True)
class Inner:
    kind: object = "a"
    depth: object = 1


@dataclass(frozen=True)
class Outer:
    parts: tuple
    width: object = 8


@pytest.fixture
def space():
    part = Inner(choice("a", "b", "c"), ints(1, 4))
    return Space("toy", Outer((part, part), choice(8, 16)))


def test_decisions_are_named_by_their_path(space):
    assert list(space.decisions) == ["parts.0.kind", "parts.0.depth", "parts.1.kind", "parts.1.depth", "width"]
    assert space.size == 3 * 4 * 3 * 4 * 2


def test_an_architecture_survives_json_and_is_a_key(space):
    arch = space.sample(random.Random(0))
    assert Arch.from_json(json.dumps(arch.to_json())) == arch
    assert {arch: 1}[Arch.from_json(arch.to_json())] == 1


def test_fill_puts_values_where_domains_stood(space):
    arch = space.arch({"parts.0.kind": "b", "parts.0.depth": 2, "parts.1.kind": "c", "parts.1.depth": 4, "width": 16})
    assert space.fill(arch) == Outer((Inner("b", 2), Inner("c", 4)), 16)


def test_sampling_reaches_every_value_and_depends_on_the_seed_alone(space):
    rng = random.Random(1)
    seen = [space.sample(rng) for _ in range(300)]
    for name, domain in space.decisions.items():
        assert {a[name] for a in seen} == set(domain.values)
    again = random.Random(1)
    assert seen[:5] == [space.sample(again) for _ in range(5)]


def test_mutation_changes_something_and_stays_inside(space):
    rng = random.Random(2)
    arch = space.sample(rng)
    for _ in range(50):
        child = space.mutate(arch, rng)
        assert child != arch and space.arch(dict(child.values)) == child


def test_crossover_takes_each_decision_from_a_parent(space):
    rng = random.Random(3)
    a, b = space.sample(rng), space.sample(rng)
    child = space.crossover(a, b, rng)
    assert all(child[n] in (a[n], b[n]) for n in space.decisions)


def test_neighbours_are_all_at_distance_one(space):
    arch = space.smallest()
    near = list(space.neighbours(arch))
    assert len(near) == len(set(near)) == sum(len(d.values) - 1 for d in space.decisions.values())
    assert all(sum(x[n] != arch[n] for n in space.decisions) == 1 for x in near)


def test_encoding_has_fixed_length_and_tells_architectures_apart(space):
    codes = {tuple(space.encode(a)) for a in [space.smallest(), *space.neighbours(space.smallest())]}
    assert len(codes) == 1 + sum(len(d.values) - 1 for d in space.decisions.values())
    assert len({len(c) for c in codes}) == 1 and all(0 <= v <= 1 for c in codes for v in c)


def test_corners_reach_every_operator_at_its_largest(space):
    corners = list(space.corners())
    assert {(a["parts.0.kind"], a["parts.1.kind"]) for a in corners} == {("a", "a"), ("b", "b"), ("c", "c")}
    assert all(a["parts.0.depth"] == 4 and a["width"] == 16 for a in corners)


def test_wrong_values_and_names_are_explained(space):
    values = dict(space.smallest().values)
    with pytest.raises(NetwrightError, match=r"width = 9 is not in \[8, 16\]"):
        space.arch({**values, "width": 9})
    with pytest.raises(UnknownName, match="Did you mean 'width'"):
        space.arch({**values, "widht": 8})
    values.pop("width")
    with pytest.raises(NetwrightError, match="lacks"):
        space.arch(values)
