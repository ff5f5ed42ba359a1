"""Merge: replace every module that has an equal, smaller form at inference by that form."""

from __future__ import annotations

import copy

import torch
from torch import nn

from netwright.design.blocks.block import Fading


def fade(module: nn.Module, amount: float) -> None:
    """Set how far fading activations are gone (0 not at all, 1 wholly) in all blocks that have them."""
    for child in module.modules():
        if isinstance(child, Fading):
            child.fade.fill_(amount)


def merge(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode with mergeable blocks merged; raises NetwrightError where one is not ready for it."""
    module = copy.deepcopy(module).eval()
    with torch.no_grad():
        for path, child in list(module.named_modules()):
            if isinstance(child, Fading):
                if not path:
                    return child.merge()
                parent, _, name = path.rpartition(".")
                setattr(module.get_submodule(parent), name, child.merge())
    return module
