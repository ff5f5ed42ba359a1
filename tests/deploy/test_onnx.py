from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from netwright.compress.quantise import Int8
from netwright.core import Graph, NetwrightError, Node, Spec
from netwright.core.errors import Unsupported
from netwright.deploy.onnx import OrtModel, to_onnx
from netwright.design import GraphModule, blocks, trace
from netwright.design.models import VARIANTS


def prepared(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights and batch statistics that are far from their defaults."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if name.endswith("running_var"):
                value.copy_(torch.rand(value.shape, generator=g) + 0.5)
            elif value.is_floating_point():
                value.add_(0.05 * torch.randn(value.shape, generator=g))
    return module.eval()


def difference(module: nn.Module, shape: tuple[int, ...], batch: int = 3) -> float:
    """Largest difference between GraphModule and ONNX Runtime on a batch other than the traced one."""
    graph = trace(module, torch.zeros(1, *shape))
    x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = GraphModule(graph).eval()(x).numpy()
    found = OrtModel(to_onnx(graph)).run(x.numpy())
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max())


@pytest.mark.parametrize("name", sorted(n for n in VARIANTS if n.startswith("digits_")))
def test_every_block_as_a_float_network(name: str):
    assert difference(prepared(VARIANTS[name].build()), (1, 8, 8)) < 1e-4


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


FUNCTIONS = {
    "relu6": F.relu6,
    "hardtanh": lambda x: F.hardtanh(x, -0.3, 0.7),
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": F.elu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softmax": lambda x: torch.softmax(x, 1),
    "scalars": lambda x: (x * 0.5 + 1) / 3 - 0.25,
    "reverse_sub": lambda x: x.mean((2, 3), keepdim=True) - x,
    "max_pool_ceil": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "max_pool_odd": lambda x: F.max_pool2d(x, 2, 3, ceil_mode=True),
    "avg_pool": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "avg_pool_exclude": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
    "mean_last": lambda x: x.mean(3),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "nearest_odd": lambda x: F.interpolate(x, size=(11, 5)),
    "bilinear": lambda x: F.interpolate(x, size=(11, 13), mode="bilinear", align_corners=False),
    "bilinear_corners": lambda x: F.interpolate(x, size=(11, 13), mode="bilinear", align_corners=True),
    "pad": lambda x: F.pad(x, (1, 2, 0, 3), value=0.5),
    "slice_cat_permute": lambda x: torch.cat((x[:, 2:], x[:, :2] * 2), 1).permute(0, 2, 3, 1),
    "chunk": lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1],
    "attention": lambda x: F.scaled_dot_product_attention(x, x + 1, x * 2),
    "matmul": lambda x: x @ x.transpose(2, 3),
    "flatten": lambda x: x.flatten(1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str):
    assert difference(Function(FUNCTIONS[name]), (4, 7, 8)) < 1e-5


MODULES = {
    "layer_norm": (nn.LayerNorm(8), (4, 7, 8)),
    "group_norm": (nn.GroupNorm(2, 4), (4, 7, 8)),
    "batch_norm_plain": (nn.BatchNorm2d(4, affine=False), (4, 7, 8)),
    "linear_3d": (nn.Linear(8, 5), (7, 8)),
    "linear_no_bias": (nn.Linear(8, 5, bias=False), (8,)),
    "same_padding": (nn.Conv2d(4, 6, 4, padding="same", dilation=2), (4, 9, 8)),
    "grouped_strided": (nn.Conv2d(4, 8, 3, stride=(2, 1), padding=(0, 2), groups=2, bias=False), (4, 9, 8)),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str):
    module, shape = MODULES[name]
    assert difference(prepared(module), shape) < 1e-5


@pytest.mark.parametrize("block", sorted(blocks.CATALOGUE))
def test_int8_predictions_agree_and_the_sums_stay_close(block: str):
    x = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    q = Int8()
    network = q.finish(q.prepare(prepared(VARIANTS[f"digits_{block}"].build()), x[:1], x), x)
    with torch.no_grad():
        expected = network(x).numpy()
    data = to_onnx(network.graph)
    found = OrtModel(data).run(x.numpy())
    top2 = np.sort(expected, 1)[:, -2:]
    sure = top2[:, 1] - top2[:, 0] > 0.05 * np.ptp(expected)  # a random network has ties that one code can turn
    assert sure.sum() > 5
    assert (found.argmax(1) == expected.argmax(1))[sure].all()
    assert np.abs(found - expected).max() < 0.05 * np.ptp(expected)
    assert len(data) < 0.6 * len(to_onnx(trace(VARIANTS[f"digits_{block}"].build(), x[:1])))


def one_layer(bits: int = 8, mult: tuple[int, ...] = (1 << 20, -(1 << 20), 0), lo: int = -127, hi: int = 127) -> Graph:
    rng = np.random.default_rng(0)
    limits = {8: 127, 2: 1, 1: 1}[bits]
    values = {
        "w": rng.integers(-limits, limits + 1, (3, 2, 3, 3)).astype(np.int8),
        "b": rng.integers(-50, 50, 3).astype(np.int32),
        "m": np.array(mult, np.int32),
        "s": np.full(3, 30, np.int32),
        "scale": np.array([0.1, 0.2, 0.3], np.float32),
    }
    geometry = {"stride": [1, 1], "pads": [1, 1, 1, 1], "dilation": [1, 1], "groups": 1}
    roles = {"weight": "w", "bias": "b", "mult": "m", "shift": "s"}
    codes = Spec((1, 3, 6, 6), 8, "int" if lo < 0 else "uint")
    nodes = (
        Node("x", "input", (), Spec((1, 2, 6, 6))),
        Node("q", "quantize", ("x",), Spec((1, 2, 6, 6), 8, "uint"), {"scale": 1 / 255, "lo": 0, "hi": 255}),
        Node("c", "qconv2d", ("q",), codes, {**geometry, "lo": lo, "hi": hi, "bits": bits}, roles),
        Node("y", "dequantize", ("c",), Spec((1, 3, 6, 6)), {}, {"scale": "scale"}),
    )
    params = {k: Spec(v.shape, bits if k == "w" else 32, "int") for k, v in values.items()}
    return Graph(nodes, ("y",), params, values)


@pytest.mark.parametrize(("lo", "hi"), [(-127, 127), (0, 255), (0, 40), (-5, 127)])
def test_negative_and_zero_factors_and_narrow_codes_are_within_one_code(lo: int, hi: int):
    graph = one_layer(lo=lo, hi=hi)
    x = np.random.default_rng(1).random((4, 2, 6, 6), dtype=np.float32)
    expected = GraphModule(graph)(torch.from_numpy(x)).numpy()
    found = OrtModel(to_onnx(graph)).run(x)
    codes = np.abs(found - expected) / np.array([0.1, 0.2, 0.3], np.float32)[:, None, None]
    assert np.ptp(expected) > 0 and codes.max() < 1.01
    assert (codes > 0.5).mean() < 0.02


def test_int8_weights_stay_8_bits_and_are_fused_into_integer_layers(tmp_path):
    import onnxruntime

    data = to_onnx(one_layer(mult=(1 << 20,) * 3))
    assert {i.data_type for i in onnx.load_from_string(data).graph.initializer if len(i.dims) == 4} == {onnx.TensorProto.INT8}
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    assert "QLinearConv" in {n.op_type for n in onnx.load(tmp_path / "optimised.onnx").graph.node}


def test_the_batch_is_dynamic_and_the_opset_is_20():
    model = onnx.load_from_string(to_onnx(trace(VARIANTS["digits_conv"].build(), torch.zeros(1, 1, 8, 8))))
    assert model.opset_import[0].version == 20
    assert [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", 1, 8, 8]


@pytest.mark.parametrize(("bits", "word"), [(1, "binary"), (2, "ternary")])
def test_low_bit_forms_are_refused_with_the_reason(bits: int, word: str):
    with pytest.raises(Unsupported, match=word):
        to_onnx(one_layer(bits))


def ternary(shape: tuple[int, ...], kind: str = "int", rescale: bool = True, outputs: int = 33) -> Graph:
    """Codes, one ternary linear layer and its codes or sums as floats."""
    rng = np.random.default_rng(3)
    values = {
        "w": rng.integers(-1, 2, (outputs, shape[-1])).astype(np.int8),
        "b": rng.integers(-300, 300, outputs).astype(np.int32),
        "m": (rng.integers(2**14, 2**15, outputs) * rng.choice([-1, 0, 1], outputs)).astype(np.int32),
        "s": np.full(outputs, 18, np.int32),
        "one": np.ones(1, np.float32),
    }
    roles = {"weight": "w", "bias": "b", **({"mult": "m", "shift": "s"} if rescale else {})}
    limits = {"lo": -127 if kind == "int" else 0, "hi": 127 if kind == "int" else 255}
    out = (*shape[:-1], outputs)
    nodes = (
        Node("x", "input", (), Spec(shape)),
        Node("q", "quantize", ("x",), Spec(shape, 8, kind), {"scale": 0.5, **limits}),
        Node("y", "qlinear", ("q",), Spec(out, 8, "int"), {"lo": -127, "hi": 127, "bits": 2}, roles),
        Node("z", "dequantize", ("y",), Spec(out), {}, {"scale": "one"}),
    )
    return Graph(nodes, ("z",), {k: Spec(v.shape, 2 if k == "w" else 32, "int") for k, v in values.items()}, values)


def reference(graph: Graph, x: np.ndarray) -> np.ndarray:
    return GraphModule(graph)(torch.from_numpy(x)).numpy()


@pytest.mark.parametrize("shape", [(1, 5), (1, 127), (1, 300), (1, 3, 70)])
@pytest.mark.parametrize("kind", ["int", "uint"])
def test_two_bit_sums_are_exact_also_of_saturated_codes(shape: tuple[int, ...], kind: str):
    """Signed codes of any size, unsigned ones below 255; a batch of three."""
    graph = ternary(shape, kind, rescale=False)
    graph.values["one"] = np.linspace(0.5, 1.5, 33, dtype=np.float32)  # a scale a channel, the last axis of tokens
    x = np.random.default_rng(4).normal(0, 40, (3, *shape[1:])).astype(np.float32)
    x = np.minimum(x, 127.0) if kind == "uint" else x
    model = onnx.load_from_string(to_onnx(graph, "nbits"))
    expected = reference(graph, x)
    assert kind == "uint" or (GraphModule(graph).run(graph["q"], torch.from_numpy(x)).abs() == 127).any()
    np.testing.assert_array_equal(OrtModel(model.SerializeToString()).run(x), expected)
    (node,) = [n for n in model.graph.node if n.op_type == "MatMulNBits"]
    attrs = {a.name: a.i for a in node.attribute}
    assert (attrs["bits"], attrs["accuracy_level"], attrs["block_size"], attrs["N"]) == (2, 4, 128, 33)


def test_two_bit_sums_count_the_code_255_as_254():
    graph = ternary((1, 200), "uint", rescale=False)
    x = np.random.default_rng(5).uniform(0, 140, (4, 200)).astype(np.float32)
    found = OrtModel(to_onnx(graph, "nbits")).run(x)
    np.testing.assert_array_equal(found, reference(graph, np.minimum(x, 127.0)))  # 254 * 0.5
    difference, saturated = np.abs(found - reference(graph, x)), (x > 127.25).sum(1, keepdims=True)
    assert difference.max() > 0 and (difference <= saturated).all()


@pytest.mark.parametrize("way", ["int8", "nbits"])
@pytest.mark.parametrize("shape", [(1, 200), (1, 3, 70)])
def test_ternary_codes_agree_within_one(way: str, shape: tuple[int, ...]):
    graph = ternary(shape)
    x = np.random.default_rng(6).normal(0, 12, (8, *shape[1:])).astype(np.float32)
    expected = reference(graph, x)
    difference = np.abs(OrtModel(to_onnx(graph, way)).run(x) - expected)
    assert np.ptp(expected) > 100 and difference.max() <= 1 and (difference > 0).mean() < 0.03


def test_ternary_weights_take_two_bits_for_few_rows_and_eight_for_many():
    def operators(rows: int, way: str) -> set[str]:
        return {n.op_type for n in onnx.load_from_string(to_onnx(ternary((1, rows, 64)), way)).graph.node}

    assert "MatMulNBits" in operators(7, "auto") and "MatMulNBits" not in operators(8, "auto")
    assert "MatMulNBits" in operators(8, "nbits") and "MatMulNBits" not in operators(7, "int8")
    two, eight = (len(to_onnx(ternary((1, 1000), outputs=500), way)) for way in ("nbits", "int8"))
    assert two < 0.31 * eight  # 2 bits of 8, and a scale for each block
    assert "Conv" in {n.op_type for n in onnx.load_from_string(to_onnx(one_layer(2), "nbits")).graph.node}
    with pytest.raises(Unsupported, match="ternary"):
        to_onnx(ternary((1, 64)))
    with pytest.raises(NetwrightError, match="ternary='two' is unknown; choose refuse, int8, nbits, auto"):
        to_onnx(ternary((1, 64)), "two")  # type: ignore[arg-type]


def test_spikes_and_unknown_operations_are_refused_by_name():
    spec = Spec((1, 4))
    neuron = Graph((Node("x", "input", (), spec), Node("n", "integrate", ("x",), spec, path="body.0")), ("n",))
    with pytest.raises(Unsupported, match=r"integrate.*body\.0.*time steps"):
        to_onnx(neuron)
    with pytest.raises(Unsupported, match="fft"):
        to_onnx(Graph((Node("x", "input", (), spec), Node("n", "aten.fft_rfft2", ("x",), spec)), ("n",)))


def test_a_graph_without_values_and_a_broken_file_are_clear_errors(tmp_path):
    graph = trace(nn.Linear(4, 2), torch.zeros(1, 4))
    with pytest.raises(NetwrightError, match="without its weights"):
        to_onnx(Graph(graph.nodes, graph.outputs, graph.params))
    with pytest.raises(NetwrightError, match="no ONNX file"):
        OrtModel(tmp_path / "none.onnx")
    with pytest.raises(NetwrightError, match="cannot run this file"):
        OrtModel(b"not an onnx file")
