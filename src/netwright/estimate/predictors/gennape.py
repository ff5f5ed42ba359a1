"""GENNAPE: graphs of operations, an encoder learnt without labels, and heads mixed by fuzzy membership.

    d(i, j) = | lambda_i - lambda_j | + max(|V_i|, |V_j|) - |common operations|
    a(i, j) = softmax_j( -d(i, j) / (s * mean d) ),  j != i                                 which graphs should lie near
    loss    = - mean_i sum_j a(i, j) log softmax_j( <u_i, u_j> / t ),  u = P g / |P g|      contrastive, no label
    U(x, c) = 1 / sum_k ( |u - v_c| / |u - v_k| )^(2 / (f - 1))                             fuzzy C-means with centres v
    y(x)    = sum_c U(x, c) sum_h w(c, h) m_h(x),   w(c, h) ~ E(c, h)^-2                     heads m_h
    s(x)^2  = sum_c U(x, c) ( E(c) + sum_h w(c, h) (m_h(x) - y(x))^2 )

lambda: the smallest eigenvalues of the normalised Laplacian of the undirected graph; the second part of d is the bound that the
operations alone set to the graph edit distance. g is the graph's vector from the k-GNN (`graph_encoder`), P a linear map.
E(c, h) is the held-out squared error of head h on the members of cluster c, E(c) that of the mix.

Heads: a perceptron on the frozen g; a k-GNN of its own, with squared error and a logistic loss of pairs; ridge and extra trees on
totals (work, nodes, edges, path lengths). Errors E are shrunk to the head's error everywhere, worth `prior` labels.

Differs from the paper, of whose method the authors' repository holds the graphs and the k-GNN alone: the heads' weights come in
closed form from held-out errors instead of being trained; zero-cost proxies are not read; the encoder is the same k-GNN as the
head's; a cell stands for the network that stacks it. Without graphs the distance is that of the numbers' nodes, zero for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.core.paper import Paper
from netwright.estimate.predictors.forest import ExtraTrees
from netwright.estimate.predictors.graph_encoder import Encoder, Graphs, Reader, Rows, descend, perceptron
from netwright.estimate.predictors.ridge import Ridge
from netwright.estimate.predictors.role import Held, Learned, Predictor, normal_scores
from netwright.estimate.tables.features import Array, Features

HEADS = ("perceptron", "k-gnn", "ridge on totals", "trees on totals")
LARGEST = 2.0  # eigenvalue of a normalised Laplacian
Head = Callable[[Graphs, Array], Array]  # (graphs, their vectors g) -> scores [N]


def spectra(graphs: Graphs, count: int) -> Array:
    """The smallest eigenvalues of each graph's normalised Laplacian [N, count]; 2, the largest possible, where it has fewer."""
    found = np.full((len(graphs), count), LARGEST)
    for n in np.unique(np.diff(graphs.starts)):
        rows = np.flatnonzero(np.diff(graphs.starts) == n)
        a = np.zeros((len(rows), n, n))
        for i, row in enumerate(rows):
            u, v, m = graphs.ends[graphs.edge_starts[row] : graphs.edge_starts[row + 1]].T
            a[i, u, v] = a[i, v, u] = m
        root = np.sqrt(np.maximum(a.sum(-1), 1e-12))
        values = np.linalg.eigvalsh(np.eye(n) - a / (root[:, :, None] * root[:, None, :]))
        found[rows, : min(n, count)] = values[:, :count]
    return found


def on_totals(learned: Learned) -> Head:
    """A head of a predictor that reads totals."""
    return lambda graphs, g: learned(Features.of(graphs.totals))[0]


def operations(x: Features) -> Array:
    """How often each operation stands in each graph, [N, operations]; none where there are no graphs."""
    at = {name: i for i, name in enumerate(sorted({o for c in dict.fromkeys(x.cells) for o in c.operations}))}
    found = np.zeros((len(x), len(at)))
    for i, cell in enumerate(x.cells):
        for name in cell.operations:
            found[i, at[name]] += 1
    return found


def fuzzy_means(u: Array, clusters: int, fuzziness: float, rng: np.random.Generator, rounds: int = 50) -> Array:
    """Centres [clusters, columns] of fuzzy C-means on points [N, columns]."""
    centres = u[rng.choice(len(u), clusters, replace=False)] + 1e-6 * rng.normal(size=(clusters, u.shape[1]))
    for _ in range(rounds):
        weights = memberships(u, centres, fuzziness) ** fuzziness
        centres = (weights.T @ u) / weights.sum(0)[:, None]
    return np.asarray(centres)


def memberships(u: Array, centres: Array, fuzziness: float) -> Array:
    """U [N, clusters]; rows sum to 1."""
    apart = np.maximum(((u[:, None] - centres) ** 2).sum(-1), 1e-12) ** (-1 / (fuzziness - 1))
    return np.asarray(apart / apart.sum(1, keepdims=True))


@dataclass(frozen=True)
class Pretrained:
    """What was learnt without labels: how to read, the encoder with its map P, centre and width of g, and the clusters."""

    reader: Reader
    encoder: Encoder
    map: nn.Linear
    centre: Array
    width: Array
    centres: Array

    def vectors(self, graphs: Graphs) -> Array:
        """g, standardised [N, 2 hidden]."""
        return np.asarray((graphs.over(self.encoder.graphs) - self.centre) / self.width)

    def directions(self, g: Array) -> Array:
        """u [N, hidden] of standardised vectors."""
        with torch.no_grad():
            u = F.normalize(self.map(torch.from_numpy(g * self.width + self.centre).float()), dim=1)
        return np.asarray(u.double().numpy())


@dataclass(frozen=True)
class GENNAPE(Predictor):
    """Heads on graphs, mixed by fuzzy clusters of contrastive vectors.

    Attributes:
        hidden: width of the k-GNN.
        layers: of the k-GNN.
        eigenvalues: that are compared.
        sharpness: s, how much nearer than the mean a graph must be to count as similar.
        temperature: t.
        clusters: at most; one for every ten graphs.
        fuzziness: f; 1 would give each graph to one cluster.
        prior: labels that a head's error everywhere is worth in a cluster.
        pairs: weight of the logistic loss of pairs beside the squared error.
        unlabelled: steps of contrastive learning, at least; five passes over the graphs.
        steps: of learning a head, at least.
        passes: over the labels, at least.
        batch: graphs in a step.
        rate: of AdamW.
        decay: of AdamW.
        pretrained: what `pretrain` has found; without it, learnt from the graphs that come with the labels.
    """

    name: ClassVar[str] = "gennape"
    paper: ClassVar[Paper] = Paper(
        "mills2023gennape", "GENNAPE: Towards Generalized Neural Architecture Performance Estimators",
        "Keith G. Mills and Fred X. Han and Jialin Zhang and Fabian Chudak and Ali Safari Mamaghani and Mohammad Salameh and "
        "Wei Lu and Shangling Jui and Di Niu", "AAAI", 2023, "https://arxiv.org/abs/2211.17226", "S070",
    )  # fmt: skip

    folds: int = 3
    hidden: int = 32
    layers: int = 3
    eigenvalues: int = 11
    sharpness: float = 0.25
    temperature: float = 0.1
    clusters: int = 8
    fuzziness: float = 1.5
    prior: float = 10.0
    pairs: float = 1.0
    unlabelled: int = 150
    steps: int = 150
    passes: int = 15
    batch: int = 128
    rate: float = 3e-3
    decay: float = 1e-2
    pretrained: Pretrained | None = field(default=None, repr=False, compare=False)

    def pretrain(self, x: Features, rng: np.random.Generator) -> GENNAPE:
        """Learn encoder and clusters from graphs without labels; the result reads graphs of this and of other spaces.

        Raises:
            MissingExtra: torch_geometric is not installed.
        """
        reader = Reader.of([x])
        graphs = reader(x)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            encoder, map = Encoder(reader, self.hidden, self.layers), nn.Linear(2 * self.hidden, self.hidden)
        values, counts = spectra(graphs, self.eigenvalues), operations(x)

        def distance(rows: Rows) -> Tensor:
            """d of all pairs, [n, n]."""
            apart = np.sqrt(((values[rows][:, None] - values[rows]) ** 2).sum(-1))
            sizes, common = counts[rows].sum(1), np.minimum(counts[rows][:, None], counts[rows]).sum(-1)
            return torch.from_numpy(apart + np.maximum(sizes[:, None], sizes) - common).float()

        def loss(rows: Rows) -> Tensor:
            u = F.normalize(map(encoder.graphs(graphs.batch(rows))), dim=1)
            d, itself = distance(rows), torch.eye(len(rows), dtype=torch.bool)
            near = (-d / (self.sharpness * d.mean()).clamp(min=1e-6)).masked_fill(itself, -torch.inf).softmax(1)
            chance = (u @ u.T / self.temperature).masked_fill(itself, -torch.inf).log_softmax(1)
            return -(near * chance.masked_fill(itself, 0)).sum(1).mean()

        learned = [*encoder.parameters(), *map.parameters()]
        descend(
            learned,
            loss,
            len(graphs),
            steps=self.unlabelled,
            passes=5,
            batch=self.batch,
            rate=self.rate,
            decay=self.decay,
            rng=rng,
        )
        g = graphs.over(encoder.graphs)
        width = g.std(0)
        found = Pretrained(reader, encoder, map, g.mean(0), np.where(width > 1e-6, width, 1.0), np.zeros((0, 0)))
        some = rng.permutation(len(g))[:2000]
        count = max(1, min(self.clusters, len(some) // 10))
        centres = fuzzy_means(found.directions((g[some] - found.centre) / found.width), count, self.fuzziness, rng)
        return replace(self, pretrained=replace(found, centres=centres))

    def _descend(self, module: nn.Module, predict: Callable[[Rows], Tensor], z: Array, rng: np.random.Generator) -> None:
        labels = torch.from_numpy(z).float()

        def loss(rows: Rows) -> Tensor:
            found, true = predict(rows).squeeze(1), labels[rows]
            sign = (true[:, None] - true).sign()
            pairs = (F.softplus((found - found[:, None]) * sign) * sign.abs()).sum() / sign.abs().sum().clamp(min=1)
            return F.mse_loss(found, true) + self.pairs * pairs

        descend(
            module.parameters(),
            loss,
            len(z),
            steps=self.steps,
            passes=self.passes,
            batch=self.batch,
            rate=self.rate,
            decay=self.decay,
            rng=rng,
        )

    def heads(self, graphs: Graphs, g: Array, z: Array, rng: np.random.Generator) -> tuple[Head, ...]:
        """Each head, fitted to scores `z` [n] of graphs with vectors `g` [n, 2 hidden]; without graphs there are no totals."""
        assert self.pretrained is not None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            top = perceptron(g.shape[1], self.hidden)
            encoder = Encoder(self.pretrained.reader, self.hidden, self.layers)
            read = perceptron(2 * self.hidden, self.hidden)
        vectors = torch.from_numpy(g).float()
        self._descend(top, lambda rows: top(vectors[rows]), z, rng)
        both = nn.ModuleList([encoder, read])
        self._descend(both, lambda rows: read(encoder.graphs(graphs.batch(rows))), z, rng)

        def frozen(graphs: Graphs, g: Array) -> Array:
            with torch.no_grad():
                return np.asarray(top(torch.from_numpy(g).float()).squeeze(1).double().numpy())

        def own(graphs: Graphs, g: Array) -> Array:
            return graphs.over(lambda batch: read(encoder.graphs(batch)).squeeze(1))

        found: list[Head] = [frozen, own]
        for member in (Ridge(), ExtraTrees(leaf=3)) if graphs.totals.shape[1] else ():
            found.append(on_totals(member.learn(Features.of(graphs.totals), z, rng)))
        return tuple(found)

    def learn(self, x: Features, z: Array, rng: np.random.Generator) -> Learned:
        return self.hold_out(x, z, rng).learned

    def hold_out(self, x: Features, z: Array, rng: np.random.Generator) -> Held:
        model, heads, mix, each, members = self.parts(x, z, rng)
        return Held(model.mixed(heads, mix), *mix(each, members), mix.why)

    def parts(self, x: Features, z: Array, rng: np.random.Generator) -> tuple[GENNAPE, tuple[Head, ...], Mix, Array, Array]:
        """The pre-trained model, the heads, their mix, held-out scores of each head [n, heads] and memberships [n, clusters].

        Heads are learnt without each fold; the encoder, which sees no label, once.
        """
        model = self if self.pretrained is not None else self.pretrain(x, rng)
        found = model.pretrained
        assert found is not None
        graphs = found.reader(x)
        g = found.vectors(graphs)
        folds = rng.permutation(len(z)) % min(self.folds, len(z))
        held: list[Array] = []
        for fold in range(folds.max() + 1):
            kept, out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            heads, part = model.heads(found.reader(x[kept]), g[kept], z[kept], rng), found.reader(x[out])
            held.append(np.stack([head(part, g[out]) for head in heads], 1))
        each = np.empty((len(z), held[0].shape[1]))
        for fold, values in enumerate(held):
            each[folds == fold] = values
        members = model.members(g)
        return model, model.heads(graphs, g, z, rng), Mix.of(each, z, members, self.prior), each, members

    def members(self, g: Array) -> Array:
        """Membership of standardised vectors in the clusters, [N, clusters]."""
        assert self.pretrained is not None
        return memberships(self.pretrained.directions(g), self.pretrained.centres, self.fuzziness)

    def mixed(self, heads: Sequence[Head], mix: Mix) -> Learned:
        """Mean and spread of architectures by fitted heads."""
        found = self.pretrained
        assert found is not None

        def learned(x: Features) -> tuple[Array, Array]:
            graphs = found.reader(x)
            g = found.vectors(graphs)
            return mix(np.stack([head(graphs, g) for head in heads], 1), self.members(g))

        return learned

    def transfer(self, source: Features, y: Array, rng: np.random.Generator) -> tuple[GENNAPE, tuple[Head, ...], Mix]:
        """Encoder, heads and mix of a large source: the heads learn four fifths, the mix is found on the last fifth."""
        model = self if self.pretrained is not None else self.pretrain(source, rng)
        found = model.pretrained
        assert found is not None
        z, order = normal_scores(y), rng.permutation(len(y))
        out, kept = order[: len(y) // 5], order[len(y) // 5 :]
        seen, unseen = found.reader(source[kept]), found.reader(source[out])
        g = found.vectors(unseen)
        heads = model.heads(seen, found.vectors(seen), z[kept], rng)
        return model, heads, Mix.of(np.stack([head(unseen, g) for head in heads], 1), z[out], model.members(g), self.prior)

    def rank(self, source: Features, y: Array, pool: Features, rng: np.random.Generator) -> Array:
        """Scores [N] of another space's architectures, more is better, without a label of it.

        Args:
            source: labelled architectures; their graphs, and no column, are read.
            y: their labels [n].
            pool: the other space's architectures.

        Raises:
            MissingExtra: torch_geometric is not installed.
        """
        model, heads, mix = self.transfer(source, y, rng)
        return model.mixed(heads, mix)(pool)[0]


@dataclass(frozen=True)
class Mix:
    """Weights of the heads [clusters, heads], and squared error of the mix [clusters]."""

    weights: Array
    errors: Array
    why: str = ""

    @classmethod
    def of(cls, each: Array, z: Array, members: Array, prior: float) -> Mix:
        """From held-out scores [n, heads], true ones [n] and memberships [n, clusters]."""

        def shrunk(squares: Array) -> Array:
            total = squares.mean(0)
            return np.asarray((members.T @ squares + prior * total) / (members.sum(0)[:, None] + prior))

        inverse = shrunk((each - z[:, None]) ** 2) ** -2.0
        weights = inverse / inverse.sum(1, keepdims=True)
        mean = np.einsum("nc,ch,nh->n", members, weights, each)
        shares = members.mean(0) @ weights
        why = ", ".join(f"{name} {share:.2f}" for name, share in zip(HEADS, shares, strict=False))
        return cls(weights, shrunk(((mean - z) ** 2)[:, None])[:, 0], f"mean weights of the heads: {why}")

    def __call__(self, each: Array, members: Array) -> tuple[Array, Array]:
        weights = members @ self.weights
        mean = (weights * each).sum(1)
        return mean, np.sqrt(members @ self.errors + (weights * (each - mean[:, None]) ** 2).sum(1))
