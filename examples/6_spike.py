"""6 spike: from a trained network to integrate-and-fire neurons, from calibration images alone."""

import torch

from netwright.core.target import Target
from netwright.design.models import VARIANTS
from netwright.estimate import spiking_energy
from netwright.spike.convert import Fit
from netwright.spike.exits import calibrate
from netwright.spike.unroll import accuracy_over_time
from netwright.tasks import load_task
from netwright.train import Recipe, fit
from netwright.train.evaluate import accuracy


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    task = load_task("digits", seed=0)
    test, held_out = (task.test.x, task.test.y), (task.validation.x, task.validation.y)
    network = fit(VARIANTS["digits_conv"].build(), task.data, Recipe(steps=150, lr=3e-3, evaluations=2)).module.eval()
    print(f"float network: {accuracy(network, test):.2%}")

    for neuron in ("binary", "bipolar"):
        spiking = Fit(steps=4, neuron=neuron).convert(network, test[0][:1], task.train.x[:512])
        over_time = ", ".join(f"{share:.2%}" for share in accuracy_over_time(spiking.module, test))
        print(f"{neuron} spikes, {spiking.operations:,.0f} additions an image, after each step: {over_time}")
    for layer in spiking.layers:
        print(f"  {layer.name}: {layer.rate:.1%} of the neurons fire in a step, error {layer.error:.1%}")

    early = calibrate(spiking.module, held_out, epsilon=0.001)
    print(f"stopping when sure: {early.chosen.steps:.2f} of {early.steps} steps on average")
    print(spiking_energy(spiking.module.to_graph(), Target.load("cmos45")).verdict)


if __name__ == "__main__":
    main()
