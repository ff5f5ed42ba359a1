from __future__ import annotations

import gc
import json

import pytest

from netwright.core.errors import NetwrightError
from netwright.measure import machine, time_side_by_side
from netwright.measure.machine import parse_cpuinfo

X86 = "processor\t: 0\nmodel name\t: Fixture CPU @ 2GHz\nflags\t: fpu popcnt avx2 avx512f amx_int8 nonsense\n\nprocessor\t: 1\n"
ARM = "processor\t: 0\nCPU part\t: 0xd0c\nFeatures\t: fp asimd asimddp\n"


def test_cpuinfo_keeps_only_what_chooses_kernels():
    assert parse_cpuinfo(X86) == {"cpu": "Fixture CPU @ 2GHz", "isa": ["popcnt", "avx2", "avx512f", "amx_int8"]}
    assert parse_cpuinfo(ARM) == {"cpu": "0xd0c", "isa": ["asimd", "asimddp"]}


def test_machine_is_json_and_complete():
    facts = machine()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["cpu"] and facts["cores"] >= 1 and facts["memory_bytes"] > 1 << 20
    assert {"python", "torch", "numpy", "onnxruntime"} <= facts["versions"].keys()
    facts["isa"].append("changed by the caller")
    assert "changed by the caller" not in machine()["isa"]


def test_ten_times_the_work_takes_longer_and_spread_brackets_the_median():
    def work(n: int):
        return lambda: sum(range(n))

    found = time_side_by_side({"short": work(2_000), "long": work(20_000)}, rounds=15, warmup=1, min_batch_us=200)
    assert list(found) == ["short", "long"]
    assert found["long"].value > 3 * found["short"].value
    for q in found.values():
        assert q.unit == "us" and q.how == "measured" and q.spread[0] <= q.value <= q.spread[1]
        assert "1 thread," in q.note and "interleaved" in q.note


def test_rounds_are_interleaved_and_the_order_comes_from_the_seed():
    def order(seed: int) -> list[str]:
        calls: list[str] = []
        time_side_by_side({n: lambda n=n: calls.append(n) for n in "abc"}, rounds=8, warmup=0, min_batch_us=0, seed=seed)
        return calls[3:]  # the first three size the inner loops

    calls = order(1)
    assert [sorted(calls[i : i + 3]) for i in range(0, 24, 3)] == [["a", "b", "c"]] * 8
    assert calls == order(1) and calls != order(2)


def test_the_garbage_collector_is_off_while_timing_and_back_on_after_an_error():
    seen: list[bool] = []
    time_side_by_side({"a": lambda: seen.append(gc.isenabled())}, rounds=2, warmup=0, min_batch_us=0)
    assert not any(seen) and gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        time_side_by_side({"a": lambda: 1 / 0}, rounds=2, warmup=0)
    assert gc.isenabled()


def test_nothing_to_time_is_an_error():
    with pytest.raises(NetwrightError, match="nothing to time"):
        time_side_by_side({}, rounds=3)
