"""Latency of a new device from known ones: a made-up family of devices whose latencies are sums over operators."""

from __future__ import annotations

import gzip
import itertools
import random
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from netwright.core.errors import DataError
from netwright.core.paper import Paper
from netwright.design.spaces import Tiny
from netwright.design.trace import hollow, trace
from netwright.estimate.latency import (
    CATALOGUE,
    KernelTransfer,
    LatencyTable,
    LatencyTransfer,
    NearestDevice,
    OperatorLookup,
    RidgeTransfer,
)
from netwright.estimate.latency.kernel import additive
from netwright.estimate.latency.method import posterior

OPERATORS = ("skip", "k3", "k5", "k7")


def world(seed: int, devices: int, places: int = 8, n: int = 400, noise: float = 0.02):
    """Operators [N, places] and latencies [N, devices + 1] in us: each device mixes compute, memory and launches in its way."""
    rng = np.random.default_rng(seed)
    operators = rng.choice(4**places, n, replace=False)[:, None] // 4 ** np.arange(places) % 4
    compute = rng.uniform(0.5, 3, places)[:, None] * np.array([0, 9, 25, 49])
    memory = rng.uniform(1, 9, places)[:, None] * np.array([1, 5, 5, 6])
    launches = np.tile([0, 20, 20, 20], (places, 1))
    physics = np.stack([compute, memory, launches])
    mixture = rng.dirichlet(np.ones(3), devices + 1)
    own = rng.uniform(0.8, 1.25, (devices + 1, places, 4))
    times = np.einsum("dp,plo->dlo", mixture, physics) * own + 5
    us = np.stack([sum(t[i, operators[:, i]] for i in range(places)) for t in times], 1)
    us *= rng.lognormal(0, noise, us.shape)
    return np.array(OPERATORS)[operators], us


def suite(seed: int = 0, devices: int = 7, noise: float = 0.02):
    operators, us = world(seed, devices, noise=noise)
    archs = tuple(map("-".join, operators))
    return LatencyTable(archs, tuple(f"d{i}" for i in range(devices)), us[:, :-1], operators=operators), us[:, -1]


def transferred(table: LatencyTable, truth: np.ndarray, method=None, n: int = 10, seed: int = 0) -> LatencyTransfer:
    chosen = LatencyTransfer.fit(table, {}, method).propose(n, np.random.default_rng(seed))
    return LatencyTransfer.fit(table, {a: float(truth[table.row[a]]) for a in chosen}, method)


def rho(fitted: LatencyTransfer, truth: np.ndarray) -> float:
    rows = fitted.table.rows(a for a in fitted.table.archs if a not in fitted.measured)
    return float(spearmanr(fitted.estimate.us[rows], truth[rows])[0])


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_method_has_a_paper_and_finds_a_device_that_is_a_known_one_twice_as_slow(name):
    table, _ = suite(noise=0.0)
    truth = 2 * table.us[:, 3]
    method = CATALOGUE[name]()
    assert isinstance(method.paper, Paper) and method.paper.url.startswith("https://")
    fitted = transferred(table, truth, method, n=40)
    assert rho(fitted, truth) > 0.9
    asked = [a for a in table.archs if a not in fitted.measured]
    error = fitted.predict(asked).median / truth[table.rows(asked)] - 1
    assert np.median(np.abs(error)) < 0.1  # the scale is found, too


def test_ten_measurements_beat_the_nearest_device_and_operators_alone_on_average():
    found = {name: [] for name in ("kernel", "ridge", "nearest", "lookup")}
    for seed in range(6):
        table, truth = suite(seed)
        for name, values in found.items():
            values.append(rho(transferred(table, truth, CATALOGUE[name]()), truth))
    means = {name: np.mean(v) for name, v in found.items()}
    assert means["kernel"] > 0.9
    assert means["kernel"] > means["nearest"] + 0.02 and means["kernel"] > means["lookup"] + 0.1
    assert means["ridge"] > means["lookup"]


def test_more_measurements_err_less():
    few, many = [], []
    for seed in range(4):
        table, truth = suite(seed)
        few.append(rho(transferred(table, truth, n=5), truth))
        many.append(rho(transferred(table, truth, n=60), truth))
    assert np.mean(many) > np.mean(few) + 0.01 and np.mean(many) > 0.97


def test_posterior_is_the_textbook_s_and_its_left_out_errors_are_those_of_leaving_out():
    rng = np.random.default_rng(0)
    z, rows, noise = rng.normal(size=(30, 4)), np.arange(9), 0.3
    us = rng.uniform(50, 90, 9)
    found = posterior(z, rows, us, noise, log=False)
    full = np.c_[z, np.full(30, 3.0)]
    y = (us - us.mean()) / us.std()
    weights = np.linalg.solve(full[rows].T @ full[rows] + noise * np.eye(5), full[rows].T @ y)
    np.testing.assert_allclose(found.us, us.mean() + us.std() * full @ weights)
    errors = []
    for i in rows:
        keep = np.delete(rows, i)
        w = np.linalg.solve(full[keep].T @ full[keep] + noise * np.eye(5), full[keep].T @ y[keep])
        errors.append(us.std() * (y[i] - full[i] @ w))
    assert found.error == pytest.approx(np.sqrt(np.mean(np.square(errors))))


def test_intervals_cover_unseen_devices_at_their_level_and_widen_with_it():
    covered, widths = [], {0.5: [], 0.9: []}
    for seed in range(8):
        table, truth = suite(seed, devices=9)
        base = transferred(table, truth, seed=seed)
        asked = [a for a in table.archs if a not in base.measured]
        for level, width in widths.items() if seed < 1 else [(0.9, [])]:
            found = LatencyTransfer.fit(table, base.measured, coverage=level).predict(asked)
            width.append(np.mean(found.high - found.low))
            if level == 0.9:
                y = truth[table.rows(asked)]
                covered.append(np.mean((found.low <= y) & (y <= found.high)))
    assert 0.82 < np.mean(covered) < 0.97
    assert np.mean(widths[0.9]) > 1.5 * np.mean(widths[0.5])


def test_settings_of_one_machine_are_no_second_device():
    table, truth = suite()
    chosen = transferred(table, truth).measured
    assert np.isfinite(LatencyTransfer.fit(table, chosen).quantile)
    alone = LatencyTable(table.archs, table.devices, table.us, operators=table.operators, groups=("box",) * 7)
    asked = [a for a in table.archs if a not in chosen]
    for few in (alone, table.only([0, 1])):
        fitted = LatencyTransfer.fit(few, chosen)
        assert fitted.quantile == max(fitted.estimate.ratios)  # the jackknife's
        held = fitted.predict(asked)
        assert np.mean((held.low <= truth[table.rows(asked)]) & (truth[table.rows(asked)] <= held.high)) > 0.7
        found = LatencyTransfer.fit(few, dict(list(chosen.items())[:8])).predict(asked)
        assert np.isinf(found.high).all() and np.isfinite(found.median).all()  # eight left-out errors do not carry 90 %


def test_what_was_measured_is_answered_by_its_measurement_and_quantities_say_what_they_are():
    table, truth = suite()
    fitted = transferred(table, truth)
    arch, us = next(iter(fitted.measured.items()))
    found = fitted.predict([arch, next(a for a in table.archs if a not in fitted.measured)])
    assert found.low[0] == found.median[0] == found.high[0] == us
    quantity = found[1]
    assert (quantity.how, quantity.unit) == ("predicted", "us") and quantity.spread[0] < quantity.value < quantity.spread[1]


def test_proposals_are_new_distinct_and_repeatable_and_better_than_chance():
    table, truth = suite(1)
    transfer = LatencyTransfer.fit(table, {})
    first = transfer.propose(10, np.random.default_rng(3))
    assert first == transfer.propose(10, np.random.default_rng(3)) and len(set(first)) == 10
    fitted = LatencyTransfer.fit(table, {a: float(truth[table.row[a]]) for a in first})
    assert not set(fitted.propose(5, np.random.default_rng(3))) & set(first)
    z = np.c_[KernelTransfer().features(table), np.full(len(truth), 3.0)]

    def information(archs):
        rows = table.rows(archs)
        return np.linalg.slogdet(np.eye(z.shape[1]) + z[rows].T @ z[rows] / 0.1)[1]

    rng = np.random.default_rng(0)
    random = [information([table.archs[i] for i in rng.choice(len(truth), 10, replace=False)]) for _ in range(20)]
    assert information(first) > max(random)


def test_a_lookup_table_sums_and_finds_overhead_and_scale():
    operators, us = world(0, 1, noise=0.0)
    rng = np.random.default_rng(1)
    times = [{o: float(t) for o, t in zip(OPERATORS, rng.uniform(1, 9, 4), strict=True)} for _ in range(8)]
    lookup = OperatorLookup(times, noise=1e-6)
    sums = np.array([sum(times[i][o] for i, o in enumerate(row)) for row in operators])
    assert lookup.sum(operators[0]) == pytest.approx(sums[0])
    archs = tuple(map("-".join, operators))
    table = LatencyTable(archs, ("other",), us[:, :1], operators=operators)
    truth = 30 + 1.7 * sums
    fitted = LatencyTransfer.fit(table, {a: float(truth[i]) for i, a in enumerate(archs[:5])}, lookup)
    np.testing.assert_allclose(fitted.predict(archs).median, truth, rtol=1e-3)
    with pytest.raises(DataError, match="Operator 'k9' was not measured at place 1"):
        lookup.sum(("k3", "k9", *operators[0][2:]))
    with pytest.raises(DataError, match="8 places, the network 2"):
        lookup.sum(("k3", "k3"))


class Clock(TorchDispatchMode):
    """A device that takes 2 us an operator and 1 us for every 200,000 floating-point operations."""

    us = 5.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.us += 2.0
        with FlopCounterMode(display=False) as count:
            out = func(*args, **(kwargs or {}))
        self.us += count.get_total_flops() / 2e5
        return out


def measured(networks):
    """Name -> microseconds on the counting device, which spreads by 3 % from run to run; real clocks make no test."""
    noise, us = np.random.default_rng(1), {}
    for name, run in networks.items():
        with torch.inference_mode(), Clock() as clock:
            run()
        us[name] = clock.us * noise.normal(1, 0.03)
    return us


def test_a_table_of_operators_ranks_whole_networks():
    """S076 end to end: operators are timed alone, networks of them as a whole."""
    torch.set_num_threads(1)
    builds = {"skip": nn.Identity, **{f"k{k}": partial(nn.Conv2d, 24, 24, k, padding=k // 2) for k in (1, 3, 5)}}
    x, rng = torch.zeros(1, 24, 24, 24), np.random.default_rng(0)
    networks = np.array(list(itertools.product(builds, repeat=4)))
    names = ["-".join(n) for n in networks]
    chosen = rng.choice(len(names), 20, replace=False)
    alone = {name: partial(build(), x) for name, build in builds.items()}
    whole = {names[i]: partial(nn.Sequential(*(builds[o]() for o in networks[i])), x) for i in chosen}
    us = measured(alone | whole)
    lookup = OperatorLookup([{o: us[o] for o in builds}] * 4)
    truth = np.array([us[names[i]] for i in chosen])
    sums = [lookup.sum(networks[i]) for i in chosen]
    assert spearmanr(sums, truth)[0] > 0.85
    assert spearmanr(sums, truth)[0] > spearmanr([(networks[i] != "skip").sum() for i in chosen], truth)[0]
    table = LatencyTable(tuple(names), (), np.empty((len(names), 0)), operators=networks)
    fitted = LatencyTransfer.fit(table, {names[i]: us[names[i]] for i in chosen[:5]}, lookup)
    error = fitted.predict([names[i] for i in chosen[5:]]).median / truth[5:] - 1
    assert np.median(np.abs(error)) < 0.3  # overhead and scale come from five whole networks


def test_ten_measured_networks_of_a_space_rank_the_others():
    """No device is known: what is counted and what was chosen, and ten measurements."""
    torch.set_num_threads(1)
    space = Tiny(stages=1, blocks=("conv",), depths=(1, 4), widths=(8, 16, 32, 48), expansions=(1,)).space((1, 16, 16), 10)
    rng, x = random.Random(0), torch.zeros(1, 1, 16, 16)
    archs = list(dict.fromkeys(space.sample(rng) for _ in range(28)))[:20]
    graphs = {a: trace(hollow(space.fill(a).build), x, counting=True) for a in archs}
    table = LatencyTable.of_graphs(graphs)
    assert table.devices == () and table.counts[3, 0] == graphs[archs[3]].macs
    todo = LatencyTransfer.fit(table, {}).propose(10, np.random.default_rng(0))
    us = measured({a: partial(space.fill(a).build().eval(), x) for a in archs})
    fitted = LatencyTransfer.fit(table, {a: us[a] for a in todo})
    rest = [a for a in archs if a not in todo]
    found, truth = fitted.predict(rest), np.array([us[a] for a in rest])
    assert spearmanr(found.median, truth)[0] > 0.4
    assert np.isfinite(found.high).all() and np.mean((found.low <= truth) & (truth <= found.high)) > 0.6
    smallest_first = sorted(archs, key=lambda a: graphs[a].macs)
    arch, quantity, known = fitted.confirm(smallest_first[::-1], us.__getitem__, float(np.median(truth)))
    assert quantity.how == "measured" and quantity.value == us[arch] and arch in known.measured
    other = Tiny(stages=2).space((1, 16, 16), 10)
    with pytest.raises(DataError, match="architectures of 2 spaces"):
        LatencyTable.of_graphs(graphs | {other.smallest(): graphs[archs[0]]})


def test_noisy_devices_are_read_through_their_operators():
    operators, clean = world(2, 4, noise=0.0)
    noisy = clean[:, :-1] * np.random.default_rng(0).lognormal(0, 0.2, clean[:, :-1].shape)
    table = LatencyTable(tuple(map("-".join, operators)), tuple("abcd"), noisy, operators=operators)
    error = np.abs(additive(table).us / clean[:, :-1] - 1).mean()
    assert error < 0.5 * np.abs(noisy / clean[:, :-1] - 1).mean()


def test_holes_are_filled_from_other_devices_and_counts():
    table, _ = suite(3)
    rng = np.random.default_rng(0)
    us = np.where(rng.random(table.us.shape) < 0.2, np.nan, table.us)
    us[0] = np.nan
    holed = LatencyTable(table.archs, table.devices, us, counts=table.us[:, :1], operators=table.operators)
    filled = holed.filled.us
    hole = np.isnan(us)
    assert np.array_equal(filled[~hole], us[~hole])
    mean = np.broadcast_to(np.nanmean(us, 0), us.shape)
    error, trivial = (np.abs(np.log(v[hole] / table.us[hole])).mean() for v in (filled, mean))
    assert error < 0.4 * trivial and abs(np.log(filled[0, 0] / table.us[0, 0])) < 0.2


def test_a_winner_is_measured_before_it_is_named():
    table, truth = suite(4)
    fitted = transferred(table, truth)
    asked = []

    def measure(arch):
        asked.append(arch)
        return float(truth[table.row[arch]])

    limit = float(np.quantile(truth, 0.3))
    best_first = [table.archs[i] for i in np.argsort(-table.us.sum(1))]  # slow networks are the better ones here
    arch, quantity, known = fitted.confirm(best_first, measure, limit)
    assert quantity.how == "measured" and quantity.value == truth[table.row[arch]] <= limit
    assert set(asked) <= set(known.measured) and arch in known.measured
    assert len(asked) < best_first.index(arch)  # what is surely too slow is not measured
    slow = [table.archs[i] for i in np.argsort(-truth)[:5]]
    with pytest.raises(DataError, match="None of 5 candidates keeps"):
        fitted.confirm(slow, measure, limit)


def test_a_csv_file_is_read_and_its_faults_are_named(tmp_path):
    path = tmp_path / "table.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write("arch,phone,gpu,macs\nk3-k5,1.5,2,10\nk5-k5,2.5,,20\n")
    table = LatencyTable.read_csv(path, "arch", ("phone", "gpu"), ("macs",), unit_us=1000, groups={"gpu": "box"}, separator="-")
    assert table.us[0].tolist() == [1500, 2000] and np.isnan(table.us[1, 1]) and table.groups == ("phone", "box")
    assert table.operators.tolist() == [["k3", "k5"], ["k5", "k5"]] and table.one_hot.shape == (2, 3)
    with pytest.raises(DataError, match=r"lacks the columns \['watch'\]"):
        LatencyTable.read_csv(path, "arch", ("watch",))
    with pytest.raises(DataError, match="no number"):
        LatencyTable.read_csv(path, "arch", ("phone",), ("arch",))


def test_faults_are_named():
    table, truth = suite()
    with pytest.raises(DataError, match="2 measurements are too few"):
        LatencyTransfer.fit(table, {a: 1.0 for a in table.archs[:2]}).predict(table.archs[:1])
    with pytest.raises(DataError, match="lacks 'nowhere'"):
        LatencyTransfer.fit(table, {"nowhere": 3.0})
    with pytest.raises(DataError, match=r"is -1\.0: give microseconds above 0"):
        LatencyTransfer.fit(table, {table.archs[0]: -1.0})
    with pytest.raises(DataError, match="A coverage of 90"):
        LatencyTransfer.fit(table, {}, coverage=90)
    with pytest.raises(DataError, match="401 architectures were asked for and 400"):
        LatencyTransfer.fit(table, {}).propose(401, np.random.default_rng(0))
    with pytest.raises(DataError, match="twice"):
        LatencyTable(("a", "a"), ("d",), np.ones((2, 1)))
    with pytest.raises(DataError, match="0 or less"):
        LatencyTable(("a", "b"), ("d",), np.array([[1.0], [0.0]]))
    with pytest.raises(DataError, match="'e' of the latency table has no measurement"):
        LatencyTable(("a", "b"), ("d", "e"), np.array([[1.0, np.nan], [2.0, np.nan]]))
    with pytest.raises(DataError, match="needs operators"):
        bare = LatencyTable(table.archs, table.devices, table.us)
        OperatorLookup().features(bare)
    for method in (RidgeTransfer(log=True), NearestDevice(), KernelTransfer(log=True)):
        assert np.isfinite(transferred(table, truth, method).predict(table.archs).high).all()
