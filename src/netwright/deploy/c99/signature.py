"""The functions of the C file: their arguments, the header that declares them, and their bodies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Shape = tuple[int, ...]


def _named(stem: str, shapes: Sequence[Shape]) -> dict[str, Shape]:
    """`in`, or `in0`, `in1`, ... where there are several."""
    return {stem if len(shapes) == 1 else f"{stem}{i}": tuple(shape) for i, shape in enumerate(shapes)}


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of the network `name` by the names of their arguments, in order."""

    name: str
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]

    @classmethod
    def of(cls, name: str, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Signature:
        return cls(name, _named("in", inputs), _named("out", outputs))

    @property
    def _parameters(self) -> str:
        return ", ".join([*(f"const float *{i}" for i in self.inputs), *(f"float *{o}" for o in self.outputs)])

    @property
    def _arguments(self) -> str:
        return ", ".join([*self.inputs, *self.outputs])

    def _elements(self, argument: str) -> str:
        """Name of the macro that holds the size of an argument."""
        stem = "INPUT" if argument in self.inputs else "OUTPUT"
        return f"{self.name.upper()}_{stem}{argument.removeprefix('in').removeprefix('out')}_ELEMENTS"

    def header(self, arena: int) -> str:
        """NAME.h, for an arena of so many bytes."""
        both = {**self.inputs, **self.outputs}
        lines = [f" *   {argument}: {' x '.join(map(str, shape))} floats" for argument, shape in both.items()]
        sizes = [f"#define {self._elements(argument)} {math.prod(shape)}" for argument, shape in both.items()]
        return _HEADER.format(name=self.name, NAME=self.name.upper(), shapes="\n".join(lines), sizes="\n".join(sizes),
                              arena=arena, parameters=self._parameters)  # fmt: skip

    def body(self, calls: Sequence[str]) -> str:
        """The functions, of which the first makes `calls`."""
        steps = [f"{argument} + (long)i * {self._elements(argument)}" for argument in (*self.inputs, *self.outputs)]
        unused = "\n".join(f"  (void){argument};" for argument in ("a", *self.inputs))
        return _BODY.format(unused=unused, name=self.name, NAME=self.name.upper(), calls="\n".join(f"  {c}" for c in calls),
                            parameters=self._parameters, arguments=self._arguments, steps=", ".join(steps))  # fmt: skip


_HEADER = """\
/* A network in C99, made by netwright. Inputs and outputs, row-major as in PyTorch:
{shapes}
 * Nothing is allocated.
 */
#ifndef {NAME}_H
#define {NAME}_H

{sizes}
#define {NAME}_ARENA_BYTES {arena}

#ifdef __cplusplus
extern "C" {{
#endif
/* One example, in an arena of its own: not for two threads at once. Returns 0, or the number
 * of the exit that was taken where the network has several. */
int {name}_run({parameters});
/* The same in memory of the caller: {NAME}_ARENA_BYTES bytes, aligned to 64. */
int {name}_run_arena({parameters}, void *arena);
/* n examples one after another. */
int {name}_run_batch({parameters}, int n);
#ifdef __cplusplus
}}
#endif
#endif
"""

_BODY = """
#if defined(NW_PART)
#define NW_RUN NW_JOIN({name}_run_arena, NW_PART)
__attribute__((visibility("hidden"))) int NW_RUN({parameters}, void *arena);
#elif defined(NW_DISPATCH)
#define NW_RUN {name}_run_arena_base
static
#else
#define NW_RUN {name}_run_arena
#endif
int NW_RUN({parameters}, void *arena) {{
  unsigned char *a = (unsigned char *)arena;
{unused}
{calls}
}}

#if defined(NW_DISPATCH)
#include <stdlib.h>
typedef int nw_run({parameters}, void *arena);
extern nw_run {name}_run_arena_avx2, {name}_run_arena_avx512;

/* The best that this processor has, or what NETWRIGHT_ISA names if it has that. */
static nw_run *nw_chosen(void) {{
  const char *wanted = getenv("NETWRIGHT_ISA");
  const int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                     __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vpopcntdq");
  if (wanted && !strcmp(wanted, "portable")) return {name}_run_arena_base;
  if (avx512 && !(wanted && !strcmp(wanted, "avx2"))) return {name}_run_arena_avx512;
  return avx2 ? {name}_run_arena_avx2 : {name}_run_arena_base;
}}

int {name}_run_arena({parameters}, void *arena) {{
  static nw_run *run = 0;
  if (!run) run = nw_chosen();
  return run({arguments}, arena);
}}
#endif

#if !defined(NW_PART)
static unsigned char {name}_arena[{NAME}_ARENA_BYTES] NW_ALIGNED;

int {name}_run({parameters}) {{ return {name}_run_arena({arguments}, {name}_arena); }}

int {name}_run_batch({parameters}, int n) {{
  for (int i = 0; i < n; i++)
    {name}_run({steps});
  return 0;
}}
#endif
"""
