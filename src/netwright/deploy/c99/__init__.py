"""C99 back end: a Graph becomes one C file with its kernels, its packed weights and one planned arena."""

from __future__ import annotations

from pathlib import Path

from netwright.core.decision import Control
from netwright.core.graph import Graph
from netwright.deploy.c99.compile import ISAS as ISAS
from netwright.deploy.c99.compile import Sizes as Sizes
from netwright.deploy.c99.compile import chosen_isa as chosen_isa
from netwright.deploy.c99.compile import chosen_threads as chosen_threads
from netwright.deploy.c99.compile import compile_c as compile_c
from netwright.deploy.c99.compile import find_compiler as find_compiler
from netwright.deploy.c99.compile import sizes as sizes
from netwright.deploy.c99.emit import Emitted as Emitted
from netwright.deploy.c99.emit import emit as emit
from netwright.deploy.loader import CompiledModel


def build(
    graph: Graph,
    directory: Path | str,
    *,
    name: str = "model",
    isa: str | None = None,
    threads: int | None = None,
    tree: Control | None = None,
) -> CompiledModel:
    """Emit, compile and load a network; `directory` keeps NAME.c, NAME.h and NAME.so.

    Raises:
        Unsupported: an operation without a C kernel.
        CompilerError: no compiler, or it refused.
    """
    emitted = emit(graph, name, tree)
    source = emitted.write(Path(directory))
    library = compile_c(source, Path(directory) / f"{name}.so", isa=isa, threads=threads)
    return CompiledModel(library, emitted.input_shapes, emitted.output_shapes, name=name)
