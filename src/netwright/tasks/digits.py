"""The embedded default: scikit-learn's 1,797 handwritten digits, 8x8 pixels of 17 grey levels, 10 classes.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from sklearn.datasets import load_digits

from netwright.tasks.arrays import resized
from netwright.tasks.source import Part, Source
from netwright.tasks.split import Draw, stratified

TEST_SHARE = 0.2


def read_digits(*, seed: int, size: int | None = None) -> Source:
    """digits with a test split of ceil(0.2 * 1797) = 360 images, stratified and seeded; raw values 0..16."""
    bunch = load_digits()
    y = bunch.target.astype(np.int64)
    x = resized(torch.from_numpy(bunch.images.astype(np.uint8))[:, None], size)
    rest, chosen = stratified(y, math.ceil(TEST_SHARE * len(y)), seed, Draw.TEST)
    train, test = (Part("digits", x[i], torch.from_numpy(y)[i], i) for i in map(torch.from_numpy, (rest, chosen)))
    return Source(
        "digits", "scikit-learn digits", tuple(map(str, bunch.target_names)), 1 / 16, train, test,
        held_out=0.25,
        how_test=f"Test: {len(chosen)} examples cut from all {len(y)}, stratified by class, seed {seed}.",
    )  # fmt: skip
