"""1x1 convolutions and linear layers with few weights that are not zero (Elsen et al., Fast Sparse ConvNets, 2020).

Blocks of 16 outputs that are zero for an input are left out where that halves the work; else single zeros, for images of at
least 16 positions, channel by channel. The limits are where `netwright bench deploy` and its twin at other densities saw the
sparse kernels pass the dense one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from netwright.core.paper import Paper
from netwright.deploy.c99 import layout, pack
from netwright.deploy.c99.lower import Lowering, Pointer, Value, buffer

paper = Paper(
    "elsen2020fast", "Fast Sparse ConvNets", "Elsen, Erich and Dukhan, Marat and Gale, Trevor and Simonyan, Karen", "CVPR", 2020,
    "https://arxiv.org/abs/1911.09723", "S047",
)  # fmt: skip
BLOCKS = 0.6  # largest share of blocks of 16 outputs that are not zero
SINGLE = 0.25  # largest share of weights that are not zero
POSITIONS = 16


def sparse_pointwise(
    work: Lowering, x: Value, weight: NDArray[np.float32], bias: NDArray[np.float32], shape: layout.Shape,
    residual: Value | None, relu: bool,
) -> Value | None:  # fmt: skip
    """x times weight [O, I], or None where the dense kernel is the better one."""
    o, i = weight.shape
    positions = x.elements // i
    if i >= 2**16:
        return None
    end = (int(residual is not None), int(relu))
    wide = np.zeros((-(-o // pack.BLOCK), pack.BLOCK, i), np.float32)
    wide.reshape(-1, i)[:o] = weight
    some = np.asarray(wide != 0).any(1)
    if some.mean() <= BLOCKS:
        start, (block, index) = np.append(0, some.sum(1).cumsum()), np.nonzero(some)
        x = work.channels_last(x)
        y = work.new(x, shape=shape, order=layout.channels_last(4))
        stored: list[Pointer] = [work.const(wide[block, :, index], "w"), *_places(work, index, start)]
        added = work.channels_last(residual).at if residual else None
        pointers = [x.at, *stored, work.const(pack.channels(bias, 1), "b"), added, y.at]
        work.step("nw_blocks_f32", pointers, positions, i, o, min(positions, 8), *end, writes=buffer(y))
        return y
    if np.count_nonzero(weight) <= SINGLE * weight.size and positions >= POSITIONS:
        start, (_, index) = np.append(0, (weight != 0).sum(1).cumsum()), np.nonzero(weight)
        natural = layout.natural(4)
        x = work.ordered(x, natural)
        y = work.new(x, shape=shape, order=natural)
        stored = [work.const(weight[weight != 0], "w"), *_places(work, index, start)]
        added = work.ordered(residual, natural).at if residual else None
        pointers = [x.at, *stored, work.const(bias, "b"), added, y.at]
        work.step("nw_sparse_f32", pointers, positions, o, *end, writes=buffer(y))
        return y
    return None


def _places(work: Lowering, index: NDArray[np.intp], start: NDArray[np.intp]) -> list[Pointer]:
    """The input of every weight (one at least, so that the array exists), and where each output's weights begin."""
    return [work.const(np.append(index, 0).astype(np.uint16), "index"), work.const(start.astype(np.uint32), "start")]
