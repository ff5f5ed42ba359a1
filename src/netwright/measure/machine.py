"""The machine on which something was measured, and the versions it ran with."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

# Instruction sets that change which kernel runs: the x86 line from SSE4 up, and NEON with its dot products.
ISA = (
    "sse4_2 popcnt avx f16c fma avx2 avx_vnni avx512f avx512bw avx512vl avx512_vnni avx512_vpopcntdq avx512_bitalg "
    "avx512_bf16 avx512_fp16 amx_tile amx_int8 amx_bf16 asimd asimdhp asimddp i8mm bf16 sve sve2"
).split()
PACKAGES = ("netwright", "torch", "numpy", "onnx", "onnxruntime", "optuna", "scikit-learn", "safetensors")


def parse_cpuinfo(text: str) -> dict[str, Any]:
    """Model name and feature flags from the text of /proc/cpuinfo (x86: `model name`, `flags`; ARM: `Features`)."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip().lower(), value.strip())
    flags = set((fields.get("flags") or fields.get("features") or "").split())
    model = fields.get("model name") or fields.get("hardware") or fields.get("cpu part") or ""
    return {"cpu": model, "isa": [name for name in ISA if name in flags]}


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return f"{platform.system()} {platform.release()}"


def versions() -> dict[str, str]:
    """Python and the packages that decide a result, by their installed versions."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def _hardware() -> dict[str, Any]:
    source = Path("/proc/cpuinfo")
    cpu = parse_cpuinfo(source.read_text()) if source.exists() else {"cpu": "", "isa": []}
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": cpu["cpu"] or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        "threads": psutil.cpu_count() or 1,
        "usable_threads": usable or 1,
        "isa": cpu["isa"],
        "memory_bytes": psutil.virtual_memory().total,
        "os": _os_name(),
        "kernel": platform.release(),
    }


def machine() -> dict[str, Any]:
    """Facts of this machine, ready for JSON: cpu, architecture, cores, threads, isa, memory_bytes, os, kernel, versions."""
    facts = _hardware()
    return {**facts, "isa": list(facts["isa"]), "versions": versions()}
