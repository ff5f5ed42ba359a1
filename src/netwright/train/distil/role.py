"""The roles of distillation: a loss between logits, and a loss that looks inside both networks.

A `Distillation` is a function of the logits. A `FeatureDistillation` compares what the networks compute on the way, or
trains parts of its own beside the student; it wraps the student for the time of the training and `fit` needs no change::

    wrapped = ScaleKD(("stage3", "stage4"), ("blocks.8", "blocks.11")).wrap(student, teacher, example)
    fit(wrapped, data, recipe, loss=wrapped.loss)
    student = wrapped.student          # trained in place; the adapters are left behind
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.core.errors import NetwrightError, UnknownName
from netwright.core.paper import Paper


class Distillation(ABC):
    """A loss between a student's and a teacher's logits."""

    name: ClassVar[str]
    paper: ClassVar[Paper]

    @abstractmethod
    def __call__(self, student: Tensor, teacher: Tensor, hard: Tensor) -> Tensor:
        """Scalar loss from logits [N, classes] of both and the scalar loss `hard` on the labels."""


class FeatureDistillation(ABC):
    """A loss that needs more than the logits: outputs of layers, or parts of its own that are trained along."""

    name: ClassVar[str]
    paper: ClassVar[Paper]

    @abstractmethod
    def wrap(self, student: nn.Module, teacher: nn.Module, example: Tensor) -> Distilled:
        """A module that trains `student` in place when it is given to `fit` with its own `loss`.

        Args:
            student: [N, ...] -> logits [N, classes].
            teacher: [N, ...] -> logits; it is copied and frozen.
            example: an input [N, ...], N >= 1; only its shape matters. Both networks must take it.

        Raises:
            UnknownName: a layer that one of the networks does not have.
            NetwrightError: a layer gives what the method cannot compare.
        """


@dataclass(frozen=True)
class Seen:
    """What a network gave for one batch: its logits [N, classes] and the outputs of the layers asked for, by name."""

    logits: Tensor
    features: Mapping[str, Tensor]


Match = Callable[[Seen, Seen, Tensor], Tensor]
Hard = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def tapped(module: nn.Module, layers: Sequence[str], instead: Mapping[str, Tensor] | None = None) -> Iterator[dict[str, Tensor]]:
    """Outputs of named submodules, collected while the block runs; those in `instead` give the tensor there instead.

    Raises:
        UnknownName: a name that the module does not have.
        NetwrightError: when it runs, a layer that gives no tensor.
    """
    known, seen, handles = dict(module.named_modules()), {}, []

    def keep(name: str) -> Callable[..., Tensor | None]:
        def hook(_: nn.Module, __: Any, out: Any) -> Tensor | None:
            if not isinstance(out, Tensor):
                raise NetwrightError(f"The layer {name} gives {type(out).__name__}, not a tensor. Name one inside or around it.")
            seen[name] = out if instead is None or name not in instead else instead[name]
            return seen[name] if seen[name] is not out else None

        return hook

    for name in layers:
        if name not in known or not name:
            raise UnknownName(f"layer of {type(module).__name__}", name, [n for n in known if n])
    try:
        for name in layers:
            handles.append(known[name].register_forward_hook(keep(name)))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def look(module: nn.Module, layers: Sequence[str], x: Tensor) -> Seen:
    """Run a module and keep the outputs of `layers`."""
    with tapped(module, layers) as seen:
        logits = module(x)
    if missing := [name for name in layers if name not in seen]:
        raise NetwrightError(
            f"{type(module).__name__} did not run its layers {', '.join(missing)}. Name layers that every pass uses."
        )
    return Seen(logits, seen)


def sample(module: nn.Module, layers: Sequence[str], x: Tensor) -> Seen:
    """As `look`, in eval mode and without gradients: for the shapes."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            return look(module, layers, x)
    finally:
        for m, training in modes:
            m.training = training


def frozen(teacher: nn.Module) -> nn.Module:
    """A copy in eval mode whose parameters take no gradient, so that the caller's teacher stays as it is."""
    return copy.deepcopy(teacher).eval().requires_grad_(False)


class Distilled(nn.Module):
    """A student that learns beside a frozen teacher: [N, ...] -> the student's logits.

    In eval mode it is the student alone. In training mode it also runs the teacher and keeps the loss between the two,
    which `loss` adds to the loss on the labels.

    Args:
        student: trained in place.
        teacher: `frozen`; neither trained, moved nor saved with this module.
        match: (student's, teacher's, x) -> scalar; its parameters, where it is a module, are trained along and are dropped
            with this wrapper.
        hard_weight: weight of the loss on the labels.
        hard: that loss, (logits, labels) -> scalar.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        match: Match,
        student_layers: Sequence[str] = (),
        teacher_layers: Sequence[str] = (),
        hard_weight: float = 1.0,
        hard: Hard = F.cross_entropy,
    ):
        super().__init__()
        self.student = student
        self.match = match
        self._teacher = (teacher,)  # in a tuple: no submodule
        self.student_layers, self.teacher_layers = tuple(student_layers), tuple(teacher_layers)
        self.hard_weight, self.hard = hard_weight, hard
        self._between: Tensor | None = None

    @property
    def teacher(self) -> nn.Module:
        return self._teacher[0]

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            logits: Tensor = self.student(x)
            return logits
        own = look(self.student, self.student_layers, x)
        with torch.no_grad():
            target = look(self.teacher, self.teacher_layers, x)
        self._between = self.match(own, target, x)
        return own.logits

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Scalar: hard_weight * hard(logits, y) + the loss between the networks for the batch that ran last.

        Raises:
            NetwrightError: no batch ran in training mode before.
        """
        if self._between is None:
            raise NetwrightError("The loss of a distilled network belongs to a batch: call it in training mode first.")
        between, self._between = self._between, None  # a batch's loss is used once
        return self.hard_weight * self.hard(logits, y) + between if self.hard_weight else between
