"""What goes beside the C file of a bundle: a self-test with stored vectors, a CMake project, a page on how to use it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from netwright.deploy.c99.emit import Emitted
from netwright.deploy.c99.numbers import numbers

Vectors = Sequence[tuple[Sequence[np.ndarray], Sequence[np.ndarray]]]  # inputs and outputs of each run


def package(emitted: Emitted, vectors: Vectors, tolerance: float, exits: Sequence[int] = ()) -> dict[str, str]:
    """Contents of test_model.c, CMakeLists.txt and README.md.

    Args:
        vectors: what the network gave for some inputs; stored in the self-test.
        tolerance: largest difference that passes, by the largest output; 0 where all arithmetic is integer.
        exits: of a network with several, the one that each run takes.
    """
    name = emitted.name
    signature = emitted.signature
    arguments = [*signature.inputs, *signature.outputs]
    arrays, runs = [], []
    for i, (xs, ys) in enumerate(vectors):
        given = [f"{a}_{i}" for a in signature.inputs]
        for a, value in zip(arguments, (*xs, *ys), strict=True):
            flat = np.ascontiguousarray(value, np.float32).reshape(-1)
            arrays.append(f"static const float {a}_{i}[{flat.size}] = {{\n{numbers(flat)}\n}};")
        buffers = [f"got_{o}" for o in signature.outputs]
        runs.append(f"  if ({name}_run({', '.join([*given, *buffers])}) != {exits[i] if exits else 0}) return 2;")
        runs += [f"  wrong += differs(got_{o}, {o}_{i}, sizeof {o}_{i} / sizeof(float));" for o in signature.outputs]
    got = "\n".join(f"static float got_{o}[{int(np.prod(shape))}];" for o, shape in signature.outputs.items())
    test = _TEST.format(name=name, arrays="\n".join(arrays), got=got, runs="\n".join(runs), tolerance=f"{tolerance!r}f")
    sizes = f"{emitted.weight_bytes:,} bytes of constants, {emitted.arena_bytes:,} bytes of working memory"
    return {f"test_{name}.c": test, "CMakeLists.txt": _CMAKE.format(name=name),
            "README.md": _README.format(name=name, NAME=name.upper(), sizes=sizes)}  # fmt: skip


_TEST = """\
/* Runs the network on stored inputs; 0 if every output is the stored one. */
#include "{name}.h"
#include <math.h>
#include <stdio.h>

{arrays}
{got}

static int differs(const float *a, const float *b, unsigned long n) {{
  float largest = 0.0f;
  int wrong = 0;
  for (unsigned long i = 0; i < n; i++) largest = fmaxf(largest, fabsf(b[i]));
  for (unsigned long i = 0; i < n; i++) wrong += !(fabsf(a[i] - b[i]) <= {tolerance} * largest);
  return wrong;
}}

int main(void) {{
  int wrong = 0;
{runs}
  if (wrong) fprintf(stderr, "%d outputs differ from the stored ones\\n", wrong);
  return wrong ? 1 : 0;
}}
"""

_CMAKE = """\
cmake_minimum_required(VERSION 3.10)
project({name} C)
set(CMAKE_C_STANDARD 99)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
option(NETWRIGHT_PORTABLE "plain C kernels, for any processor" OFF)
option(NETWRIGHT_DISPATCH "x86-64: plain C, AVX2 and AVX-512 kernels in one library, chosen when it runs" OFF)
option(NETWRIGHT_NATIVE "kernels for the processor that compiles" ON)
set(NETWRIGHT_THREADS 1 CACHE STRING "the most threads that share the steps of a large network")
if(NETWRIGHT_THREADS GREATER 1)
  find_package(Threads REQUIRED)
  add_definitions(-DNETWRIGHT_THREADS=${{NETWRIGHT_THREADS}})
endif()

set(flags -O3 -fno-math-errno -fno-trapping-math -fno-strict-aliasing)
set(avx2 -mavx2 -mfma -mbmi2 -mpopcnt)
set(avx512 ${{avx2}} -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512vpopcntdq)
add_library({name} {name}.c)
target_include_directories({name} PUBLIC ${{CMAKE_CURRENT_SOURCE_DIR}})
target_compile_options({name} PRIVATE ${{flags}})
target_link_libraries({name} PUBLIC m ${{CMAKE_THREAD_LIBS_INIT}})
if(NETWRIGHT_DISPATCH)
  target_compile_definitions({name} PRIVATE NW_DISPATCH NETWRIGHT_PORTABLE)
  foreach(part avx2 avx512)
    add_library({name}_${{part}} OBJECT {name}.c)
    target_compile_options({name}_${{part}} PRIVATE ${{flags}} ${{${{part}}}})
    target_compile_definitions({name}_${{part}} PRIVATE NW_PART=_${{part}})
    target_sources({name} PRIVATE $<TARGET_OBJECTS:{name}_${{part}}>)
  endforeach()
elseif(NETWRIGHT_PORTABLE)
  target_compile_definitions({name} PRIVATE NETWRIGHT_PORTABLE)
elseif(NETWRIGHT_NATIVE)
  target_compile_options({name} PRIVATE -march=native)
endif()

enable_testing()
add_executable(test_{name} test_{name}.c)
target_link_libraries(test_{name} {name})
add_test(NAME {name} COMMAND test_{name})
"""

_README = """\
# {name}

A neural network in C99: {sizes}. No dependency but the C library's headers, no allocation, no input or output.

```console
cmake -B build && cmake --build build && ctest --test-dir build      # library and self-test
cc -std=c99 -O3 -fno-strict-aliasing -march=native -c {name}.c       # or the one file alone
```

```c
int {name}_run(...);             /* one example; uses an arena of its own, so not for two threads at once */
int {name}_run_arena(..., void *arena);   /* the same in {NAME}_ARENA_BYTES bytes of the caller, aligned to 64: re-entrant */
int {name}_run_batch(..., int n);         /* n examples one after another */
```

`{name}.h` declares them and has the sizes. `{name}_run` and `{name}_run_arena` return 0, or the number of
the exit that was taken where the network has several.

| option | meaning |
|---|---|
| `-DNETWRIGHT_PORTABLE` | plain C kernels, whatever the compiler could do |
| `-march=native`, `-mavx2 -mfma`, ... | kernels for what the compiler may use: AVX-512 (VNNI, VPOPCNTDQ), AVX2, NEON |
| CMake `NETWRIGHT_DISPATCH=ON` | plain C, AVX2 and AVX-512 in one library, chosen when it runs |
| environment `NETWRIGHT_ISA` | of such a library: portable, avx2 or avx512 forces one |
| CMake `NETWRIGHT_PORTABLE=ON`, `NETWRIGHT_NATIVE=OFF` | plain C; the compiler's default instruction set |
| `-DNETWRIGHT_THREADS=4 -pthread`, CMake `NETWRIGHT_THREADS=4` | up to four threads for the steps that are worth it |
| environment `NETWRIGHT_THREADS` | of such a library: fewer threads |
| `-fno-strict-aliasing` | needed: the arena holds numbers of several types in turn |
| `-fno-math-errno -fno-trapping-math` | faster, no effect on results |
"""
