"""Integer operators: quantise, convolve with integer or binary codes, rescale, add, multiply, look up."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LIMIT = 2**24  # whole numbers up to here are exact in float32


def code_dtype(lo: int, hi: int) -> torch.dtype:
    """Smallest type that holds lo..hi."""
    if lo >= 0 and hi <= 255:
        return torch.uint8
    if lo >= -128 and hi <= 127:
        return torch.int8
    return torch.int32


def rescale(v: Tensor, mult: Tensor | int, shift: Tensor | int) -> Tensor:
    """``(v * mult + 2**(shift-1)) >> shift`` in 64-bit integers; `mult` and `shift` broadcast against `v`."""
    one = torch.ones((), dtype=torch.int64)
    return (v.to(torch.int64) * mult + torch.bitwise_left_shift(one, torch.as_tensor(shift) - 1)) >> shift


def _channels(p: Tensor, rank: int) -> Tensor:
    """A per-channel vector shaped to broadcast along the channels: axis 1 of images (rank 4), else the last axis."""
    return p.to(torch.int64).reshape(-1, *[1] * (2 if rank == 4 else 0))


def _narrow(v: Tensor, lo: int, hi: int) -> Tensor:
    return v.clamp(lo, hi).to(code_dtype(lo, hi))


def _sums(x: Tensor, w: Tensor, stride: list[int], pads: list[int], dilation: list[int], groups: int) -> Tensor:
    """Exact convolution sums as int64. float32 where every partial sum is exact in it, else float64."""
    if x.numel() == 0:
        x_max = 0
    else:
        x_max = max(abs(int(x.min())), abs(int(x.max())))
    bound = x_max * int(w.abs().to(torch.int64).flatten(1).sum(1).max())
    dtype = torch.float32 if bound < LIMIT else torch.float64
    top, left, bottom, right = pads
    x = F.pad(x.to(dtype), (left, right, top, bottom))
    return F.conv2d(x, w.to(dtype), None, stride, 0, dilation, groups).to(torch.int64)


def _finish(acc: Tensor, bias: Tensor | None, mult: Tensor | None, shift: Tensor | None, lo: int, hi: int) -> Tensor:
    if bias is not None:
        acc = acc + _channels(bias, acc.dim())
    if mult is None:
        return acc.to(torch.int32)
    assert shift is not None
    return _narrow(rescale(acc, _channels(mult, acc.dim()), _channels(shift, acc.dim())), lo, hi)


@torch.library.custom_op("netwright::quantize", mutates_args=())
def quantize(x: Tensor, scale: float, lo: int, hi: int) -> Tensor:
    """Codes ``clamp(rint(x * float32(1/scale)), lo, hi)``, ties to even; NaN becomes 0."""
    inverse = torch.tensor(1.0 / scale, dtype=torch.float32)
    return torch.nan_to_num(torch.round(x.float() * inverse), nan=0.0, posinf=hi, neginf=lo).clamp(lo, hi).to(code_dtype(lo, hi))


@quantize.register_fake
def _(x, scale, lo, hi):
    return torch.empty_like(x, dtype=code_dtype(lo, hi))


@torch.library.custom_op("netwright::dequantize", mutates_args=())
def dequantize(x: Tensor, scale: Tensor) -> Tensor:
    """``float32(x) * scale[c]`` along the channels, axis 1 of images, else the last (`scale`: one element, or one a channel)."""
    return x.to(torch.float32) * scale.reshape(-1, *[1] * (2 if x.dim() == 4 else 0))


@dequantize.register_fake
def _(x, scale):
    return torch.empty_like(x, dtype=torch.float32)


def _conv_fake(x, weight, bias, mult, shift, stride, pads, dilation, groups, lo, hi, bits):
    h, w = (
        (x.shape[2 + i] + pads[i] + pads[2 + i] - dilation[i] * (weight.shape[2 + i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    )
    dtype = torch.int32 if mult is None else code_dtype(lo, hi)
    return x.new_empty((x.shape[0], weight.shape[0], h, w), dtype=dtype)


@torch.library.custom_op("netwright::qconv2d", mutates_args=())
def qconv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mult: Tensor | None,
    shift: Tensor | None,
    stride: list[int],
    pads: list[int],
    dilation: list[int],
    groups: int,
    lo: int,
    hi: int,
    bits: int,
) -> Tensor:
    """Convolution of codes: ``clamp(rescale(sum(x*w) + bias[c], mult[c], shift[c]), lo, hi)``; int32 sums without `mult`.

    `weight` int8 [O, I/groups, kh, kw] (stored in `bits` bits an element: 8, 2 or 1), `bias` int32 [O], `mult` and
    `shift` int32 [O], `pads` top, left, bottom, right.
    """
    return _finish(_sums(x, weight, stride, pads, dilation, groups), bias, mult, shift, lo, hi)


qconv2d.register_fake(_conv_fake)


@torch.library.custom_op("netwright::bconv2d", mutates_args=())
def bconv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mult: Tensor | None,
    shift: Tensor | None,
    stride: list[int],
    pads: list[int],
    dilation: list[int],
    groups: int,
    lo: int,
    hi: int,
    bits: int,
) -> Tensor:
    """As `qconv2d`, on the signs of the codes: ``x >= 0`` counts +1, else -1; padding counts 0."""
    signs = (x >= 0).to(torch.int8) * 2 - 1
    return _finish(_sums(signs, weight, stride, pads, dilation, groups), bias, mult, shift, lo, hi)


bconv2d.register_fake(_conv_fake)


def _as_conv(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1], 1, 1)


@torch.library.custom_op("netwright::qlinear", mutates_args=())
def qlinear(
    x: Tensor, weight: Tensor, bias: Tensor | None, mult: Tensor | None, shift: Tensor | None, lo: int, hi: int, bits: int
) -> Tensor:
    """`qconv2d` for x [N, ..., I], `weight` int8 [O, I]."""
    sums = _sums(_as_conv(x), _as_conv(weight), [1, 1], [0] * 4, [1, 1], 1)
    return _finish(sums, bias, mult, shift, lo, hi).reshape(*x.shape[:-1], -1)


def _linear_fake(x, weight, bias, mult, shift, lo, hi, bits):
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=torch.int32 if mult is None else code_dtype(lo, hi))


qlinear.register_fake(_linear_fake)


@torch.library.custom_op("netwright::blinear", mutates_args=())
def blinear(
    x: Tensor, weight: Tensor, bias: Tensor | None, mult: Tensor | None, shift: Tensor | None, lo: int, hi: int, bits: int
) -> Tensor:
    """`bconv2d` for x [N, ..., I], `weight` int8 [O, I]."""
    signs = (x >= 0).to(torch.int8) * 2 - 1
    sums = _sums(_as_conv(signs), _as_conv(weight), [1, 1], [0] * 4, [1, 1], 1)
    return _finish(sums, bias, mult, shift, lo, hi).reshape(*x.shape[:-1], -1)


blinear.register_fake(_linear_fake)


def _matmul_fake(a, b, mult, shift, lo, hi):
    return a.new_empty((*a.shape[:-1], b.shape[-1]), dtype=torch.int32 if mult is None else code_dtype(lo, hi))


def _product(a: Tensor, b: Tensor, mult: int | None, shift: int | None, lo: int, hi: int) -> Tensor:
    sums = (a.to(torch.float64) @ b.to(torch.float64)).to(torch.int64)
    if mult is None or shift is None:
        return sums.to(torch.int32)
    return _narrow(rescale(sums, mult, shift), lo, hi)


@torch.library.custom_op("netwright::qmatmul", mutates_args=())
def qmatmul(a: Tensor, b: Tensor, mult: int | None, shift: int | None, lo: int, hi: int) -> Tensor:
    """``clamp(rescale(a @ b, mult, shift), lo, hi)`` of codes a [..., M, K] and b [..., K, O]; int32 sums without `mult`."""
    return _product(a, b, mult, shift, lo, hi)


qmatmul.register_fake(_matmul_fake)


@torch.library.custom_op("netwright::bmatmul", mutates_args=())
def bmatmul(a: Tensor, b: Tensor, mult: int | None, shift: int | None, lo: int, hi: int) -> Tensor:
    """`qmatmul` of the signs of the codes of both: binary attention's scores."""
    return _product((a >= 0).to(torch.int8) * 2 - 1, (b >= 0).to(torch.int8) * 2 - 1, mult, shift, lo, hi)


bmatmul.register_fake(_matmul_fake)


@torch.library.custom_op("netwright::qadd", mutates_args=())
def qadd(a: Tensor, b: Tensor, ma: int, mb: int, shift: int, lo: int, hi: int) -> Tensor:
    """``clamp((a*ma + b*mb + 2**(shift-1)) >> shift, lo, hi)`` on codes of the same shape."""
    total = a.to(torch.int64) * ma + b.to(torch.int64) * mb
    return _narrow((total + (1 << (shift - 1))) >> shift, lo, hi)


@qadd.register_fake
def _(a, b, ma, mb, shift, lo, hi):
    return torch.empty_like(a, dtype=code_dtype(lo, hi))


@torch.library.custom_op("netwright::qmul", mutates_args=())
def qmul(a: Tensor, b: Tensor, mult: int, shift: int, lo: int, hi: int) -> Tensor:
    """``clamp(rescale(a*b, mult, shift), lo, hi)`` on codes; `b` broadcasts ([N, C, 1, 1] gates)."""
    return _narrow(rescale(a.to(torch.int64) * b.to(torch.int64), mult, shift), lo, hi)


@qmul.register_fake
def _(a, b, mult, shift, lo, hi):
    return torch.empty(torch.broadcast_shapes(a.shape, b.shape), dtype=code_dtype(lo, hi), device=a.device)


@torch.library.custom_op("netwright::requantize", mutates_args=())
def requantize(x: Tensor, mult: Tensor, bias: Tensor, shift: int, lo: int, hi: int) -> Tensor:
    """Per-channel affine on codes: ``clamp((x*mult[c] + bias[c] + 2**(shift-1)) >> shift, lo, hi)``; int32 vectors [C]."""
    v = x.to(torch.int64) * _channels(mult, x.dim()) + _channels(bias, x.dim())
    return _narrow((v + (1 << (shift - 1))) >> shift, lo, hi)


@requantize.register_fake
def _(x, mult, bias, shift, lo, hi):
    return torch.empty_like(x, dtype=code_dtype(lo, hi))


@torch.library.custom_op("netwright::qprelu", mutates_args=())
def qprelu(
    x: Tensor, gate: Tensor, mult: Tensor, bias: Tensor, below_mult: Tensor, below_bias: Tensor, shift: int, lo: int, hi: int
) -> Tensor:
    """`requantize` by one line a channel where ``x >= gate[c]`` and by another below it; int32 vectors [C]."""
    rank, wide = x.dim(), x.to(torch.int64)
    above = wide * _channels(mult, rank) + _channels(bias, rank)
    below = wide * _channels(below_mult, rank) + _channels(below_bias, rank)
    v = torch.where(wide >= _channels(gate, rank), above, below)
    return _narrow((v + (1 << (shift - 1))) >> shift, lo, hi)


@qprelu.register_fake
def _(x, gate, mult, bias, below_mult, below_bias, shift, lo, hi):
    return torch.empty_like(x, dtype=code_dtype(lo, hi))


@torch.library.custom_op("netwright::lut", mutates_args=())
def lut(x: Tensor, table: Tensor, lo: int, hi: int) -> Tensor:
    """Any pointwise function of 8-bit codes: ``table[x + 128]`` for signed x, ``table[x]`` for unsigned; int16 [256]."""
    offset = 0 if x.dtype == torch.uint8 else 128
    return table[x.to(torch.int64) + offset].to(code_dtype(lo, hi))


@lut.register_fake
def _(x, table, lo, hi):
    return torch.empty_like(x, dtype=code_dtype(lo, hi))


@torch.library.custom_op("netwright::qmean", mutates_args=())
def qmean(x: Tensor, mult: int, shift: int, lo: int, hi: int) -> Tensor:
    """Global average: ``clamp(rescale(sum over h, w, mult, shift), lo, hi)``, [N, C, H, W] -> [N, C, 1, 1]."""
    return _narrow(rescale(x.to(torch.int64).sum((2, 3), keepdim=True), mult, shift), lo, hi)


@qmean.register_fake
def _(x, mult, shift, lo, hi):
    return x.new_empty((*x.shape[:2], 1, 1), dtype=code_dtype(lo, hi))
