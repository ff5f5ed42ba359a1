"""The training engine: steps, evaluations, checkpoints and what to do when the loss is no number.

`loop.fit` trains one network with it and `elastic` all networks of a space; they differ in one function, `backward`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from netwright.core.errors import NetwrightError, TrainingDiverged
from netwright.train.checkpoint import Checkpoint, load_optimiser, optimiser_tensors
from netwright.train.data import Batch, Data
from netwright.train.ema import MovingAverage, assign, standing_in
from netwright.train.evaluate import device_of
from netwright.train.optimisers import optimiser
from netwright.train.recipe import Recipe
from netwright.train.schedules import learning_rate

Augment = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
Hook = Callable[[int, nn.Module], None]
Progress = Callable[[int, int, str], None]
Backward = Callable[[Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Record:
    """One line of the history: after `step` steps, the mean loss since the line before; accuracy where it was taken."""

    step: int
    loss: float
    lr: float
    accuracy: float | None = None


@dataclass(frozen=True)
class Keeping:
    """Where and how often the state is saved: after `seconds`, or every `steps` steps (0 = by the clock alone)."""

    path: Path | None = None
    seconds: float = 20.0
    steps: int = 0


@dataclass(frozen=True)
class _Position:
    """Where a run stands: steps done, the pass over the data and the batches of it already used, and the best so far."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best_accuracy: float = -1.0
    best_step: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0


@dataclass
class Engine:
    """One training run of `module`.

    Args:
        backward: (x, y, step) -> detached loss; has added its gradients to the module's parameters.
        validate: accuracy of the module as it stands, in [0, 1]; None keeps the last weights.
        recipe_facts: what must agree with a checkpoint for a run to go on from it.
    """

    module: nn.Module
    data: Data
    recipe: Recipe
    backward: Backward
    validate: Callable[[], float] | None
    augment: Augment | None = None
    keeping: Keeping = Keeping()
    on_step: Sequence[Hook] = ()
    progress: Progress | None = None
    recipe_facts: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        self.device = device_of(self.module)
        self.weights: dict[str, Tensor] = _tensors(self.module)
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        if not self.parameters:
            raise NetwrightError("There is nothing to train: the module has no parameter that requires a gradient.")
        self.optimiser = optimiser(self.module.named_parameters(), self.recipe)
        self.ema = MovingAverage(self.weights, self.recipe.ema) if self.recipe.ema else None
        self.augmenting = torch.Generator().manual_seed(self.recipe.seed + 1)
        self.best: dict[str, Tensor] | None = None
        self.start = {k: v.detach().clone() for k, v in self.weights.items()}
        self.history: list[Record] = []
        self.at = _Position()
        self.saved_step = -1
        every = self.recipe.steps / self.recipe.evaluations if self.recipe.evaluations and self.validate else math.inf
        self.evaluations = {round(every * (i + 1)) for i in range(self.recipe.evaluations)} if every < math.inf else set()
        if self.validate:
            self.evaluations.add(self.recipe.steps)

    def run(self) -> None:
        """Train to the end; afterwards the module holds the best weights (the last ones without `validate`).

        Raises:
            TrainingDiverged: the loss or the gradient is NaN or infinite; the state of `keeping.path` is a good one.
            NetwrightError: the checkpoint belongs to another recipe or module.
        """
        cuda = [self.device] if self.device.type == "cuda" else []
        self.module.train()
        try:
            # dropout draws from the global generator: the caller keeps its own
            with torch.random.fork_rng(devices=cuda), torch.enable_grad():
                torch.manual_seed(self.recipe.seed)
                self._resume()
                self._steps()
        finally:
            self.module.eval()
            self.optimiser.zero_grad(set_to_none=True)
        final = self.best if self.best is not None else self.ema.average if self.ema else None
        if final is not None:
            assign(self.weights, final)

    def _steps(self) -> None:
        saved_at = time.monotonic()
        if self.keeping.path and self.saved_step < 0:
            self._save()
        batches = self._batches()
        for step in range(self.at.step, self.recipe.steps):
            x, y = next(batches)
            rate = learning_rate(self.recipe, step)
            loss = self._step(step, x, y, rate)
            self.at = replace(self.at, step=step + 1, loss_sum=self.at.loss_sum + loss, loss_count=self.at.loss_count + 1)
            evaluated = step + 1 in self.evaluations
            if evaluated or (step + 1) % self.recipe.log_every == 0 or step + 1 == self.recipe.steps:
                self._record(rate, self._evaluate() if evaluated else None)
            elif self.progress:
                self.progress(step + 1, self.recipe.steps, self._text())
            if self.keeping.path and self._is_due(step + 1, saved_at):
                self._save()
                saved_at = time.monotonic()

    def _is_due(self, step: int, saved_at: float) -> bool:
        by_count = self.keeping.steps > 0 and step % self.keeping.steps == 0
        return step == self.recipe.steps or by_count or time.monotonic() - saved_at > self.keeping.seconds

    def _batches(self) -> Iterator[Batch]:
        """Batches from where the run stands, pass after pass; pass e is shuffled by a generator seeded with (seed, e)."""
        skip = self.at.batch
        while True:
            generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + self.at.epoch)
            count = 0
            for count, batch in enumerate(self.data.batches(self.recipe.batch_size, generator), start=1):
                if count > skip:
                    self.at = replace(self.at, batch=count)
                    yield batch
            if count == 0:
                raise NetwrightError("The training data gave no batch in a whole pass.")
            self.at, skip = replace(self.at, epoch=self.at.epoch + 1, batch=0), 0

    def _step(self, step: int, x: Tensor, y: Tensor, rate: float) -> float:
        for hook in self.on_step:
            hook(step, self.module)
        if self.augment:
            x, y = self.augment(x, y, self.augmenting)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        loss = float(self.backward(x.to(self.device), y.to(self.device), step))
        if not math.isfinite(loss):
            self._diverged("loss", loss, step, rate)
        if self.recipe.clip_norm:
            norm = float(nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip_norm))
            if not math.isfinite(norm):
                self._diverged("norm of the gradient", norm, step, rate)
        self.optimiser.step()
        if self.ema:
            self.ema.update(step)
        return loss

    def _evaluate(self) -> float:
        assert self.validate is not None
        with standing_in(self.weights, self.ema.average if self.ema else None):
            accuracy = self.validate()
            # a tie goes to the later weights: they were trained for longer
            if accuracy >= self.at.best_accuracy and self._is_finite():
                self.at = replace(self.at, best_accuracy=accuracy, best_step=self.at.step)
                self.best = {k: v.detach().clone() for k, v in self.weights.items()}
        return accuracy

    def _record(self, rate: float, accuracy: float | None) -> None:
        self.history.append(Record(self.at.step, self.at.loss_sum / self.at.loss_count, rate, accuracy))
        self.at = replace(self.at, loss_sum=0.0, loss_count=0)
        if self.progress:
            self.progress(self.at.step, self.recipe.steps, self._text())

    def _text(self) -> str:
        if not self.history:
            return "training"
        best = f", best accuracy {self.at.best_accuracy:.2%}" if self.at.best_accuracy >= 0 else ""
        return f"loss {self.history[-1].loss:.4f}{best}"

    def _is_finite(self) -> bool:
        return all(bool(v.isfinite().all()) for v in self.weights.values() if v.is_floating_point())

    def _diverged(self, what: str, value: float, step: int, rate: float) -> None:
        if self.keeping.path:
            where = f"The last good state, after step {self.saved_step}, is in {self.keeping.path}"
        else:
            where = f"The module has the best weights so far again, those after step {self.at.best_step}"
        assign(self.weights, self.start if self.best is None else self.best)
        raise TrainingDiverged(
            f"The {what} became {value} at step {step + 1} of {self.recipe.steps} (learning rate {rate:.3g}). {where}. "
            "Lower train.lr, set train.clip_norm, or look for bad values in the data."
        )

    def _facts(self) -> dict[str, Any]:
        return {"recipe": self.recipe.to_json(), **(self.recipe_facts or {})}

    def _save(self) -> None:
        """Write the state, but only a good one: a damaged state never replaces the last good file."""
        assert self.keeping.path is not None
        if not self._is_finite():
            return
        groups: dict[str, Mapping[str, Tensor]] = {
            "weights": self.weights,
            "ema": self.ema.average if self.ema else {},
            "best": self.best or {},
            "optimiser": optimiser_tensors(self.optimiser),
            "random": {"torch": torch.get_rng_state(), "augment": self.augmenting.get_state()},
        }
        if self.device.type == "cuda":
            groups["random"] = {**groups["random"], "cuda": torch.cuda.get_rng_state(self.device)}
        facts = {**self._facts(), "position": asdict(self.at), "history": [asdict(r) for r in self.history]}
        tensors = {f"{group}.{k}": v for group, values in groups.items() for k, v in values.items()}
        Checkpoint(facts, tensors).save(self.keeping.path)
        self.saved_step = self.at.step

    def _resume(self) -> None:
        path = self.keeping.path
        if path is None or not path.exists():
            return
        kept = Checkpoint.load(path)
        wanted, found = self._facts(), kept.facts
        for key in wanted:
            if wanted[key] != found.get(key):
                raise NetwrightError(f"{path} is of another {key}: {_difference(wanted[key], found.get(key))}. {_REMOVE}")
        weights = kept.group("weights")
        if {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in self.weights.items()}:
            raise NetwrightError(f"{path} is of a module with other weights than the one given. {_REMOVE}")
        assign(self.weights, weights)
        if self.ema:
            assign(self.ema.average, kept.group("ema"))
        self.best = {k: v.to(self.device) for k, v in kept.group("best").items()} or None
        load_optimiser(self.optimiser, kept.group("optimiser"))
        random = kept.group("random")
        torch.set_rng_state(random["torch"])
        self.augmenting.set_state(random["augment"])
        if "cuda" in random and self.device.type == "cuda":
            torch.cuda.set_rng_state(random["cuda"], self.device)
        self.at = _Position(**found["position"])
        self.history = [Record(**r) for r in found["history"]]
        self.saved_step = self.at.step


_REMOVE = "Remove it to start again, or keep it and choose another path."


def _difference(wanted: Any, found: Any) -> str:
    if isinstance(wanted, dict) and isinstance(found, dict):
        return ", ".join(
            f"{k} = {wanted.get(k)!r}, there {found.get(k)!r}" for k in wanted | found if wanted.get(k) != found.get(k)
        )
    return f"{wanted!r}, there {found!r}"


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """The module's persistent state by name; the tensors are the live ones."""
    state = module.state_dict(keep_vars=True)
    if strange := [k for k, v in state.items() if not isinstance(v, Tensor)]:
        raise NetwrightError(f"The module keeps state that is no tensor ({', '.join(strange)}) and cannot be saved.")
    return state
