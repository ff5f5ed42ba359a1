"""Tiny data sets in every format, written by the tests."""

import gzip
import io
import struct
import tarfile

import numpy as np
from PIL import Image


def pixels(seed, side=8, colour=False):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3) if colour else (side, side), dtype=np.uint8)


def encoded(array, kind="png"):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind)
    return stream.getvalue()


def image_files(train=4, test=2, classes=("cat", "dog"), colour=False, kind="png", **more):
    """{path: bytes} of a sound data set; `more` gives the number of images of further splits."""
    counts = {"train": train, "test": test, **more}
    names = [f"{split}/{label}/{i}.{kind}" for split, n in counts.items() for label in classes for i in range(n)]
    return {name: encoded(pixels(seed, colour=colour), kind) for seed, name in enumerate(names)}


def write_folder(root, files):
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_tar(path, files, extra=()):
    """`extra`: TarInfo members without contents (links, devices, folders), written first."""
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as tar:
        for member in extra:
            tar.addfile(member)
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def idx(array, type_code=8):
    return struct.pack(">HBB", 0, type_code, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def idx_files(n=12, shape=(8, 8), classes=3):
    files = {}
    for seed, (prefix, count) in enumerate((("train", n), ("t10k", n // 2))):
        images = np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)
        labels = (np.arange(count) % classes).astype(np.uint8)
        files[f"{prefix}-images-idx{images.ndim}-ubyte"] = idx(images)
        files[f"{prefix}-labels-idx1-ubyte"] = idx(labels)
    return files


def packed(files):
    return {f"{name}.gz": gzip.compress(data) for name, data in files.items()}


def arrays(n=12, shape=(8, 8), classes=3, dtype=np.uint8):
    made = {}
    for seed, (split, count) in enumerate((("train", n), ("test", n // 2))):
        values = np.random.default_rng(seed).integers(0, 256, (count, *shape))
        made[f"x_{split}"] = values.astype(np.uint8) if dtype == np.uint8 else (values / 255).astype(dtype)
        made[f"y_{split}"] = np.arange(count) % classes
    return made


def write_npz(path, made):
    np.savez_compressed(path, **made)
    return path
