"""QONNX files give the integers of the graph, read by operators of our own and, where it is installed, by QONNX itself."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from nets import Builder
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from test_onnx import one_layer, prepared

from netwright.compress import BiPer, BitNet, Int8
from netwright.core import Graph, NetwrightError, Node, Spec
from netwright.core.errors import Unsupported
from netwright.deploy.qonnx import thresholds, to_qonnx, width
from netwright.design import GraphModule
from netwright.design.models import VARIANTS


class Quant(OpRun):
    op_domain = "qonnx.custom_op.general"

    def _run(self, x, scale, zero, bits, signed=None, narrow=None, rounding_mode=None):  # type: ignore[no-untyped-def]
        assert rounding_mode == "ROUND" and float(zero) == 0
        top = 2 ** (int(bits) - 1) - 1 if signed else 2 ** int(bits) - 1 - narrow
        bottom = -top - 1 + narrow if signed else 0
        return ((np.rint(np.clip(x / scale, bottom, top)) * scale).astype(x.dtype),)


class BipolarQuant(OpRun):
    op_domain = "qonnx.custom_op.general"

    def _run(self, x, scale):  # type: ignore[no-untyped-def]
        return (np.where(x >= 0, scale, -scale).astype(x.dtype),)


class MultiThreshold(OpRun):
    op_domain = "qonnx.custom_op.general"

    def _run(self, x, steps, data_layout=None, out_scale=None, out_bias=None, out_dtype=None):  # type: ignore[no-untyped-def]
        axis = data_layout.index("C")
        assert len(data_layout) == x.ndim and len(steps) in (1, x.shape[axis])
        counts = (np.moveaxis(x, axis, -1)[..., None] >= steps).sum(-1)
        return ((np.moveaxis(counts, -1, axis) * out_scale + out_bias).astype(x.dtype),)


def read(data: bytes, x: np.ndarray) -> np.ndarray:
    model = onnx.load_from_string(data)
    evaluator = ReferenceEvaluator(model, new_ops=[Quant, BipolarQuant, MultiThreshold])
    return np.asarray(evaluator.run(None, {model.graph.input[0].name: x})[0])


def execute(data: bytes, x: np.ndarray) -> np.ndarray:
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    model = ModelWrapper(onnx.load_from_string(data))
    return np.asarray(execute_onnx(model, {model.graph.input[0].name: x})[model.graph.output[0].name])


def reference(graph: Graph, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return GraphModule(graph)(torch.from_numpy(x)).numpy()


def operators(data: bytes) -> Counter[str]:
    return Counter(n.op_type for n in onnx.load_from_string(data).graph.node)


def images() -> tuple[Graph, np.ndarray]:
    """Convolutions of 8, 2 and 1 bits, padded, grouped, strided, an addition, a table, products and linear layers."""
    b, rng = Builder((1, 8, 6, 6)), np.random.default_rng(7)
    codes = {"lo": -127, "hi": 127}
    eight = b.conv("qconv2d", b.quantize("x"), 12, 3)
    two = b.conv("qconv2d", eight, 12, 3, bits=2, groups=2, stride=2)
    one = b.conv("bconv2d", two, 8, 3, bits=1)
    hidden = b.conv("bconv2d", one, 8, 3, bits=1)  # only its signs are read
    signs = b.conv("bconv2d", hidden, 8, 3, bits=1, rescale=False)
    added = b.add(
        "qadd",
        one,
        two_rows := b.conv("qconv2d", two, 8, 1, bits=1),
        attrs={"ma": 9000123, "mb": -11000321, "shift": 24, **codes},
    )
    pool = b.add("max_pool2d", added, attrs={"kernel": [2, 2], "stride": [2, 2], "padding": [1, 1], "ceil": False})
    table = b.add("lut", pool, attrs=codes, table=rng.integers(-127, 128, 256).astype(np.int16))
    factors = {"mult": rng.integers(-(2**20), 2**20, 8), "bias": rng.integers(-(2**24), 2**24, 8)}
    factors["mult"][0] = 0
    again = b.add(
        "requantize", table, attrs={"shift": 20, "lo": -127, "hi": 100}, **{k: v.astype(np.int32) for k, v in factors.items()}
    )
    product = b.add("qmul", again, table, attrs={"mult": 20000, "shift": 21, **codes})
    mean = b.flatten(b.add("qmean", product, attrs={"mult": 2**20, "shift": 21, **codes}))
    linear = b.linear("qlinear", mean, 10, bits=2), b.linear("blinear", mean, 10, bits=1, rescale=True)
    return b.gather([eight, two, one, signs, two_rows, added, again, product, *linear]), b.input


def tokens() -> tuple[Graph, np.ndarray]:
    b, codes = Builder((1, 5, 24)), {"lo": -127, "hi": 127}
    x = b.quantize("x")
    two, eight = b.linear("qlinear", x, 12, bits=2, rescale=True), b.linear("qlinear", x, 12, rescale=True)
    ties = b.add("qadd", two, eight, attrs={"ma": 3, "mb": 1, "shift": 2, **codes})
    turned = b.add("permute", eight, attrs={"dims": [0, 2, 1]})
    scores = b.add("qmatmul", two, turned, attrs={"mult": 20000, "shift": 22, **codes})
    return b.gather([two, eight, ties, scores, b.add("bmatmul", two, turned, attrs=codes)]), b.input


NETS = {"images": images, "tokens": tokens}


@pytest.mark.parametrize("name", NETS)
def test_every_integer_operation_is_exact(name: str):
    graph, x = NETS[name]()
    expected = reference(graph, x)
    assert len(np.unique(expected)) > 40
    for scale in (1.0, 0.2):
        np.testing.assert_array_equal(read(to_qonnx(graph), scale * x), reference(graph, np.float32(scale) * x))


@pytest.mark.parametrize("compressor", [Int8(), BitNet(), BiPer()], ids=["int8", "ternary", "binary"])
@pytest.mark.parametrize("block", ["conv", "inception_dw"])
def test_compressed_networks_are_exact(compressor, block: str):
    x = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    network = compressor.finish(compressor.prepare(prepared(VARIANTS[f"digits_{block}"].build()), x[:1], x), x)
    one = x[:1].numpy()
    expected = reference(network.graph, one)
    assert np.ptp(expected) > 0
    np.testing.assert_array_equal(read(to_qonnx(network.graph), one), expected)


@pytest.mark.parametrize(("lo", "hi"), [(-127, 127), (0, 255), (0, 40), (-5, 127), (-128, 127), (-1, 1)])
@pytest.mark.parametrize("exact", [True, False])
def test_ranges_and_factors_of_both_signs_and_zero(lo: int, hi: int, exact: bool):
    graph = one_layer(lo=lo, hi=hi)
    x = np.random.default_rng(1).random((1, 2, 6, 6), dtype=np.float32)
    difference = np.abs(read(to_qonnx(graph, exact), x) - reference(graph, x)) / np.float32([0.1, 0.2, 0.3])[:, None, None]
    assert np.ptp(reference(graph, x)) > 0
    assert difference.max() == 0 if exact else difference.max() < 1.01 and (difference > 0).mean() < 0.02


def test_weights_and_codes_pass_through_quantisers_of_their_width():
    def weights(graph: Graph) -> tuple[str, dict[str, float]]:
        model = onnx.load_from_string(to_qonnx(graph))
        given = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
        (layer,) = [n for n in model.graph.node if n.op_type == "Conv"]
        (node,) = [n for n in model.graph.node if n.output[0] == layer.input[1]]
        attrs: dict[str, float] = {a.name: a.i for a in node.attribute if a.name != "rounding_mode"}
        if node.op_type == "Quant":
            attrs |= {
                "scale": float(given[node.input[1]]),
                "zero": float(given[node.input[2]]),
                "bits": float(given[node.input[3]]),
            }
        assert node.domain == "qonnx.custom_op.general"
        return node.op_type, attrs

    narrow = {"signed": 1, "narrow": 1, "scale": 1.0, "zero": 0.0}
    assert weights(one_layer(8)) == ("Quant", {**narrow, "bits": 8.0})
    assert weights(one_layer(2)) == ("Quant", {**narrow, "bits": 2.0})
    binary = one_layer(1, mult=(1, 1, 1))
    binary.values["w"][:] = np.where(binary.values["w"] >= 0, 1, -1)
    assert weights(binary) == ("BipolarQuant", {})


def test_both_forms_name_the_shape_of_every_tensor_and_take_one_example():
    graph, _ = images()
    for exact in (True, False):
        model = onnx.load_from_string(to_qonnx(graph, exact))
        known = {v.name: v for v in [*model.graph.value_info, *model.graph.output]}
        assert {o for n in model.graph.node for o in n.output} <= set(known)
        assert all(d.dim_value > 0 for v in known.values() for d in v.type.tensor_type.shape.dim)
        assert {o.domain: o.version for o in model.opset_import} == {"": 20, "qonnx.custom_op.general": 1}
    assert operators(to_qonnx(graph))["MultiThreshold"] == 9 and "MultiThreshold" not in operators(to_qonnx(graph, exact=False))


def test_a_code_of_which_only_the_sign_is_read_has_one_threshold():
    graph, _ = images()
    model = onnx.load_from_string(to_qonnx(graph))
    steps = {i.name: list(i.dims) for i in model.graph.initializer}
    kinds = [(next(a.s.decode() for a in n.attribute if a.name == "out_dtype"), steps[n.input[1]][1]) for n in model.graph.node
             if n.op_type == "MultiThreshold"]  # fmt: skip
    assert sorted(set(kinds)) == [("BIPOLAR", 1), ("INT8", 227), ("INT8", 254)] and kinds.count(("BIPOLAR", 1)) == 1


def test_thresholds_are_where_the_rescaled_integer_reaches_the_code():
    rng = np.random.default_rng(0)
    mult, bias, offset = rng.integers(1, 2**15, 50), rng.integers(-(10**6), 10**6, 50), rng.integers(-(2**20), 2**20, 50)
    shift = rng.integers(1, 25, 50)
    found = thresholds(-7, 8, mult, shift, offset, bias)
    assert found.shape == (50, 15)
    for c in range(50):
        for k, t in zip(range(-6, 9), found[c].astype(int).tolist(), strict=True):
            code = [
                ((v + int(bias[c])) * int(mult[c]) + int(offset[c]) + 2 ** (int(shift[c]) - 1)) >> int(shift[c])
                for v in (t - 1, t)
            ]
            assert code[0] < k <= code[1]
    assert thresholds(-1, 1, 1, 60).tolist() == [[-(2.0**31), 2.0**31]]  # no sum gets there


@pytest.mark.parametrize(
    ("lo", "hi", "expected"),
    [(0, 255, (8, False, False)), (0, 1, (1, False, False)), (-127, 127, (8, True, True)), (-128, 127, (8, True, False)),
     (-1, 1, (2, True, True)), (-1, 0, (2, True, True)), (-5, 127, (8, True, True)), (0, 0, (1, False, False))],
)  # fmt: skip
def test_width(lo: int, hi: int, expected: tuple[int, bool, bool]):
    assert width(lo, hi) == expected


def test_spikes_factors_and_graphs_without_values_are_refused():
    spec = Spec((1, 4))
    with pytest.raises(Unsupported, match="integrate"):
        to_qonnx(Graph((Node("x", "input", (), spec), Node("n", "integrate", ("x",), spec)), ("n",)))
    b = Builder((1, 4))
    product = b.add("qmul", b.quantize("x"), "n1", attrs={"mult": -3, "shift": 4, "lo": -127, "hi": 127})
    with pytest.raises(Unsupported, match="-3; it must be positive"):
        to_qonnx(b.graph(b.dequantize(product)))
    graph, _ = tokens()
    with pytest.raises(NetwrightError, match="without its weights"):
        to_qonnx(Graph(graph.nodes, graph.outputs, graph.params))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NETS)
def test_qonnx_executes_the_same_integers(name: str, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("qonnx", reason="pip install 'netwright[qonnx]'")
    monkeypatch.setattr(onnx, "IR_VERSION", 9)  # it writes every node as a file of the newest version, ahead of ONNX Runtime
    graph, x = NETS[name]()
    np.testing.assert_array_equal(execute(to_qonnx(graph), x), reference(graph, x))
    close = np.abs(execute(to_qonnx(graph, exact=False), x) - reference(graph, x))
    assert (close > 0).mean() < 0.1  # ties, of which the tokens have many
