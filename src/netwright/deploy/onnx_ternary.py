"""Ternary linear layers in two bits: ONNX Runtime's `MatMulNBits` (domain com.microsoft), made to give whole sums.

The operator stores ``w + 2`` in two bits, the first weight in the lowest, and takes 2 for zero where no zero point is given.
At accuracy level 4 it rounds every block of 128 inputs to bytes itself, ``q = round(a / s)`` with ``s = max|a| / 127``: whole
numbers are changed by that unless their largest is 127. So the first place of every block holds 127 here and meets a weight
of 0; ``s`` is 1, the bytes are our codes, and sums below 2**24 are exact. Of 128 weights 127 are the layer's.

Codes 0..255 are moved to -127..127, where 255 counts 254: a sum is off by at most the number of inputs with the code 255.

At accuracy level 0, or with blocks other than 32, 64 or 128, the weights are widened to float at every call: 60 ms in place
of 0.2 for 4096 x 4096.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from netwright.core.graph import Node
from netwright.deploy.onnx_views import Views

DOMAIN, BLOCK, ZERO, TOP = "com.microsoft", 128, 2, 127


def packed(w: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Ternary weights [O, I] as bytes [O, blocks, 32], and for each of their inputs its place in the layer's, I for the 127."""
    o, i = w.shape
    blocks = -(-i // (BLOCK - 1))
    codes = np.full((o, blocks * (BLOCK - 1)), ZERO, np.uint8)
    codes[:, :i] = w + ZERO
    codes = np.pad(codes.reshape(o, blocks, -1), ((0, 0), (0, 0), (1, 0)), constant_values=ZERO)
    places = np.minimum(np.arange(blocks * (BLOCK - 1), dtype=np.int32), i).reshape(blocks, -1)
    places = np.pad(places, ((0, 0), (1, 0)), constant_values=i)
    four = codes.reshape(o, blocks, BLOCK // 4, 4) << (2 * np.arange(4, dtype=np.uint8))
    return np.bitwise_or.reduce(four, axis=-1).astype(np.uint8), places.reshape(-1)


def ternary_sums(writer: Views, node: Node, x: str, signed: bool, out: str = "") -> str:
    """``sum(x * w) + bias`` in float; `x` are stored codes, around 128 if they are signed, else 0..254 (255 counts 254)."""
    w, rank = writer.value(node, "weight"), len(node.spec.shape)
    bias = writer.value(node, "bias").astype(np.float64) if "bias" in node.weights else np.zeros(len(w))
    if signed:  # QuantizeLinear stops at -128, our codes at -127
        zero = TOP + 1
        x = writer.emit("Max", [x, writer.const(zero - TOP, np.uint8)])
    else:
        zero = TOP
        x = writer.emit("Min", [x, writer.const(zero + TOP, np.uint8)])
        bias = bias + TOP * w.sum(1, dtype=np.int64)
    weight, places = packed(w)
    ends = writer.const([0] * (2 * rank - 1) + [1], np.int64)
    longer = writer.emit("Pad", [x, ends, writer.const(zero + TOP, np.uint8)])
    ordered = writer.emit("Gather", [longer, writer.const(places, np.int32)], axis=rank - 1)
    real = writer.emit("DequantizeLinear", [ordered, writer.const(1.0), writer.const(zero, np.uint8)])
    inputs = [real, writer.const(weight, np.uint8), writer.const(np.ones(weight.shape[:2])), "", "", writer.const(bias)]
    sizes = {"K": places.size, "N": len(w), "bits": 2, "block_size": BLOCK, "accuracy_level": 4}
    return writer.emit("MatMulNBits", inputs, out, domain=DOMAIN, **sizes)
