"""Numbers as C writes them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def numbers(data: NDArray[np.generic]) -> str:
    """The elements of a flat array, separated by commas, sixteen a line."""
    if data.dtype == np.float32:
        texts = [
            "-INFINITY" if v == -np.inf else "INFINITY" if v == np.inf else "NAN" if v != v else _float(v) for v in data.tolist()
        ]
    elif data.dtype == np.uint32:
        texts = [f"{v:#x}u" for v in data.tolist()]
    else:
        texts = [str(v) if v != -(2**31) else "(-2147483647 - 1)" for v in data.tolist()]
    return ",\n".join(",".join(texts[i : i + 16]) for i in range(0, len(texts), 16))


def _float(v: float) -> str:
    text = f"{v:.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.f"
