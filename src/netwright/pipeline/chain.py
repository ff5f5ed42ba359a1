"""Chain: the stages of a run, in order. The only place where the rooms meet.

Every stage is a property that is made once, kept on disk and read back when the run is started again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from netwright import compress
from netwright.core.errors import UnknownName
from netwright.core.files import write_json
from netwright.core.graph import Graph
from netwright.core.space import Arch, Space
from netwright.core.trial import Trial
from netwright.deploy import c99
from netwright.deploy.bundle import Bundle, write_bundle
from netwright.deploy.exports import export
from netwright.design import GraphModule, Supernet, merge, trace
from netwright.design.spaces import Options
from netwright.measure.latency import time_side_by_side
from netwright.pipeline.fitting import Fitting, Progress, TaskData
from netwright.pipeline.recipe import RunRecipe
from netwright.pipeline.spaces import refused
from netwright.pipeline.store import Store
from netwright.search.select import select
from netwright.search.strategies import CATALOGUE as STRATEGIES
from netwright.search.study import Study
from netwright.search.study import run as run_study
from netwright.spike import convert
from netwright.tasks import Task, load_task
from netwright.train import fit, reestimate
from netwright.train.elastic import Sandwich
from netwright.train.evaluate import accuracy


def no_progress(done: int, total: int, text: str) -> None:
    """The default: nothing is shown."""


@dataclass(frozen=True)
class Searched:
    """What the search found: all trials, those that no other beats, and the chosen one."""

    trials: list[Trial]
    front: list[Trial]
    chosen: Trial
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Form:
    """One form of the network: its graph, its bundle and what is known about its making."""

    name: str
    graph: Graph
    bundle: Bundle
    info: Mapping[str, Any] = field(default_factory=dict)


class Chain:
    """A run of a recipe in a folder.

    Args:
        recipe: what to do.
        root: the run's folder, made if need be (``runs/<name>``).
        progress: called with (done, total, "stage: text").
    """

    def __init__(self, recipe: RunRecipe, root: str | Path, progress: Progress = no_progress):
        self.recipe, self.root, self.progress = recipe, Path(root), progress
        self.store = Store(self.root)

    def _stage(self, *arguments: Any) -> Any:
        """`Store.stage`, with the recipe's threads."""
        with self.threads():
            return self.store.stage(*arguments)

    @contextmanager
    def threads(self) -> Iterator[None]:
        """The recipe's number of threads in PyTorch; what is timed uses one in any case."""
        before = torch.get_num_threads()
        if self.recipe.threads:
            torch.set_num_threads(self.recipe.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    # -- data ------------------------------------------------------------------------------------------------------------

    @cached_property
    def task(self) -> Task:
        section = self.recipe.task
        task = load_task(
            section.data, seed=self.recipe.seed, limit=section.limit or None, size=section.size or None, progress=self.progress
        )
        self.store.keys["task"] = f"{task.fingerprint} {section.augment}"
        return task

    @cached_property
    def augment(self) -> Any:
        return self.task.augmentation(self.recipe.task.augment)

    @cached_property
    def data(self) -> TaskData:
        return TaskData(self.task, self.augment)

    @cached_property
    def calibration(self) -> Tensor:
        """Training images for quantisers, converters and batch statistics; a seeded sample, never validation or test."""
        generator = torch.Generator().manual_seed(self.recipe.seed)
        index = torch.randperm(len(self.task.train), generator=generator)[: self.recipe.calibration]
        return self.task.train.tensor(index)

    @cached_property
    def example(self) -> Tensor:
        return torch.zeros(1, *self.task.shape)

    # -- 1 design --------------------------------------------------------------------------------------------------------

    @cached_property
    def refused(self) -> dict[str, str]:
        """Kinds of layers that one of the wanted forms cannot take, with the reason; they are left out of the space."""
        return refused(self.recipe.design.options(), self.recipe.forms)

    @cached_property
    def options(self) -> Options:
        """What the space is made of, as the wanted forms allow."""
        wanted = self.recipe.design.options()
        return wanted.only(tuple(kind for kind in wanted.choices if kind not in self.refused))

    @cached_property
    def space(self) -> Space:
        return self.options.space(self.task.shape, len(self.task.classes))

    @cached_property
    def supernet(self) -> Supernet:
        """The trained shared weights of the space."""
        recipe = self.recipe.search.supernet.with_(seed=self.recipe.seed)
        supernet = Supernet(self.space, self.recipe.seed)

        def fading(step: int, module: nn.Module) -> None:
            supernet.fade = min(1.0, step / (0.6 * recipe.steps))

        def make(folder: Path) -> Supernet:
            Sandwich().fit(
                supernet, self.data, recipe, augment=None, checkpoint=folder / "checkpoint.safetensors",
                progress=self._named("search: shared weights"), on_step=[fading],
            )  # fmt: skip
            self._save(supernet, folder / "weights.safetensors")
            return supernet

        def load(folder: Path) -> Supernet:
            supernet.load_state_dict(load_file(folder / "weights.safetensors"))
            return supernet

        inputs = {"train": recipe.to_json(), "design": self.options.facts(), "space": self._space_facts()}
        result = self._stage("supernet", inputs, ("task",), make, load)
        supernet.fade = 1.0
        return result

    def _space_facts(self) -> dict[str, Any]:
        return {name: list(domain.values) for name, domain in self.space.decisions.items()}

    @staticmethod
    def _save(module: nn.Module, path: Path) -> None:
        save_file({k: v.contiguous() for k, v in module.state_dict().items()}, path)

    def _named(self, stage: str) -> Progress:
        return lambda done, total, text: self.progress(done, total, stage)

    # -- 3 search --------------------------------------------------------------------------------------------------------

    def inherit(self, arch: Arch) -> nn.Module:
        """The sub-network of an architecture with its slice of the shared weights and batch statistics of its own."""
        module = self.supernet.subnet(arch)
        return reestimate(module, self.calibration.split(256))

    def objectives(self, arch: Arch) -> dict[str, float]:
        """Validation error, weight bytes, and measured latency (us) of the compiled float network."""
        module = merge(self.inherit(arch))
        graph = trace(module, self.example)
        x = np.zeros((1, *self.task.shape), np.float32)
        with TemporaryDirectory() as folder:
            compiled = c99.build(graph, folder)
            latency = time_side_by_side({"c": partial(compiled.run_one, x)}, rounds=9, seed=self.recipe.seed)["c"]
        return {
            "error": 1 - accuracy(module, self.data.validation),
            "bytes": float(graph.weight_bytes),
            "latency_us": latency.value,
        }

    @cached_property
    def searched(self) -> Searched:
        section = self.recipe.search
        cls = STRATEGIES[section.strategy]
        sized = "population" in {f.name for f in fields(cls)}
        strategy = cls(**({"population": section.population} if sized else {}))
        self.supernet  # noqa: B018  the weights come first, so that their progress is shown

        def make(folder: Path) -> Searched:
            start = time.perf_counter()
            study = run_study(
                self.space,
                strategy,
                self.objectives,
                ("error", "bytes", "latency_us"),
                trials=section.trials,
                seed=self.recipe.seed,
                path=folder / "study.db",
                progress=self._named(f"search: {section.strategy}"),
            )
            found = self._choose(study, time.perf_counter() - start)
            write_json(
                folder / "result.json",
                {
                    "trials": [t.to_json() for t in found.trials],
                    "front": [t.number for t in found.front],
                    "chosen": found.chosen.number,
                    "seconds": found.seconds,
                },
            )
            return found

        def load(folder: Path) -> Searched:
            data = json.loads((folder / "result.json").read_text())
            trials = [Trial(**{**t, "arch": self.space.arch(t["arch"]["values"])}) for t in data["trials"]]
            by_number = {t.number: t for t in trials}
            return Searched(trials, [by_number[n] for n in data["front"]], by_number[data["chosen"]], data["seconds"])

        inputs = section.model_dump(exclude={"supernet"})
        return self._stage("search", inputs, ("supernet",), make, load)

    def _choose(self, study: Study, seconds: float) -> Searched:
        section = self.recipe.search
        chosen = select(
            study.front,
            tolerance=section.tolerance,
            max_latency_us=section.max_latency_us or None,
            max_bytes=section.max_bytes or None,
            seed=self.recipe.seed,
        )
        return Searched(study.trials, study.front, chosen, seconds)

    # -- 4 train ---------------------------------------------------------------------------------------------------------

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """Loss and validation accuracy of the float network's training."""
        self.network  # noqa: B018
        return json.loads((self.root / "train" / "history.json").read_text())

    @cached_property
    def network(self) -> nn.Module:
        """The chosen float network, fine-tuned from its slice, merged, in evaluation mode."""
        recipe = self.recipe.train.with_(seed=self.recipe.seed)
        arch = self.searched.chosen.arch

        def make(folder: Path) -> nn.Module:
            module = self.inherit(arch)
            fitted = fit(
                module, self.data, recipe, checkpoint=folder / "checkpoint.safetensors", progress=self._named("train: float"),
            )  # fmt: skip
            write_json(folder / "history.json", [asdict(r) for r in fitted.history])
            self._save(fitted.module, folder / "weights.safetensors")
            return merge(fitted.module)

        def load(folder: Path) -> nn.Module:
            module = self.space.fill(arch).build()
            module.load_state_dict(load_file(folder / "weights.safetensors"))
            return merge(module)

        inputs = {"train": recipe.to_json(), "arch": arch.to_json()}
        return self._stage("train", inputs, ("search",), make, load)

    # -- 5 compress, 6 spike, 7 deploy -----------------------------------------------------------------------------------

    def form(self, name: str) -> Form:
        """One form of the network, compiled, as a bundle on disk."""
        if name not in self.recipe.forms:
            raise UnknownName("form of this recipe", name, self.recipe.forms)
        self.network  # noqa: B018

        def make(folder: Path) -> Form:
            module, info = self._make_form(name, folder)
            graph = trace(module, self.example)
            exports, _ = export(graph, ["onnx"])
            bundle = write_bundle(graph, folder / "bundle", form=name, info={**info, **self._bundle_info()}, exports=exports)
            return Form(name, graph, bundle, info)

        def load(folder: Path) -> Form:
            bundle = Bundle.load(folder / "bundle")
            return Form(name, bundle.graph, bundle, bundle.info)

        return self._stage(f"forms/{name}", self._form_inputs(name), ("train",), make, load)

    def _form_inputs(self, name: str) -> dict[str, Any]:
        if name == "spiking":
            return {"spike": self.recipe.spike.model_dump(), "calibration": self.recipe.calibration}
        if name == "float":
            return {}
        return {"method": getattr(self.recipe.compress, name).model_dump(), "calibration": self.recipe.calibration}

    def _bundle_info(self) -> dict[str, Any]:
        return {"run": self.recipe.name, "seed": self.recipe.seed, "task": self.task.to_json()}

    def _make_form(self, name: str, folder: Path) -> tuple[nn.Module, dict[str, Any]]:
        if name == "float":
            return self.network, {}
        if name == "spiking":
            return self._convert()
        section = getattr(self.recipe.compress, name)
        method = compress.CATALOGUE[section.method](**section.options)
        recipe = section.train.with_(seed=self.recipe.seed)
        fitting = Fitting(self.data, recipe, self.network, folder, self.progress, f"compress: {name}")
        module = method.compress(self.network, self.example, self.calibration, fitting)
        return module, {"method": section.method, **({"indicators": fitting.indicators} if fitting.indicators else {})}

    def _convert(self) -> tuple[nn.Module, dict[str, Any]]:
        section = self.recipe.spike
        converter = convert.CATALOGUE[section.method](steps=section.steps, **section.options)
        result = converter.convert(self.network, self.example, self.calibration, self._named("spike: convert"))
        return result.module, {"method": section.method, "steps": result.steps, "start": result.start}

    def torch_module(self, form: Form) -> nn.Module:
        """The form in PyTorch: the trained network itself for float, the integer graph for the others."""
        return self.network if form.name == "float" else GraphModule(form.graph).eval()
