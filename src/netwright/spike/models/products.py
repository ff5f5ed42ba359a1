"""Products: what a network multiplies, counted while it runs; "additions only" as a number.

A product with a factor of 0 or 1 is an addition or nothing, one with a small whole number a few additions. Every convolution,
matrix product and elementwise multiplication or division that PyTorch carries out is looked at with the values it has, and
filed under the better of its two factors:

    spikes   0 or 1                       counts   whole numbers, the largest is stated
    analog   anything else, by module     neurons  inside a neuron model (leak, reset), whatever the values

One image at a time is exact; of several the worst decides, since a tensor is filed as a whole.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from netwright.spike.layers import Spiking

aten = torch.ops.aten


@dataclass
class Products:
    """Number of products by kind.

    Attributes:
        analog: by the module that carries them out ("" for the network itself).
        largest: the largest whole number among the factors of `counts`.
    """

    spikes: int = 0
    counts: int = 0
    neurons: int = 0
    largest: int = 0
    analog: Counter[str] = field(default_factory=Counter)

    @property
    def additions_only(self) -> float:
        """Share of the products outside neurons that have a spike or a count for a factor."""
        real = sum(self.analog.values())
        return (self.spikes + self.counts) / max(1, self.spikes + self.counts + real)


def _outputs(out: Any) -> int:
    return int((out[0] if isinstance(out, (tuple, list)) else out).numel())


def _factors(name: str, args: Any, out: Any) -> tuple[int, list[Any]] | None:
    """(number of products, the two factors) of one operation; None where it multiplies nothing."""
    if name in ("convolution", "_convolution", "mkldnn_convolution"):
        return _outputs(out) * math.prod(args[1].shape[1:]), [args[0], args[1]]
    if name in ("mm", "bmm"):
        return _outputs(out) * args[0].shape[-1], [args[0], args[1]]
    if name in ("addmm", "baddbmm", "addbmm"):
        return _outputs(out) * args[1].shape[-1], [args[1], args[2]]
    if name in ("mul", "mul_", "div", "div_"):
        return _outputs(out), [args[0], args[1]]
    if "batch_norm" in name or name in ("mean", "native_layer_norm", "_softmax", "pow", "sqrt", "rsqrt", "exp"):
        return _outputs(out), []
    return None


class _Counting(TorchDispatchMode):
    def __init__(self, found: Products):
        super().__init__()
        self.found, self.path, self.inside = found, [""], 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (seen := _factors(func.overloadpacket.__name__, args, out)) is not None:
            self.file(*seen)
        return out

    def file(self, n: int, factors: list[Any]) -> None:
        if self.inside:
            self.found.neurons += n
            return
        tops = [self.whole(f) for f in factors]
        least = min((t for t in tops if t is not None), default=None)
        if least is None:
            self.found.analog[self.path[-1]] += n
        elif least <= 1:
            self.found.spikes += n
        else:
            self.found.counts += n
            self.found.largest = max(self.found.largest, least)

    def whole(self, f: Any) -> int | None:
        """The largest value of a factor of whole numbers that are not negative; None of another."""
        values = f if isinstance(f, Tensor) else torch.tensor(f)
        if not values.numel() or bool((values < 0).any()) or not bool((values == values.round()).all()):
            return None
        return int(values.max())

    @contextmanager
    def following(self, network: nn.Module) -> Iterator[None]:
        """Keep the path of the module that runs, and whether it is a neuron."""

        def enter(name: str, module: nn.Module) -> Any:
            def hook(*_: Any) -> None:
                self.path.append(name)
                self.inside += isinstance(module, Spiking)

            return hook

        def leave(module: nn.Module) -> Any:
            def hook(*_: Any) -> None:
                self.path.pop()
                self.inside -= isinstance(module, Spiking)

            return hook

        with ExitStack() as stack:
            for name, module in network.named_modules():
                stack.callback(module.register_forward_pre_hook(enter(name, module)).remove)
                stack.callback(module.register_forward_hook(leave(module)).remove)
            yield


def products(network: nn.Module, x: Tensor) -> Products:
    """What `network` (in the mode it is in) multiplies for x [N, ...]."""
    found = Products()
    counting = _Counting(found)
    with torch.no_grad(), counting.following(network), counting:
        network(x)
    return found
