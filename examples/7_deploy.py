"""7 deploy: any PyTorch network as one C file, beside ONNX Runtime."""

import tempfile
from functools import partial

import numpy as np
import torch

from netwright.deploy.bundle import Bundle, write_bundle
from netwright.deploy.onnx import OrtModel, to_onnx
from netwright.design import trace
from netwright.design.models import VARIANTS
from netwright.measure.latency import time_side_by_side


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


if __name__ == "__main__":
    main()
