"""Family: a network of one of our families, made for a data set, trained on it, and kept so that every command reads it back.

A folder holds ``config.json`` (the configuration in full, the data's facts, the recipe, and what came out),
``weights.safetensors`` and, while it trains, ``checkpoint.safetensors``. A run that was stopped goes on from there.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from netwright import __version__
from netwright.core.errors import NetwrightError, UnknownName
from netwright.core.files import write_json
from netwright.design import blocks, merge
from netwright.design.models import VARIANTS as PLAIN
from netwright.design.models import Stage, Staged
from netwright.pipeline.fitting import Progress, TaskData
from netwright.spike import surrogates
from netwright.spike.layers import Firing, firing
from netwright.spike.layers import Spiking as SpikingLayer
from netwright.spike.models import CATALOGUE, SpikeStage
from netwright.spike.models import VARIANTS as SPIKING
from netwright.spike.models.family import Family, Recurrent
from netwright.spike.neurons import LIF
from netwright.spike.spaces import LARGEST, stride_to
from netwright.tasks import Task
from netwright.train import Recipe, fit
from netwright.train.evaluate import accuracy

Config = Family | Staged
SMALL = 12  # side of the largest image that the digits variants are for
STEPS = 600  # gradient steps, unless epochs are given
RATED = 512  # test inputs on which spikes are counted
RATES = {"lmuformer": 3e-3, "phcssm": 3e-2, "lif-rnn": 1e-2}  # learning rates; other spiking families 8e-3, the rest 4e-3
SIZED: Mapping[str, tuple[str, str]] = {  # family -> its variant for images of up to SMALL pixels a side, and for larger ones
    "spikformer": ("digits_spikformer_v2", "cifar_spikformer_v2"),
    "spikformer-v2": ("digits_spikformer_v2", "cifar_spikformer_v2"),
    "meta-spikeformer": ("digits_meta_spikeformer", "cifar_meta_spikeformer"),
    "lif-cnn": ("digits_lif_cnn", "digits_lif_cnn"),
    "lmuformer": ("rows_lmuformer", "rows_lmuformer"),
    "spiking-lmuformer": ("rows_spiking_lmuformer", "rows_spiking_lmuformer"),
    "phcssm": ("rows_phcssm", "rows_phcssm"),
    "lif-rnn": ("rows_lif_rnn", "rows_lif_rnn"),
    **{name: (f"digits_{name}", f"digits_{name}") for name in blocks.CATALOGUE},
}
VARIANTS: Mapping[str, Config] = {**PLAIN, **SPIKING}
TYPES = {t.__name__: t for t in (*CATALOGUE.values(), SpikeStage, Staged, Stage, LIF, *surrogates.CATALOGUE.values())}


def names() -> tuple[str, ...]:
    """Families, and published or small variants of them, that can be trained by name."""
    return (*SIZED, *VARIANTS)


def variant(name: str, side: int = SMALL) -> Config:
    """What a name stands for where the longer side of an image has `side` pixels. Raises UnknownName."""
    if name not in SIZED and name not in VARIANTS:
        raise UnknownName("family to train", name, names())
    return VARIANTS[SIZED[name][side > SMALL] if name in SIZED else name]


def reads_sequences(config: Config) -> bool:
    """Whether the family walks through its input row by row."""
    return isinstance(config, Family) and config.name in ("lmuformer", "phcssm", "lif-rnn")


def configure(
    name: str,
    shape: tuple[int, int, int],
    classes: int,
    steps: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Config:
    """The configuration of a family, or of a variant, for inputs of `shape` (C, H, W).

    Args:
        steps: time steps of a spiking family that sees the same image in each of them.
        options: fields of the configuration and their values.

    Raises:
        UnknownName: no such family or option; NetwrightError: `steps` where there are none to choose.
    """
    config, changes = variant(name, max(shape[1:])), dict(options or {})
    known = [f.name for f in fields(config) if f.name not in ("channels", "classes", "steps")]  # type: ignore[arg-type]
    for key in changes:
        if key not in known:
            raise UnknownName(f"option of {name}", key, known)
    changes["classes"] = classes
    if reads_sequences(config):
        if steps is not None:
            raise NetwrightError(
                f"{name} reads its input row by row: here {shape[1]} steps of {shape[0] * shape[2]} numbers. "
                "Its time is that of the data; leave out --steps."
            )
        changes["channels"] = shape[0] * shape[2]
        if name in SIZED:
            changes = {**_timed(config, float(shape[1])), **changes}
    else:
        changes["channels"] = shape[0]
        if steps is not None:
            if not hasattr(config, "steps"):
                raise NetwrightError(f"{name} is no spiking family: it has no time steps. Leave out --steps.")
            if steps < 1:
                raise NetwrightError(f"--steps must be at least 1, got {steps}.")
            changes["steps"] = steps
        if name in SIZED:
            changes = {**_strided(config, shape), **changes}
    try:
        return replace(config, **changes)  # type: ignore[type-var]
    except (TypeError, ValueError) as error:
        raise NetwrightError(f"{name} does not take these options: {error}") from error


def _strided(config: Config, shape: tuple[int, int, int]) -> dict[str, Any]:
    """What makes the first layer bring images to at most 32 pixels a side (16 in networks without spikes)."""
    if isinstance(config, Staged):
        return {"stem_stride": stride_to(LARGEST // 2, shape)}
    stride = stride_to(LARGEST, shape)
    if config.name == "spikformer-v2":
        first, *others = config.strides  # type: ignore[attr-defined]
        return {"strides": (first * stride, *others)}
    if config.name == "meta-spikeformer":
        stage, *rest = config.stages  # type: ignore[attr-defined]
        return {"stages": (replace(stage, stride=stage.stride * stride), *rest)}
    return {}


def _timed(config: Config, steps: float) -> dict[str, Any]:
    """Memories as long as a sequence of `steps`; PHCSSM without Dale's law, which learns better in few steps."""
    if config.name == "lmuformer":
        return {"window": steps}
    taus = {"taus": (1.5, max(2.0, steps))}
    return {**taus, "dale": False} if config.name == "phcssm" else taus


def to_json(value: Any) -> Any:
    """A configuration as JSON values; dataclasses carry their type."""
    if is_dataclass(value):
        return {"type": type(value).__name__, **{f.name: to_json(getattr(value, f.name)) for f in fields(value)}}
    return [to_json(v) for v in value] if isinstance(value, (tuple, list)) else value


def from_json(data: Any) -> Any:
    """What `to_json` wrote.

    Raises:
        UnknownName: a type that is none of ours.
    """
    if isinstance(data, dict):
        if data.get("type") not in TYPES:
            raise UnknownName("part of a configuration", str(data.get("type")), TYPES)
        return TYPES[data["type"]](**{k: from_json(v) for k, v in data.items() if k != "type"})
    return tuple(from_json(v) for v in data) if isinstance(data, list) else data


def load(path: str | Path) -> nn.Module:
    """The trained network of a ``config.json`` (or of its folder), in evaluation mode; blocks are merged.

    Raises:
        NetwrightError: no such file, one of another kind, or training has not finished.
    """
    path = Path(path)
    path = path / "config.json" if path.is_dir() else path
    try:
        data = json.loads(path.read_text())
        config = data["config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NetwrightError(f"{path} is no network that `netwright train --family` has written: {error}") from error
    module: nn.Module = from_json(config).build()
    weights = path.parent / "weights.safetensors"
    if not weights.exists():
        raise NetwrightError(f"{path.parent} has no weights yet. Finish its training: run the same `netwright train` again.")
    if not any(p.is_meta for p in module.parameters()):
        module.load_state_dict(load_file(weights))
    return merge(module)


@dataclass(frozen=True)
class TrainedFamily:
    """A trained network and what is known of it.

    Attributes:
        validation, test: accuracy on the splits, in [0, 1].
        over_time: test accuracy after 1..T time steps, by step (some of them where T is large); empty without time.
        firing: what the neurons of each layer did; empty for networks without spikes.
    """

    name: str
    config: Config
    module: nn.Module
    folder: Path
    parameters: int
    validation: float
    test: float
    over_time: Mapping[int, float]
    firing: Mapping[str, Firing]
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def troubles(self) -> dict[str, list[str]]:
        """Layers that are dead, saturated or running away, in words."""
        return {layer: found for layer, f in self.firing.items() if (found := f.troubles())}

    def facts(self) -> dict[str, Any]:
        """As JSON can hold it."""
        layers = [{"layer": name, **asdict(f), "troubles": f.troubles()} for name, f in self.firing.items()]
        return {
            "family": self.name, "parameters": self.parameters, "validation_accuracy": self.validation,
            "test_accuracy": self.test, "accuracy_over_time": {str(t): a for t, a in self.over_time.items()},
            "layers": layers, "seconds": self.seconds, "notes": list(self.notes),
            "weights": str(self.folder / "weights.safetensors"), "config": str(self.folder / "config.json"),
        }  # fmt: skip


@dataclass
class FamilyTraining:
    """Training of one family on one data set.

    Args:
        name: of the family or variant (`names`).
        task: the data; sequences are images of one channel, a row a step.
        folder: where it is kept; made if need be.
        steps: time steps, for families that choose them.
        epochs: passes over the training split; as many as `STEPS` gradient steps need when None.
        lr: the highest learning rate; the family's own when None.
        options: fields of the configuration.
        augment: names of augmentations; those that suit the data when None.
        seed: of weights, batches and augmentation.
        progress: called with (done, total, text).

    Raises:
        NetwrightError: unknown names, or a network that does not run on this data.
    """

    name: str
    task: Task
    folder: Path
    steps: int | None = None
    epochs: int | None = None
    lr: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    augment: Sequence[str] | None = None
    seed: int = 0
    progress: Progress | None = None

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        if self.epochs is not None and self.epochs < 1:
            raise NetwrightError(f"--epochs must be at least 1, got {self.epochs}.")
        self.config = configure(self.name, self.task.shape, len(self.task.classes), self.steps, self.options)
        self.module = self._build()

    def _build(self) -> nn.Module:
        shape, classes = self.task.shape, len(self.task.classes)
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(self.seed)
                module: nn.Module = self.config.build()
                out = module.eval()(torch.zeros(2, *shape))
        except NetwrightError:
            raise
        except Exception as error:
            raise NetwrightError(
                f"{self.name} does not run on inputs of {' x '.join(map(str, shape))} (channels, rows, columns): {error} "
                "Give --size to bring images to another side, or another family."
            ) from error
        if out.shape != (2, classes):
            raise NetwrightError(f"{self.name} gives {list(out.shape)} for two inputs; this data has {classes} classes.")
        return module

    @property
    def recipe(self) -> Recipe:
        """What decides the training."""
        size = len(self.task.train)
        a_pass = max(1, size // min(64, size))
        epochs = math.ceil(STEPS / a_pass) if self.epochs is None else self.epochs
        if not isinstance(self.config, Family):
            return Recipe(steps=epochs * a_pass, lr=self.lr or 4e-3, ema=0.99, evaluations=min(20, epochs), seed=self.seed)
        lr = self.lr or RATES.get(self.config.name, 8e-3)
        return Recipe(steps=epochs * a_pass, lr=lr, evaluations=min(20, epochs), seed=self.seed)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What must be the same for a stopped run to go on."""
        augment = list(self.task.augment if self.augment is None else self.augment)
        return {"family": self.name, "config": to_json(self.config), "recipe": self.recipe.to_json(), "augment": augment,
                "data": self.task.to_json(), "netwright": __version__}  # fmt: skip

    def train(self) -> TrainedFamily:
        """Train, or go on, or read back what is finished.

        Raises:
            NetwrightError: the folder holds another run; TrainingDiverged.
        """
        start, path = time.monotonic(), self.folder / "config.json"
        wanted = json.loads(json.dumps(self.facts))
        kept = json.loads(path.read_text()) if path.exists() else wanted
        if other := [key for key in wanted if kept.get(key) != wanted[key]]:
            raise NetwrightError(
                f"{self.folder} holds a run with another {' and '.join(other)}. Choose another --out, or remove the folder."
            )
        write_json(path, kept if "seconds" in kept else wanted)
        data = TaskData(self.task, self.task.augmentation(self.augment))
        fit(self.module, data, self.recipe, checkpoint=self.folder / "checkpoint.safetensors", save_every_seconds=5.0,
            progress=self._told)  # fmt: skip
        save_file({k: v.contiguous() for k, v in self.module.state_dict().items()}, self.folder / "weights.safetensors")
        test = (self.task.test.x, self.task.test.y)
        found = TrainedFamily(
            self.name, self.config, self.module, self.folder, sum(p.numel() for p in self.module.parameters()),
            accuracy(self.module, data.validation), accuracy(self.module, test), self._over_time(test),
            self._firing(test[0][:RATED]), kept.get("seconds", round(time.monotonic() - start, 1)), tuple(self._notes()),
        )  # fmt: skip
        write_json(path, {**wanted, "seconds": found.seconds, "result": found.facts()})
        return found

    def _told(self, done: int, total: int, text: str) -> None:
        if self.progress is not None:
            self.progress(done, total, f"train {self.name}: {text}")

    def _over_time(self, test: tuple[Tensor, Tensor]) -> dict[int, float]:
        """Accuracy had the network stopped earlier: it looks back only, so fewer steps are the same network cut short."""
        x, y = test
        if reads_sequences(self.config):
            return {t: accuracy(self.module, (x[:, :, :t], y)) for t in shown(x.shape[2])}
        found = {}
        for t in shown(getattr(self.config, "steps", 0)):
            shorter = replace(self.config, steps=t).build()  # type: ignore[type-var]
            shorter.load_state_dict(self.module.state_dict())
            found[t] = accuracy(shorter, test)
        return found

    def _firing(self, x: Tensor) -> Mapping[str, Firing]:
        if isinstance(self.module, Recurrent):
            return self.module.firing(x)
        return firing(self.module, x) if any(isinstance(m, SpikingLayer) for m in self.module.modules()) else {}

    def _notes(self) -> list[str]:
        c, h, w = self.task.shape
        return [f"Read row by row: {h} steps of {c * w} numbers."] if reads_sequences(self.config) else []


def shown(steps: int) -> list[int]:
    """All steps where they are few, else the powers of two and the last."""
    if steps <= 8:
        return list(range(1, steps + 1))
    return sorted({2**i for i in range(steps.bit_length()) if 2**i <= steps} | {steps})
