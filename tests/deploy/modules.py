"""Modules of plain functions, and how their outputs are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Compare = Callable[..., None]


class Call(nn.Module):
    """Functions as a module; the results of all are its outputs."""

    def __init__(self, *functions: Callable[..., Any], **layers: nn.Module):
        super().__init__()
        self.functions, self.layers = functions, nn.ModuleDict(layers)

    def forward(self, *xs: Tensor) -> Any:
        return tuple(f(*xs) for f in self.functions)


def flat(value: Any) -> list[Any]:
    return [v for part in value for v in flat(part)] if isinstance(value, (tuple, list)) else [value]


def close(found: Any, expected: Any, tolerance: float, label: str) -> None:
    """Within `tolerance` of the largest value of each output."""
    found, expected = flat(found), flat(expected)
    assert len(found) == len(expected)
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        a, b = np.asarray(a), b.detach().numpy()
        assert a.shape == b.shape, f"{label}, output {i}"
        scale = np.abs(b, where=np.isfinite(b), out=np.zeros_like(b)).max(initial=1e-6)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale, err_msg=f"{label}, output {i}")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
