/* What every kernel needs: storage types, typed loads, and the choice of the code path.
 *
 * NETWRIGHT_PORTABLE forces plain C. Otherwise GCC and Clang get vector code for the instruction set they compile for.
 * Tensors are [T][pixels][channels]; all sizes are literals at the call, so that each instance is compiled for its shape.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define NW_INLINE static inline __attribute__((always_inline))
#define NW_NOINLINE static __attribute__((noinline))
#define NW_RESTRICT __restrict__
#define NW_ALIGNED __attribute__((aligned(64)))
#else
#define NW_INLINE static inline
#define NW_NOINLINE static
#define NW_RESTRICT restrict
#define NW_ALIGNED
#endif

/* One library for several instruction sets: this file is compiled once for each, with NW_PART naming it, and once more with
 * NW_DISPATCH, which holds the weights and chooses when it runs. */
#if defined(NW_PART)
#define NW_SHARED extern __attribute__((visibility("hidden")))
#elif defined(NW_DISPATCH)
#define NW_SHARED __attribute__((visibility("hidden")))
#else
#define NW_SHARED static
#endif
#if defined(NW_PART) || defined(NW_DISPATCH)
#define NW_POOL __attribute__((visibility("hidden")))
#else
#define NW_POOL NW_NOINLINE
#endif
#define NW_JOIN_(a, b) a##b
#define NW_JOIN(a, b) NW_JOIN_(a, b)

#if !defined(NETWRIGHT_PORTABLE) && defined(__GNUC__) && (defined(__AVX2__) || defined(__ARM_NEON))
#define NW_VECTOR 1
#endif
/* Loops over register tiles must be unrolled, or the tile lies in memory. */
#if defined(NW_VECTOR) && defined(__clang__)
#define NW_UNROLL _Pragma("unroll")
#define NW_ROLLED _Pragma("nounroll")
#elif defined(NW_VECTOR)
#define NW_UNROLL _Pragma("GCC unroll 64")
#define NW_ROLLED _Pragma("GCC unroll 1")
#else
#define NW_UNROLL
#define NW_ROLLED
#endif
#if defined(NW_VECTOR) && defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define NW_AVX512 1
#endif
#if defined(NW_VECTOR) && defined(__AVX2__)
#define NW_AVX2 1
#include <immintrin.h>
#endif

#if defined(NW_VECTOR) && defined(__ARM_NEON) && defined(__aarch64__)
#define NW_NEON 1
#include <arm_neon.h>
#endif

/* Register tiles: `wide` with 32 vector registers of 16 lanes, `narrow` with 16 of 8. */
#if defined(NW_AVX512)
#define NW_TILE(wide, narrow) wide
#else
#define NW_TILE(wide, narrow) narrow
#endif

#define NW_MIN(a, b) ((a) < (b) ? (a) : (b))
#define NW_MAX(a, b) ((a) > (b) ? (a) : (b))
enum { NW_U8, NW_I8, NW_I32, NW_F32 };
/* Factors of rescaling; 16 bits where all of a network fit. */
#if defined(NW_MULT16)
typedef int16_t nw_mult;
#else
typedef int32_t nw_mult;
#endif

/* What one of several threads does of a step; the pieces from nw_first to that of the next part are its own. */
#if !defined(NETWRIGHT_THREADS)
#define NETWRIGHT_THREADS 1
#endif
typedef struct {
  int part, parts;
} nw_share;
#define NW_ALL ((nw_share){0, 1})
NW_INLINE int nw_first(int n, nw_share s, int next) { return (int)((long)n * (s.part + next) / s.parts); }
/* Whether n pieces, computed in tiles of `tile`, are enough to be split among all threads. */
#define NW_SPLITS(n, tile) ((n) >= 4 * NETWRIGHT_THREADS * (tile))

NW_INLINE int nw_size(int type) { return type == NW_U8 || type == NW_I8 ? 1 : 4; }

/* Element i of an integer tensor. */
NW_INLINE int32_t nw_get(const void *x, int type, long i) {
  if (type == NW_U8) return ((const uint8_t *)x)[i];
  if (type == NW_I8) return ((const int8_t *)x)[i];
  return ((const int32_t *)x)[i];
}

NW_INLINE void nw_put(void *y, int type, long i, int32_t v) {
  if (type == NW_U8) ((uint8_t *)y)[i] = (uint8_t)v;
  else if (type == NW_I8) ((int8_t *)y)[i] = (int8_t)v;
  else ((int32_t *)y)[i] = v;
}

NW_INLINE int64_t nw_clamp(int64_t v, int64_t lo, int64_t hi) { return v < lo ? lo : v > hi ? hi : v; }

NW_INLINE int32_t nw_clamp32(int32_t v, int32_t lo, int32_t hi) { return v < lo ? lo : v > hi ? hi : v; }

/* (v * mult + 2^(shift-1)) >> shift in 64 bits, rounding to nearest, ties towards plus infinity. */
NW_INLINE int64_t nw_rescale(int64_t v, int64_t mult, int shift) {
  return (v * mult + ((int64_t)1 << (shift - 1))) >> shift;
}
