"""`netwright bench deploy`: the compiled network beside other engines, and against its reference.

All times of one claim come from one process, interleaved, one thread, one input, called from Python on both sides. Weights are
random: time does not depend on them, except where a share of zeros is stated.
"""

from __future__ import annotations

import importlib.util
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from netwright.bench.claim import Bench, Claim, ratio
from netwright.bench.networks import Layers, resnet18, small_cnn
from netwright.compress.binarise import BiPer
from netwright.compress.quantise import Int8
from netwright.core.cost import Quantity
from netwright.core.graph import Graph, Spec
from netwright.deploy.c99 import build, emit
from netwright.deploy.onnx import OrtModel, to_onnx
from netwright.design import trace
from netwright.design.execute import GraphModule
from netwright.measure.latency import time_side_by_side
from netwright.measure.machine import machine

Run = Callable[[], object]
Progress = Callable[[int, int, str], None]

SHAPES = ((64, 56), (128, 28), (256, 14), (512, 7))  # channels and side of ResNet-18's 3x3 convolutions
DEPTH = 4  # layers one after another; times are of one
BOUNDS: dict[str, tuple[str, float]] = {
    **{f"binary_conv_{c}x{h}_vs_ort_fp32": (">=", b) for (c, h), b in zip(SHAPES, (7.0, 8.5, 10.0, 14.0), strict=True)},
    **{f"binary_conv_{c}x{h}_vs_ort_int8": (">=", b) for (c, h), b in zip(SHAPES, (2.0, 2.3, 2.7, 3.8), strict=True)},
    "binary_conv_avx2_min_vs_ort_fp32": (">=", 3.5),
    "binary_conv_min_vs_openvino_binary": (">=", 1.1),
    "binary_resnet18_224_vs_ort_fp32": (">=", 5.5),
    "binary_resnet18_224_vs_ort_int8": (">=", 2.0),
    "binary_resnet18_224_vs_openvino_binary": (">=", 1.0),
    "binary_resnet18_weight_mb": ("<=", 3.0),
    "binary_gemv_4096_vs_ort_fp32": (">=", 45.0),
    "ternary_gemv_4096_vs_ort_fp32": (">=", 10.0),
    "binary_gemm_1024_vs_ort_fp32": (">=", 9.0),
    "tiny_float_min_vs_ort": (">=", 2.5),
    "tiny_int8_min_vs_ort": (">=", 2.5),
    "small_float_1m_macs_vs_ort": (">=", 1.2),
    "small_int8_1m_macs_vs_ort": (">=", 1.2),
    "spike_conv_5pct_256x14_vs_ort_fp32": (">=", 8.0),
    "spike_conv_5pct_512x7_vs_ort_int8": (">=", 1.2),
    "sparse_1x1_90pct_vs_dense": (">=", 2.0),
    "arena_vs_optimal_max_ratio": ("<=", 1.05),
    "cortex_m4_outputs_equal": ("==", 1.0),
    "aarch64_outputs_equal": ("==", 1.0),
    "integer_mismatches": ("==", 0.0),
}
OURS, ORT, ORT8 = "netwright", "ONNX Runtime fp32", "ONNX Runtime int8"


def has_isa(name: str) -> bool:
    """Whether this processor runs code for the instruction set."""
    return name == "portable" or (platform.machine() == "x86_64" and name in machine()["isa"])


def compiled(graph: Graph, x: np.ndarray, folder: Path, isa: str | None = None) -> Run:
    """One inference of the compiled graph."""
    return partial(build(graph, Path(tempfile.mkdtemp(dir=folder)), isa=isa).run_one, x)


def onnx(graph: Graph, x: np.ndarray) -> Run:
    """One inference in ONNX Runtime, one thread."""
    session = OrtModel(to_onnx(graph), threads=1)
    return partial(session.session.run, None, {session.names[0]: x})


def openvino(graph: Graph, x: np.ndarray) -> Run | None:
    """One inference in OpenVINO, one thread; None where it is not installed."""
    if importlib.util.find_spec("openvino") is None:
        return None
    from netwright.deploy.openvino import OpenVinoModel, to_openvino

    return partial(OpenVinoModel(to_openvino(graph), threads=1).run, x)


class Deploy:
    """The measurements; each yields the claims that it supports."""

    def __init__(self, rounds: int, seed: int, folder: Path):
        self.rounds, self.seed, self.folder = rounds, seed, folder
        self.rng = np.random.default_rng(seed)

    def time(self, runs: dict[str, Run | None]) -> dict[str, Quantity]:
        return time_side_by_side({k: r for k, r in runs.items() if r is not None}, rounds=self.rounds, seed=self.seed)

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        return self.rng.standard_normal(shape, dtype=np.float32)

    def binary_convolutions(self) -> Iterator[Claim]:
        """Sign, binary 3x3 convolution, affine map by channel and codes out, four times; quantised from and to floats once."""
        avx2: list[Claim] = []
        openvino_: list[Claim] = []
        note = f"of {DEPTH} layers with their conversion from and to floats"
        for c, h in SHAPES:
            x = self.normal((1, c, h, h))
            binary, int8, fp32 = (Layers(x.shape, self.seed) for _ in range(3))
            binary.codes()
            int8.codes()
            for _ in range(DEPTH):
                binary.conv(c, 3, 1)
                int8.conv(c, 3, 8)
                fp32.conv(c, 3, 32)
            graph = binary.floats().graph
            runs: dict[str, Run | None] = {OURS: compiled(graph, x, self.folder), ORT: onnx(fp32.graph, x),
                                           ORT8: onnx(int8.floats().graph, x), "OpenVINO binary": openvino(graph, x)}  # fmt: skip
            if has_isa("avx2"):
                runs["netwright avx2"] = compiled(graph, x, self.folder, "avx2")
            timed = self.time(runs)
            yield ratio(f"binary_conv_{c}x{h}_vs_ort_fp32", timed, OURS, ORT, self.rounds, note)
            yield ratio(f"binary_conv_{c}x{h}_vs_ort_int8", timed, OURS, ORT8, self.rounds, note)
            if "netwright avx2" in timed:
                avx2.append(
                    ratio("binary_conv_avx2_min_vs_ort_fp32", timed, "netwright avx2", ORT, self.rounds, f"{c} at {h}x{h}")
                )
            if "OpenVINO binary" in timed:
                openvino_.append(
                    ratio("binary_conv_min_vs_openvino_binary", timed, OURS, "OpenVINO binary", self.rounds, f"{c} at {h}x{h}")
                )
        yield _least("binary_conv_avx2_min_vs_ort_fp32", avx2, "this processor has no AVX2")
        yield _least("binary_conv_min_vs_openvino_binary", openvino_, "pip install 'netwright[openvino]'")

    def binary_resnet(self) -> Iterator[Claim]:
        """ResNet-18 at 224: first and last layer and the shortcuts in 8 bits, everything else binary."""
        network = resnet18(seed=self.seed)
        x = self.normal((1, 3, 224, 224))
        example, calibration = torch.from_numpy(x), torch.from_numpy(self.normal((2, 3, 224, 224)))
        one_bit = BiPer(keep_pointwise=True)
        binary = one_bit.finish(one_bit.prepare(network, example, calibration), calibration).graph
        eight = Int8()
        int8 = eight.finish(eight.prepare(network, example, calibration), calibration).graph
        timed = self.time({OURS: compiled(binary, x, self.folder), ORT: onnx(trace(network, example), x), ORT8: onnx(int8, x),
                           "OpenVINO binary": openvino(binary, x)})  # fmt: skip
        yield ratio("binary_resnet18_224_vs_ort_fp32", timed, OURS, ORT, self.rounds)
        yield ratio("binary_resnet18_224_vs_ort_int8", timed, OURS, ORT8, self.rounds)
        if "OpenVINO binary" in timed:
            yield ratio("binary_resnet18_224_vs_openvino_binary", timed, OURS, "OpenVINO binary", self.rounds)
        else:
            yield _open("binary_resnet18_224_vs_openvino_binary", "pip install 'netwright[openvino]'")
        bytes_ = emit(binary).weight_bytes
        yield Claim("binary_resnet18_weight_mb", bytes_ / 1e6, "MB of all constants of the C file", "counted")

    def matrices(self) -> Iterator[Claim]:
        """A linear layer of 4096 by 4096 for one vector, and of 1024 by 1024 for 1024 of them, codes to codes."""
        x = self.normal((1, 4096))
        runs: dict[str, Run | None] = {ORT: onnx(Layers(x.shape, self.seed).linear(4096, 32).graph, x)}
        for name, bits in (("binary", 1), ("ternary", 2)):
            runs[name] = compiled(Layers(x.shape, self.seed).codes().linear(4096, bits).floats().graph, x, self.folder)
        timed = self.time(runs)
        yield ratio("binary_gemv_4096_vs_ort_fp32", timed, "binary", ORT, self.rounds)
        yield ratio("ternary_gemv_4096_vs_ort_fp32", timed, "ternary", ORT, self.rounds)
        x = self.normal((1, 1024, 1024))
        timed = self.time({
            ORT: onnx(Layers(x.shape, self.seed).linear(1024, 32).graph, x),
            OURS: compiled(Layers(x.shape, self.seed).codes().linear(1024, 1).floats().graph, x, self.folder),
        })  # fmt: skip
        yield ratio("binary_gemm_1024_vs_ort_fp32", timed, OURS, ORT, self.rounds, "with its conversion from and to floats")

    def small_networks(self) -> Iterator[Claim]:
        """Convolutional networks where the overhead of an engine is most of the time."""
        groups = {"tiny": (((8, 16), 8), ((16, 32), 8), ((16, 24, 24), 12)), "small": (((24, 40, 64), 16),)}
        for group, networks in groups.items():
            found: dict[str, list[Claim]] = {"float": [], "int8": []}
            ids = {kind: f"tiny_{kind}_min_vs_ort" if group == "tiny" else f"small_{kind}_1m_macs_vs_ort" for kind in found}
            for widths, side in networks:
                x = self.normal((1, 1, side, side))
                example, calibration = torch.from_numpy(x), torch.from_numpy(self.normal((64, 1, side, side)))
                network = small_cnn(widths, side, seed=self.seed)
                method = Int8()
                graphs = {"float": trace(network, example),
                          "int8": method.finish(method.prepare(network, example, calibration), calibration).graph}  # fmt: skip
                for kind, graph in graphs.items():
                    timed = self.time({OURS: compiled(graph, x, self.folder), f"ONNX Runtime {kind}": onnx(graph, x)})
                    note = f"{graph.macs:,} MACs"
                    found[kind].append(ratio(ids[kind], timed, OURS, f"ONNX Runtime {kind}", self.rounds, note))
            for kind, claims in found.items():
                yield _least(ids[kind], claims, "")

    def spikes(self) -> Iterator[Claim]:
        """One 3x3 convolution of spikes, 5 % of them set, with weights of 8 bits; from floats, to floats."""
        for (c, h), name, bits in (((256, 14), ORT, 32), ((512, 7), ORT8, 8)):
            x = (self.rng.random((1, c, h, h)) < 0.05).astype(np.float32)
            ours = Layers(x.shape, self.seed)
            ours.add("quantize", Spec(x.shape, 8, "int"), {"scale": 1.0, "lo": 0, "hi": 1})
            weight = self.rng.integers(-127, 128, (c, c, 3, 3)).astype(np.int8)
            window = {"stride": [1, 1], "pads": [1] * 4, "dilation": [1, 1], "groups": 1, "lo": 0, "hi": 0, "bits": 8}
            ours.add("qconv2d", Spec(x.shape, 32, "int"), window, weight=weight).floats()
            dense = (
                Layers(x.shape, self.seed).conv(c, 3, 32)
                if bits == 32
                else Layers(x.shape, self.seed).codes().conv(c, 3, 8).floats()
            )
            timed = self.time({OURS: compiled(ours.graph, x, self.folder), name: onnx(dense.graph, x)})
            kind = "fp32" if bits == 32 else "int8"
            yield ratio(f"spike_conv_5pct_{c}x{h}_vs_ort_{kind}", timed, OURS, name, self.rounds, "5 % of the inputs set")

    def sparse(self) -> Iterator[Claim]:
        """A 1x1 convolution of 256 to 256 channels at 14 x 14 with 90 % of its weights zero, at random places."""
        x = self.normal((1, 256, 14, 14))
        dense = Layers(x.shape, self.seed).conv(256, 1, 32).graph
        key = next(k for k in dense.values if k.endswith("weight"))
        weight = dense.values[key] * (self.rng.random(dense.values[key].shape) < 0.1)
        pruned = Graph(dense.nodes, dense.outputs, dense.params, {**dense.values, key: weight.astype(np.float32)})
        timed = self.time({"dense": compiled(dense, x, self.folder), "sparse": compiled(pruned, x, self.folder)})
        yield ratio("sparse_1x1_90pct_vs_dense", timed, "sparse", "dense", self.rounds)

    def exactness(self) -> Iterator[Claim]:
        """Layers of awkward widths, every kind of weights, every instruction set of this processor, 25,000 inputs each."""
        widths, count, wrong, compared = (7, 17, 31, 33, 64, 65), 25_000, 0, 0
        x = self.normal((count, 3, 3, 3))
        for bits, signs in ((8, False), (2, False), (1, False), (1, True)):
            layers = Layers((1, 3, 3, 3), self.seed + bits + signs).codes()
            for i, width in enumerate(widths):
                layers.conv(width, 3 if i % 2 else 1, bits)
                if bits == 1 and not signs:
                    layers.nodes[-1] = replace(layers.nodes[-1], op="qconv2d")
            graph = layers.floats().graph
            with torch.no_grad():
                expected = torch.cat([GraphModule(graph)(part) for part in torch.from_numpy(x).split(1000)]).numpy()
            for isa in (i for i in ("portable", "avx2", "avx512") if has_isa(i)):
                got = build(graph, Path(tempfile.mkdtemp(dir=self.folder)), isa=isa).run(x)
                wrong += int((got != expected).sum())
                compared += count
        yield Claim("integer_mismatches", float(wrong), "codes that differ from the reference operators", "measured", compared)

    def arena(self) -> Iterator[Claim]:
        from netwright.deploy.c99.plan import arena_ratios

        ratios = arena_ratios(self.seed)
        yield Claim("arena_vs_optimal_max_ratio", max(ratios), "planned arena by the least possible", "counted", len(ratios))

    def other_processors(self) -> Iterator[Claim]:
        from netwright.bench.cross import equal_outputs

        for id, target in (("cortex_m4_outputs_equal", "cortex-m4"), ("aarch64_outputs_equal", "aarch64")):
            yield equal_outputs(id, target, self.seed, self.folder)

    def stages(self) -> dict[str, Callable[[], Iterator[Claim]]]:
        return {
            "binary convolutions": self.binary_convolutions,
            "binary ResNet-18": self.binary_resnet,
            "matrices": self.matrices,
            "small networks": self.small_networks,
            "spikes": self.spikes,
            "sparse weights": self.sparse,
            "arena": self.arena,
            "other processors": self.other_processors,
            "exactness": self.exactness,
        }


def run(*, rounds: int = 15, seed: int = 0, progress: Progress | None = None) -> Bench:
    """All claims of `BOUNDS`; one that cannot be measured here has no value and says why."""
    claims: list[Claim] = []
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        stages = Deploy(rounds, seed, Path(folder)).stages()
        for i, (name, measure) in enumerate(stages.items()):
            if progress is not None:
                progress(i, len(stages), f"bench: {name}")
            claims.extend(measure())
    order = list(BOUNDS)
    return Bench("deploy", machine(), BOUNDS, sorted(claims, key=lambda c: order.index(c.id)))


def _open(id: str, why: str) -> Claim:
    return Claim(id, None, "", "measured", 0, why=why)


def _least(id: str, claims: list[Claim], why: str) -> Claim:
    return min(claims, key=lambda c: c.value or 0.0) if claims else _open(id, why)
