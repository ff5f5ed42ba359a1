"""What proxies share: a copy of the module to work on, one drawn seed, and a look at the operations that it runs.

A proxy scores an untrained network from at most one batch. It is a feature, never the answer: say with every use which way it
points (`larger_is_better`), on which batch and with which seed, and compare it with the numbers of parameters and of MACs.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper

Loss = Callable[[Tensor, Tensor], Tensor]
Batch = tuple[Tensor, Tensor]
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
WORST = -math.inf


@dataclass(frozen=True)
class Proxy(ABC):
    """A score of an untrained module.

    Attributes:
        larger_is_better: whether a larger score goes with a better network once trained; where a table of trained networks was
            at hand the sign is the one measured there.
        needs: what of the batch is read: nothing but its shape, the inputs, or inputs and labels (with the loss).
    """

    name: ClassVar[str]
    paper: ClassVar[Paper]
    larger_is_better: ClassVar[bool] = True
    needs: ClassVar[Literal["shape", "inputs", "labels"]] = "labels"

    def __call__(
        self, module: nn.Module, batch: Batch, loss: Loss = F.cross_entropy, generator: Generator | None = None
    ) -> float:
        """The score of `module`, which is copied and stays bit for bit as it was; no state of PyTorch's generator is touched.

        Args:
            module: any module that takes one tensor and gives one.
            batch: x [N, ...] and y, in the form that `loss` takes; the scores depend on N.
            loss: (output, y) -> scalar, mean over the batch.
            generator: where the proxy draws (its seed is drawn from it, also that of dropout); seed 0 without one.

        Returns:
            A finite number, or -inf where the definition gives that to a degenerate network (that no gradient reaches, ...).

        Raises:
            NetwrightError: the score is not a number, or too large for one; the module lacks what the proxy looks at.
        """
        seed = int(torch.randint(2**62, (), generator=generator)) if generator is not None else 0
        x, y = batch
        try:
            network = copy.deepcopy(module).train()
        except RuntimeError as error:  # tensors that are results of others
            raise NetwrightError(
                f"{self.name} works on a copy, and {type(module).__name__} cannot be copied: {error}. Score it before it is run."
            ) from error
        network.zero_grad()
        for p in network.parameters():
            if p.is_floating_point():
                p.requires_grad_(True)
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []), torch.enable_grad():
            torch.manual_seed(seed)
            score = float(self.measure(network, x.detach().clone(), y, loss))
        if math.isnan(score) or score == math.inf:
            raise NetwrightError(
                f"{self.name} of {type(module).__name__} is {score}. Look for values that are not finite in its weights "
                "and in the batch, and for a loss that overflows; then initialise the network anew."
            )
        return score

    @abstractmethod
    def measure(self, network: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> float | Tensor:
        """The score of a network that may be spoilt: in training mode, every parameter with a gradient to come."""

    def lacks(self, network: nn.Module, what: str, way_out: str) -> NetwrightError:
        """The error for a module without what the proxy looks at."""
        return NetwrightError(f"{self.name} reads {what}; {type(network).__name__} has none. {way_out}")


def weights(network: nn.Module) -> list[Tensor]:
    """The weights of convolutions and linear layers, without biases, shared ones once."""
    found = [m.weight for m in network.modules() if isinstance(m, LAYERS)]
    return list(dict.fromkeys(found))


def gradients(value: Tensor, over: Sequence[Tensor], create_graph: bool = False) -> list[Tensor]:
    """d value / d w for each w; zero where `value` does not depend on it."""
    if not value.requires_grad:
        return [torch.zeros_like(w) for w in over]
    found = torch.autograd.grad(value, over, create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(over, found, strict=True)]


def total(values: Sequence[Tensor]) -> Tensor:
    """The sum of all elements, in double precision."""
    return torch.stack([v.detach().double().sum() for v in values]).sum() if values else torch.zeros(())


def spread(rows: Tensor, k: float = 1e-5) -> float:
    """-sum_i (log(v_i + k) + 1 / (v_i + k)) over the eigenvalues v of the correlation matrix of `rows` [N, D].

    Largest where the rows are uncorrelated (all v = 1); -inf where a row does not vary.
    """
    rows = rows.detach().double()
    centred = rows - rows.mean(1, keepdim=True)
    norm = centred.norm(dim=1, keepdim=True)
    if not bool((norm > 0).all()):
        return WORST
    unit = centred / norm
    v = torch.linalg.eigvalsh(unit @ unit.T).clamp(min=0) + k
    return -float((v.log() + 1 / v).sum())


class Watch(TorchDispatchMode):
    """Calls functions with the arguments and the result of ATen operations while a network runs, forwards and backwards.

    Args:
        seen: operation without its overload (``torch.ops.aten.relu``) -> function of its arguments and its result, called
            before the operation with result None where it is `early` (operations that overwrite their input).
    """

    def __init__(self, seen: Mapping[Any, Callable[..., None]], early: bool = False):
        super().__init__()
        self.seen, self.early = seen, early

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = self.seen.get(func.overloadpacket)
        if call is not None and self.early:
            call(args, None)
        result = func(*args, **(kwargs or {}))
        if call is not None and not self.early:
            call(args, result)
        return result
