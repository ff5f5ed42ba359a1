"""Every format that is read, from tiny files; the same data in two formats gives the same task."""

import os
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_data import arrays, encoded, idx, idx_files, image_files, packed, pixels, write_folder, write_npz, write_tar

from netwright.core.errors import DataError
from netwright.tasks import load_task


def test_image_folder(tmp_path):
    files = image_files(train=6, test=2)
    task = load_task(write_folder(tmp_path / "pets", files), seed=0)
    assert task.name == "pets" and task.classes == ("cat", "dog") and task.shape == (1, 8, 8)
    assert (len(task.train), len(task.validation), len(task.test)) == (10, 2, 4)
    assert task.test.y.tolist() == [0, 0, 1, 1]
    last = list(files).index("test/dog/1.png")
    assert np.array_equal(task.test.raw[3, 0].numpy(), pixels(last))
    assert task.augment == ("shift",) and task.normalisation.scale == 1 / 255


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz"])
@pytest.mark.parametrize("top", ["", "./", "pets-1.0/"])
def test_archives_equal_the_folder(tmp_path, suffix, top):
    files = image_files(train=6, colour=True)
    folder = load_task(write_folder(tmp_path / "folder", files), seed=3)
    shuffled = {top + name: files[name] for name in sorted(files, key=lambda n: n[::-1])}
    archive = load_task(write_tar(tmp_path / f"a{suffix}", shuffled), seed=3)
    assert archive.fingerprint == folder.fingerprint and archive.shape == (3, 8, 8) and archive.name == "a"
    assert archive.augment == ("shift", "flip")


def test_reading_an_archive_writes_nothing(tmp_path):
    archive = write_tar(tmp_path / "a.tar", image_files())
    load_task(archive)
    assert [p.name for p in tmp_path.rglob("*")] == ["a.tar"]


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "gif", "tiff", "webp", "ppm"])
def test_image_formats(tmp_path, kind):
    task = load_task(write_folder(tmp_path, image_files(colour=True, kind=kind)))
    assert task.shape == (3, 8, 8)


def test_grey_next_to_colour_becomes_three_channels(tmp_path):
    files = image_files() | {"train/cat/9.png": encoded(pixels(99, colour=True))}
    task = load_task(write_folder(tmp_path, files))
    assert task.shape == (3, 8, 8) and "12 greyscale images were given three equal channels" in task.how
    assert torch.equal(task.test.raw[:, 0], task.test.raw[:, 2])


def test_modes_and_orientation(tmp_path):
    grey = pixels(1)
    sixteen = Image.fromarray(grey.astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    write_folder(tmp_path, image_files(test=1))
    Image.fromarray(grey).convert("LA").save(tmp_path / "test/cat/0.png")
    sixteen.save(tmp_path / "test/dog/0.png")
    Image.fromarray(grey).save(tmp_path / "test/dog/1.png", exif=exif)
    Image.fromarray(grey > 99).save(tmp_path / "test/dog/2.png")
    raw = load_task(tmp_path).test.raw[:, 0].numpy()
    assert all(np.array_equal(raw[i], grey) for i in (0, 1)) and np.array_equal(raw[2], grey[::-1, ::-1])
    assert set(np.unique(raw[3])) == {0, 255}


def test_palette_and_alpha_become_colour(tmp_path):
    write_folder(tmp_path, image_files(test=1, colour=True))
    colour = Image.fromarray(pixels(5, colour=True))
    colour.convert("RGBA").save(tmp_path / "test/cat/0.png")
    Image.fromarray(pixels(5, colour=True) // 128 * 255).quantize(8).save(tmp_path / "test/dog/0.png")
    task = load_task(tmp_path)
    assert np.array_equal(task.test.raw[0].permute(1, 2, 0).numpy(), pixels(5, colour=True))
    assert np.array_equal(task.test.raw[1].permute(1, 2, 0).numpy(), pixels(5, colour=True) // 128 * 255)


@pytest.mark.parametrize("name", ["val", "validation", "Val"])
def test_a_validation_folder_is_kept(tmp_path, name):
    task = load_task(write_folder(tmp_path, image_files(train=3, **{name: 2})), validation=0.5)
    assert (len(task.train), len(task.validation), len(task.test)) == (6, 4, 4)
    assert "the source's own, 4" in task.how


def test_files_that_are_no_images_are_passed_over(tmp_path):
    more = {
        "README.md": b"x", "train/labels.csv": b"x", "train/cat/Thumbs.db": b"x", "train/cat/._0.png": b"x",
        "__MACOSX/train/cat/._1.png": b"x", ".git/train/x/0.png": b"x",
    }  # fmt: skip
    plain, fuller = image_files(), image_files() | more
    assert (
        load_task(write_folder(tmp_path / "a", fuller)).fingerprint == load_task(write_folder(tmp_path / "b", plain)).fingerprint
    )
    assert (
        load_task(write_tar(tmp_path / "a.tar", fuller)).fingerprint
        == load_task(write_tar(tmp_path / "b.tar", plain)).fingerprint
    )


def test_links_devices_and_upward_paths_in_an_archive_are_passed_over(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(pixels(7)))
    extra = []
    for name, kind, target in (
        ("train/cat/link.png", tarfile.SYMTYPE, str(secret)),
        ("train/cat/hard.png", tarfile.LNKTYPE, "train/cat/0.png"),
        ("train/cat/pipe.png", tarfile.FIFOTYPE, ""),
        ("train/dog/device.png", tarfile.CHRTYPE, ""),
    ):
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        extra.append(member)
    evil = {
        "../train/cat/up.png": encoded(pixels(8)),
        "/train/cat/root.png": encoded(pixels(9)),
        "train/../train/cat/x.png": b"?",
    }
    odd = load_task(write_tar(tmp_path / "odd.tar.gz", image_files() | evil, extra))
    assert odd.fingerprint == load_task(write_tar(tmp_path / "sound.tar.gz", image_files())).fingerprint


def test_with_a_limit_only_the_images_in_use_are_decoded(tmp_path):
    write_folder(tmp_path, files := image_files(train=20))
    few = load_task(tmp_path, seed=1, limit=8)
    assert (len(few.train) + len(few.validation), len(few.test)) == (8, 4) and "Limit: 8 of 40" in few.how
    used = {sorted(n for n in files if n.startswith("train"))[i] for i in [*few.train.ids.tolist(), *few.validation.ids.tolist()]}
    for name in files.keys() - used:
        if name.startswith("train"):
            (tmp_path / name).write_bytes(b"damaged")
    assert load_task(tmp_path, seed=1, limit=8).fingerprint == few.fingerprint
    (tmp_path / used.pop()).write_bytes(b"damaged")
    with pytest.raises(DataError, match="unreadable"):
        load_task(tmp_path, seed=1, limit=8)


def test_a_limit_chooses_the_same_examples_from_images_and_from_arrays(tmp_path):
    whole = load_task(write_folder(tmp_path / "f", image_files(train=20)), validation=0.5)
    train = torch.cat([whole.train.ids, whole.validation.ids]).sort()
    x = torch.cat([whole.train.raw, whole.validation.raw])[train.indices].numpy()
    y = torch.cat([whole.train.y, whole.validation.y])[train.indices].numpy()
    made = {"x_train": x, "y_train": y, "x_test": whole.test.raw.numpy(), "y_test": whole.test.y.numpy()}
    images, numbers = (load_task(p, limit=10) for p in (tmp_path / "f", write_npz(tmp_path / "a.npz", made)))
    assert torch.equal(images.train.raw, numbers.train.raw) and torch.equal(images.validation.ids, numbers.validation.ids)


def test_size_brings_mixed_images_to_one(tmp_path):
    files = image_files() | {"train/cat/9.png": encoded(pixels(9, side=20)), "train/cat/8.jpg": encoded(pixels(8, 90), "jpeg")}
    assert load_task(write_folder(tmp_path, files), size=10).shape == (1, 10, 10)


@pytest.mark.parametrize("pack", [dict, packed])
@pytest.mark.parametrize(("shape", "expected"), [((8, 8), (1, 8, 8)), ((8, 9, 3), (3, 8, 9)), ((3, 8, 9), (3, 8, 9))])
def test_idx_files(tmp_path, pack, shape, expected):
    files = idx_files(n=30, shape=shape)
    task = load_task(write_folder(tmp_path / "mnist", pack(files)))
    assert task.shape == expected and task.classes == ("0", "1", "2") and len(task.test) == 15
    flat = np.frombuffer(files[next(n for n in files if n.startswith("t10k-images"))][4 * (2 + len(shape)) :], np.uint8).reshape(
        15, *shape
    )
    nchw = flat[:, None] if len(shape) == 2 else flat.transpose(0, 3, 1, 2) if shape[-1] == 3 else flat
    assert np.array_equal(task.test.raw.numpy(), nchw)


def test_idx_names_and_types(tmp_path):
    files = {name.replace("-idx", ".idx").replace("t10k", "test"): data for name, data in idx_files().items()}
    values = np.linspace(-1, 1, 12 * 64).reshape(12, 8, 8).astype(">f4")
    files["train-images.idx3-ubyte"] = idx(values, type_code=13)
    files |= {"val-images.idx3-ubyte": idx(values[:3], type_code=13), "val-labels.idx1-ubyte": idx(np.arange(3, dtype=np.uint8))}
    task = load_task(write_folder(tmp_path, files))
    assert task.train.raw.dtype == torch.float32 and np.array_equal(task.train.raw[:, 0].numpy(), values.astype(np.float32))
    assert len(task.validation) == 3 and task.normalisation.scale == 1.0


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((8, 8), (1, 8, 8)), ((8, 9, 3), (3, 8, 9)), ((3, 9, 8), (3, 9, 8)), ((8, 8, 1), (1, 8, 8)), ((12, 13, 6), (6, 12, 13))],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_npz_layouts(tmp_path, shape, expected, dtype):
    task = load_task(write_npz(tmp_path / "a.npz", arrays(n=30, shape=shape, dtype=dtype)))
    assert task.shape == expected and len(task.test) == 15
    assert task.train.raw.dtype == (torch.uint8 if dtype == np.uint8 else torch.float32)


def test_npz_values_do_not_depend_on_the_dtype_of_whole_numbers(tmp_path):
    made = arrays(n=30)
    wide = made | {k: made[k].astype(np.int64) for k in ("x_train", "x_test")}
    assert (
        load_task(write_npz(tmp_path / "a.npz", made)).fingerprint == load_task(write_npz(tmp_path / "b.npz", wide)).fingerprint
    )
    unit = made | {k: made[k].astype(np.float32) / 255 for k in ("x_train", "x_test")}
    a, b = load_task(tmp_path / "a.npz"), load_task(write_npz(tmp_path / "c.npz", unit))
    assert torch.allclose(a.test.x, b.test.x, atol=1e-5)


@pytest.mark.parametrize(
    ("relabel", "classes"),
    [
        (lambda y: y + 1, ("1", "2", "3")),
        (lambda y: y * 10, ("0", "10", "20")),
        (lambda y: y.astype(np.float32), ("0", "1", "2")),
        (lambda y: y[:, None].astype(np.uint8), ("0", "1", "2")),
        (lambda y: np.array(["zebra", "ant", "bee"])[y], ("ant", "bee", "zebra")),
        (lambda y: np.array([b"zebra", b"ant", b"bee"])[y], ("ant", "bee", "zebra")),
    ],
)
def test_npz_labels(tmp_path, relabel, classes):
    made = arrays(n=30)
    made |= {k: relabel(made[k]) for k in ("y_train", "y_test")}
    task = load_task(write_npz(tmp_path / "a.npz", made))
    assert task.classes == classes
    expected = [str(v) for v in np.ravel(relabel(np.arange(15) % 3)).tolist()]
    if isinstance(expected[0], str) and expected[0].startswith("b'"):
        expected = [v[2:-1] for v in expected]
    assert [classes[k] for k in task.test.y.tolist()] == [v.removesuffix(".0") for v in expected]


def test_npz_names_and_validation(tmp_path):
    made = arrays(n=30) | {"classes": np.array(["zebra", "ant", "bee"])}
    made |= {"x_val": made["x_test"][:6], "y_val": made["y_test"][:6]}
    task = load_task(write_npz(tmp_path / "a.npz", made))
    assert task.classes == ("zebra", "ant", "bee") and task.test.y.tolist() == (np.arange(15) % 3).tolist()
    assert len(task.validation) == 6 and len(task.train) == 30


def test_paths_expand(tmp_path, monkeypatch):
    write_npz(tmp_path / "a.npz", arrays())
    monkeypatch.setenv("TINY", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    prints = {load_task(p).fingerprint for p in (tmp_path / "a.npz", "$TINY/a.npz", "${TINY}/a.npz", "~/a.npz")}
    assert len(prints) == 1


@pytest.mark.parametrize("write", [write_folder, lambda path, files: write_tar(path.with_suffix(".tgz"), files)])
def test_progress_reaches_its_end(tmp_path, write):
    seen = []
    load_task(write(tmp_path / "a", image_files()), progress=lambda done, total, text: seen.append((done, total, text)))
    assert seen[-1][0] == seen[-1][1] > 0 and [d for d, *_ in seen] == sorted(d for d, *_ in seen)


def test_a_class_without_test_images_is_said(tmp_path):
    files = {name: data for name, data in image_files().items() if not name.startswith("test/dog")}
    assert "No test example of: dog." in load_task(write_folder(tmp_path, files)).how


CIFAR = os.path.join(os.environ.get("NETWRIGHT_DATA", ""), "cifar10-jpeg", "cifar10.tar.gz")


@pytest.mark.skipif(
    "NETWRIGHT_DATA" not in os.environ, reason="NETWRIGHT_DATA is not set (a folder with cifar10-jpeg/cifar10.tar.gz)"
)
def test_cifar10_archive():
    if not os.path.exists(CIFAR):
        pytest.skip(f"{CIFAR} is not there")
    task = load_task("$NETWRIGHT_DATA/cifar10-jpeg/cifar10.tar.gz", seed=0, limit=2000)
    assert task.shape == (3, 32, 32) and len(task.classes) == 10 and task.classes[0] == "airplane"
    assert (len(task.train), len(task.validation), len(task.test)) == (1800, 200, 5000)
    assert torch.bincount(task.train.y).tolist() == [180] * 10
    assert task.normalisation.mean == pytest.approx((0.491, 0.482, 0.447), abs=0.02)  # the published means of CIFAR-10
