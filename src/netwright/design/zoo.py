"""Models of timm and of transformers, each behind a guarded adapter; nothing is downloaded.

timm needs torchvision, whose public wheels are built for CUDA and fail to import on CPU builds of torch: they register
fake kernels for operators that their binary part would have defined. Defining the two schemas first cures it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from netwright.core.errors import MissingExtra, NetwrightError, UnknownName

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


def _transformers() -> Any:
    """transformers imports torchvision and torchaudio where they are installed, and fails where they do not load: the first is
    cured as for timm, the second is treated as absent."""
    if importlib.util.find_spec("timm") is not None:
        _timm()
    try:
        importlib.import_module("torchaudio")
    except ModuleNotFoundError:
        pass
    except (OSError, RuntimeError):
        sys.modules["torchaudio"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise MissingExtra("transformers:TYPE", "zoo") from error


def timm_model(name: str, **options: Any) -> nn.Module:
    """A timm model without pretrained weights: nothing is downloaded. `options` are timm's (num_classes, in_chans, img_size).

    Raises:
        MissingExtra, UnknownName.
    """
    timm = _timm()
    if not timm.is_model(name):
        raise UnknownName("timm model", name, timm.list_models())
    return timm.create_model(name, pretrained=False, **options)


class Plain(nn.Module):
    """A model of transformers with tensors in and tensors out: what it returns under names comes as a tuple, caches are off.

    `inputs` are those that its kind takes by default; `order` the names of its arguments.
    """

    def __init__(self, model: nn.Module, order: tuple[str, ...], inputs: tuple[Tensor, ...]):
        super().__init__()
        self.model, self.order, self.inputs = model, order, inputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        out = self.model(**dict(zip(self.order, inputs, strict=False)))
        leaves = tree_leaves(dict(out.items()) if hasattr(out, "items") else out)
        return tuple(t for t in leaves if isinstance(t, Tensor))


def transformers_model(kind: str, **fields: Any) -> nn.Module:
    """A model of transformers by the type of its configuration (bert, gpt2, llama, vit, t5, mamba, ...), with random weights.

    Args:
        kind: as its ``config.json`` says under model_type.
        fields: of the configuration, in place of the type's defaults; without a `task` the model has no head, with
            ``task="causal_lm"`` (or masked_lm, image_classification, ...) the class of that name.

    Raises:
        MissingExtra, UnknownName, NetwrightError: the configuration does not go together.
    """
    library = _transformers()
    known = library.models.auto.configuration_auto.CONFIG_MAPPING
    if kind not in known:
        raise UnknownName("type of transformers models", kind, known.keys())
    task = "".join(part.capitalize() for part in str(fields.pop("task", "")).split("_")).replace("Lm", "LM")
    auto = getattr(library, f"AutoModelFor{task}" if task else "AutoModel", None)
    if auto is None:
        raise NetwrightError(
            f"transformers has no AutoModelFor{task}. Write task as in causal_lm, masked_lm, image_classification."
        )
    try:
        config = library.AutoConfig.for_model(kind, **{"use_cache": False, **fields})
        model = auto.from_config(config).eval()
    except NotImplementedError:
        raise
    except Exception as error:
        raise NetwrightError(f"transformers cannot build {kind} with {fields or 'its defaults'}: {error}") from error
    names = (model.main_input_name, *(("decoder_input_ids",) if config.is_encoder_decoder else ()))
    others = (torch.zeros(1, 32, dtype=torch.long) for _ in names[1:])
    return Plain(model, names, (_first(model.main_input_name, config), *others)).eval()


def _first(name: str, config: Any) -> Tensor:
    """An input of the kind and size that the configuration is for: an image, a spectrogram, a second of sound, 32 tokens."""
    if name == "pixel_values":
        side = getattr(config, "image_size", None) or 224
        return torch.zeros(1, config.num_channels, *((side, side) if isinstance(side, int) else side))
    if name == "input_features":
        return torch.zeros(1, config.num_mel_bins, 2 * config.max_source_positions)
    return torch.zeros(1, 16000) if name == "input_values" else torch.zeros(1, 32, dtype=torch.long)
