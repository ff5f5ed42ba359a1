"""timm models, behind one guarded adapter.

timm needs torchvision, whose public wheels are built for CUDA and fail to import on CPU builds of torch: they register
fake kernels for operators that their binary part would have defined. Defining the two schemas first cures it.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch
from torch import nn

from netwright.core.errors import MissingExtra, UnknownName

_library: Any = None  # the definitions live as long as this object


def _timm() -> Any:
    global _library
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise MissingExtra("timm:NAME", "zoo") from error
    except RuntimeError:
        for name in [n for n in sys.modules if n.split(".")[0] in ("torchvision", "timm")]:
            del sys.modules[name]
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for op in ("nms", "qnms"):
            _library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return importlib.import_module("timm")


def timm_model(name: str, **options: Any) -> nn.Module:
    """A timm model without pretrained weights: nothing is downloaded. `options` are timm's (num_classes, in_chans, img_size).

    Raises:
        MissingExtra, UnknownName.
    """
    timm = _timm()
    if not timm.is_model(name):
        raise UnknownName("timm model", name, timm.list_models())
    return timm.create_model(name, pretrained=False, **options)
