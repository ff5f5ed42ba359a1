"""ONNX-Net: any network as a text, one line an operation, read by a small Transformer.

    text      conv k3 s2 c6 r4 w15 <1        kind; side of the kernel, stride, groups where they are not 1;
              pool k3 c6 r3 <1 <1            log2 of channels, of the side of the map, of weights, to the half;
              output <1 <3                   inputs: how many lines before
    line i    e_i = sum of the embeddings of its tokens + the sine and cosine of i
    encoder   h = Transformer(e);  g = [mean_i h_i, h_last]
    head      z = H(g, r)                    r: further numbers, proxies or a recipe
    loss      huber(z - z*) + mean_{z*_i > z*_j} max(0, margin - z_i + z_j)

The same text is written from a cell of a table (channels relative to its width, no map, no weights) and from an ONNX file
(`read_onnx`), whatever framework made it. An ONNX file is read without its weights' values; nothing in it is run.

Differs from the paper, which tunes ModernBERT (396 million weights) on 600,000 networks: the encoder is small and starts from
nothing, so it is first trained to tell from the text what can be computed of every architecture (`pretrain`): paths, depths,
receptive fields, weights. Then only the head learns labels, unless `tuned` is set. Views, constants and identities leave no
line; quantities are rounded so that tokens recur.
"""

from __future__ import annotations

import copy
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from netwright.core.errors import DataError
from netwright.core.paper import Paper
from netwright.estimate.predictors.role import Held, Learned, Predictor
from netwright.estimate.tables.cell import JOINS, Cell
from netwright.estimate.tables.features import Array, Features

KINDS = {
    "MaxPool": "pool", "AveragePool": "pool", "GlobalAveragePool": "globalpool", "GlobalMaxPool": "globalpool",
    "BatchNormalization": "norm", "InstanceNormalization": "norm", "LayerNormalization": "norm", "GroupNormalization": "norm",
    "Gemm": "linear", "MatMul": "matmul", "Sum": "add",
}  # fmt: skip
SILENT = {"Identity", "Dropout", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Constant", "Shape", "Expand"}
FURTHEST = 64  # lines back that have a token of their own


@dataclass(frozen=True)
class Network(Cell):
    """An ONNX graph; a node an operation, in topological order, input first, output last.

    Attributes:
        lines: tokens of each node but those of its inputs.
        weights: learned values of the network.
    """

    lines: tuple[tuple[str, ...], ...] = ()
    weights: int = 0


def _octaves(letter: str, value: float) -> str:
    """``c6.5`` for 90: the binary logarithm, rounded to halves."""
    return f"{letter}{round(2 * math.log2(value)) / 2:g}"


def _words(operation: str) -> list[str]:
    """Tokens of a cell's operation: ``conv3x3`` is ``conv k3``, ``lif0.5-conv3x3`` is ``lif0.5 conv k3``."""
    found = [f"k{side}" for side in re.findall(r"(\d+)x\1", operation)]
    return [w for w in re.split(r"[-_ ]+", re.sub(r"(\d+)x\1", "", operation)) if w] + found


@lru_cache(maxsize=1 << 17)
def lines(cell: Cell) -> tuple[tuple[str, ...], ...]:
    """Tokens of each line, of a cell or of a network read from ONNX."""
    n = len(cell.operations)
    if isinstance(cell, Network):
        own = [list(line) for line in cell.lines]
    else:
        own = [_words(operation) for operation in cell.operations]
        shares = _shares(cell)
        for v in range(1, n - 1):
            own[v].append(_octaves("c", shares[v]))
    for v in range(n):
        for u, edges in reversed(cell.neighbours(v, ahead=False)):
            own[v] += [f"<{v - u}" if v - u < FURTHEST else "<far"] * edges
    return tuple(tuple(line) for line in own)


def _shares(cell: Cell) -> list[float]:
    """Channels of each node relative to the cell's: 1, or its part of a concatenated output."""
    n = len(cell.operations)
    if cell.join != JOINS[1]:
        return [1.0] * n
    parts = max(1, sum(cell.counts[v][n - 1] > 0 for v in range(1, n - 1)))
    found = [0.0] * n
    for v in range(n - 2, 0, -1):
        found[v] = max([1 / parts if cell.counts[v][n - 1] else 0, *(found[w] for w in range(v + 1, n - 1) if cell.counts[v][w])])
    return [share or 1.0 for share in found]


def text(cell: Cell) -> str:
    """The text: one line an operation."""
    return "\n".join(" ".join(line) for line in lines(cell))


def read_onnx(source: Path | str | bytes) -> Network:
    """A network from an ONNX file, or from the bytes of one; weights stored beside the file are not needed.

    Raises:
        DataError: not there, no ONNX model, or one without operations or with a cycle.
    """
    import onnx
    from google.protobuf.message import DecodeError

    name = "the bytes given" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        model = onnx.load_model_from_string(data)
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or error}. Give an .onnx file.") from error
    except DecodeError as error:
        raise DataError(f"{name} is no ONNX model, or it is cut off or damaged ({error}). Export it again.") from error
    if not model.graph.node:
        raise DataError(f"{name} holds no operations: no ONNX model, or an empty one. Export it again.")
    with suppress(onnx.shape_inference.InferenceError, ValueError, RuntimeError):  # else the shapes that the file itself tells
        model = onnx.shape_inference.infer_shapes(model)
    return _network(model.graph, name)


def _sizes(value: Any) -> tuple[int, ...]:
    return tuple(d.dim_value if d.HasField("dim_value") else 0 for d in value.type.tensor_type.shape.dim)


def _places(shape: Sequence[int]) -> list[str]:
    """Tokens of channels and of the side of the map; unknown ones are left out. Images have channels second, all else last."""
    if len(shape) < 2:
        return []
    at = 1 if len(shape) > 3 else len(shape) - 1
    rest = [d for i, d in enumerate(shape) if i not in (0, at)]
    found = [_octaves("c", shape[at])] if shape[at] > 0 else []
    return found + ([_octaves("r", math.prod(rest) ** 0.5)] if rest and min(rest) > 0 else [])


def _network(graph: Any, name: str) -> Network:
    sizes = {v.name: _sizes(v) for v in (*graph.value_info, *graph.input, *graph.output)}
    learned = {w.name: tuple(w.dims) for w in graph.initializer} | {
        w.values.name: tuple(w.dims) for w in graph.sparse_initializer
    }
    entries = [v.name for v in graph.input if v.name not in learned]
    at, operations = {entry: 0 for entry in entries}, ["input"]
    own = [("input", *(_places(sizes[entries[0]]) if entries else ()))]
    links: list[tuple[int, int]] = []
    made = {o for node in graph.node for o in node.output}
    for node in graph.node:
        known = [at[i] for i in node.input if i in at]
        waiting = [i for i in node.input if i in made and i not in at and i not in learned]
        if waiting:
            raise DataError(f"{name}: {node.op_type} reads {waiting[0]!r} before it is there; the nodes are not in order.")
        shapes = [learned[i] for i in node.input if i in learned]
        if node.op_type in SILENT or not known:
            if known:
                at |= {o: known[0] for o in node.output}
            else:
                learned |= {o: shapes[0] if shapes else () for o in node.output}
            continue
        attributes = {a.name: a for a in node.attribute}
        kind = KINDS.get(node.op_type, node.op_type.lower())
        tokens = [kind]
        kernel = list(attributes["kernel_shape"].ints) if "kernel_shape" in attributes else []
        if not kernel and kind.startswith("conv") and shapes:
            kernel = list(shapes[0][2:])
        if kernel:
            tokens.append("k" + "x".join(map(str, kernel if len(set(kernel)) > 1 else kernel[:1])))
        if "strides" in attributes and max(attributes["strides"].ints, default=1) > 1:
            tokens.append(f"s{max(attributes['strides'].ints)}")
        if "group" in attributes and attributes["group"].i > 1:
            tokens.append(_octaves("g", attributes["group"].i))
        tokens += _places(sizes.get(node.output[0], ()))
        held = sum(math.prod(s) for s in shapes)
        tokens += [_octaves("w", held)] if held > 1 else []
        v = len(operations)
        operations.append(kind)
        own.append(tuple(tokens))
        links += [(u, v) for u in known]
        at |= {o: v for o in node.output}
    v = len(operations)
    ends = [at[o.name] for o in graph.output if o.name in at]
    counts = np.zeros((v + 1, v + 1), np.int64)
    for u, w in [*links, *((u, v) for u in ends)]:
        counts[u, w] += 1
    rows = tuple(tuple(int(c) for c in row) for row in counts)
    total = sum(math.prod(w.dims) for w in graph.initializer)
    return Network((*operations, "output"), rows, "sum", (*own, ("output",)), total)


def onnx_features(networks: Sequence[Network], like: Features | None = None) -> Features:
    """Features of networks read from ONNX: the networks themselves, and the block ``counts``: logarithms of how often each token
    occurs, of lines, weights and the longest path.

    Args:
        like: take its columns, to describe more networks for a predictor that was fitted before.

    Raises:
        DataError: no networks.
    """
    if not networks:
        raise DataError("there are no networks to describe.")
    found = [Counter(token for line in lines(n) for token in line if token[0] != "<") for n in networks]
    names = like.names["counts"][3:] if like else tuple(sorted({token for counter in found for token in counter}))
    numbers = np.array([[len(n.operations), n.weights, _longest(n), *(f[name] for name in names)]
                        for n, f in zip(networks, found, strict=True)], dtype=np.float64)  # fmt: skip
    return Features({"counts": np.log1p(numbers)}, {"counts": ("lines", "weights", "longest path", *names)}, tuple(networks))


def _longest(cell: Cell) -> int:
    depth = [0] * len(cell.operations)
    counts = np.array(cell.counts)
    for v in range(1, len(depth)):
        before = np.flatnonzero(counts[:v, v])
        depth[v] = max((depth[u] + 1 for u in before), default=0)
    return depth[-1]


@dataclass(frozen=True)
class Vocabulary:
    """Tokens of a pool; 0 stands for none, 1 for one that it has not."""

    tokens: tuple[str, ...]
    wide: int

    @classmethod
    def of(cls, cells: Iterable[Cell]) -> Vocabulary:
        found = [line for cell in cells for line in lines(cell)]
        return cls(tuple(sorted({t for line in found for t in line})), max((len(line) for line in found), default=1))

    def __call__(self, cells: Sequence[Cell], most: int) -> Tensor:
        """[N, lines, tokens]; of a longer text the last `most` lines, of a longer line the first tokens."""
        at = {t: i for i, t in enumerate(self.tokens, 2)}
        texts = [lines(cell)[-most:] for cell in cells]
        out: NDArray[np.int32] = np.zeros((len(texts), max(map(len, texts)), self.wide), np.int32)
        for i, found in enumerate(texts):
            for j, line in enumerate(found):
                ids = [at.get(t, 1) for t in line[: self.wide]]
                out[i, j, : len(ids)] = ids
        return torch.from_numpy(out)


class Encoder(nn.Module):
    """Tokens [N, lines, tokens] to [N, 2 width]."""

    def __init__(self, tokens: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width, padding_idx=0)
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, F.gelu, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        absent = (x == 0).all(2)
        here = (~absent).float().unsqueeze(2)
        half = self.norm.normalized_shape[0] // 2
        place = torch.arange(x.shape[1])[:, None] * torch.exp(-math.log(1e3) / half * torch.arange(half))
        e = self.embedding(x).sum(2) + torch.cat([place.sin(), place.cos()], 1)
        h = self.norm(self.layers(e, src_key_padding_mask=absent)) * here
        last = here.sum(1, keepdim=True).long() - 1
        return torch.cat([h.sum(1) / here.sum(1), h.gather(1, last.expand(-1, 1, h.shape[2])).squeeze(1)], 1)


@dataclass(frozen=True)
class Reader:
    """An encoder after `pretrain`.

    Attributes:
        left: mean squared error on the pool's standardised statistics that is left (1: nothing was learnt).
    """

    vocabulary: Vocabulary
    encoder: Encoder
    left: float


@dataclass(frozen=True)
class OnnxNet(Predictor):
    """A small Transformer on the text of a network.

    Where features hold no graphs there is no text, and the head reads the numbers alone.

    Attributes:
        width: of the encoder; the head's is twice that.
        depth: layers.
        heads: of the attention.
        most: lines that are read; of longer texts the last.
        pretraining: steps on free statistics.
        batch: architectures of one step.
        steps: on labels.
        rate: of the pre-training and of the head.
        tuned: of the encoder while it learns labels; 0 leaves it as it was pre-trained, which did better with up to 172 labels.
        decay: of weights.
        margin: of the ranking loss.
        free: blocks of the free statistics.
        beside: blocks that the head reads beside the text.
        reader: from `pretrain`; without it the labelled architectures are the pool.
    """

    name: ClassVar[str] = "onnx-net"
    paper: ClassVar[Paper] = Paper(
        "qin2025onnxnet",
        "ONNX-Net: Towards Universal Representations and Instant Performance Prediction for Neural Architectures",
        "Shiwen Qin and Alexander Auras and Shay B. Cohen and Elliot J. Crowley and Michael Moeller and Linus Ericsson and "
        "Jovita Lukasik", "arXiv", 2025, "https://arxiv.org/abs/2510.04938", "S248",
    )  # fmt: skip

    width: int = 64
    depth: int = 2
    heads: int = 4
    most: int = 512
    pretraining: int = 600
    batch: int = 128
    steps: int = 150
    rate: float = 2e-3
    tuned: float = 0.0
    decay: float = 1e-2
    margin: float = 0.1
    free: tuple[str, ...] = ("graph", "counts")
    beside: tuple[str, ...] = ("numbers", "recipe")
    folds: int = 4
    reader: Reader | None = field(default=None, repr=False, compare=False)

    @property
    def scratch(self) -> OnnxNet:
        """The same network without pre-training, the encoder at the full rate."""
        return replace(self, pretraining=0, tuned=self.rate, reader=None)

    def pretrain(self, pool: Features, rng: np.random.Generator) -> OnnxNet:
        """The same predictor with an encoder that tells the free statistics of `pool` from its texts; no label is asked for.

        Without graphs there is nothing to read, and it stays as it is.
        """
        if not pool.cells:
            return self
        cells = list(dict.fromkeys(pool.cells))
        first = {cell: i for i, cell in reversed(list(enumerate(pool.cells)))}
        rows = [first[cell] for cell in cells]
        free = [pool.blocks[name][rows] for name in self.free if name in pool.blocks]
        vocabulary = Vocabulary.of(cells)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            encoder = Encoder(len(vocabulary.tokens) + 2, self.width, self.depth, self.heads)
            left = 1.0
            if self.pretraining and free:
                wanted = torch.from_numpy(_standard(np.concatenate(free, 1))[0])
                left = self._pretrain(encoder, vocabulary(cells, self.most), wanted)
        return replace(self, reader=Reader(vocabulary, encoder.requires_grad_(False), left))

    def _pretrain(self, encoder: Encoder, x: Tensor, wanted: Tensor) -> float:
        out = nn.Linear(2 * self.width, wanted.shape[1])
        optimiser = torch.optim.AdamW([*encoder.parameters(), *out.parameters()], self.rate, weight_decay=self.decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, self.rate, total_steps=self.pretraining + 1)
        errors = []
        for _ in range(self.pretraining):
            rows = torch.randint(len(x), (min(self.batch, len(x)),))
            found = out(encoder(_cut(x[rows])))
            optimiser.zero_grad()
            F.huber_loss(found, wanted[rows]).backward()
            optimiser.step()
            schedule.step()
            errors.append(float((found.detach() - wanted[rows]).square().mean()))
        return float(np.mean(errors[-20:]))

    def learn(self, x: Features, z: Array, rng: np.random.Generator) -> Learned:
        ready = self if self.reader else self.pretrain(x, rng)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            return ready._tune(x, torch.from_numpy(z.astype(np.float32)))

    def _tune(self, x: Features, z: Tensor) -> Learned:
        reader, names = (self.reader if x.cells else None), self._side(x)
        encoder = copy.deepcopy(reader.encoder).requires_grad_(self.tuned > 0) if reader else None
        columns, scale = _standard(_columns(x, names))
        side = torch.from_numpy(columns)
        texts = reader.vocabulary(x.cells, self.most) if reader else None
        wide = (2 * self.width if reader else 0) + side.shape[1]
        head = nn.Sequential(nn.Linear(wide, 2 * self.width), nn.SiLU(), nn.Linear(2 * self.width, 1))
        groups = [{"params": list(head.parameters()), "lr": self.rate}]
        groups += [{"params": list(encoder.parameters()), "lr": self.tuned}] if encoder and self.tuned else []
        fixed = encoder(_cut(texts)) if encoder is not None and texts is not None and not self.tuned else None
        optimiser = torch.optim.AdamW(groups, weight_decay=self.decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        for _ in range(self.steps):
            rows = torch.randperm(len(z))[: self.batch]
            g = [fixed[rows]] if fixed is not None else []
            if encoder is not None and texts is not None and fixed is None:
                g = [encoder(_cut(texts[rows]))]
            found = head(torch.cat([*g, side[rows]], 1))[:, 0]
            optimiser.zero_grad()
            (F.huber_loss(found, z[rows]) + ranking(found, z[rows], self.margin)).backward()
            optimiser.step()
            schedule.step()

        def learned(x: Features) -> tuple[Array, Array]:
            with torch.no_grad():
                parts = [torch.from_numpy(scale(_columns(x, names)))]
                if encoder is not None and reader is not None:
                    distinct = {cell: i for i, cell in enumerate(dict.fromkeys(x.cells))}
                    read = list(distinct)
                    found = [encoder(reader.vocabulary(read[i : i + 512], self.most)) for i in range(0, len(read), 512)]
                    parts.insert(0, torch.cat(found)[[distinct[cell] for cell in x.cells]])
                mean = head(torch.cat(parts, 1))[:, 0].double().numpy()
            return mean, np.ones(len(mean))

        return learned

    def _side(self, x: Features) -> tuple[str, ...]:
        return tuple(name for name in x.blocks if name in self.beside or not x.cells)

    def hold_out(self, x: Features, z: Array, rng: np.random.Generator) -> Held:
        ready = self if self.reader else self.pretrain(x, rng)
        return super(OnnxNet, ready).hold_out(x, z, rng)


def ranking(found: Tensor, wanted: Tensor, margin: float) -> Tensor:
    """Mean hinge of all pairs in the wrong order, or in the right one by less than `margin`."""
    better = (wanted[:, None] > wanted[None]).float()
    return (better * F.relu(margin - found[:, None] + found[None])).sum() / better.sum().clamp(min=1)


def _cut(x: Tensor) -> Tensor:
    """Without the lines that none of these texts has."""
    return x[:, : int((x != 0).any(2).any(0).nonzero().max()) + 1]


def _columns(x: Features, names: Sequence[str]) -> Array:
    return np.concatenate([np.zeros((len(x), 0)), *(x.blocks[name] for name in names)], 1)


def _standard(x: Array) -> tuple[NDArray[np.float32], Callable[[Array], NDArray[np.float32]]]:
    """Standardised columns, cut at 4 deviations, and the way there."""
    centre, width = x.mean(0), x.std(0)
    width = np.where(width > 1e-9, width, np.inf)

    def scale(x: Array) -> NDArray[np.float32]:
        return np.clip((x - centre) / width, -4, 4).astype(np.float32)

    return scale(x), scale
