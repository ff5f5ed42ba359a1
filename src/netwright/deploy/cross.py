"""Other processors: the same C file, compiled by another compiler, run in an emulator, its outputs and instructions read back."""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from netwright.core.errors import BundleError, CompilerError
from netwright.core.target import Target
from netwright.deploy.c99.emit import Emitted

FLAGS = ("-std=gnu99", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fno-strict-aliasing")
FLASH_AT, RAM_AT = 0x00000000, 0x20000000  # of QEMU's MPS2 boards
STACK_BYTES = 8192
INSTRUCTIONS_PER_TICK = 40  # -icount shift=0: one instruction a nanosecond; SysTick runs at 25 MHz


@dataclass(frozen=True)
class CrossBuild:
    """A program for another processor.

    Attributes:
        flash_bytes: code, constants and initial values; ram_bytes: variables, the arena among them, and the stack reserved.
            Both counted in the program's sections; 0 where the target is no microcontroller.
    """

    program: Path
    target: Target
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    flash_bytes: int
    ram_bytes: int

    def run(self, x: NDArray[np.float32], timeout: float = 300.0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """x [N, ...] -> outputs [N, ...], and the instructions of each of the N runs, counted by QEMU to the nearest 40 (0 in
        user mode). They are not cycles of silicon.

        Raises:
            CompilerError: the emulator is missing, or the program failed.
        """
        machine = list(self.target.build["machine"])
        if shutil.which(machine[0]) is None:
            raise _missing(self.target, machine[0])
        if "-M" in machine:
            machine += ["-nographic", "-monitor", "none", "-serial", "none", "-semihosting-config", "enable=on,target=native"]
            machine += ["-icount", "shift=0", "-kernel"]
        x = np.ascontiguousarray(x, np.float32)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "input").write_bytes(x.tobytes())
            command = [*machine, str(self.program.resolve())]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout, check=False)
            output = Path(folder) / "output"
            record = np.dtype([("y", np.float32, self.out_shape[1:]), ("ticks", np.uint32)])
            if done.returncode or not output.is_file() or output.stat().st_size != len(x) * record.itemsize:
                raise CompilerError(
                    f"The program for {self.target.name} failed in {machine[0]} with {done.returncode}: {done.stderr[:300]}"
                )
            found = np.frombuffer(output.read_bytes(), record)
        return found["y"].copy(), found["ticks"].astype(np.int64) * INSTRUCTIONS_PER_TICK


def check_budget(emitted: Emitted, target: Target, code_bytes: int = 16384) -> None:
    """Refuse a network that cannot fit, before anything is compiled; `code_bytes` is what the code takes at least.

    Raises:
        BundleError: over the flash or the RAM of the target, by how much, and what to do.
    """
    floats = sum(4 * int(np.prod(s)) for s in (*emitted.input_shapes, *emitted.output_shapes))
    needed = {"flash": emitted.weight_bytes + code_bytes, "ram": emitted.arena_bytes + floats + STACK_BYTES}
    for memory, has in target.memory_bytes.items():
        if needed.get(memory, 0) > has:
            raise BundleError(
                f"The network needs {needed[memory]:,} bytes of {memory} and {target.name} has {has:,}. Use a smaller network "
                "or input, compress it (int8, ternary, binary)"
                + (", or compute large parts in strips (--strips 0.3)." if memory == "ram" else ".")
            )


def cross_build(emitted: Emitted, target: Target | str, out: Path | str) -> CrossBuild:
    """Compile the network `model` for `target`, with a program that feeds it, into the folder `out`.

    Raises:
        BundleError: it does not fit into the target's memories, or has several inputs or outputs.
        CompilerError: the compiler is missing, or it refused.
    """
    target = Target.load(target) if isinstance(target, str) else target
    if not target.build:
        raise CompilerError(
            f"The target {target.name} does not say how programs for it are built. Use cortex-m4, cortex-m7 or aarch64."
        )
    if len(emitted.input_shapes) != 1 or len(emitted.output_shapes) != 1 or emitted.name != "model":
        raise BundleError("A program for another processor takes a network named model with one input and one output.")
    check_budget(emitted, target)
    compiler = target.build["compiler"]
    if shutil.which(compiler) is None:
        raise _missing(target, compiler)
    out = Path(out)
    source = emitted.write(out)
    ours = resources.files("netwright.deploy") / "micro"
    micro = bool(target.memory_bytes)
    for name in ("main.c", *(("startup.c", "board.ld") if micro else ())):
        (out / name).write_text((ours / name).read_text(encoding="utf-8"), encoding="utf-8")
    program = out / f"{target.name}.elf"
    command = [compiler, *FLAGS, *target.build["flags"], str(source), str(out / "main.c")]
    if micro:
        memories = {"FLASH_AT": FLASH_AT, "RAM_AT": RAM_AT, "STACK_BYTES": STACK_BYTES,
                    "FLASH_BYTES": target.memory_bytes["flash"], "RAM_BYTES": target.memory_bytes["ram"]}  # fmt: skip
        command += [
            str(out / "startup.c"),
            "-nostartfiles",
            "--specs=nano.specs",
            "-Wl,--gc-sections",
            f"-Wl,-T,{out / 'board.ld'}",
        ]
        command += [f"-Wl,--defsym={name}={value}" for name, value in memories.items()]
    done = subprocess.run([*command, "-o", str(program), "-lm"], capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        shown = "\n".join(done.stderr.splitlines()[:20])
        raise CompilerError(f"The network does not build for {target.name} (exit status {done.returncode}):\n{shown}")
    flash, ram = _memories(program) if micro else (0, 0)
    return CrossBuild(program, target, emitted.input_shape, emitted.output_shape, flash, ram)


def _missing(target: Target, program: str) -> CompilerError:
    return CompilerError(f"{program} is not installed; on Debian: apt-get install {target.build['packages']}")


def _memories(program: Path) -> tuple[int, int]:
    """Bytes of flash and of RAM of a 32-bit ELF file, from its segments, the reserved stack with the RAM."""
    data = program.read_bytes()
    (start,) = struct.unpack_from("<I", data, 28)
    size, count = struct.unpack_from("<HH", data, 42)
    flash = ram = 0
    for i in range(count):
        kind, _, address, _, in_file, in_memory = struct.unpack_from("<IIIIII", data, start + i * size)
        if kind == 1:
            flash += in_file
            ram += in_memory if address >= RAM_AT else 0
    return flash, ram + STACK_BYTES
