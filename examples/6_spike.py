"""6 spike: from a trained network to integrate-and-fire neurons, from calibration images alone."""

import torch

from netwright.design.models import VARIANTS
from netwright.spike.convert import LocalThresholdBalancing
from netwright.spike.unroll import accuracy_over_time, spike_rates
from netwright.tasks import load_task
from netwright.train import Recipe, fit
from netwright.train.evaluate import accuracy


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    task = load_task("digits", seed=0)
    network = fit(VARIANTS["digits_conv"].build(), task.data, Recipe(steps=150, lr=3e-3, evaluations=2)).module.eval()
    print(f"float network: {accuracy(network, (task.test.x, task.test.y)):.2%}")

    spiking = LocalThresholdBalancing(steps=8).convert(network, task.test.x[:1], task.train.x[:256])
    for t, share in enumerate(accuracy_over_time(spiking.module, (task.test.x, task.test.y)), 1):
        print(f"after step {t}: {share:.2%}")
    for layer, rate in spike_rates(spiking.module, task.test.x[:64]).items():
        print(f"{layer}: {rate:.1%} of the neurons fire in a step")


if __name__ == "__main__":
    main()
