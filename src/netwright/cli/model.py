"""MODEL and --input on the command line: what a name stands for."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from netwright.core.decision import Control
from netwright.core.errors import NetwrightError, UnknownName
from netwright.core.graph import Graph


def shape(text: str) -> tuple[int, ...]:
    """`1x3x224x224` -> (1, 3, 224, 224); raises NetwrightError."""
    try:
        sizes = tuple(int(part) for part in text.lower().replace(",", "x").split("x"))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise NetwrightError(f"--input {text!r} is not a shape. Write batch, channels, height, width like 1x3x224x224.")
    return sizes


def load_module(model: str, **options: Any) -> Any:
    """The `nn.Module` behind MODEL: a name of ours, `timm:NAME` (with `options` of timm's), or `file.py:callable`."""
    if model.startswith("timm:"):
        from netwright.design.zoo import timm_model

        return timm_model(model.removeprefix("timm:"), **options)
    path, _, name = model.rpartition(":")
    if path.endswith(".py"):
        return _from_file(Path(path), name)
    from netwright.design.models import VARIANTS

    if model not in VARIANTS:
        raise UnknownName("model (a name of ours, timm:NAME, file.py:callable, a .pt2 program or a bundle)", model, VARIANTS)
    return VARIANTS[model].build()


def load_trained(
    model: str, weights: Path | None, data: str, *, size: int | None, limit: int | None, seed: int, progress: Any
) -> tuple[Any, Any]:
    """The module behind MODEL with the state of a safetensors file, and the task of --data."""
    from netwright.tasks import load_task

    task = load_task(data, seed=seed, limit=limit, size=size, progress=progress)
    module = load_module(model, num_classes=len(task.classes), in_chans=task.shape[0])
    if weights is not None:
        from safetensors.torch import load_file

        try:
            module.load_state_dict(load_file(weights))
        except (RuntimeError, OSError) as error:
            raise NetwrightError(f"{weights} does not fit {model}: {str(error).splitlines()[0]}") from error
    return module, task


def _from_file(path: Path, name: str) -> Any:
    if not path.exists():
        raise NetwrightError(f"There is no file {path}.")
    import torch

    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise NetwrightError(f"{path} failed on import: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        raise UnknownName(f"callable in {path}", name, [n for n in vars(module) if not n.startswith("_")])
    try:
        made = getattr(module, name)
        made = made if isinstance(made, torch.nn.Module) else made()
    except Exception as error:
        raise NetwrightError(f"{path}:{name} failed: {type(error).__name__}: {error}") from error
    if not isinstance(made, torch.nn.Module):
        raise NetwrightError(f"{path}:{name} gave {type(made).__name__}; it must return a torch.nn.Module.")
    return made


def load_network(model: str, sizes: tuple[int, ...] | None) -> tuple[Graph, Control | None]:
    """As `load_graph`, also of a module whose control flow depends on its data: then with its decisions."""
    from netwright.core.errors import TraceError

    if Path(model).is_dir():
        from netwright.deploy.bundle import Bundle

        bundle = Bundle.load(model)
        return bundle.graph, bundle.tree
    try:
        return load_graph(model, sizes), None
    except TraceError:
        if sizes is None or Path(model).suffix == ".pt2":
            raise
        import torch

        from netwright.design.paths import trace_paths

        return trace_paths(load_module(model), torch.zeros(sizes))


def counted_graph(model: str, sizes: tuple[int, ...] | None) -> Graph:
    """The Graph of MODEL for counting: without weights where MODEL is a module and `sizes` is given."""
    if sizes is None or Path(model).is_dir() or Path(model).suffix == ".pt2":
        return load_graph(model, sizes)
    import torch

    from netwright.design.trace import hollow, trace

    return trace(hollow(lambda: load_module(model)), torch.zeros(sizes), counting=True)


def load_graph(model: str, sizes: tuple[int, ...] | None) -> Graph:
    """The Graph of MODEL; `sizes` is needed unless MODEL carries its own input shape (a bundle, a .pt2 program)."""
    path = Path(model)
    if path.is_dir():
        from netwright.deploy.bundle import Bundle

        return Bundle.load(path).graph
    import torch

    from netwright.design.trace import trace

    if path.suffix == ".pt2":
        if not path.exists():
            raise NetwrightError(f"There is no file {path}.")
        try:
            return trace(torch.export.load(path))
        except NetwrightError:
            raise
        except Exception as error:
            raise NetwrightError(f"{path} is not an exported program that this torch can read: {error}") from error
    module = load_module(model)
    if sizes is None:
        config = getattr(module, "config", None)
        if config is None:
            raise NetwrightError(f"Which input does {model} take? Add for example --input 1x3x224x224.")
        side = 8 if config.channels == 1 else 224
        sizes = (1, config.channels, side, side)
    return trace(module, torch.zeros(sizes))
