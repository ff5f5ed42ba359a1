"""MODEL and --input on the command line: what a name stands for."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netwright.core.decision import Control
from netwright.core.errors import NetwrightError, UnknownName
from netwright.core.graph import Graph

if TYPE_CHECKING:
    from torch import Tensor


def shape(text: str) -> tuple[int, ...]:
    """`1x3x224x224` -> (1, 3, 224, 224); raises NetwrightError."""
    try:
        sizes = tuple(int(part) for part in text.lower().replace(",", "x").split("x"))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise NetwrightError(f"--input {text!r} is not a shape. Write batch, channels, height, width like 1x3x224x224.")
    return sizes


def example(text: str) -> tuple[Tensor, ...]:
    """`1x3x224x224` -> one tensor of zeros; `int:1x128` -> whole numbers, as tokens are; several inputs with + between them.

    Raises:
        NetwrightError: no shapes.
    """
    import torch

    found = []
    for part in text.split("+"):
        kind, _, sizes = part.strip().rpartition(":")
        if kind not in ("", "int", "float"):
            raise NetwrightError(f"--input {part!r}: {kind!r} is no kind of numbers. Write int:1x128 or 1x3x224x224.")
        found.append(torch.zeros(shape(sizes), dtype=torch.long if kind == "int" else torch.float32))
    return tuple(found)


def load_module(model: str, **options: Any) -> Any:
    """The `nn.Module` behind MODEL: a name of ours, `SPACE:ARCHITECTURE`, `timm:NAME` (with `options` of timm's),
    `transformers:TYPE` (with `options` of its configuration), `file.py:callable`, or the ``config.json`` of a network that
    `netwright train --family` has trained."""
    kind, _, rest = model.partition(":")
    if kind == "timm":
        from netwright.design.zoo import timm_model

        return timm_model(rest, **options)
    if kind == "transformers":
        from netwright.design.zoo import transformers_model

        name, *fields = rest.split(",")
        return transformers_model(name, **dict(map(_field, fields)), **options)
    path, _, name = model.rpartition(":")
    if path.endswith(".py"):
        return _from_file(Path(path), name)
    if model.endswith(".json"):
        from netwright.pipeline.family import load

        return load(model)
    from netwright.design.spaces import SPACES
    from netwright.pipeline.family import VARIANTS

    if kind in SPACES:
        return _of_space(kind, rest, **options)
    if model not in VARIANTS:
        raise UnknownName(
            "model (a name of ours, SPACE:ARCHITECTURE, timm:NAME, transformers:TYPE, file.py:callable, a config.json, a .pt2 "
            "program or a bundle)",
            model,
            VARIANTS,
        )
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


def _field(text: str) -> tuple[str, Any]:
    """`hidden_size=64` -> ("hidden_size", 64)."""
    name, equals, value = text.partition("=")
    if not equals:
        raise NetwrightError(f"{text!r} is no field of a configuration. Write TYPE,FIELD=VALUE,... like bert,hidden_size=64.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _of_space(name: str, text: str, num_classes: int = 10, in_chans: int = 3, side: int = 32) -> Any:
    """One architecture of a space: the text that its benchmark uses, its number there, or its values in the order of the
    decisions with commas between them, as search prints them. The default input is 3x32x32, of 10 classes."""
    from netwright.design.spaces import SPACES

    options: Any = SPACES[name]()
    space = options.space((in_chans, side, side), num_classes)
    if hasattr(options, "parse") and "~" in text:
        return space.fill(options.parse(text)).build()
    if hasattr(options, "from_number") and text.isdigit():
        return space.fill(options.from_number(int(text))).build()
    decisions = space.decisions
    parts = text.split(",")
    if len(parts) != len(decisions):
        raise NetwrightError(
            f"The space {name!r} has {len(decisions)} decisions ({', '.join(decisions)}); {text!r} gives {len(parts)} values. "
            f"Write them in this order with commas between them, like {name}:{space.smallest()}."
        )
    values = {key: _value(part, domain.values) for (key, domain), part in zip(decisions.items(), parts, strict=True)}
    return space.fill(space.arch(values)).build()


def _value(text: str, values: tuple[Any, ...]) -> Any:
    """The value that is written like this, or the text (which the space then refuses by name)."""
    return next((v for v in values if str(v) == text.strip()), text)


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


def counted_graph(model: str, given: tuple[Tensor, ...] | None) -> Graph:
    """The Graph of MODEL for counting: a module without its weights; `given` are its inputs (see `example`)."""
    if Path(model).is_dir() or Path(model).suffix == ".pt2":
        return load_graph(model, None)
    from netwright.design.trace import hollow, trace

    module = hollow(lambda: load_module(model))
    return trace(module, given or default_input(model, module), counting=True)


def default_input(model: str, module: Any) -> tuple[Tensor, ...]:
    """The input that MODEL is known to take.

    Raises:
        NetwrightError: it is not known.
    """
    import torch

    from netwright.design.spaces import SPACES

    config: Any = getattr(module, "config", None)
    if model.partition(":")[0] in SPACES:
        return (torch.zeros(1, 3, 32, 32),)
    if hasattr(config, "channels"):
        side = 8 if config.channels == 1 else 224
        return (torch.zeros(1, config.channels, side, side),)
    if size := (getattr(module, "pretrained_cfg", None) or {}).get("input_size"):  # of timm
        return (torch.zeros(1, *size),)
    if given := getattr(module, "inputs", None):  # of transformers
        return tuple(given)
    raise NetwrightError(f"Which input does {model} take? Add for example --input 1x3x224x224.")


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
    return trace(module, torch.zeros(sizes) if sizes else default_input(model, module))
