"""MixtureGrowth: a network of twice the width, whose weights are new mixtures of what two small networks learned.

    small network s, a layer:     W_s = sum_k a_s[k] T_s[k],      K templates T_s of the layer's own shape, a_s learned
    grown network, the layer:     W = [ W_1   M_1 ]               M_j = sum_k m_j[k] T[k],   T = (T_1, T_2)
                                      [ M_2   W_2 ]

The m_j start at right angles to (a_1, 0) and (0, a_2) and to each other, with the length `mixing`. At 0 the grown network
is exactly the mean of the two small ones' logits, where its norms work channel by channel (batch norm); above 0 the halves
see each other from the start. A layer whose inputs are not doubled (the first; depthwise) is the two stacked; one whose
outputs are not doubled (the last) takes half of each. All templates and coefficients go on learning::

    seeds = [growth.prepare(small()) for _ in range(2)]           # train both
    grown = growth.grow(*seeds, large())                          # train on
    plain = growth.finish(grown)

Differs from the paper: templates are made so that the network computes what it did before (the paper starts them at
random); each template belongs to one layer (the paper also shares them between layers); the first and last layer are
mixtures too; the wide network is given by the caller, and its shapes say which sizes double.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from netwright.compress.grow.role import Growth
from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper


class Mixture(nn.Module):
    """templates [K, O, I, ...] -> weight [r O, c I, ...], block by block sum_k coefficients[block, k] T[k].

    Args:
        start: the templates to begin with.
        coefficients: [r c, K], row by row of the blocks.
        grid: (r, c).
    """

    def __init__(self, start: Tensor, coefficients: Tensor, grid: tuple[int, int] = (1, 1)):
        super().__init__()
        self.coefficients = nn.Parameter(coefficients.detach().clone())
        self.grid = grid
        self._start: Tensor | None = start.detach().clone()

    def forward(self, templates: Tensor) -> Tensor:
        r, c = self.grid
        blocks = torch.tensordot(self.coefficients, templates, 1)
        return torch.cat([torch.cat(list(blocks[i * c : (i + 1) * c]), 1) for i in range(r)], 0)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The templates, for `register_parametrization`, which asks for them in place of a weight."""
        start, self._start = self._start, None
        if start is None:
            raise NetwrightError("The weight of a mixture cannot be set; train its templates, or `finish` the network first.")
        return start


def mixed_layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers of a module whose weight is a mixture, by name."""
    for name, layer in module.named_modules():
        if parametrize.is_parametrized(layer, "weight"):
            yield name, layer


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def _learned(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Templates [K, O, I, ...] and coefficients [K] of a small network's layer."""
    held: Any = layer.parametrizations
    return held.weight.original.detach(), held.weight[0].coefficients.detach()[0]


def _plain(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers that are no mixtures."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if "parametrizations." not in name:
            yield name, tensor


@dataclass(frozen=True)
class MixtureGrowth(Growth):
    """`templates` a layer and small network, at least 2; `mixing`: length of the new coefficients against the learned ones."""

    templates: int = 2
    mixing: float = 0.03

    name: ClassVar[str] = "mixture_growth"
    paper: ClassVar[Paper] = Paper(
        "pham2024mixturegrowth", "MixtureGrowth: Growing Neural Networks by Recombining Learned Parameters",
        "Pham, Chau and Teterwak, Piotr and Nelson, Soren and Plummer, Bryan A.", "WACV", 2024,
        "https://arxiv.org/abs/2311.04251", "S213",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.templates < 2 or self.mixing < 0:
            raise NetwrightError(
                f"MixtureGrowth got {self.templates} templates and mixing {self.mixing}. Two new mixtures at right angles to the "
                "two learned ones need at least 2 templates a network; mixing must not be negative."
            )

    def prepare(self, module: nn.Module) -> nn.Module:
        """A copy whose convolutions and linear layers are mixtures of templates; it computes what `module` does.

        T[k] = a[k] W + what random templates R[k] have beside a, so that sum_k a[k] T[k] = W, with |a| = 1.

        Raises:
            NetwrightError: there is no such layer, or the module is prepared already.
        """
        module = copy.deepcopy(module)
        if any(True for _ in mixed_layers(module)):
            raise NetwrightError(f"{type(module).__name__} has mixtures already; `prepare` takes a plain network.")
        layers = [m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        if not layers:
            raise NetwrightError(f"{type(module).__name__} has no convolution and no linear layer to mix templates in.")
        for layer in layers:
            weight = layer.weight.detach()
            a = nn.functional.normalize(torch.randn(self.templates, device=weight.device), dim=0)
            noise = torch.randn(self.templates, *weight.shape, device=weight.device) * weight.square().mean().sqrt()
            along = torch.tensordot(a, noise, 1) - weight  # what the mixture of the noise alone is off by
            start = noise - a.reshape(-1, *[1] * weight.dim()) * along
            parametrize.register_parametrization(layer, "weight", Mixture(start, a[None]))
        return module

    def grow(self, first: nn.Module, second: nn.Module, large: nn.Module) -> nn.Module:
        """The grown network, a copy of `large`.

        Args:
            first, second: prepared networks of one shape, trained apart (the same twice works, and starts them alike).
            large: a plain network with the same names of layers, where every size is the small one's or twice that.

        Raises:
            NetwrightError: other names, a size that is neither, or small networks that were not prepared.
        """
        large = copy.deepcopy(large)
        a, b, wide = dict(mixed_layers(first)), dict(mixed_layers(second)), dict(large.named_modules())
        if not a or a.keys() != b.keys():
            raise NetwrightError("MixtureGrowth grows from two networks of one shape; give what `prepare` made of them.")
        plain, others, names = dict(_plain(first)), dict(_plain(second)), dict(_plain(large))
        expected = {n for n in names if n.removesuffix(".weight") not in a}
        if odd := sorted((expected ^ plain.keys()) | (a.keys() - wide.keys())):
            raise NetwrightError(
                f"The large network must have the small one's layers, only wider; they differ in {', '.join(odd)}."
            )
        for name in expected:
            with torch.no_grad():
                names[name].copy_(_side_by_side(name, plain[name], others[name], names[name]))
        for name, layer in a.items():
            self._join(name, layer, b[name], wide[name])
        return large

    def _join(self, name: str, first: nn.Module, second: nn.Module, layer: nn.Module) -> None:
        (t1, a1), (t2, a2) = _learned(first), _learned(second)
        weight = _weight(layer)
        r, c = (_ratio(name, weight, t1[0], dim) for dim in (0, 1))
        if weight.shape[2:] != t1.shape[3:]:
            raise NetwrightError(f"{name} has kernels {tuple(weight.shape[2:])}, the small network's {tuple(t1.shape[3:])}.")
        one, two = torch.cat([a1, torch.zeros_like(a2)]), torch.cat([torch.zeros_like(a1), a2])
        if (r, c) == (2, 2):
            across = torch.linalg.svd(torch.stack([one, two])).Vh[-2:] * self.mixing * (one.norm() + two.norm()) / 2
            rows = [one, across[0], across[1], two]
        else:  # stacked where only outputs double; where outputs stay, the mean
            rows = [one / c, two / c] if r * c == 2 else [(one + two) / 2]
        parametrize.register_parametrization(layer, "weight", Mixture(torch.cat([t1, t2]), torch.stack(rows), (r, c)))

    def finish(self, module: nn.Module) -> nn.Module:
        """A copy in which every mixture is a plain weight of the same value."""
        module = copy.deepcopy(module)
        for _, layer in list(mixed_layers(module)):
            weight = nn.Parameter(_weight(layer).detach().clone())
            # `remove_parametrizations` would take the property from a class that copies of the layer share
            layer.__class__ = parametrize.type_before_parametrizations(layer)
            del layer.parametrizations
            layer.register_parameter("weight", weight)
        return module


def _ratio(name: str, large: Tensor, small: Tensor, dim: int) -> int:
    for ratio in (1, 2):
        if large.dim() == small.dim() and large.shape[dim] == ratio * small.shape[dim]:
            return ratio
    raise NetwrightError(
        f"{name} is {tuple(large.shape)} in the large network and {tuple(small.shape)} in the small one; "
        "every size must stay or double."
    )


def _side_by_side(name: str, first: Tensor, second: Tensor, large: Tensor) -> Tensor:
    """Both tensors along the size that doubles; their mean where none does (the first one's count, if it is whole)."""
    doubled = [dim for dim in range(large.dim()) if _ratio(name, large, first, dim) == 2]
    if len(doubled) > 1:
        raise NetwrightError(f"{name} doubles in {len(doubled)} sizes, and only weights of layers can; {tuple(large.shape)}.")
    if doubled:
        return torch.cat([first, second], doubled[0])
    return (first + second) / 2 if first.is_floating_point() else first
