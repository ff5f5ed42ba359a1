"""FBNetV3's predictor: an encoder pre-trained on what costs nothing to know, then tuned on few labels of several metrics at once.

    h = E(a)                              encoder of an architecture: two layers
    s = W h                               statistics that can be computed for every architecture of the pool
    y = H(h, r)                           one output a metric; r: a training recipe, or other numbers that are no architecture
    1.  min_{E, W} sum_pool huber(s - s*)                  no label is used; s* standardised
    2.  min_H      sum_labels huber(y - z)                 E as it is
    3.  min_{E, H} sum_labels huber(y - z)                 all together, at a lower rate

a: of a graph the operations of its nodes, one-hot, the edges between them, and words; of a code all blocks of features but those
of `beside`. s*: the blocks `free`, a cell's parameters, paths, receptive fields and widths for example. Labels are normal scores.
`members` heads, each with an encoder of its own from step 3 on, are averaged; their deviation is added to the spread.

Differs from the paper: its free labels are FLOPs and parameters, its architectures codes of one space, and a genetic search
follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional as F

from netwright.core.errors import NetwrightError
from netwright.core.paper import Paper
from netwright.estimate.predictors.role import Fitted, Held, Learned, Predictor, features, normal_scores
from netwright.estimate.tables.cell import Cell
from netwright.estimate.tables.features import Array, Features

CLIP = 4.0
Layers = list[tuple[Tensor, Tensor]]


def layers(sizes: Sequence[int], members: int, generator: torch.Generator) -> Layers:
    """Weights [members, in, out] and biases [members, 1, out], uniform within 1 / sqrt(in)."""
    made: Layers = []
    for i, o in pairwise(sizes):
        bound = max(i, 1) ** -0.5
        w, b = ((2 * torch.rand(members, *s, generator=generator) - 1) * bound for s in ((i, o), (1, o)))
        made.append((w, b))
    return made


def forward(net: Layers, x: Tensor, last: bool = False) -> Tensor:
    """[members, n, in] -> [members, n, out]; the last layer is linear where `last`."""
    for i, (w, b) in enumerate(net):
        x = torch.baddbmm(b, x.expand(len(w), -1, -1), w)
        x = x if last and i == len(net) - 1 else F.silu(x)
    return x


def train(parameters: Sequence[Tensor], loss: Callable[[], Tensor], steps: int, rate: float, decay: float) -> None:
    """AdamW, the rate falling to zero along a cosine."""
    for p in parameters:
        p.requires_grad_(True)
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    for _ in range(steps):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
        schedule.step()
    for p in parameters:
        p.requires_grad_(False)


@dataclass(frozen=True)
class Standard:
    """Centre and width of columns, from a pool; what leaves four deviations is cut off."""

    centre: Array
    width: Array

    @classmethod
    def of(cls, x: Array) -> Standard:
        width = x.std(0)
        return cls(x.mean(0), np.where(width > 1e-9, width, np.inf))

    def __call__(self, x: Array) -> Tensor:
        return torch.from_numpy(np.clip((x - self.centre) / self.width, -CLIP, CLIP).astype(np.float32))


@dataclass(frozen=True)
class Wiring:
    """A cell as one-hot operations of its nodes and its edge counts, padded to the largest cell of a pool."""

    nodes: int
    kinds: tuple[str, ...]

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> Wiring:
        kinds = sorted({o for c in set(cells) for o in c.operations[1:-1]})
        return cls(max((len(c.operations) for c in set(cells)), default=0), tuple(kinds))

    def __call__(self, cells: Sequence[Cell]) -> Array:
        """[N, nodes * kinds + nodes^2]; the output is the last node; larger cells lose the nodes beyond."""
        distinct = {cell: i for i, cell in enumerate(dict.fromkeys(cells))}
        at, n = {k: i for i, k in enumerate(self.kinds)}, self.nodes
        one, edges = np.zeros((len(distinct), n, len(self.kinds))), np.zeros((len(distinct), n, n))
        for i, cell in enumerate(distinct):
            inner = min(len(cell.operations), n) - 1
            places, taken = [*range(inner), n - 1], [*range(inner), len(cell.operations) - 1]
            edges[np.ix_([i], places, places)] = np.array(cell.counts)[np.ix_(taken, taken)]
            for v in range(1, inner):
                if cell.operations[v] in at:
                    one[i, v, at[cell.operations[v]]] = 1
        flat = np.concatenate([one.reshape(len(distinct), -1), edges.reshape(len(distinct), -1)], 1)
        return flat[[distinct[c] for c in cells]]


@dataclass(frozen=True)
class Encoder:
    """An encoder after step 1, with what turns features into its inputs.

    Attributes:
        left: mean squared error on the pool's standardised statistics that is left (1: nothing was learnt).
    """

    blocks: tuple[str, ...]
    beside: tuple[str, ...]
    wiring: Wiring | None
    standard: Standard
    aside: Standard
    net: Layers
    left: float

    def inputs(self, x: Features) -> Tensor:
        return self.standard(_inputs(x, self.blocks, self.wiring))

    def recipe(self, x: Features) -> Tensor:
        return self.aside(_side(x, self.beside))


def _inputs(x: Features, blocks: Sequence[str], wiring: Wiring | None) -> Array:
    found = [x.blocks[name] for name in blocks] + ([wiring(x.cells)] if wiring else [])
    return np.concatenate(found, 1)


def _side(x: Features, beside: Sequence[str]) -> Array:
    return np.concatenate([np.zeros((len(x), 0)), *(x.blocks[name] for name in beside)], 1)


@dataclass(frozen=True)
class FBNetV3(Predictor):
    """Pre-trained on free labels.

    Attributes:
        free: blocks of free labels, those that are there; all blocks of the encoder where none is.
        inputs: blocks that the encoder reads; where empty all but those of `beside`, and with graphs all but the free labels.
        beside: blocks that go past the encoder: recipes, proxies.
        width: of the encoder and of the heads.
        members: heads.
        pretraining: steps of step 1; none is the same network without it.
        batch: of the pool, for one step.
        frozen: steps of step 2.
        steps: of step 3.
        rate: of steps 1 and 2.
        tuned: of step 3.
        decay: of weights.
        encoder: after step 1, from `pretrain`; without it the labelled architectures are the pool.
    """

    name: ClassVar[str] = "fbnetv3"
    paper: ClassVar[Paper] = Paper(
        "dai2021fbnetv3", "FBNetV3: Joint Architecture-Recipe Search using Predictor Pretraining",
        "Xiaoliang Dai and Alvin Wan and Peizhao Zhang and Bichen Wu and Zijian He and Zhen Wei and Kan Chen and Yuandong Tian "
        "and Matthew Yu and Peter Vajda and Joseph E. Gonzalez", "CVPR", 2021, "https://arxiv.org/abs/2006.02049", "S194",
    )  # fmt: skip

    free: tuple[str, ...] = ("graph", "counts")
    inputs: tuple[str, ...] = ()
    beside: tuple[str, ...] = ("numbers", "recipe")
    width: int = 128
    members: int = 3
    pretraining: int = 600
    batch: int = 256
    frozen: int = 60
    steps: int = 60
    rate: float = 3e-3
    tuned: float = 1e-3
    decay: float = 1e-2
    encoder: Encoder | None = field(default=None, repr=False, compare=False)

    @property
    def scratch(self) -> FBNetV3:
        """The same network without step 1: as many steps on labels, all layers at the full rate from the first one on."""
        return replace(self, pretraining=0, frozen=0, steps=self.frozen + self.steps, tuned=self.rate, encoder=None)

    def pretrain(self, pool: Features, rng: np.random.Generator) -> FBNetV3:
        """The same predictor after step 1 on the architectures of `pool`; labels are not asked for."""
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        beside = tuple(name for name in self.beside if name in pool.blocks)
        apart = (*beside, *(self.free if pool.cells and not self.inputs else ()))
        blocks = tuple(name for name in pool.blocks if name not in apart and (not self.inputs or name in self.inputs))
        wiring = Wiring.of(pool.cells) if pool.cells else None
        if not blocks and not wiring:
            blocks, beside = beside, ()
        numbers = _inputs(pool, blocks, wiring)
        standard, aside = Standard.of(numbers), Standard.of(_side(pool, beside))
        free = [name for name in self.free if name in pool.blocks] or list(blocks)
        wanted = np.concatenate([pool.blocks[name] for name in free], 1) if free else numbers
        x, s = standard(numbers), Standard.of(wanted)(wanted)
        net = layers((x.shape[1], self.width, self.width), 1, generator)
        out = layers((self.width, s.shape[1]), 1, generator)

        def loss() -> Tensor:
            rows = torch.randint(len(x), (min(self.batch, len(x)),), generator=generator)
            return F.huber_loss(forward(out, forward(net, x[rows]), last=True)[0], s[rows])

        if self.pretraining:
            train([p for pair in (*net, *out) for p in pair], loss, self.pretraining, self.rate, self.decay)
        left = float(((forward(out, forward(net, x[: 4 * self.batch]), last=True)[0] - s[: 4 * self.batch]) ** 2).mean())
        return replace(self, encoder=Encoder(blocks, beside, wiring, standard, aside, net, left))

    def learn_many(self, x: Features, z: Array, rng: np.random.Generator) -> Callable[[Features], tuple[Array, Array]]:
        """Steps 2 and 3 on scores `z` [n, metrics]; the result gives means and spreads [N, metrics]."""
        encoder = (self if self.encoder else self.pretrain(x, rng)).encoder
        assert encoder is not None
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        a, r, targets = encoder.inputs(x), encoder.recipe(x), torch.from_numpy(z.astype(np.float32))
        net = [(w.repeat(self.members, 1, 1), b.repeat(self.members, 1, 1)) for w, b in encoder.net]
        head = layers((self.width + r.shape[1], self.width, z.shape[1]), self.members, generator)

        def predict(h: Tensor, r: Tensor) -> Tensor:
            return forward(head, torch.cat([h, r.expand(len(h), -1, -1)], 2), last=True)

        def loss(h: Tensor) -> Tensor:
            return F.huber_loss(predict(h, r), targets.expand(self.members, -1, -1), reduction="sum") / targets.numel()

        heads = [p for pair in head for p in pair]
        known = forward(net, a)
        train(heads, lambda: loss(known), self.frozen, self.rate, self.decay)
        train([*heads, *(p for pair in net for p in pair)], lambda: loss(forward(net, a)), self.steps, self.tuned, self.decay)

        def learned(x: Features) -> tuple[Array, Array]:
            with torch.no_grad():
                found = predict(forward(net, encoder.inputs(x)), encoder.recipe(x)).double().numpy()
            return found.mean(0), 1 + found.std(0)

        return learned

    def learn(self, x: Features, z: Array, rng: np.random.Generator) -> Learned:
        learned = self.learn_many(x, z[:, None], rng)

        def first(x: Features) -> tuple[Array, Array]:
            mean, std = learned(x)
            return mean[:, 0], std[:, 0]

        return first

    def hold_out(self, x: Features, z: Array, rng: np.random.Generator) -> Held:
        ready = self if self.encoder else self.pretrain(x, rng)
        return super(FBNetV3, ready).hold_out(x, z, rng)

    def fit_many(self, x: Features | Array, labels: Mapping[str, ArrayLike], rng: np.random.Generator) -> dict[str, Fitted]:
        """One network for several metrics of the same architectures, each with its own intervals.

        Args:
            x: architectures [n].
            labels: metric -> labels [n], more is better.

        Raises:
            NetwrightError: no metric; or what `fit` raises, for any of them.
        """
        if not labels:
            raise NetwrightError("no metric to learn. Give labels by name.")
        x = features(x)
        values = {name: np.asarray(y, dtype=np.float64) for name, y in labels.items()}
        for y in values.values():
            _Given().fit(x, y, rng)
        z = np.stack([normal_scores(y) for y in values.values()], 1)
        ready = self if self.encoder else self.pretrain(x, rng)
        folds = rng.permutation(len(z)) % min(self.folds, len(z))
        mean, std = np.zeros_like(z), np.ones_like(z)
        for fold in range(folds.max() + 1):
            out = folds == fold
            mean[out], std[out] = ready.learn_many(x[~out], z[~out], rng)(x[out])
        learned = ready.learn_many(x, z, rng)

        def one(metric: int) -> Learned:
            def found(x: Features) -> tuple[Array, Array]:
                mean, std = learned(x)
                return mean[:, metric], std[:, metric]

            return found

        held = [Held(one(i), mean[:, i], std[:, i]) for i in range(len(values))]
        return {name: _Given(held=h).fit(x, y, rng) for h, (name, y) in zip(held, values.items(), strict=True)}


@dataclass(frozen=True)
class _Given(FBNetV3):
    """Held-out predictions that are there already; `fit` checks the labels and makes the interval."""

    held: Held | None = None

    def hold_out(self, x: Features, z: Array, rng: np.random.Generator) -> Held:
        nothing = np.zeros(len(z))
        return self.held or Held(lambda x: (np.zeros(len(x)), np.ones(len(x))), nothing, nothing + 1)
