"""Every kind of bad input stops before training, with the file or array named and a cure."""

import gzip
import io
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image
from tiny_data import arrays, encoded, idx, idx_files, image_files, pixels, write_folder, write_npz, write_tar

from netwright.core.errors import DataError
from netwright.tasks import load_task, source


def without(files, start):
    return {name: data for name, data in files.items() if not name.startswith(start)}


def cut_png():
    return encoded(pixels(3, 64))[:200]


FOLDERS = {
    "empty class": (
        image_files() | {"train/bird/notes.txt": b"none yet"},
        "class folder train/bird holds no image.*remove the folder",
    ),
    "empty test class": (image_files() | {"test/bird/notes.txt": b""}, "class folder test/bird holds no image"),
    "one class": (image_files(classes=("cat",)), "only one class \\('cat'\\).*at least two"),
    "truncated": (image_files() | {"train/cat/bad.png": cut_png()}, "train/cat/bad.png: unreadable image .*remove"),
    "truncated jpeg": (
        image_files() | {"train/cat/bad.jpg": encoded(pixels(3, 64), "jpeg")[:300]},
        "train/cat/bad.jpg: unreadable",
    ),
    "not an image": (image_files() | {"test/dog/bad.jpg": b"hello"}, "test/dog/bad.jpg: unreadable image \\(not an image"),
    "empty file": (image_files() | {"test/dog/bad.jpg": b""}, "test/dog/bad.jpg: unreadable"),
    "mixed sizes": (
        image_files() | {"train/cat/z.png": encoded(pixels(3, 12))},
        "different sizes, train/cat/0.png is 8x8 and train/cat/z.png 12x12 pixels.*size=8",
    ),
    "no test split": (without(image_files(), "test"), "no test split.*test/<class>/.*Add one"),
    "no train split": (without(image_files(), "train"), "no train split"),
    "no splits": ({"cat/0.png": encoded(pixels(1))}, "no images found in train/<class>/ and test/<class>/"),
    "unseen class": (image_files() | {"test/bird/0.png": encoded(pixels(1))}, "test/bird is a class that train has not"),
    "one example": (image_files() | {"train/bird/0.png": encoded(pixels(1))}, "too few examples of 'bird' \\(1\\).*at least 2"),
    "too small": (image_files() | {"train/cat/a.png": encoded(pixels(1, 3))}, "train/cat/a.png: 3x3 pixels is too small.*size=N"),
    "too large": (
        image_files() | {"train/cat/a.png": encoded(np.zeros((4, 5000), np.uint8))},
        "train/cat/a.png: 5000x4 pixels; the most is 4096.*size=N",
    ),
    "outside a class": (
        image_files() | {"train/stray.png": encoded(pixels(1))},
        "train/stray.png lies outside a class folder.*Move",
    ),
    "two data sets": (
        {f"{top}/{name}": data for top in ("a", "b") for name, data in image_files().items()},
        "more than one data set: a/.* and b/.*Keep one",
    ),
    "constant": (
        {name: encoded(np.full((8, 8), 9, np.uint8)) for name in image_files()},
        "same value; there is nothing to learn",
    ),
}


# a class folder without images shows in an archive by an entry of its own, tested below
PACKED = [("archive", case) for case in sorted(FOLDERS) if case not in ("empty class", "empty test class")]


@pytest.mark.parametrize(("kind", "case"), [("folder", case) for case in sorted(FOLDERS)] + PACKED)
def test_images(tmp_path, case, kind):
    files, message = FOLDERS[case]
    path = write_folder(tmp_path / "d", files) if kind == "folder" else write_tar(tmp_path / "d.tar.gz", files)
    with pytest.raises(DataError, match=rf"(?s){tmp_path}.*{message}"):
        load_task(path)


def test_images_of_32_bits(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(pixels(1).astype(np.float32)).save(stream, "tiff")
    with pytest.raises(DataError, match=r"cat/f.tiff: pixels of 32 bits.*8 or 16 bits"):
        load_task(write_folder(tmp_path, image_files() | {"train/cat/f.tiff": stream.getvalue()}))


def test_more_images_than_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "MAX_BYTES", 500)
    with pytest.raises(DataError, match=r"12 images of 8x8 take .* size=N or for fewer with limit=N"):
        load_task(write_folder(tmp_path, image_files()))


def test_decompression_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr("netwright.tasks.images.MAX_PIXELS", 10_000)
    with pytest.raises(DataError, match=r"b.png: 200x200 pixels; the most is"):
        load_task(write_folder(tmp_path, image_files() | {"train/cat/b.png": encoded(pixels(1, 200))}), size=8)


def test_empty_class_in_an_archive(tmp_path):
    member = tarfile.TarInfo("train/bird")
    member.type = tarfile.DIRTYPE
    with pytest.raises(DataError, match="class folder train/bird holds no image"):
        load_task(write_tar(tmp_path / "a.tar", image_files(), [member]))


def test_the_same_member_twice(tmp_path):
    path = write_tar(tmp_path / "a.tar", image_files())
    with tarfile.open(path, "a") as tar:
        tar.addfile(tarfile.TarInfo("train/cat/0.png"))
    with pytest.raises(DataError, match=r"train/cat/0.png occurs more than once"):
        load_task(path)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_archives_cut_anywhere(tmp_path, suffix):
    whole = write_tar(tmp_path / f"a{suffix}", image_files()).read_bytes()
    end = len(whole.rstrip(b"\0")) if suffix == ".tar" else len(whole)
    for at in sorted({*range(0, end, 512 if suffix == ".tar" else 97), 1, end - 1, end - 8 if suffix == ".tar.gz" else 700}):
        path = tmp_path / f"cut{suffix}"
        path.write_bytes(whole[:at])
        with pytest.raises(DataError, match=rf"{path} cannot be read .*damaged or truncated"):
            load_task(path)


def test_archive_with_a_damaged_header(tmp_path):
    data = bytearray(write_tar(tmp_path / "a.tar", image_files()).read_bytes())
    data[1024 * 3 : 1024 * 3 + 100] = b"x" * 100
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        load_task(tmp_path / "a.tar")


def test_archive_that_is_none(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(b"hello"))
    with pytest.raises(DataError, match=r"a.tar.gz cannot be read"):
        load_task(tmp_path / "a.tar.gz")


def replaced(name, data):
    return idx_files() | {name: data}


IDX = {
    "magic": (replaced("train-images-idx3-ubyte", b"\x89PNG" + bytes(99)), "train-images-idx3-ubyte is no idx file.*89 50 4e 47"),
    "swapped": (
        replaced("train-images-idx3-ubyte", idx_files()["train-labels-idx1-ubyte"]),
        "train-images-idx3-ubyte holds an array of rank 1, expected 3 or 4.*swapped",
    ),
    "truncated": (
        replaced("train-images-idx3-ubyte", idx_files()["train-images-idx3-ubyte"][:-5]),
        "train-images-idx3-ubyte announces 12x8x8 values, 768 bytes, but holds 763",
    ),
    "overlong": (replaced("train-labels-idx1-ubyte", idx_files()["train-labels-idx1-ubyte"] + b"x"), "12 bytes, but holds more"),
    "header": (replaced("train-images-idx3-ubyte", b"\0\0\x08\x03\0\0"), "truncated inside its header"),
    "empty file": (replaced("train-images-idx3-ubyte", b""), "starts with nothing"),
    "monstrous": (replaced("train-images-idx3-ubyte", b"\0\0\x08\x03" + b"\xff" * 12), "announces .* GiB"),
    "lengths": (replaced("train-labels-idx1-ubyte", idx(np.zeros(5, np.uint8))), "12 images, train-labels-idx1-ubyte 5 labels"),
    "no test": (without(idx_files(), "t10k"), "no test split: add t10k-images-idx3-ubyte"),
    "no labels": (without(idx_files(), "train-labels"), "train-images-idx3-ubyte is there, but the train labels are missing"),
    "no images at all": (
        replaced("train-images-idx3-ubyte", idx(np.zeros((0, 8, 8), np.uint8)))
        | {"train-labels-idx1-ubyte": idx(np.zeros(0, np.uint8))},
        "empty",
    ),
    "two sets": (idx_files() | {"emnist-train-images-idx3-ubyte": b""}, "both train images. Keep one"),
    "unseen label": (
        replaced("t10k-labels-idx1-ubyte", idx(np.full(6, 200, np.uint8))),
        r"t10k-labels-idx1-ubyte\[0\] = 200 is out of",
    ),
}


@pytest.mark.parametrize("case", sorted(IDX))
def test_idx(tmp_path, case):
    files, message = IDX[case]
    with pytest.raises(DataError, match=message):
        load_task(write_folder(tmp_path, files))


def test_idx_gz_truncated(tmp_path):
    data = gzip.compress(idx_files(n=90)["train-images-idx3-ubyte"])
    for cut in (data[:-12], data[:40], data[:-8] + b"badcrc!!"):
        files = without(idx_files(n=90), "train-images") | {"train-images-idx3-ubyte.gz": cut}
        with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz cannot be read .*truncated"):
            load_task(write_folder(tmp_path, files))


def test_one_idx_file_instead_of_the_folder(tmp_path):
    write_folder(tmp_path, idx_files())
    with pytest.raises(DataError, match=f"give the folder that holds them, {tmp_path}"):
        load_task(tmp_path / "train-images-idx3-ubyte")


def spoiled(name, at, value, dtype=np.float32):
    array = arrays()[name].astype(dtype)
    array[at] = value
    return {name: array}


NPZ = {
    "nan": (
        spoiled("x_train", (3, 2, 1), np.nan),
        r"array x_train: 1 value\(s\) are NaN, infinite.* first in example 3.*Remove",
    ),
    "inf": (spoiled("x_test", (0, 0, 0), np.inf), "array x_test: 1 value"),
    "beyond float32": (spoiled("x_train", (0, 0, 0), 1e300, np.float64), "array x_train: 1 value"),
    "negative label": (spoiled("y_train", 5, -1, np.int64), r"array y_train\[5\] = -1: a label is negative.*Remove"),
    "label of test out of range": (spoiled("y_test", 2, 77, np.int64), r"array y_test\[2\] = 77 is out of range.*known: 0, 1, 2"),
    "label of train out of range": (spoiled("y_train", 2, 77, np.int64), r"array x_train: too few examples of '77' \(1\)"),
    "huge label": (
        spoiled("y_train", 2, 2**62, np.int64),
        r"array y_train\[2\] = 4611686018427387904: the label is out of range",
    ),
    "label beyond the names": ({"classes": np.array(["a", "b"])}, r"array y_train\[2\] = 2 is out of range: 'classes' names 2"),
    "fractional label": (spoiled("y_train", 5, 1.5), r"array y_train\[5\] = 1.5: labels must be whole numbers or strings"),
    "nan label": (spoiled("y_train", 5, np.nan), r"array y_train\[5\] = nan: labels must be whole"),
    "complex label": ({"y_train": np.zeros(12, complex)}, "array y_train has dtype complex128; labels must be"),
    "one-hot": ({"y_train": np.eye(12)}, r"array y_train has shape \(12, 12\).*argmax"),
    "mixed labels": ({"y_test": np.array(list("abcabc"))}, "one kind in all splits, found .*y_train: numbers, .*y_test: strings"),
    "lengths": ({"y_train": np.arange(11) % 3}, r"x_train has shape \(12, 8, 8\), y_train \(11,\); each image needs one label"),
    "scalar": ({"y_train": np.array(3)}, "each image needs one label"),
    "sizes differ": ({"x_test": np.zeros((6, 9, 9), np.uint8)}, r"x_test has shape \(6, 9, 9\), .*x_train \(12, 8, 8\)"),
    "rank": ({"x_train": np.zeros((12, 64))}, r"x_train has shape \(12, 64\); images must be \[N,H,W\].*Reshape"),
    "ambiguous": (
        {"x_train": np.zeros((12, 8, 9, 8)), "x_test": np.zeros((6, 8, 9, 8))},
        "cannot be told whether axis 1 or axis 3",
    ),
    "empty": ({"x_train": np.zeros((0, 8, 8)), "y_train": np.zeros(0)}, "x_train: empty"),
    "empty test": ({"x_test": np.zeros((0, 8, 8)), "y_test": np.zeros(0)}, "x_test: empty"),
    "small": ({"x_train": np.ones((12, 3, 8)), "x_test": np.ones((6, 3, 8))}, "8x3 pixels is too small"),
    "string images": ({"x_train": np.full((12, 8, 8), "a")}, "x_train has dtype <U1"),
    "objects": (
        {"y_train": np.array([0, 1, "a"] * 4, dtype=object)},
        "array y_train holds Python objects .*never loaded. Convert",
    ),
    "one class": ({"y_train": np.zeros(12, int), "y_test": np.zeros(6, int)}, "only one class"),
    "constant": ({"x_train": np.ones((12, 8, 8), np.uint8)}, "same value"),
    "names not text": ({"classes": np.arange(3)}, "'classes' must hold one distinct string"),
    "half a validation split": ({"x_val": np.zeros((2, 8, 8))}, "x_val and y_val go together"),
}


@pytest.mark.parametrize("case", sorted(NPZ))
def test_npz(tmp_path, case):
    change, message = NPZ[case]
    with pytest.raises(DataError, match=message):
        load_task(write_npz(tmp_path / "a.npz", arrays() | change))


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (("x_test", "y_test"), "no test split: it lacks x_test, y_test; it holds x_train, y_train"),
        (("y_train",), "lacks y_train; it holds"),
        (("x_train", "y_train", "x_test", "y_test"), "holds nothing"),
    ],
)
def test_npz_without_arrays(tmp_path, missing, message):
    with pytest.raises(DataError, match=message):
        load_task(write_npz(tmp_path / "a.npz", {k: v for k, v in arrays().items() if k not in missing}))


def test_npz_damaged(tmp_path):
    path = write_npz(tmp_path / "a.npz", arrays())
    whole = path.read_bytes()
    for data in (b"", b"hello", whole[: len(whole) // 2], whole[:60] + bytes(80) + whole[140:]):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"a.npz.*[Ww]rite it again"):
            load_task(path)


def test_npz_is_never_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "boom"), "w"))

    made = arrays() | {"x_train": np.array([Bomb()] * 12, dtype=object)}
    with pytest.raises(DataError, match="never loaded"):
        load_task(write_npz(tmp_path / "a.npz", made))
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataError, match=r"not an .npz archive"):
        load_task(tmp_path / "b.npz")
    assert not (tmp_path / "boom").exists()


def test_npz_that_unpacks_to_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr("netwright.tasks.npz.MAX_BYTES", 1000)
    with pytest.raises(DataError, match=r"a.npz unpacks to"):
        load_task(write_npz(tmp_path / "a.npz", arrays()))


def test_npz_with_a_lying_header(tmp_path):
    path = tmp_path / "a.npz"
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999, 8, 8), }"
    with zipfile.ZipFile(path, "w") as archive:
        for name in arrays():
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n")
    with pytest.raises(DataError, match=r"a.npz, array x_train cannot be read"):
        load_task(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", r"no data at .*nowhere.*Accepted: 'digits' \(built in\); a folder or a .tar"),
        ("table.csv", r"table.csv: files ending in '.csv' are not read. Accepted"),
        ("noend", r"noend: files ending in 'nothing' are not read"),
        ("images.zip", r"'.zip' are not read"),
        ("empty", r"no images found"),
    ],
)
def test_paths(tmp_path, name, message):
    for file in ("table.csv", "noend", "images.zip"):
        (tmp_path / file).touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        load_task(tmp_path / name)


def test_names_and_variables(monkeypatch):
    monkeypatch.delenv("NO_SUCH_PLACE", raising=False)
    for path in ("$NO_SUCH_PLACE/cifar.tar.gz", "${NO_SUCH_PLACE}/cifar.tar.gz"):
        with pytest.raises(DataError, match=r"uses \$NO_SUCH_PLACE, which is not set. Set it: export NO_SUCH_PLACE="):
            load_task(path)
    with pytest.raises(DataError, match="Did you mean digits"):
        load_task("digit")
    with pytest.raises(DataError, match="No data given"):
        load_task("")
