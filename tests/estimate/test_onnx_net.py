from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from netwright.core.errors import DataError
from netwright.estimate.predictors.onnx_net import OnnxNet, Vocabulary, lines, onnx_features, ranking, read_onnx, text
from netwright.estimate.predictors.role import tau
from netwright.estimate.tables import Cell, describe
from netwright.testing.estimate import check_predictor

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
SMALL = OnnxNet(width=32, depth=1, pretraining=120, batch=64, steps=80, folds=2)


def residual(channels=16, stride=1, tail="Relu"):
    """Bytes of: convolution 3x3, another one on it, their sum, a pooling, a linear layer."""
    w = [
        helper.make_tensor(f"w{i}", TensorProto.FLOAT, s, np.zeros(s).ravel())
        for i, s in enumerate([(channels, 3, 3, 3), (channels, channels, 3, 3), (channels, 10)])
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], kernel_shape=[3, 3], pads=[1] * 4, strides=[stride] * 2),
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["c"], pads=[1] * 4),
        helper.make_node("Add", ["a", "c"], ["d"]),
        helper.make_node(tail, ["d"], ["e"]),
        helper.make_node("GlobalAveragePool", ["e"], ["f"]),
        helper.make_node("Flatten", ["f"], ["g"]),
        helper.make_node("Gemm", ["g", "w2"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 3, 32, 32]), ("y", [1, 10])))
    graph = helper.make_graph(nodes, "g", [x], [y], w)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()


def cells(count, seed=0):
    rng = np.random.default_rng(seed)
    return [Cell.from_edges(dict(zip(EDGES, rng.choice(OPERATIONS, 6), strict=True))) for _ in range(count)]


def test_contract():
    check_predictor(OnnxNet(folds=6, steps=80))


def test_text_of_a_file(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(residual(16, 2))
    found = read_onnx(path)
    assert text(found).splitlines() == [
        "input c1.5 r5", "conv k3 s2 c4 r4 w9 <1", "conv k3 c4 r4 w11 <1", "add c4 r4 <1 <2", "relu c4 r4 <1",
        "globalpool c4 r0 <1", "linear c3.5 w7.5 <1", "output <1",
    ]  # fmt: skip
    assert found.weights == 16 * 27 + 16 * 144 + 160 and found == read_onnx(path.read_bytes())


def test_text_of_a_cell_is_of_the_same_kind():
    cell = Cell.parse("|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|avg_pool_3x3~1|skip_connect~2|")
    assert text(cell).splitlines() == ["input", "conv k3 c0 <1", "conv k1 c0 <1", "pool k3 c0 <2", "output <1 <2 <4"]
    shared = Cell.reduced(
        ["input", "conv3x3", "conv1x1", "output"], [[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0] * 4], "concat"
    )
    assert text(shared).splitlines()[1:3] == ["conv k3 c-1 <1", "conv k1 c-1 <2"]
    spiking = Cell(("input", "lif0.5-conv3x3", "output"), ((0, 1, 0), (0, 0, 1), (0, 0, 0)))
    assert text(spiking).splitlines()[1] == "lif0.5 conv k3 c0 <1"
    tokens = {t for line in lines(read_onnx(residual())) for t in line}
    assert {t for line in lines(cell) for t in line} <= tokens | {"k1", "pool", "c0", "<4"}


def test_a_file_of_torch_reads_as_the_network(tmp_path):
    network = nn.Sequential(
        nn.Conv2d(3, 8, 5, padding=2, groups=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Flatten(),
        nn.Linear(8 * 6 * 6, 4),
    )
    torch.onnx.export(network.eval(), (torch.zeros(1, 3, 16, 16),), tmp_path / "t.onnx", dynamo=True, verbose=False)
    found = [line.split() for line in text(read_onnx(tmp_path / "t.onnx")).splitlines()]
    assert [line[0] for line in found if line[0] in ("conv", "pool", "linear")] == ["conv", "pool", "conv", "linear"]
    depthwise = [line for line in found if line[0] == "conv"][1]
    assert {"k3", "g3", "c3", "r2.5"} <= set(depthwise)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"not a model at all", "no ONNX model"),
        (b"", "no operations"),
        (residual()[:200], "no ONNX model|no operations"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_model_is_told(tmp_path, data, match):
    path = tmp_path / "m.onnx"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(DataError, match=match):
        read_onnx(path)


def test_nodes_out_of_order_are_told():
    model = onnx.load_model_from_string(residual())
    nodes = list(reversed(model.graph.node))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    with pytest.raises(DataError, match="not in order"):
        read_onnx(model.SerializeToString())


def test_learns_from_files():
    rng = np.random.default_rng(0)
    choices = [
        (int(c), int(s), str(t))
        for c, s, t in zip(rng.choice([8, 16, 32, 64], 80), rng.choice([1, 2], 80), rng.choice(["Relu", "Tanh"], 80), strict=True)
    ]
    found = onnx_features([read_onnx(residual(*c)) for c in choices])
    y = np.array([np.log2(c) - s + (t == "Relu") for c, s, t in choices]) + 0.1 * rng.normal(size=80)
    fitted = SMALL.pretrain(found, rng).fit(found[:50], y[:50], rng)
    assert tau(fitted.predict(found[50:]).mean, y[50:]) > 0.6
    again = onnx_features([read_onnx(residual(*choices[0]))], like=found)
    assert again.names == found.names and np.allclose(again.blocks["counts"], found.blocks["counts"][:1])


def test_pre_training_reads_cells():
    found = describe(cells(300))
    y = found.blocks["graph"][:, found.names["graph"].index("convolutions mean")]
    rng = np.random.default_rng(0)
    ready = SMALL.pretrain(found, rng)
    assert ready.reader.left < 0.75 and sum(p.numel() for p in ready.reader.encoder.parameters()) < 1_000_000
    before = [p.clone() for p in ready.reader.encoder.parameters()]
    fitted = ready.fit(found[:80], y[:80], rng)
    assert tau(fitted.predict(found[80:]).mean, y[80:]) > 0.5
    tuned = replace(ready, tuned=1e-3, steps=10).learn(found[:80], y[:80], rng)
    assert np.isfinite(tuned(found[80:90])[0]).all()
    assert all(torch.equal(a, b) for a, b in zip(before, ready.reader.encoder.parameters(), strict=True))


def test_unknown_tokens_and_long_texts():
    vocabulary = Vocabulary.of(cells(20))
    other = Cell(("input", "deform5x5", "output"), ((0, 1, 0), (0, 0, 1), (0, 0, 0)))
    ids = vocabulary([other, *cells(2)], 2)
    assert ids.shape[1] == 2 and ids[0, 0, 0] == 1 and (ids[0] > 0).any()


def test_ranking_loss():
    z = torch.tensor([0.0, 1.0, 2.0])
    assert ranking(z, z, 0.1) == 0 and ranking(-z, z, 0.1) == pytest.approx((1.1 + 1.1 + 2.1) / 3)
