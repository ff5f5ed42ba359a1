"""Run a compiled network from Python: ctypes and numpy, nothing else."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netwright.core.errors import BundleError

Floats = NDArray[np.float32]
Shape = tuple[int, ...]


LARGE = 2**16  # bytes of input from which a copy takes longer than asking an array for its address


def _as_is(x: Any, shape: Shape) -> bool:
    """The C function can read x where it lies."""
    return isinstance(x, np.ndarray) and x.dtype == np.float32 and x.shape == shape and x.flags.c_contiguous


def _shapes(shapes: Any) -> tuple[Shape, ...]:
    """One shape, or several, as a tuple of shapes."""
    several = bool(shapes) and not isinstance(shapes[0], int)
    return tuple(tuple(s) for s in shapes) if several else (tuple(shapes),)


class CompiledModel:
    """A compiled network.

    Args:
        library: the shared library that `compile_c` made.
        in_shape: shape of one input with batch 1 in front, for example (1, 3, 32, 32); a sequence of shapes where the network
            has several inputs. Tensors that count something else in front (layers of states, say) hold it once an example.
        out_shape: shape of one output with batch 1 in front, or a sequence of shapes.
        name: prefix of the C functions.

    The functions of the library share one arena: use one CompiledModel in one thread at a time.
    """

    def __init__(
        self, library: Path | str, in_shape: Shape | Sequence[Shape], out_shape: Shape | Sequence[Shape], name: str = "model"
    ):
        self.library = Path(library)
        self.in_shapes, self.out_shapes = _shapes(in_shape), _shapes(out_shape)
        self.in_shape, self.out_shape = self.in_shapes[0], self.out_shapes[0]
        try:
            self._dll = ctypes.CDLL(str(self.library.resolve()))
            self._run, self._batch = self._dll[f"{name}_run"], self._dll[f"{name}_run_batch"]
        except (OSError, AttributeError) as error:
            raise BundleError(f"The compiled network {self.library} cannot be loaded: {error}. Compile it again.") from error
        self._run.restype = self._batch.restype = ctypes.c_int
        self._inputs = [np.zeros(s, np.float32) for s in self.in_shapes]
        self._large = sum(x.nbytes for x in self._inputs) > LARGE
        self._outputs = tuple(np.zeros(s, np.float32) for s in self.out_shapes)
        self._pointers = [ctypes.c_void_p(a.ctypes.data) for a in (*self._inputs, *self._outputs)]

    def _checked(self, x: Floats, shape: Shape) -> Floats:
        """x as contiguous floats of this shape."""
        if not isinstance(x, np.ndarray):
            raise BundleError(f"The network was given {type(x).__name__}. Pass a NumPy array (for a tensor: tensor.numpy()).")
        if x.dtype.kind not in "fiub" or x.ndim != len(shape) or x.shape[1:] != shape[1:] or len(x) % shape[0]:
            expected = "x".join(["N" if shape[0] == 1 else f"{shape[0]}N", *map(str, shape[1:])])
            raise BundleError(
                f"The network takes numbers of shape {expected} and was given {x.dtype} of shape {'x'.join(map(str, x.shape))}. "
                "Reshape or scale the input as in training."
            )
        return np.ascontiguousarray(x, np.float32)

    def run(self, *xs: Floats) -> Any:
        """x [N, ...] -> [N, ...], one example after another; a tuple where the network has several outputs.

        Raises:
            BundleError: wrong number of inputs, wrong shape, or not numbers.
        """
        if len(xs) != len(self.in_shapes):
            raise BundleError(f"The network takes {len(self.in_shapes)} inputs and was given {len(xs)}.")
        inputs = [self._checked(x, shape) for x, shape in zip(xs, self.in_shapes, strict=True)]
        counts = [len(x) // shape[0] for x, shape in zip(inputs, self.in_shapes, strict=True)]
        batch = counts[0]
        if any(n != batch for n in counts):
            raise BundleError(f"The inputs hold {', '.join(map(str, counts))} examples. Give as many of each.")
        outputs = tuple(np.empty((batch * shape[0], *shape[1:]), np.float32) for shape in self.out_shapes)
        self._batch(*(ctypes.c_void_p(a.ctypes.data) for a in (*inputs, *outputs)), ctypes.c_int(batch))
        return outputs if len(outputs) > 1 else outputs[0]

    def run_exits(self, *xs: Floats) -> tuple[Any, NDArray[np.int64]]:
        """As `run`, with the number of the exit that each example took, [N]; 0 for all where the network has but one.

        Raises:
            BundleError: as `run`.
        """
        inputs = [self._checked(x, shape) for x, shape in zip(xs, self.in_shapes, strict=True)]
        outputs, exits = [], []
        for i in range(len(inputs[0]) // self.in_shapes[0][0]):
            for own, x, shape in zip(self._inputs, inputs, self.in_shapes, strict=True):
                own[...] = x[i * shape[0] : (i + 1) * shape[0]]
            exits.append(self._run(*self._pointers))
            outputs.append([y.copy() for y in self._outputs])
        ys = tuple(np.concatenate(y) for y in zip(*outputs, strict=True))
        return ys if len(ys) > 1 else ys[0], np.asarray(exits, np.int64)

    def run_one(self, *xs: Floats) -> Any:
        """One example [1, ...] -> [1, ...], with as little work in Python as can be; the result is overwritten by the next
        call. An input of another shape raises ValueError."""
        pointers = self._pointers
        if self._large and all(_as_is(x, s) for x, s in zip(xs, self.in_shapes, strict=True)):
            pointers = [*(ctypes.c_void_p(x.ctypes.data) for x in xs), *pointers[len(xs) :]]
        else:
            for given, x in zip(self._inputs, xs, strict=True):
                given[...] = x
        self._run(*pointers)
        return self._outputs if len(self._outputs) > 1 else self._outputs[0]

    __call__ = run
