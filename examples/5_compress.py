"""5 compress: one trained network in 8, 2 and 1 bits, integers only at inference; and with half of its operations."""

import torch
from torch import nn

from netwright.compress import OTO, BiPer, BitNet, Int8
from netwright.compress.binarise.biper import quantisation_error
from netwright.design import trace
from netwright.design.models import VARIANTS
from netwright.tasks import load_task
from netwright.train import Recipe, fit
from netwright.train.evaluate import accuracy


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    task = load_task("digits", seed=0)
    test = (task.test.x, task.test.y)
    network = fit(VARIANTS["digits_conv"].build(), task.data, Recipe(steps=150, lr=3e-3, evaluations=2)).module.eval()
    print(f"float    {accuracy(network, test):.2%}")

    def train(trainee: nn.Module, *, stage: str, share: float, lr: float, weight_decay: float) -> nn.Module:
        steps = max(1, round(250 * share))
        recipe = Recipe(steps=steps, lr=lr, weight_decay=weight_decay, evaluations=1)
        follow = [lambda step, module: module.follow(step / steps)]
        return fit(trainee, task.data, recipe, teacher=network, on_step=follow).module

    weights = torch.cat([w.detach().flatten() / w.std() for w in network.parameters() if w.dim() == 4])
    errors = "  ".join(f"{omega:g}: {quantisation_error(weights, omega):.3f}" for omega in (0.5, 1.0, 2.0, 5.0, 20.0))
    print(f"error of BiPer's signs against omega (1/2 - 4/pi^2 = 0.095 in the limit): {errors}")

    example, calibration = task.test.x[:1], task.train.x[:256]
    for method in (Int8(), BitNet(), BiPer()):
        small = method.compress(network, example, calibration, train)
        print(f"{method.form:<8} {accuracy(small, test):.2%}, {small.graph.weight_bytes:,} bytes by {method.paper}")

    smaller = OTO(target=0.5).compress(network, example, calibration, train)
    share = smaller.graph.macs / trace(network, example).macs
    print(f"half     {accuracy(smaller, test):.2%}, {share:.0%} of the operations, still float")


if __name__ == "__main__":
    main()
