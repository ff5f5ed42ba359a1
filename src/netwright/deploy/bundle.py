"""Bundle: the folder a user takes away. No pickle anywhere.

manifest.json        what it is, sizes, SHA-256 of every file, versions, free facts (`info`)
graph.json           the network, one node an operation
weights.safetensors  its parameters, those of one and two bits packed
model.c, model.h     the network as C99, weights packed at their width
test_model.c         a self-test with stored vectors; CMakeLists.txt builds and runs it, README.md says how to use the C file
model.onnx, ...      files of other engines, see `exports`
build/               what was compiled on this machine; not part of the bundle
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netwright.core.decision import Confident, Control, from_json, to_json
from netwright.core.errors import BundleError
from netwright.core.files import write_bytes, write_json
from netwright.core.graph import Graph
from netwright.deploy.c99 import chosen_isa, chosen_threads, compile_c, emit, sizes
from netwright.deploy.exports import FILES, backends
from netwright.deploy.loader import CompiledModel
from netwright.deploy.package import Vectors, package
from netwright.deploy.packed import pack, unpack

FORMAT, VERSION = "netwright-bundle", 1
FORMS = ("float", "int8", "ternary", "binary", "spiking")
REQUIRED = ("graph.json", "weights.safetensors", "model.c", "model.h")


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk; make one with `write_bundle`, open one with `Bundle.load`."""

    path: Path
    manifest: Mapping[str, Any] = field(repr=False)

    @classmethod
    def load(cls, path: Path | str) -> Bundle:
        """Open a bundle and check every file against its SHA-256.

        Raises:
            BundleError: no bundle, a damaged one, or one of a newer version; says which file and why.
        """
        path = Path(path)
        file = path / "manifest.json"
        if not file.is_file():
            raise BundleError(f"{path} is not a bundle: it has no manifest.json. Give the folder that `netwright deploy` wrote.")
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise BundleError(f"The manifest {file} is damaged: {error}. Deploy the network again.") from error
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise BundleError(f"{path} is not a bundle: its manifest.json does not say format {FORMAT!r}.")
        found = manifest.get("version")
        if not isinstance(found, int) or found > VERSION:
            raise BundleError(f"The bundle {path} has version {found}; this netwright reads up to {VERSION}. Upgrade netwright.")
        bundle = cls(path, manifest)
        bundle.verify()
        return bundle

    def verify(self) -> None:
        """Check that the manifest is complete and that every file has the SHA-256 written in it.

        Raises:
            BundleError: names what is missing or differs.
        """
        keys = {"name", "form", "input_shape", "output_shape", "time_steps", "sizes", "files"}
        if missing := keys - set(self.manifest):
            raise BundleError(f"The manifest of {self.path} is damaged: it lacks {', '.join(sorted(missing))}.")
        for key, kind in (("name", str), ("form", str), ("time_steps", int), ("sizes", dict), ("files", dict), ("info", dict)):
            if not isinstance(self.manifest.get(key, {}), kind) or isinstance(self.manifest.get(key), bool):
                raise BundleError(f"The manifest of {self.path} is damaged: {key} is {self.manifest[key]!r:.60}.")
        if self.form not in FORMS:
            raise BundleError(f"The manifest of {self.path} has the form {self.form!r}; the forms are {', '.join(FORMS)}.")
        files = self.manifest["files"]
        lost = set(REQUIRED) - set(files if isinstance(files, dict) else ())
        if lost:
            raise BundleError(f"The manifest of {self.path} is damaged: it lists no {', '.join(sorted(lost))}.")
        for name, expected in files.items():
            if Path(name).name != name:
                raise BundleError(f"The manifest of {self.path} names {name!r}, which lies outside the bundle.")
            file = self.path / name
            if not file.is_file():
                raise BundleError(f"The bundle {self.path} is damaged: {name} is missing. Deploy the network again.")
            if _sha256(file.read_bytes()) != expected:
                raise BundleError(
                    f"The bundle {self.path} is damaged: {name} does not match its checksum. Deploy the network again."
                )
        self._check_shapes()
        _ = self.tree

    def _check_shapes(self) -> None:
        """The shapes of the manifest must be those of the C file: memory is handed to it by them."""
        header = (self.path / "model.h").read_text(encoding="utf-8", errors="replace")
        for key, stem in (("input_shape", "INPUT"), ("output_shape", "OUTPUT")):
            shapes = self.manifest.get(f"{key}s", [self.manifest[key]])
            try:
                known = [all(type(n) is int and n > 0 for n in shape) and math.prod(shape) for shape in shapes]
            except TypeError:
                known = []
            declared = [int(n) for n in re.findall(rf"#define MODEL_{stem}\d*_ELEMENTS (\d+)", header)]
            if known != declared or list(self.manifest[key]) != list(shapes[0]):
                raise BundleError(
                    f"The manifest of {self.path} is damaged: {key} is {self.manifest[key]!r:.60}, "
                    f"and the C file has {declared} numbers. Deploy the network again."
                )

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def form(self) -> str:
        """float, int8, ternary, binary or spiking."""
        return str(self.manifest["form"])

    @property
    def input_shape(self) -> tuple[int, ...]:
        """With batch 1 in front."""
        return tuple(self.manifest["input_shape"])

    @property
    def output_shape(self) -> tuple[int, ...]:
        return tuple(self.manifest["output_shape"])

    @property
    def time_steps(self) -> int:
        return int(self.manifest["time_steps"])

    @property
    def sizes(self) -> dict[str, int]:
        """weight_bytes, arena_bytes, code_bytes."""
        return dict(self.manifest["sizes"])

    @property
    def info(self) -> dict[str, Any]:
        """Facts that the writer added."""
        return dict(self.manifest.get("info", {}))

    @property
    def backends(self) -> tuple[str, ...]:
        """Engines that the bundle has files for: c99 always; onnx, openvino, qonnx, nir, torch where they were asked for."""
        return backends(self.manifest["files"])

    @property
    def onnx(self) -> Path | None:
        """The ONNX file, where this form has one."""
        return self.path / "model.onnx" if "model.onnx" in self.manifest["files"] else None

    @cached_property
    def graph(self) -> Graph:
        """The network with its weights.

        Raises:
            BundleError: the files do not describe a graph.
        """
        try:
            values = unpack((self.path / "weights.safetensors").read_bytes())
            return Graph.from_json((self.path / "graph.json").read_text(encoding="utf-8"), values)
        except (ValueError, KeyError, TypeError) as error:
            raise BundleError(f"The graph of {self.path} cannot be read: {error}. Deploy the network again.") from error

    @property
    def tree(self) -> Control | None:
        """Of a dynamic network, the decisions between its exits; the outputs of `graph` are conditions and results.

        Raises:
            BundleError: the manifest holds something else.
        """
        try:
            return from_json(self.manifest["decisions"]) if "decisions" in self.manifest else None
        except ValueError as error:
            raise BundleError(f"The manifest of {self.path} is damaged: {error}. Deploy the network again.") from error

    @cached_property
    def model(self) -> CompiledModel:
        """The compiled network; compiled at the first use on this machine, into build/.

        Raises:
            CompilerError: no compiler, or it refused.
        """
        digest = _sha256(f"{self.manifest['files']['model.c']} {chosen_isa()} {chosen_threads()} {processor()}".encode())[:12]
        library = self.path / "build" / f"model-{digest}.so"
        if not library.is_file():
            compile_c(self.path / "model.c", library)
        shapes = (self.manifest.get(f"{side}_shapes", self.manifest[f"{side}_shape"]) for side in ("input", "output"))
        return CompiledModel(library, *shapes)

    def run(self, *xs: NDArray[np.float32]) -> Any:
        """x [N, C, H, W] -> logits [N, K] of the compiled network; several inputs as arguments, several outputs as a tuple.

        Raises:
            BundleError: wrong shape, or not numbers.
            CompilerError: no compiler, or it refused.
        """
        return self.model.run(*xs)

    def run_exits(self, *xs: NDArray[np.float32]) -> tuple[Any, NDArray[np.int64]]:
        """As `run`, with the number of the exit that each example took, [N].

        Raises:
            BundleError, CompilerError: as `run`.
        """
        return self.model.run_exits(*xs)


def write_bundle(
    graph: Graph,
    out: Path | str,
    *,
    form: str,
    info: Mapping[str, Any] | None = None,
    exports: Mapping[str, bytes] | None = None,
    name: str = "model",
    tree: Control | None = None,
    most_repeated: float | None = None,
) -> Bundle:
    """Write a graph as a bundle; the manifest is written last, so that half a bundle is never taken for a whole one.

    Args:
        graph: carries its values.
        out: folder; made if missing, files of an older bundle in it are replaced.
        form: float, int8, ternary, binary or spiking.
        info: facts to keep with it, as JSON can hold them.
        exports: files of other engines, as `exports.export` makes them.
        name: of the network.
        tree: of a dynamic network, as `design.paths.trace_paths` gives it with the graph.
        most_repeated: make the arena smaller, see `emit`.

    Raises:
        Unsupported: an operation that the C99 back end cannot take.
        CompilerError: no compiler, or it refused.
        BundleError: `form` is none of the five.
    """
    if form not in FORMS:
        raise BundleError(f"A bundle cannot have the form {form!r}; the forms are {', '.join(FORMS)}.")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    emitted = emit(graph, tree=tree, most_repeated=most_repeated)
    contents = {
        "graph.json": (json.dumps(graph.to_json(), indent=1, default=_plain) + "\n").encode(),
        "weights.safetensors": pack(graph),
        "model.c": emitted.c.encode(),
        "model.h": emitted.h.encode(),
        **{file: text.encode() for file, text in package(emitted, *_vectors(graph, tree)).items()},
        **(exports or {}),
    }
    (out / "manifest.json").unlink(missing_ok=True)
    for file in {file for files in FILES.values() for file in files} - set(contents):
        (out / file).unlink(missing_ok=True)
    for file, data in contents.items():
        write_bytes(out / file, data)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "form": form,
        "input_shape": list(emitted.input_shape),
        "output_shape": list(emitted.output_shape),
        **({"input_shapes": emitted.input_shapes, "output_shapes": emitted.output_shapes} if emitted.several else {}),
        **({} if tree is None else {"decisions": to_json(tree)}),
        "time_steps": max((int(n.attrs["steps"]) for n in graph if n.op == "integrate"), default=1),
        "sizes": {"weight_bytes": emitted.weight_bytes, "arena_bytes": emitted.arena_bytes, "code_bytes": 0},
        "files": {file: _sha256(data) for file, data in contents.items()},
        "versions": {"netwright": _version("netwright"), "python": platform.python_version(), "numpy": np.__version__},
        "info": dict(info or {}),
    }
    manifest["sizes"]["code_bytes"] = sizes(Bundle(out, manifest).model.library).code_bytes
    write_json(out / "manifest.json", manifest)
    return Bundle.load(out)


def _vectors(graph: Graph, tree: Control | None, count: int = 2) -> tuple[Vectors, float, list[int]]:
    """What the reference operators give for a few inputs, how near the C file must come (exactly where it is all integers),
    and the exits taken."""
    import torch

    from netwright.design.dynamic import outcome

    rng, found, ends = np.random.default_rng(0), [], []
    for _ in range(count):
        xs = [rng.standard_normal(graph[i].spec.shape, dtype=np.float32) for i in graph.inputs]
        ys, end = outcome(graph, tree, *(torch.from_numpy(x) for x in xs))
        ends.append(end)
        found.append((xs, [y.numpy() for y in ys]))
    whole = all(n.spec.kind != "float" or n.op in ("input", "dequantize", "reshape") for n in graph)
    exact = whole and not isinstance(tree, Confident)  # fewer steps than all are scaled in float
    return found, 0.0 if exact else 1e-4, ends


def _plain(value: Any) -> Any:
    """NumPy scalars and arrays in attributes, as JSON holds them."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"an attribute of type {type(value).__name__} cannot be written as JSON")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def processor() -> str:
    """What a compiled file depends on: it must not be loaded on another kind of machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.system()} {platform.machine()} {platform.processor()} {flags}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
