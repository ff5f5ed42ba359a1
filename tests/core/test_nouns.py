import json
import os
from pathlib import Path

import numpy as np
import pytest

from netwright.core import Graph, Node, Paper, Quantity, Spec, Target, Trial, pareto_front
from netwright.core.catalogue import catalogue
from netwright.core.errors import UnknownName
from netwright.core.files import write_json
from netwright.core.space import Arch


def chain():
    spec = Spec((1, 4))
    nodes = (
        Node("x", "input", (), spec),
        Node("a", "relu", ("x",), spec),
        Node("b", "reshape", ("a",), spec),
        Node("c", "add", ("b", "x"), spec),
    )
    return Graph(nodes, ("c",))


def test_peak_counts_live_tensors_and_views_share_their_source():
    # x and a live together, then x, a (through its view b) and c
    assert chain().peak_bytes == 3 * 16


def test_bytes_round_up_to_whole_bytes_and_steps_multiply():
    assert Spec((1, 9), bits=1).bytes == 2
    assert Spec((1, 9), bits=1, steps=4).bytes == 8


def test_graph_json_round_trip():
    graph = chain()
    assert Graph.from_json(json.dumps(graph.to_json())) == graph


def test_replace_drops_unused_parameters():
    node = Node("y", "linear", ("x",), Spec((1, 2)), weights={"weight": "w"})
    graph = Graph((Node("x", "input", (), Spec((1, 4))), node), ("y",), {"w": Spec((2, 4))}, {"w": np.zeros((2, 4))})
    assert graph.parameters == 8
    smaller = graph.replace(graph.nodes[:1], outputs=["x"])
    assert not smaller.params and not smaller.values


def test_a_quantity_names_how_it_came_about():
    assert "(counted)" in str(Quantity(3, "MAC", "counted"))
    with pytest.raises(ValueError, match="how must be"):
        Quantity(3, "MAC", "guessed")


def test_pareto_front_keeps_ties_and_drops_the_dominated_and_the_infeasible():
    arch = Arch("s", ())
    trials = [
        Trial(0, arch, {"e": 1.0, "b": 2.0}),
        Trial(1, arch, {"e": 2.0, "b": 1.0}),
        Trial(2, arch, {"e": 2.0, "b": 2.0}),
        Trial(3, arch, {"e": 0.0, "b": 0.0}, feasible=False),
        Trial(4, arch, {"e": 1.0, "b": 2.0}),
    ]
    assert [t.number for t in pareto_front(trials)] == [0, 1, 4]


def test_every_energy_constant_has_a_source():
    target = Target.load("cmos45")
    assert target.energy_pj["mac_float32"] == 4.6
    with pytest.raises(UnknownName, match="cmos45"):
        Target.load("cmos54")


def test_catalogue_suggests():
    class Role:
        pass

    class One(Role):
        name = "biper"

    found = catalogue({"One": One, "Role": Role}, Role, "method")
    assert list(found) == ["biper"]
    with pytest.raises(UnknownName, match="Did you mean 'biper'"):
        found["bipre"]


def test_bibtex():
    text = Paper("a2020", "T", "A and B", "V", 2020, "u").bibtex()
    assert text.startswith("@inproceedings{a2020,") and "url = {u}" in text


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]
