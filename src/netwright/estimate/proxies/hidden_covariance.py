"""Hidden covariance: whether the inputs of a batch can be told apart by the hidden states of a recurrent layer.

    h_n: hidden states of example n at all steps, in one row,     v: eigenvalues of their correlation matrix,
    score = -sum_i (log(v_i + k) + 1 / (v_i + k)),     k = 1e-5

Looks at the first recurrent layer, which is the best of three in the authors' own table of 8,794 cells of NAS-Bench-NLP: rank
correlation with the test loss -0.52, second -0.46, third -0.37 (jacob_cov: -0.01).

Serianni and Kalita, Training-free Neural Architecture Search for RNNs and Transformers, ACL 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.estimate.proxies.proxy import Loss, Proxy, spread


@dataclass(frozen=True)
class HiddenCovariance(Proxy):
    """Spread of the eigenvalues of the correlations between the inputs' hidden states.

    Attributes:
        layer: which recurrent module, in the order in which they run (of `nn.LSTM`, `nn.GRU`, `nn.RNN` and their cells).
        module: name of another module whose output is the hidden state, for cells of one's own; it may run at every step. The
            state is [N, ...] (the first of a tuple).
    """

    name: ClassVar[str] = "hidden_covariance"
    needs = "inputs"
    paper: ClassVar[Paper] = Paper(
        "serianni2023trainingfree", "Training-free Neural Architecture Search for RNNs and Transformers",
        "Serianni, Aaron and Kalita, Jugal", "ACL", 2023, "https://arxiv.org/abs/2306.00288", "S079",
    )  # fmt: skip
    layer: int = 0
    module: str = ""

    @torch.no_grad()
    def measure(self, network: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> float:
        states: dict[nn.Module, list[Tensor]] = {}

        def keep(layer: nn.Module, _: Any, out: Any) -> None:
            state = out[0] if isinstance(out, tuple) else out
            if isinstance(layer, nn.RNNBase) and not layer.batch_first:
                state = state.transpose(0, 1)
            states.setdefault(layer, []).append(state.flatten(1))

        if self.module:
            wanted = [m for n, m in network.named_modules() if n == self.module]
        else:
            wanted = [m for m in network.modules() if isinstance(m, (nn.RNNBase, nn.RNNCellBase))]
        for layer in wanted:
            layer.register_forward_hook(keep)
        network.eval()(x)
        rows = [torch.cat(found, 1) for found in states.values()]
        if not rows:
            raise self.lacks(network, f"the module {self.module!r}" if self.module else "recurrent layers",
                             "Name the module whose output is the hidden state: module='...'.")  # fmt: skip
        if self.layer >= len(rows) or self.layer < -len(rows):
            raise NetwrightError(f"hidden_covariance was asked for recurrent layer {self.layer}; there are {len(rows)}.")
        return spread(rows[self.layer])
