import json

import pytest

from netwright.pipeline.store import Store


def counting(calls, value=1):
    def make(folder):
        calls.append("make")
        (folder / "v.json").write_text(json.dumps(value))
        return value

    def load(folder):
        calls.append("load")
        return json.loads((folder / "v.json").read_text())

    return make, load


def test_a_finished_stage_is_read_back(tmp_path):
    calls = []
    for _ in range(2):
        assert Store(tmp_path).stage("a", {"k": 1}, (), *counting(calls)) == 1
    assert calls == ["make", "load"]


def test_a_change_in_the_inputs_or_before_makes_it_again(tmp_path):
    calls = []
    for a, b in [(1, 1), (1, 1), (2, 1), (2, 2)]:
        store = Store(tmp_path)
        store.stage("a", {"k": a}, (), *counting([]))
        store.stage("b", {"k": b}, ("a",), *counting(calls))
    assert calls == ["make", "load", "make", "make"]


def test_an_interrupted_stage_finds_its_unfinished_work(tmp_path):
    def interrupted(folder):
        (folder / "half").write_text("so far")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).stage("a", {}, (), interrupted, None)
    found = Store(tmp_path).stage("a", {}, (), lambda folder: (folder / "half").read_text(), None)
    assert found == "so far"


def test_unfinished_work_of_other_inputs_is_dropped(tmp_path):
    def interrupted(folder):
        (folder / "half").write_text("so far")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).stage("a", {"k": 1}, (), interrupted, None)
    assert not Store(tmp_path).stage("a", {"k": 2}, (), lambda folder: (folder / "half").exists(), None)
