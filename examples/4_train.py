"""4 train: a recipe, a checkpoint, and a run that goes on where it was."""

import tempfile
from pathlib import Path

import torch

from netwright.design.models import VARIANTS
from netwright.tasks import load_task
from netwright.train import Recipe, fit
from netwright.train.evaluate import accuracy


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    task = load_task("digits", seed=0)
    print(task.how)
    module = VARIANTS["digits_mbconv"].build()
    recipe = Recipe(steps=200, lr=3e-3, ema=0.95, evaluations=4)
    checkpoint = Path(tempfile.mkdtemp()) / "checkpoint.safetensors"
    fitted = fit(module, task.data, recipe, checkpoint=checkpoint)
    print(f"validation {fitted.best_accuracy:.2%} at step {fitted.best_step}, {fitted.seconds:.1f} s")
    print(f"test {accuracy(fitted.module, (task.test.x, task.test.y)):.2%}")

    again = fit(VARIANTS["digits_mbconv"].build(), task.data, recipe, checkpoint=checkpoint)
    same = all(torch.equal(a, b) for a, b in zip(fitted.module.parameters(), again.module.parameters(), strict=True))
    print("a finished run is read back with the same weights:", same)


if __name__ == "__main__":
    main()
