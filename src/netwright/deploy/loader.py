"""Run a compiled network from Python: ctypes and numpy, nothing else."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from netwright.core.errors import BundleError

Floats = NDArray[np.float32]


class CompiledModel:
    """A compiled network.

    Args:
        library: the shared library that `compile_c` made.
        in_shape: shape of one input with batch 1 in front, for example (1, 3, 32, 32).
        out_shape: shape of one output with batch 1 in front.
        name: prefix of the C functions.

    The functions of the library share one arena: use one CompiledModel in one thread at a time.
    """

    def __init__(self, library: Path | str, in_shape: tuple[int, ...], out_shape: tuple[int, ...], name: str = "model"):
        self.library = Path(library)
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)
        try:
            self._dll = ctypes.CDLL(str(self.library.resolve()))
            self._run, self._batch = self._dll[f"{name}_run"], self._dll[f"{name}_run_batch"]
        except (OSError, AttributeError) as error:
            raise BundleError(f"The compiled network {self.library} cannot be loaded: {error}. Compile it again.") from error
        self._run.restype = self._batch.restype = ctypes.c_int
        self._input = np.zeros(self.in_shape, np.float32)
        self._output = np.zeros(self.out_shape, np.float32)
        self._in, self._out = ctypes.c_void_p(self._input.ctypes.data), ctypes.c_void_p(self._output.ctypes.data)

    def _checked(self, x: Floats) -> Floats:
        """x as contiguous floats of this network's shape."""
        if not isinstance(x, np.ndarray):
            raise BundleError(f"The network was given {type(x).__name__}. Pass a NumPy array (for a tensor: tensor.numpy()).")
        if x.dtype.kind not in "fiub" or x.ndim != len(self.in_shape) or x.shape[1:] != self.in_shape[1:]:
            expected = "x".join(["N", *map(str, self.in_shape[1:])])
            raise BundleError(
                f"The network takes numbers of shape {expected} and was given {x.dtype} of shape {'x'.join(map(str, x.shape))}. "
                "Reshape or scale the input as in training."
            )
        return np.ascontiguousarray(x, np.float32)

    def run(self, x: Floats) -> Floats:
        """x [N, ...] -> [N, ...], one example after another.

        Raises:
            BundleError: wrong shape, or not numbers.
        """
        x = self._checked(x)
        out = np.empty((x.shape[0], *self.out_shape[1:]), np.float32)
        self._batch(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(out.ctypes.data), ctypes.c_int(x.shape[0]))
        return out

    def run_one(self, x: Floats) -> Floats:
        """One example [1, ...] -> [1, ...], with as little work in Python as can be; the result is overwritten by the next
        call. An input of another shape raises ValueError."""
        self._input[...] = x
        self._run(self._in, self._out)
        return self._output

    __call__ = run
