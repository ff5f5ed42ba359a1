"""Compile the C file with whatever compiler the machine has."""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from netwright.core.errors import CompilerError
from netwright.deploy.c99.emit import Emitted

# -fno-strict-aliasing: the arena holds floats and integers in turn.
FLAGS = (
    "-std=c99",
    "-O3",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-strict-aliasing",
    "-fPIC",
    "-shared",
)
# Options for each instruction set; "native" is whatever this processor has.
ISAS = {
    "native": ("-march=native",),
    "portable": ("-DNETWRIGHT_PORTABLE",),
    "avx2": ("-mavx2", "-mfma", "-mbmi2", "-mpopcnt"),
    "avx512": (
        *("-mavx2", "-mfma", "-mbmi2", "-mpopcnt", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni"),
        "-mavx512vpopcntdq",
    ),
    "neon": ("-march=armv8-a",),
    "dispatch": (),
}
PARTS = ("avx2", "avx512")  # what "dispatch" puts into one library, beside plain C
ADVICE = "Set CC, install a C compiler (gcc or clang), or run: pip install 'netwright[zig]'"


def find_compiler() -> list[str]:
    """$CC, else cc, gcc or clang, else the compiler in the ziglang wheel, as the start of a command.

    Raises:
        CompilerError: there is none.
    """
    if given := os.environ.get("CC"):
        command = shlex.split(given)
        if shutil.which(command[0]) is None:
            raise CompilerError(f"The environment variable CC names {given!r}, which cannot be run. {ADVICE}.")
        return command
    for name in ("cc", "gcc", "clang"):
        if (path := shutil.which(name)) is not None:
            return [path]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc"]
    raise CompilerError(f"No C compiler was found (looked for cc, gcc, clang and the ziglang wheel). {ADVICE}.")


def chosen_isa(isa: str | None = None) -> str:
    """The instruction set to compile for: `isa`, else $NETWRIGHT_ISA, else "native".

    Raises:
        CompilerError: none of `ISAS`.
    """
    isa = isa or os.environ.get("NETWRIGHT_ISA") or "native"
    if isa not in ISAS:
        raise CompilerError(f"There are no kernels for the instruction set {isa!r}; there are {', '.join(ISAS)}.")
    return isa


def chosen_threads(threads: int | None = None) -> int:
    """The most threads to compile for: `threads`, else $NETWRIGHT_THREADS, else 1.

    Raises:
        CompilerError: not a number from 1 to 256.
    """
    given = os.environ.get("NETWRIGHT_THREADS") or "1"
    count = threads if threads is not None else int(given) if given.isdigit() else 0
    if not 1 <= count <= 256:
        asked = given if threads is None else threads
        raise CompilerError(f"A network can be compiled for 1 to 256 threads; {asked} was asked (threads, or NETWRIGHT_THREADS).")
    return count


def compile_c(source: Path | str | Emitted, out: Path | str, *, isa: str | None = None, threads: int | None = None) -> Path:
    """Compile a network to a shared library.

    Args:
        source: a .c file with its header beside it, a folder that holds one such file, or what `emit` returned.
        out: the library to write; it appears whole or not at all. Options in $CFLAGS come after ours.
        isa: instruction set of the kernels: native (the default), portable, avx2, avx512, neon, or dispatch (x86: several
            in one library, which chooses when it runs); else $NETWRIGHT_ISA.
        threads: the most that the steps of a large network are split among; else $NETWRIGHT_THREADS, else 1. When it runs, that
            variable can make them fewer.

    Raises:
        CompilerError: no compiler, or it refused; with its output.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        path = source.write(Path(folder)) if isinstance(source, Emitted) else _c_file(Path(source))
        made = Path(folder) / "library.so"
        count = chosen_threads(threads)
        pool = (f"-DNETWRIGHT_THREADS={count}", "-pthread") if count > 1 else ()
        flags = [*FLAGS, *pool, *shlex.split(os.environ.get("CFLAGS", ""))]
        command = [*find_compiler(), *flags, str(path), "-o", str(made), "-lm"]
        isa = chosen_isa(isa)
        if isa == "dispatch":
            _dispatch(path, made, flags)
            os.replace(made, out)
            return out
        try:
            _run([*command, *ISAS[isa]])
        except CompilerError:
            if isa != "native":
                raise
            _run(command)  # a compiler that does not know this processor; a real error shows again
        os.replace(made, out)
    return out


def _dispatch(source: Path, library: Path, flags: list[str]) -> None:
    """One library with the kernels of `PARTS` and plain C; the weights are in it once."""
    if platform.machine() not in ("x86_64", "AMD64"):
        raise CompilerError(f"Kernels are chosen at run time on x86-64 only; this is {platform.machine()}. Use isa='native'.")
    compiler = find_compiler()
    objects, pool = [], ["-pthread"] if "-pthread" in flags else []
    flags = [f for f in flags if f != "-shared"]
    for part in (*PARTS, "base"):
        objects.append(str(library.with_name(f"{part}.o")))
        how = ("-DNW_DISPATCH", "-DNETWRIGHT_PORTABLE") if part == "base" else (f"-DNW_PART=_{part}", *ISAS[part])
        _run([*compiler, *flags, *how, "-c", str(source), "-o", objects[-1]])
    _run([*compiler, "-shared", *pool, *objects, "-o", str(library), "-lm"])


def _c_file(path: Path) -> Path:
    if path.is_dir():
        files = sorted(path.glob("*.c"))
        if len(files) != 1:
            raise CompilerError(f"{path} holds {len(files)} C files where one is expected.")
        return files[0]
    if not path.is_file():
        raise CompilerError(f"There is no C file {path}.")
    return path


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise CompilerError(f"The C compiler could not be started: {shlex.join(command)}: {error}. {ADVICE}.") from error
    if done.returncode:
        shown = "\n".join((done.stderr or done.stdout).splitlines()[:30])
        raise CompilerError(f"The C compiler refused (exit status {done.returncode}): {shlex.join(command)}\n{shown}")


@dataclass(frozen=True)
class Sizes:
    """Bytes of machine code and of constant data in a compiled network, and how they were found."""

    code_bytes: int
    constant_bytes: int
    how: str


def sizes(library: Path | str) -> Sizes:
    """Sizes of the sections .text and .rodata of a compiled network, read from its ELF section table.

    Raises:
        CompilerError: not a 64-bit little-endian ELF file.
    """
    data = Path(library).read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        raise CompilerError(f"{library} is not a 64-bit little-endian ELF file; its sections cannot be read.")
    (start,) = struct.unpack_from("<Q", data, 0x28)
    entry, count, names = struct.unpack_from("<HHH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", data, start + i * entry) for i in range(count)]
    table = sections[names][4]
    found: dict[str, int] = {}
    for name, _, _, _, _, size in sections:
        begin = table + name
        key = data[begin : data.index(b"\0", begin)].decode()
        found[key] = found.get(key, 0) + size

    def total(prefix: str) -> int:
        return sum(n for key, n in found.items() if key == prefix or key.startswith(prefix + "."))

    return Sizes(total(".text"), total(".rodata"), "counted: ELF sections .text and .rodata")
