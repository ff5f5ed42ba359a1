"""netwright: design, estimate, search, train, compress, spike and deploy a network that fits, with the measured proof.

The map. Seven verbs, always in this order, are the folders, the commands, the chapters of the documentation:

    design    1  blocks, families, spaces, weight sharing; any nn.Module -> Graph
    estimate  2  what a network costs, before it runs
    search    3  find the architecture
    train     4  fit it
    compress  5  int8, ternary, binary
    spike     6  integrate-and-fire networks from trained ones
    deploy    7  one C file, ONNX, bundles

around them `core` (the nouns), `tasks` (data), `measure` (the honest eye), `report` (the mouth) and `pipeline` (the whole
chain). A plain `torch.nn.Module` stands at every arrow. Nothing here imports torch until a verb is used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_ROOMS = tuple("core tasks design estimate search train compress spike deploy measure report pipeline".split())
_NAMES = {
    "Arch": "core", "Cost": "core", "Graph": "core", "Space": "core", "Target": "core", "Trial": "core", "choice": "core",
    "ints": "core", "trace": "design", "Supernet": "design", "GraphModule": "design", "load_task": "tasks",
    "Bundle": "deploy.bundle", "run": "pipeline",
}  # fmt: skip
__all__ = [*_ROOMS, *_NAMES]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(f"netwright.{_NAMES[name]}"), name)
    if name in _ROOMS:
        return import_module(f"netwright.{name}")
    raise AttributeError(f"module 'netwright' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
