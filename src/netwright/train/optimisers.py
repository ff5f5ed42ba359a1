"""Optimisers by name, with weight decay on matrices and kernels only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from netwright.train.recipe import Recipe

Groups = list[dict[str, Any]]

OPTIMISERS: Mapping[str, Callable[[Groups, Recipe], torch.optim.Optimizer]] = {
    "adamw": lambda groups, r: torch.optim.AdamW(groups, lr=r.lr, betas=r.betas, fused=True),
    "adam": lambda groups, r: torch.optim.Adam(groups, lr=r.lr, betas=r.betas, fused=True),
    "sgd": lambda groups, r: torch.optim.SGD(groups, lr=r.lr, momentum=r.momentum, nesterov=r.momentum > 0, fused=True),
}


def is_vector(parameter: Tensor) -> bool:
    """True for biases, norms and scales: shapes with at most one side longer than 1, for example [C] or [C, 1, 1]."""
    return sum(n > 1 for n in parameter.shape) <= 1


def decayed(named: Iterable[tuple[str, nn.Parameter]]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(parameters with weight decay, parameters without)."""
    with_decay: list[nn.Parameter] = []
    without: list[nn.Parameter] = []
    for name, parameter in named:
        if parameter.requires_grad:
            # a [C, 1, 1, 1] kernel or a [1, C] matrix looks like a vector; its name and rank tell it from a scale
            kernel = parameter.dim() in (2, 4) and name.endswith("weight")
            (with_decay if kernel or not is_vector(parameter) else without).append(parameter)
    return with_decay, without


def optimiser(named: Iterable[tuple[str, nn.Parameter]], recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over the parameters that require gradients."""
    with_decay, without = decayed(named)
    groups = [{"params": with_decay, "weight_decay": recipe.weight_decay}, {"params": without, "weight_decay": 0.0}]
    return OPTIMISERS[recipe.optimiser]([g for g in groups if g["params"]], recipe)
