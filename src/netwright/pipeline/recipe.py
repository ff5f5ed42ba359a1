"""RunRecipe: everything that decides a run, as one TOML file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

from netwright.core.errors import RecipeError
from netwright.design.spaces import Options
from netwright.pipeline.spaces import options
from netwright.train import Recipe

Form = Literal["float", "int8", "ternary", "binary", "spiking"]

Training = Annotated[
    Any,
    BeforeValidator(lambda v: v if isinstance(v, Recipe) else Recipe.from_mapping(v)),
    PlainSerializer(lambda r: r.to_json()),
]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskSection(Section):
    """`data`: digits, or a path (image folder or archive, idx files, .npz). `limit`: training images used, 0 = all.

    `size`: resize images to size x size, 0 = as they are. `augment`: names; empty list = none; absent = what the task proposes.
    """

    data: str = "digits"
    limit: int = Field(0, ge=0)
    size: int = Field(0, ge=0)
    augment: tuple[str, ...] | None = None


class DesignSection(BaseModel):
    """The search space by name, and its own options (`netwright design show NAME` lists them)."""

    model_config = ConfigDict(extra="allow", frozen=True)
    space: str = "tiny"

    @model_validator(mode="after")
    def _known(self) -> DesignSection:
        self.options()
        return self

    def options(self) -> Options:
        """What the space is made of. Raises UnknownName or RecipeError."""
        return options(self.space, self.model_extra or {})


class SearchSection(Section):
    """Weight-sharing training (`supernet`), then `trials` of `strategy`.

    `tolerance`: accuracy that may be given up for a smaller and faster network. `max_latency_us`, `max_bytes`: hard budgets
    of the float network, 0 = none.
    """

    strategy: str = "nsga2"
    trials: int = Field(60, ge=1)
    population: int = Field(12, ge=2)
    tolerance: float = Field(0.005, ge=0, lt=1)
    max_latency_us: float = Field(0.0, ge=0)
    max_bytes: int = Field(0, ge=0)
    supernet: Training = Field(default_factory=lambda: Recipe(steps=500, lr=2e-3, weight_decay=0.01, evaluations=4))


class MethodSection(Section):
    """A method by name, its options, and how it trains (methods without training ignore it)."""

    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    train: Training = Field(default_factory=Recipe)


class CompressSection(Section):
    int8: MethodSection = MethodSection(method="int8")
    ternary: MethodSection = MethodSection(method="bitnet")
    binary: MethodSection = MethodSection(method="biper")


class SpikeSection(Section):
    method: str = "fit"
    steps: int = Field(8, ge=1, le=256)
    options: dict[str, Any] = Field(default_factory=dict)


class MeasureSection(Section):
    """`target`: energies. `devices`: other processors on which every form runs in QEMU (cortex-m4, cortex-m7, aarch64)."""

    rounds: int = Field(30, ge=3)
    target: str = "cmos45"
    devices: tuple[str, ...] = ()


class RunRecipe(Section):
    """A whole run. `calibration`: training images for quantisers and the converter. `threads`: of training, 0 = torch's."""

    name: str = "digits"
    seed: int = 0
    forms: tuple[Form, ...] = get_args(Form)
    threads: int = Field(0, ge=0)
    calibration: int = Field(512, ge=1)
    task: TaskSection = TaskSection()
    design: DesignSection = DesignSection()
    search: SearchSection = SearchSection()
    train: Training = Field(default_factory=Recipe)
    compress: CompressSection = CompressSection()
    spike: SpikeSection = SpikeSection()
    measure: MeasureSection = MeasureSection()

    @classmethod
    def load(cls, path: str | Path, overrides: Mapping[str, Any] | None = None) -> RunRecipe:
        """Read a TOML file; `overrides` are dotted keys (``task.data``) and values.

        Raises:
            RecipeError: no such file, not TOML, an unknown key (with the nearest one) or a value out of range.
        """
        path = Path(path)
        if not path.exists():
            raise RecipeError(f"There is no recipe {path}. Write one with: netwright init --data PATH")
        try:
            data: dict[str, Any] = tomllib.loads(path.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path} is not TOML: {error}") from error
        for key, value in (overrides or {}).items():
            *parents, last = key.split(".")
            table = data
            for parent in parents:
                table = table.setdefault(parent, {})
            table[last] = value
        return cls.read(data, str(path))

    @classmethod
    def read(cls, data: Mapping[str, Any], where: str = "the recipe") -> RunRecipe:
        """Check a mapping; see `load`."""
        try:
            recipe = cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(p) for p in first["loc"])
            message = first["msg"]
            if first["type"] == "extra_forbidden":
                near = get_close_matches(key.split(".")[-1], _keys(cls), n=1)
                message = "no such key" + (f"; did you mean {near[0]}?" if near else "")
            raise RecipeError(f"{where}: {key}: {message}") from error
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", recipe.name):
            raise RecipeError(f"{where}: name = {recipe.name!r} becomes a folder: use letters, digits, '.', '_' and '-'.")
        if "float" not in recipe.forms:
            raise RecipeError(f"{where}: forms must contain 'float'; the others are made from it.")
        return recipe


def _keys(model: type[BaseModel]) -> list[str]:
    """All key names at any depth."""
    found = []
    for name, field in model.model_fields.items():
        found.append(name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found.extend(_keys(field.annotation))
    return found
