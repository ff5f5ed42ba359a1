"""Event files of every format, written by encoders of our own; frames; the simulated camera; tasks made of events."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

from netwright.core.errors import DataError
from netwright.tasks import load_task
from netwright.tasks.event_camera import EventCamera
from netwright.tasks.events import EVENT, Recording, frames, read_events, recording, windows


def some(n: int = 400, size: tuple[int, int] = (34, 34), longest: int = 300_000, seed: int = 0) -> Recording:
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, longest, n))
    return recording(rng.integers(0, size[1], n), rng.integers(0, size[0], n), t, rng.integers(0, 2, n), size, "here")


def nmnist(r: Recording) -> bytes:
    """5 bytes an event; a time that does not fit in 13 bits since the last overflow is announced by one with y = 240."""
    data, base = bytearray(), 0
    for x, y, t, p in r.events.tolist():
        while t - base >= 2**13:
            data += bytes((0, 240, 0, 0, 0))
            base += 2**13
        data += bytes((x, y)) + (int(p) << 23 | (t - base)).to_bytes(3, "big")
    return bytes(data)


def aedat2(r: Recording, lines: bytes = b"# AEChip: net.sf.jaer.chip.DVS128\r\n") -> bytes:
    data = b"#!AER-DAT2.0\r\n# This is a raw AE data file\r\n" + lines
    for x, y, t, p in r.events.tolist():
        data += struct.pack(">II", (127 - y) << 8 | (127 - x) << 1 | (1 - p), t % 2**32)
    return data


def packet(kind: int, rows: list[bytes], size: int, overflow: int = 0) -> bytes:
    return struct.pack("<hhiiiiii", kind, 1, size, 4, overflow, len(rows), len(rows), len(rows)) + b"".join(rows)


def aedat3(r: Recording) -> bytes:
    data = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#Start-Time: 2016-06-09 10:22:23\r\n#!END-HEADER\r\n"
    rows: dict[int, list[bytes]] = {}
    for x, y, t, p in r.events.tolist():
        rows.setdefault(t >> 31, []).append(struct.pack("<II", x << 17 | y << 2 | p << 1 | 1, t & 0x7FFFFFFF))
    data += packet(0, [struct.pack("<II", 1, 5)], 8)  # a signal from outside: passed over
    for overflow, events in rows.items():
        data += packet(1, [*events, struct.pack("<II", 5 << 17, 9)], 8, overflow)  # the last is not valid
    return data + packet(3, [bytes(36)], 36)


def check_same(found: Recording, wanted: Recording, size: tuple[int, int]) -> None:
    assert found.size == size and found.events.dtype == EVENT
    assert found.events.tolist() == wanted.events.tolist()


def test_nmnist_files_with_overflow(tmp_path):
    (tmp_path / "a.bin").write_bytes(nmnist(some()))
    check_same(read_events(tmp_path / "a.bin"), some(), (34, 34))
    wide = some(size=(100, 240))
    (tmp_path / "b.bin").write_bytes(nmnist(wide))
    assert read_events(tmp_path / "b.bin").size == (wide.events["y"].max() + 1, wide.events["x"].max() + 1)


def test_aedat_files(tmp_path):
    first = some(size=(128, 128), longest=2**33)
    (tmp_path / "b.aedat").write_bytes(aedat3(first))
    check_same(read_events(tmp_path / "b.aedat"), first, (128, 128))
    late = recording(
        *(some(size=(128, 128)).events[k] for k in "xy"), some().events["t"] + 2**32 - 1000, first.events["p"], None, ""
    )
    (tmp_path / "a.aedat").write_bytes(aedat2(late))  # its clock of 32 bits starts again on the way
    check_same(read_events(tmp_path / "a.aedat"), late, (128, 128))
    outside = aedat2(late) + struct.pack(">II", 0x8000, 7)
    (tmp_path / "c.aedat").write_bytes(outside)
    assert len(read_events(tmp_path / "c.aedat").events) == len(late.events)


def test_numpy_files(tmp_path):
    r, size = some(), None
    size = (int(r.events["y"].max()) + 1, int(r.events["x"].max()) + 1)
    np.save(tmp_path / "a.npy", r.events)
    np.savez(tmp_path / "b.npz", events=r.events[::-1])  # any order of time
    signed = np.where(r.events["p"], 1, -1)
    np.savez_compressed(tmp_path / "c.npz", t=r.events["t"].astype(float), x=r.events["x"], y=r.events["y"], p=signed)
    for name in ("a.npy", "b.npz", "c.npz"):
        assert sorted(read_events(tmp_path / name).events.tolist()) == sorted(r.events.tolist())
        assert read_events(tmp_path / name).size == size and (np.diff(read_events(tmp_path / name).events["t"]) >= 0).all()


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def damaged(tmp_path):
    """(file, what the error says)."""
    r = some(size=(128, 128))
    three = aedat3(r)
    held = np.array([Evil()], object)
    np.save(tmp_path / "evil.npy", held, allow_pickle=True)
    np.savez(tmp_path / "evil.npz", x=held)
    np.save(tmp_path / "plain.npy", np.zeros((4, 4)))
    np.savez(tmp_path / "part.npz", x=np.zeros(3), t=np.zeros(3))
    np.savez(tmp_path / "uneven.npz", x=np.zeros(3), y=np.zeros(3), t=np.zeros(2), p=np.zeros(3))
    np.savez(tmp_path / "seconds.npz", x=np.zeros(3), y=np.zeros(3), t=np.array([0.1, 0.2, 0.3]), p=np.zeros(3))
    np.savez(tmp_path / "negative.npz", x=np.array([-1]), y=np.zeros(1), t=np.zeros(1), p=np.zeros(1))
    files = {
        "cut.bin": (nmnist(r)[:-2], "5 bytes each"),
        "empty.bin": (b"", "0 bytes"),
        "only.bin": (bytes((0, 240, 0, 0, 0)), "no events"),
        "cut2.aedat": (aedat2(r)[:-3], "cut short"),
        "davis.aedat": (aedat2(r, b"# AEChip: eu.seebetter.ini.chips.davis.DAVIS240C\r\n"), "only the addresses of the DVS128"),
        "cut3.aedat": (three[: len(three) // 2], "cut short or damaged"),
        "head.aedat": (three[:-50], "bytes of a packet's header"),
        "size.aedat": (three[:90] + packet(1, [bytes(4)], 4), "cut short|damaged"),
        "four.aedat": (b"#!AER-DAT4.0\r\n", "only 2.0 and 3.1"),
        "none.aedat": (b"hello", "no AEDAT file"),
        "form.aedat": (three.replace(b"RAW", b"PNG"), "only RAW"),
        "zip.npz": (b"PK\x03\x04 no", "cannot be read"),
        "text.npy": (b"no", "cannot be read"),
        "movie.avi": (b"", "event files end in"),
    }
    for name, (data, _) in files.items():
        (tmp_path / name).write_bytes(data)
    yield from ((name, text) for name, (_, text) in files.items())
    yield from [("evil.npy", "pickle"), ("evil.npz", "pickle"), ("plain.npy", "no named fields"), ("part.npz", "it has x, t"),
                ("uneven.npz", "one of each"), ("seconds.npz", "whole numbers"), ("negative.npz", "x from -1"),
                ("gone.bin", "no file")]  # fmt: skip


def test_damaged_files_are_named(tmp_path):
    for name, text in damaged(tmp_path):
        with pytest.raises(DataError, match=text) as caught:
            read_events(tmp_path / name)
        assert name in str(caught.value)


# --- frames ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("by", ["time", "count"])
def test_frames_count_every_event_once(by):
    r, steps = some(), 7
    got, wanted = frames(r, steps, by), np.zeros((steps, 2, 34, 34), int)
    first, last = r.events["t"][0], r.events["t"][-1]
    for i, (x, y, t, p) in enumerate(r.events.tolist()):
        k = int((t - first) * steps / (last - first + 1)) if by == "time" else i * steps // len(r.events)
        wanted[k, int(p), y, x] += 1
    assert np.array_equal(got, wanted) and got.sum() == len(r.events)
    if by == "count":
        assert np.ptp(got.sum((1, 2, 3))) <= 1


def test_windows_and_smaller_sensors():
    r = some()
    got = windows(r, 50_000)
    assert len(got) == int(r.events["t"][-1] - r.events["t"][0]) // 50_000 + 1 and got.sum() == len(r.events)
    small = frames(r, 3, side=17)
    assert small.shape == (3, 2, 17, 17) and np.array_equal(small, frames(r, 3).reshape(3, 2, 17, 2, 17, 2).sum((3, 5)))
    for wrong in (lambda: frames(r, 0), lambda: windows(r, 0)):
        with pytest.raises(DataError, match=r"Events are|A window"):
            wrong()


# --- the camera -----------------------------------------------------------------------------------------------------------
def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((12, 10))


def test_a_still_eye_sees_nothing_and_noise_is_counted():
    assert not len(EventCamera(amplitude=0).events(picture()[None])[0])
    count = len(EventCamera(amplitude=0, noise=50).events(picture()[None])[0])
    assert 0.7 < count / (50 * 0.3 * 120) < 1.3


def test_events_follow_the_change_of_the_logarithm():
    """At every moment the events of a pixel, each worth its threshold, are within one threshold of what it has seen."""
    camera, image = EventCamera(threshold=0.1, mismatch=0.0), picture()
    e, wide = camera.record(image).events, camera.wide(image[None])
    assert (np.diff(e["t"]) >= 0).all() and e["t"].max() <= 300_000 and 0 < e["p"].mean() < 1
    start = camera.seen(wide, (1, 12, 10), 0, 0)[0]
    for time, x, y in camera.path()[1::5]:
        before = e[e["t"] < time - 1]
        moved = np.zeros((12, 10))
        np.add.at(moved, (before["y"], before["x"]), np.where(before["p"], 0.1, -0.1))
        assert np.abs(camera.seen(wide, (1, 12, 10), x, y)[0] - start - moved).max() <= 0.1 * 1.01 + 0.02


def test_an_edge_that_comes_by_is_dark_on_one_side():
    image = np.zeros((8, 8))
    image[:, 4:] = 1  # bright to the right; the eye moves right, so columns before the edge become bright
    e = EventCamera(amplitude=1.0, mismatch=0).record(image).events
    out, back = e[e["t"] < 200_000], e[e["t"] >= 200_000]
    assert set(e["x"].tolist()) == {3} and out["p"].all() and not back["p"].any() and len(out) == len(back) > 0


def test_cameras_are_alike_by_seed_and_differ_by_threshold():
    a, b, c = (EventCamera(noise=5, seed=s).record(picture()).events for s in (0, 0, 1))
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    assert len(EventCamera(threshold=0.5).record(picture()).events) < len(EventCamera(threshold=0.25).record(picture()).events)
    images = np.stack([picture(1), picture(2)])
    which, e = EventCamera().events(images)
    for i in range(2):
        assert np.array_equal(e[which == i], EventCamera().record(images[i]).events)
    counted = EventCamera().frames(images, 3)
    assert counted.shape == (2, 3, 2, 12, 10) and counted.sum() == len(e)
    assert np.array_equal(counted[1].sum(0), frames(EventCamera().record(images[1]), 5).sum(0))
    for wrong in (images[0], images * 2):
        with pytest.raises(DataError, match="values 0 to 1"):
            EventCamera().events(wrong)
    with pytest.raises(DataError, match="above 0"):
        EventCamera(threshold=0)


# --- tasks ----------------------------------------------------------------------------------------------------------------
def write_folder(root, classes=("0", "1"), train=6, test=2):
    for split, count in (("Train", train), ("Test", test)):  # as N-MNIST is unpacked
        for k, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                (root / split / name / f"{i:05}.bin").write_bytes(nmnist(some(60 + 40 * k, seed=100 * k + i)))
    return root


def test_a_folder_of_recordings_is_a_task(tmp_path):
    task = load_task(write_folder(tmp_path / "n-mnist"), seed=0)
    assert task.name == "n-mnist" and task.classes == ("0", "1") and task.shape == (20, 34, 34)
    assert (len(task.train), len(task.validation), len(task.test)) == (10, 2, 4) and "20 channels" in task.how
    assert task.test.y.tolist() == [0, 0, 1, 1]
    wanted = frames(read_events(tmp_path / "n-mnist/Test/1/00001.bin"), 10).reshape(20, 34, 34)
    assert np.array_equal(task.test.raw[3].numpy(), wanted)
    small = load_task(tmp_path / "n-mnist", size=17, limit=8)
    assert small.shape == (20, 17, 17) and len(small.train) + len(small.validation) == 8


def test_folders_that_are_no_data_set(tmp_path):
    root = write_folder(tmp_path / "a")
    (root / "Test" / "2").mkdir()
    (root / "Test" / "2" / "0.bin").write_bytes(nmnist(some()))
    with pytest.raises(DataError, match="class that train has not"):
        load_task(root)
    (root / "Test" / "2" / "0.bin").unlink()
    (root / "Train" / "1" / "00000.bin").write_bytes(b"123")
    with pytest.raises(DataError, match=r"00000\.bin: 3 bytes"):
        load_task(root)
    for file in (root / "Test").rglob("*.bin"):
        file.unlink()
    with pytest.raises(DataError, match="no test split"):
        load_task(root)
    with pytest.raises(DataError, match="Did you mean digits-events"):
        load_task("digit-events")


def test_digits_events_can_be_learned():
    from sklearn.linear_model import RidgeClassifier

    task, plain = load_task("digits-events", seed=0), load_task("digits", seed=0)
    assert task.shape == (8, 16, 16) and torch.equal(task.test.ids, plain.test.ids)  # the split of digits
    assert task.train.raw.dtype == torch.uint8 and float((task.train.raw > 0).float().mean()) < 0.5
    fitted = RidgeClassifier(alpha=100.0).fit(task.train.x.flatten(1), task.train.y)
    assert fitted.score(task.validation.x.flatten(1), task.validation.y) > 0.85
