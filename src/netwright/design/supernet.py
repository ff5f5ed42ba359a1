"""Weight sharing for any space: the parameter of a sub-network is a slice of the same-named one of the largest network.

Slices are leading along channels and centred along the sides of a kernel; an operator choice has names of its own and so
weights of its own. A module whose parameters are concatenations declares its `segments` (blocks/block.py); then the slice
takes the leading part of every segment. No layer has an elastic twin: a sub-network is the ordinary module, run with
`torch.func.functional_call` on slices of the shared weights.

Slicing of channels: Yu et al., Slimmable Neural Networks, ICLR 2019. Centred kernels: Cai et al., Once-for-All, ICLR 2020.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from netwright.core.space import Arch, Space
from netwright.design.blocks.block import Segmented

Segments = dict[str, dict[int, tuple[int, ...]]]


def _segments(module: nn.Module) -> Segments:
    """Declared segments of all parameters, by full name."""
    found: Segments = {}
    for path, child in module.named_modules():
        if isinstance(child, Segmented):
            for name, axes in child.segments.items():
                found[f"{path}.{name}" if path else name] = {axis: tuple(parts) for axis, parts in axes.items()}
    return found


def _take(full: Tensor, axis: int, large: tuple[int, ...], small: tuple[int, ...]) -> Tensor:
    """The leading `small[i]` of every segment `large[i]` along `axis`."""
    if len(large) == 1:
        return full.narrow(axis, 0, small[0])
    starts = [sum(large[:i]) for i in range(len(large))]
    index = [torch.arange(start, start + n) for start, n in zip(starts[-len(small) :], small, strict=True)]
    return full.index_select(axis, torch.cat(index))


class Supernet(nn.Module):
    """The shared weights of all architectures of a space.

    Args:
        space: its `config` builds a module (`space.fill(arch).build()`).
        seed: of the initial weights.
        cache: number of module skeletons (without weights) kept for reuse.
    """

    def __init__(self, space: Space, seed: int, cache: int = 64):
        super().__init__()
        self.space = space
        self.cache = cache
        self._skeletons: OrderedDict[Arch, tuple[nn.Module, Segments]] = OrderedDict()
        self.segments: Segments = {}
        self.fade = 0.0
        shared: dict[str, Tensor] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for corner in space.corners():
                module = space.fill(corner).build()
                self.segments.update(_segments(module))
                for name, value in module.named_parameters():
                    if name not in shared or value.numel() > shared[name].numel():
                        shared[name] = value.detach()
        self.weights = nn.ParameterDict({self._key(name): nn.Parameter(value) for name, value in shared.items()})

    @staticmethod
    def _key(name: str) -> str:
        return name.replace(".", "/")

    def _skeleton(self, arch: Arch) -> tuple[nn.Module, Segments]:
        """The module of an architecture on the meta device (no memory), with its segments."""
        if arch not in self._skeletons:
            with torch.device("meta"):
                module = self.space.fill(arch).build()
            self._skeletons[arch] = (module, _segments(module))
            if len(self._skeletons) > self.cache:
                self._skeletons.popitem(last=False)
        self._skeletons.move_to_end(arch)
        return self._skeletons[arch]

    def slices(self, arch: Arch) -> Iterator[tuple[str, Tensor]]:
        """(name, slice of the shared weight) for every parameter of the architecture."""
        module, segments = self._skeleton(arch)
        for name, wanted in module.named_parameters():
            value: Tensor = self.weights[self._key(name)]
            for axis, n in enumerate(wanted.shape):
                size = value.shape[axis]
                if name in segments and axis in segments[name]:
                    value = _take(value, axis, self.segments[name][axis], segments[name][axis])
                elif axis >= 2:
                    value = value.narrow(axis, (size - n) // 2, n)
                else:
                    value = value.narrow(axis, 0, n)
            yield name, value

    def call(self, arch: Arch, x: Tensor) -> Tensor:
        """Logits of a sub-network with batch statistics of `x`; gradients reach the shared weights."""
        module, _ = self._skeleton(arch)
        module.train()
        buffers = {
            name: torch.full(b.shape, self.fade if name.endswith("fade") else 0, dtype=b.dtype)
            for name, b in module.named_buffers()
        }
        return functional_call(module, {**dict(self.slices(arch)), **buffers}, (x,))

    def subnet(self, arch: Arch) -> nn.Module:
        """The ordinary module of an architecture with a copy of its slices; batch statistics are not yet estimated."""
        module = copy.deepcopy(self._skeleton(arch)[0]).to_empty(device="cpu")
        with torch.no_grad():
            for name, value in self.slices(arch):
                module.get_parameter(name).copy_(value)
            for name, buffer in module.named_buffers():
                buffer.fill_(self.fade if name.endswith("fade") else float(name.endswith("running_var")))
        return module
