"""7 deploy: any PyTorch network as one C file, beside ONNX Runtime; one that decides, and one that fits into less memory."""

import tempfile
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from netwright.deploy.bundle import Bundle, write_bundle
from netwright.deploy.c99 import emit
from netwright.deploy.onnx import OrtModel, to_onnx
from netwright.design import trace
from netwright.design.models import VARIANTS
from netwright.design.paths import trace_paths
from netwright.measure.latency import time_side_by_side


class EarlyExit(nn.Module):
    """Answers early where it is sure."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(16, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU())
        self.first, self.last = nn.Linear(16, 10), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.first(x.amax((2, 3)))
        if y.softmax(-1).max() > 0.2:
            return y
        return self.last(self.body(x).amax((2, 3)))


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = VARIANTS["digits_conv"].build().eval()
    graph = trace(module, torch.zeros(1, 1, 8, 8))
    folder = tempfile.mkdtemp()
    write_bundle(graph, folder, form="float", exports={"model.onnx": to_onnx(graph)})

    bundle = Bundle.load(folder)  # checks every file against its checksum
    x = torch.randn(64, 1, 8, 8)
    with torch.no_grad():
        difference = np.abs(bundle.run(x.numpy()) - module(x).numpy()).max()
    print(f"{folder}: {bundle.sizes}, largest difference from PyTorch {difference:.2g}")

    one = x[:1].numpy()
    ort = OrtModel(bundle.onnx, threads=1)
    runs = {"C99": partial(bundle.model.run_one, one), "ONNX Runtime": partial(ort.session.run, None, {ort.names[0]: one})}
    for name, latency in time_side_by_side(runs, rounds=20).items():
        print(f"{name}: {latency}")

    decides, tree = trace_paths(EarlyExit().eval(), torch.zeros(1, 1, 8, 8))
    contrast = torch.linspace(0.1, 3, len(x)).reshape(-1, 1, 1, 1)
    _, exits = write_bundle(decides, tempfile.mkdtemp(), form="float", tree=tree).run_exits((x * contrast).numpy())
    print(f"early exits: {np.bincount(exits).tolist()} of {len(exits)} inputs end at the first and at the last exit")

    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1))
    large = trace(stem.eval(), torch.zeros(1, 3, 96, 96))
    whole, strips = emit(large), emit(large, most_repeated=0.2)
    print(f"three convolutions at 96 x 96: {whole.arena_bytes:,} bytes of arena, in strips {strips.arena_bytes:,}")


if __name__ == "__main__":
    main()
