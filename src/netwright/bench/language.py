"""What `netwright bench compress` trains on text: a small causal transformer over characters, in float, 1 and 2 bits."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.bench.cells import Cells, Values
from netwright.bench.networks import EncoderLayer
from netwright.compress import Compressor
from netwright.deploy.c99 import build
from netwright.design import trace
from netwright.pipeline.fitting import Fitting, Progress
from netwright.tasks.text import Text
from netwright.train import fit
from netwright.train.evaluate import evaluating
from netwright.train.recipe import Recipe

DATA = "$NETWRIGHT_DATA/text/tinyshakespeare.txt"
RECIPE = Recipe(steps=600, batch_size=24, lr=3e-3, weight_decay=0.01, label_smoothing=0.0, distil_weight=0.5,
                distil_temperature=1.0, evaluations=1)  # fmt: skip


class LanguageModel(nn.Module):
    """One-hot characters [N, T, V] -> logits of the next one [N, V, T]."""

    def __init__(self, characters: int, context: int, width: int = 128, heads: int = 4, layers: int = 2, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embed = nn.Linear(characters, width, bias=False)
            self.place = nn.Parameter(torch.randn(1, context, width) * 0.02)
            self.layers = nn.Sequential(*(EncoderLayer(width, heads, causal=True) for _ in range(layers)))
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, characters)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.layers(self.embed(x) + self.place))).transpose(1, 2)


def greedy(logits: Callable[[Tensor], Tensor], text: Text, start: str, count: int) -> str:
    """`count` characters, each the likeliest behind the `context` before it."""
    place = {c: i for i, c in enumerate(text.characters)}
    codes = [place[c] for c in start][-text.context :]
    codes = [place[" "]] * (text.context - len(codes)) + codes
    for _ in range(count):
        x = text.one_hot(torch.tensor([codes[-text.context :]]))
        codes.append(int(logits(x)[0, :, -1].argmax()))
    return "".join(text.characters[c] for c in codes[-count:])


@dataclass
class Language:
    """The experiments, one cell a (method, seed)."""

    cells: Cells
    runs: Path
    recipe: Recipe = RECIPE
    progress: Progress | None = None

    @cached_property
    def text(self) -> Text:
        return Text.load(DATA)

    def loss(self, network: nn.Module) -> float:
        """Validation loss in nats a character."""
        x, y = self.text.validation
        with evaluating(network):
            parts = [float(F.cross_entropy(network(a), b)) * len(a) for a, b in zip(x.split(64), y.split(64), strict=True)]
        return sum(parts) / len(x)

    def start(self, seed: int) -> nn.Module:
        """The float model."""
        network: nn.Module = LanguageModel(len(self.text.characters), self.text.context, seed=seed)
        path = self.runs / f"language-{self.recipe.steps}-{seed}.safetensors"
        if path.exists():
            network.load_state_dict(load_file(path))
            return network.eval()
        network = fit(network, self.text, self.recipe.with_(seed=seed), progress=self.progress).module
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
        return network

    def floats(self, seed: int) -> Values:
        def make() -> Values:
            return {"loss": self.loss(self.start(seed)), "bigram": self.text.bigram_loss}

        return self.cells.get(f"language-float-{seed}", {"recipe": self.recipe.with_(seed=seed).to_json()}, make)

    def trained(self, method: Compressor, seed: int, label: str = "") -> Values:
        """Loss of a compressed model, and whether its C program writes the same 200 characters as PyTorch."""

        def make() -> Values:
            start = self.start(seed)
            x = self.text.windows(self.text.train, torch.arange(128) * 997)[0]
            fitting = Fitting(self.text, self.recipe.with_(seed=seed), start, progress=self.progress, name="language")
            network = method.compress(start, x[:1], x, fitting)
            graph = trace(network, x[:1])
            with tempfile.TemporaryDirectory() as folder:
                compiled = build(graph, folder)

                def run(one: Tensor) -> Tensor:
                    shape = graph[graph.outputs[0]].spec.shape
                    return torch.from_numpy(np.array(compiled.run_one(one.numpy())).reshape(shape))

                with torch.no_grad():
                    texts = [greedy(f, self.text, "ROMEO:", 200) for f in (network, run)]
            same = sum(a != b for a, b in zip(*texts, strict=True))
            return {"loss": self.loss(network), "bigram": self.text.bigram_loss, "different_characters": same, "text": texts[0],
                    "bytes": graph.weight_bytes}  # fmt: skip

        key = {"recipe": self.recipe.with_(seed=seed).to_json(), "method": method.name, "fields": asdict(method)}
        return self.cells.get(f"language-{label or method.name}-{seed}", key, make)
