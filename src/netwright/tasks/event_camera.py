"""An event camera that looks at images: small eye movements over a still picture, as N-MNIST was recorded.

    L(t) = log(I(t) + floor),   an event of polarity +-1 wherever L has moved by the threshold C since the pixel's last one

and then the pixel's reference moves by C, so a large change sends several. L runs linearly between the moments at which the
picture is computed, which gives each event its time. C differs from pixel to pixel, C_i = C (1 + mismatch n_i), and noise
events come at a constant rate. The eye goes around a triangle in three straight movements of equal time.

Movement: Orchard et al., Frontiers in Neuroscience 9, 2015. Model: Lichtsteiner et al., IEEE JSSC 43(2), 2008; interpolation in
time: Rebecq et al., ESIM, CoRL 2018. What a real sensor adds, finite bandwidth and latency, is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from netwright.core.errors import DataError
from netwright.tasks.arrays import resized
from netwright.tasks.digits import read_digits
from netwright.tasks.events import EVENT, Recording
from netwright.tasks.source import Part, Source

Floats = NDArray[np.float64]
CORNERS = ((0.0, 0.0), (0.5, 1.0), (1.0, 0.0), (0.0, 0.0))  # (column, row) of the triangle, in units of `amplitude`
SIDE, STEPS = 16, 4


@dataclass(frozen=True)
class EventCamera:
    """The camera and its movement; the same camera for all images.

    Attributes:
        threshold: C, change of the logarithm of the intensity.
        mismatch: standard deviation of the pixels' thresholds, relative.
        floor: intensity (of 0..1) of the dark current, which limits the logarithm.
        amplitude: of the movement, in pixels.
        duration: of one of the three movements, in microseconds.
        samples: pictures computed in each movement.
        noise: events a second and pixel that come from nowhere.
        seed: of mismatch and noise.
    """

    threshold: float = 0.25
    mismatch: float = 0.03
    floor: float = 0.1
    amplitude: float = 2.0
    duration: int = 100_000
    samples: int = 8
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if (
            min(self.threshold, self.floor, self.duration, self.samples) <= 0
            or min(self.mismatch, self.noise, self.amplitude) < 0
        ):
            raise DataError(
                f"An event camera needs a threshold, floor, duration and samples above 0, and no negative value: {self}."
            )

    def path(self) -> list[tuple[float, float, float]]:
        """(time, column, row) of the eye at every picture, the start included."""
        places = [(0.0, 0.0, 0.0)]
        for i, (start, end) in enumerate(pairwise(CORNERS)):
            for k in range(1, self.samples + 1):
                share = k / self.samples
                x, y = (self.amplitude * (a + share * (b - a)) for a, b in zip(start, end, strict=True))
                places.append((self.duration * (i + share), x, y))
        return places

    def events(self, images: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Images [N, H, W] in 0..1 -> (which image, event of dtype `EVENT`), by image and then by time.

        Raises:
            DataError: another shape, or values outside 0..1.
        """
        if images.ndim != 3 or not images.size or images.min() < 0 or images.max() > 1:
            raise DataError(f"An event camera looks at images [N, H, W] of values 0 to 1, got {images.shape} of {images.dtype}.")
        rng = np.random.default_rng(self.seed)
        step = self.threshold * np.maximum(1 + self.mismatch * rng.standard_normal(images.shape[1:]), 0.1)
        wide = self.wide(images)
        places = self.path()
        last = reference = self.seen(wide, images.shape, *places[0][1:])
        parts = []
        for (before, _, _), (after, x, y) in pairwise(places):
            now = self.seen(wide, images.shape, x, y)
            moved = np.trunc((now - reference) / step).astype(np.int64)
            where = np.nonzero(moved)
            count = np.abs(moved[where])
            which = np.repeat(np.arange(len(count)), count)  # one row an event: its pixel, and the how-manieth there
            nth = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count) + 1
            image, row, column = (axis[which] for axis in where)
            sign = np.sign(moved[where])[which]
            level = reference[image, row, column] + sign * nth * step[row, column]
            start, end = last[image, row, column], now[image, row, column]
            share = np.clip((level - start) / np.where(end == start, 1.0, end - start), 0.0, 1.0)
            parts.append((image, row, column, before + share * (after - before), sign > 0))
            reference = reference + moved * step
            last = now
        parts.append(self._noise(images.shape, places[-1][0], rng))
        image, row, column, t, p = (np.concatenate(column) for column in zip(*parts, strict=True))
        found = np.empty(len(image), EVENT)
        found["x"], found["y"], found["t"], found["p"] = column, row, np.floor(t), p
        order = np.lexsort((found["t"], image))
        return image[order], found[order]

    def wide(self, images: NDArray[Any]) -> Floats:
        """Images with their last row and column repeated as far as the eye can see."""
        reach = (0, math.ceil(self.amplitude) + 1)
        return np.pad(images.astype(np.float64), ((0, 0), reach, reach), mode="edge")

    def seen(self, wide: Floats, shape: tuple[int, ...], x: float, y: float) -> Floats:
        """The logarithm of what the pixels see with the eye at (x, y): bilinear between the pixels of the image."""
        column, row = int(x), int(y)
        a, b = x - column, y - row

        def shifted(i: int, j: int) -> Floats:
            return wide[:, i : i + shape[1], j : j + shape[2]]

        above = (1 - a) * shifted(row, column) + a * shifted(row, column + 1)
        below = (1 - a) * shifted(row + 1, column) + a * shifted(row + 1, column + 1)
        return np.log((1 - b) * above + b * below + self.floor)

    def _noise(self, shape: tuple[int, ...], end: float, rng: np.random.Generator) -> tuple[Any, ...]:
        count = int(rng.poisson(self.noise * end * 1e-6 * math.prod(shape)))
        image, row, column = (rng.integers(0, side, count) for side in shape)
        return image, row, column, rng.uniform(0, end, count), rng.random(count) < 0.5

    def record(self, image: NDArray[Any]) -> Recording:
        """The recording of one image [H, W] in 0..1."""
        height, width = image.shape
        return Recording(self.events(image[None])[1], (height, width))

    def frames(self, images: NDArray[Any], steps: int) -> NDArray[np.uint8]:
        """Events of images [N, H, W] in 0..1, counted in `steps` equal parts of the movement: [N, T, 2, H, W], 255 at most."""
        n, height, width = images.shape
        image, e = self.events(images)
        part = np.minimum(e["t"] * steps // (3 * self.duration), steps - 1)
        place = (((image * steps + part) * 2 + e["p"]) * height + e["y"]) * width + e["x"]
        counts = np.bincount(place, minlength=n * steps * 2 * height * width)
        return np.minimum(counts, 255).astype(np.uint8).reshape(n, steps, 2, height, width)


def read_digits_events(*, seed: int, size: int | None = None) -> Source:
    """digits as the camera sees them: [N, 2 * 4, 16, 16] numbers of events, channel 2 k + p in the k-th quarter of the movement.

    The split is that of digits; `size` is the side of the sensor.
    """
    source, camera = read_digits(seed=seed), EventCamera()

    def seen(part: Part) -> Part:
        pictures = resized(part.x.to(torch.float32), size or SIDE).clamp(0, 16)[:, 0] / 16
        counted = torch.from_numpy(camera.frames(pictures.numpy(), STEPS))
        return Part("digits-events", counted.flatten(1, 2), part.y, part.ids)

    note = f"A simulated event camera in motion (threshold {camera.threshold} of the logarithm, {STEPS} parts of time)."
    return Source("digits-events", "scikit-learn digits", source.classes, 1.0, seen(source.train), seen(source.test),
                  notes=(note,), held_out=source.held_out, how_test=source.how_test)  # fmt: skip
