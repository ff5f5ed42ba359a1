/* Binary convolution: signs of codes with weights of one bit, by XNOR and population count.
 *
 *   sum = bias + taps * I - 2 * popcount(x ^ w)
 *
 * A set bit is -1. x is a frame [T][FH][FW][G][words] of 32 bits whose padding is zero (that is, +1), w [G][OC/16][KH][KW][words][16];
 * missing bits are 0 in both. What the padding adds (the sum of the weights of a tap) is taken off by a bias for each class of pixels
 * that miss the same taps; the classes are the products of those of the rows and of the columns.
 */
#include "dot4.h"

/* Signs of the codes in a frame: bit c of a pixel is set where x < 0. */
NW_INLINE void nw_signs(const void *NW_RESTRICT x, uint32_t *NW_RESTRICT y, int type, int T, int H, int W, int G, int I, int top, int left,
                        int bottom, int right) {
  const int words = (I + 31) / 32, FW = W + left + right;
  const long row = (long)FW * G * words;
  long at = 0;
  for (int t = 0; t < T; t++) {
    memset(y, 0, (size_t)(top * row) * sizeof(uint32_t));
    y += top * row;
    for (int h = 0; h < H; h++) {
      memset(y, 0, (size_t)left * G * words * sizeof(uint32_t));
      y += (long)left * G * words;
      for (long p = 0; p < (long)W * G; p++)
        for (int j = 0; j < words; j++, y++) {
          const int width = NW_MIN(32, I - j * 32);
          uint32_t v = 0;
#if defined(NW_AVX512)
          if (type == NW_I8) {
            *y = (uint32_t)_mm256_movepi8_mask(_mm256_maskz_loadu_epi8(
                width < 32 ? (__mmask32)((1u << width) - 1u) : (__mmask32)0xFFFFFFFFu, (const int8_t *)x + at));
            at += width;
            continue;
          }
#elif defined(NW_AVX2)
          if (type == NW_I8 && width == 32) {
            *y = (uint32_t)_mm256_movemask_epi8(_mm256_loadu_si256((const __m256i *)((const int8_t *)x + at)));
            at += width;
            continue;
          }
#endif
          for (int c = 0; c < width; c++) v |= (uint32_t)(nw_get(x, type, at + c) < 0) << c;
          *y = v;
          at += width;
        }
      memset(y, 0, (size_t)right * G * words * sizeof(uint32_t));
      y += (long)right * G * words;
    }
    memset(y, 0, (size_t)(bottom * row) * sizeof(uint32_t));
    y += bottom * row;
  }
}

NW_INLINE int nw_popcount(uint32_t v) {
#if defined(NW_VECTOR)
  return __builtin_popcount(v);
#else
  v = v - (v >> 1 & 0x55555555u);
  v = (v & 0x33333333u) + (v >> 2 & 0x33333333u);
  return (int)(((v + (v >> 4)) & 0x0F0F0F0Fu) * 0x01010101u >> 24);
#endif
}

/* Adds the population counts of x ^ w[0..15]. */
NW_INLINE nw_i16 nw_xor_count(nw_i16 acc, uint32_t x, nw_i16 w) {
#if defined(NW_AVX512) && defined(__AVX512VPOPCNTDQ__)
  return _mm512_add_epi32(acc, _mm512_popcnt_epi32(_mm512_xor_si512(_mm512_set1_epi32((int32_t)x), w)));
#elif defined(NW_NEON)
  const uint8x16_t xs = vreinterpretq_u8_u32(vdupq_n_u32(x));
  for (int q = 0; q < 4; q++)
    acc.v[q] = vreinterpretq_s32_u32(vpadalq_u16(
        vreinterpretq_u32_s32(acc.v[q]), vpaddlq_u8(vcntq_u8(veorq_u8(xs, vreinterpretq_u8_s32(w.v[q]))))));
  return acc;
#else
  int32_t s[16], v[16];
  nw_i16_store(s, acc);
  nw_i16_store(v, w);
  for (int o = 0; o < 16; o++) s[o] += nw_popcount(x ^ (uint32_t)v[o]);
  return nw_i16_load(s);
#endif
}

/* base - 2 * count */
NW_INLINE nw_i16 nw_count_to_sum(nw_i16 count, const int32_t *base) {
#if defined(NW_AVX512)
  return _mm512_sub_epi32(_mm512_loadu_si512(base), _mm512_slli_epi32(count, 1));
#elif defined(NW_AVX2)
  count.a = _mm256_sub_epi32(_mm256_loadu_si256((const __m256i *)base), _mm256_slli_epi32(count.a, 1));
  count.b = _mm256_sub_epi32(_mm256_loadu_si256((const __m256i *)(base + 8)), _mm256_slli_epi32(count.b, 1));
  return count;
#else
  int32_t s[16];
  nw_i16_store(s, count);
  for (int o = 0; o < 16; o++) s[o] = base[o] - 2 * s[o];
  return nw_i16_load(s);
#endif
}

/* Register tiles: with population counts in 16 lanes, with tables in 32 bytes, or with neither. */
#if defined(NW_AVX512) && defined(__AVX512VPOPCNTDQ__)
#define NW_B1_TILE(wide, table, plain) wide
#elif defined(NW_AVX2)
#define NW_B1_TILE(wide, table, plain) table
#else
#define NW_B1_TILE(wide, table, plain) plain
#endif

/* Where the weights of N blocks of 16 channels and the pixels of a tile lie; the tap (ky, kx) is `dy`, `dx` words further. */
typedef struct {
  const uint32_t *w;
  long block, dy, dx;
  int KH, KW, words;
} nw_taps;

#if defined(NW_AVX2) && !(defined(NW_AVX512) && defined(__AVX512VPOPCNTDQ__))
#define NW_B1_TABLE 1
enum { NW_B1_STEPS = 192 }; /* words of one output channel whose weights fit beside the tile in the cache */

/* popcount(a ^ b) of four bits */
static const uint8_t nw_xor4[16][16] NW_ALIGNED = {
#define NW_ROW(a) {NW_P4(a ^ 0), NW_P4(a ^ 1), NW_P4(a ^ 2), NW_P4(a ^ 3), NW_P4(a ^ 4), NW_P4(a ^ 5), NW_P4(a ^ 6), NW_P4(a ^ 7), \
                   NW_P4(a ^ 8), NW_P4(a ^ 9), NW_P4(a ^ 10), NW_P4(a ^ 11), NW_P4(a ^ 12), NW_P4(a ^ 13), NW_P4(a ^ 14), NW_P4(a ^ 15)}
#define NW_P4(v) (((v) & 1) + ((v) >> 1 & 1) + ((v) >> 2 & 1) + ((v) >> 3 & 1))
    NW_ROW(0), NW_ROW(1), NW_ROW(2),  NW_ROW(3),  NW_ROW(4),  NW_ROW(5),  NW_ROW(6),  NW_ROW(7),
    NW_ROW(8), NW_ROW(9), NW_ROW(10), NW_ROW(11), NW_ROW(12), NW_ROW(13), NW_ROW(14), NW_ROW(15)};

/* The weights of N blocks as [steps][8][16*M], M blocks in pairs: four bits of one channel in a byte. */
NW_INLINE void nw_nibbles(nw_taps t, uint8_t *NW_RESTRICT y, int N) {
  const int M = (N + 1) / 2 * 2;
  const __m128i group = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), low = _mm_set1_epi8(15);
  for (int s = 0; s < t.KH * t.KW * t.words; s++, y += 128 * M)
    for (int n = 0; n < M; n++) { /* what has no pair stands there twice */
      const __m128i *w = (const __m128i *)(t.w + NW_MIN(n, N - 1) * t.block + (long)s * 16);
      __m128i v[4];
      for (int q = 0; q < 4; q++) v[q] = _mm_shuffle_epi8(_mm_loadu_si128(w + q), group);
      const __m128i a = _mm_unpacklo_epi32(v[0], v[1]), b = _mm_unpacklo_epi32(v[2], v[3]);
      const __m128i c = _mm_unpackhi_epi32(v[0], v[1]), d = _mm_unpackhi_epi32(v[2], v[3]);
      const __m128i bytes[4] = {_mm_unpacklo_epi64(a, b), _mm_unpackhi_epi64(a, b), _mm_unpacklo_epi64(c, d), _mm_unpackhi_epi64(c, d)};
      for (int q = 0; q < 4; q++) {
        _mm_storeu_si128((__m128i *)(y + (2 * q) * 16 * M + 16 * n), _mm_and_si128(bytes[q], low));
        _mm_storeu_si128((__m128i *)(y + (2 * q + 1) * 16 * M + 16 * n), _mm_and_si128(_mm_srli_epi16(bytes[q], 4), low));
      }
    }
}

/* Counts of P pixels by V vectors of 32 channels: a table of 16 counts for four bits of the pixel, looked up by the weights. */
NW_INLINE void nw_b1_table(const uint32_t *const *x, const uint8_t *NW_RESTRICT w, nw_taps t, uint16_t *NW_RESTRICT counts, int P, int V) {
  __m256i acc[12], zero = _mm256_setzero_si256();
  NW_UNROLL for (int a = 0; a < P * V; a++) acc[a] = zero;
  memset(counts, 0, (size_t)P * (size_t)V * 64);
  int held = 0, s = 0;
  for (int ky = 0; ky < t.KH; ky++)
    for (int kx = 0; kx < t.KW; kx++)
      for (int j = 0; j < t.words; j++, s++) {
        const long at = ky * t.dy + kx * t.dx + j;
        uint64_t v[12];
        NW_UNROLL for (int p = 0; p < P; p++) v[p] = (uint64_t)x[p][at] << 4;
        NW_ROLLED for (int k = 0; k < 8; k++) { /* unrolled, the compiler would add in a tree and run out of registers */
          __m256i wv[2];
          NW_UNROLL for (int n = 0; n < V; n++) wv[n] = _mm256_load_si256((const __m256i *)(w + ((long)s * 8 + k) * 32 * V + 32 * n));
          NW_UNROLL for (int p = 0; p < P; p++) {
            const uint8_t *row = (const uint8_t *)nw_xor4 + (v[p] & 0xF0u);
            v[p] >>= 4;
            const __m256i table = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)row));
            NW_UNROLL for (int n = 0; n < V; n++) acc[p * V + n] = _mm256_add_epi8(acc[p * V + n], _mm256_shuffle_epi8(table, wv[n]));
          }
        }
        if (++held == 7 || s == t.KH * t.KW * t.words - 1) { /* 7 words add at most 224 to a byte */
          held = 0;
          NW_UNROLL for (int a = 0; a < P * V; a++) {
            __m256i *c = (__m256i *)(counts + 32 * a);
            _mm256_store_si256(c, _mm256_add_epi16(_mm256_load_si256(c), _mm256_cvtepu8_epi16(_mm256_castsi256_si128(acc[a]))));
            _mm256_store_si256(c + 1, _mm256_add_epi16(_mm256_load_si256(c + 1), _mm256_cvtepu8_epi16(_mm256_extracti128_si256(acc[a], 1))));
            acc[a] = zero;
          }
        }
      }
}
#endif

/* Sums of P pixels by N blocks: x[p] is the first tap of a pixel, base[p] its biases, at[p] its place in y. */
NW_INLINE void nw_b1_tile(const uint32_t *const *x, nw_taps t, const uint8_t *nibbles, const int32_t *const *base, const long *at,
                          const nw_mult *mult, const uint8_t *shift, long o, const void *res, void *y, int OCS, int P, int N, nw_end end) {
  nw_i16 count[24];
  const int32_t none[16] = {0};
#if defined(NW_B1_TABLE)
  if (t.KH * t.KW * t.words <= NW_B1_STEPS) {
    const int M = (N + 1) / 2 * 2;
    uint16_t counts[12 * 32] NW_ALIGNED;
    nw_b1_table(x, nibbles, t, counts, P, M / 2);
    NW_UNROLL for (int a = 0; a < P * N; a++) {
      const __m256i c = _mm256_load_si256((const __m256i *)(counts + 16 * (a / N * M + a % N)));
      const __m256i low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(c)), high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(c, 1));
#if defined(NW_AVX512)
      count[a] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
#else
      count[a].a = low;
      count[a].b = high;
#endif
    }
  } else
#endif
  {
    NW_UNROLL for (int a = 0; a < P * N; a++) count[a] = nw_i16_load(none);
    for (int ky = 0; ky < t.KH; ky++)
      for (int kx = 0; kx < t.KW; kx++) {
        const long tap = ky * t.dy + kx * t.dx;
        const uint32_t *w = t.w + ((long)ky * t.KW + kx) * t.words * 16;
        for (int j = 0; j < t.words; j++) {
          nw_i16 wv[4];
          NW_UNROLL for (int n = 0; n < N; n++) wv[n] = nw_i16_load((const int32_t *)(w + n * t.block + (long)j * 16));
          NW_UNROLL for (int p = 0; p < P; p++) {
            const uint32_t v = x[p][tap + j];
            NW_UNROLL for (int n = 0; n < N; n++) count[p * N + n] = nw_xor_count(count[p * N + n], v, wv[n]);
          }
        }
      }
  }
  (void)nibbles;
  NW_UNROLL for (int p = 0; p < P; p++) {
    NW_UNROLL for (int n = 0; n < N; n++) {
      const int left = OCS - 16 * n;
      nw_finish(nw_count_to_sum(count[p * N + n], base[p] + 16 * n), mult, shift, o + 16 * n, res, y, at[p] + 16 * n,
                left < 16 ? left : 16, end);
    }
  }
}

/* Biases of all classes for 16*N channels: bias + taps * I - (sum of the weights of the taps that the class misses). */
NW_INLINE void nw_b1_base(nw_taps t, const int32_t *NW_RESTRICT bias, const uint32_t *NW_RESTRICT missed, int32_t *NW_RESTRICT base,
                          int32_t *NW_RESTRICT tap, int classes, int I, int N) {
  const int taps = t.KH * t.KW;
  for (int k = 0; k < taps && classes > 1; k++)
    for (int n = 0; n < N; n++) {
      const int32_t none[16] = {0};
      int32_t all[16];
      nw_i16 count = nw_i16_load(none);
      for (int j = 0; j < t.words; j++)
        count = nw_xor_count(count, 0, nw_i16_load((const int32_t *)(t.w + n * t.block + ((long)k * t.words + j) * 16)));
      for (int o = 0; o < 16; o++) all[o] = I;
      nw_i16_store(tap + (k * N + n) * 16, nw_count_to_sum(count, all));
    }
  for (int c = 0; c < classes; c++)
    for (int o = 0; o < 16 * N; o++) {
      int32_t b = bias[o] + taps * I;
      for (int k = 0; k < taps && classes > 1; k++)
        if (missed[c * ((taps + 31) / 32) + k / 32] >> (k % 32) & 1u) b -= tap[k * N * 16 + o];
      base[c * N * 16 + o] = b;
    }
}

/* `rows` and `columns` give the classes of output rows and columns, `missed` the taps that a class misses; `base` is scratch for the
 * biases of all CLASSES and the sums of all taps. Tiles of P pixels by NB blocks; end as in nw_finish. */
NW_INLINE void nw_conv_b1(const uint32_t *NW_RESTRICT x, const uint32_t *NW_RESTRICT w, const int32_t *NW_RESTRICT bias,
                          const nw_mult *NW_RESTRICT mult, const uint8_t *NW_RESTRICT shift, const uint8_t *NW_RESTRICT rows,
                          const uint8_t *NW_RESTRICT columns, const uint32_t *NW_RESTRICT missed, const void *NW_RESTRICT res, void *NW_RESTRICT y,
                          int32_t *NW_RESTRICT base, int T, int FH, int FW, int OH, int OW, int G, int I, int OC, int KH, int KW, int SH,
                          int SW, int DH, int DW, int CLASSES, int P, int NB, nw_end end, nw_share s) {
  const int blocks = (OC + 15) / 16, words = (I + 31) / 32, pixels = OH * OW, bands = (blocks + NB - 1) / NB;
  const nw_share across = NW_SPLITS(pixels, P) ? NW_ALL : s, along = NW_SPLITS(pixels, P) ? s : NW_ALL;
  const int stop = nw_first(pixels, along, 1);
#if NETWRIGHT_THREADS > 1
  int32_t own[(CLASSES + KH * KW) * NB * 16];
  base = own;
#endif
  const long LD = (long)G * words, block = (long)KH * KW * words * 16;
#if defined(NW_B1_TABLE)
  uint8_t nibbles[NW_MIN(KH * KW * words, NW_B1_STEPS) * 128 * 4] NW_ALIGNED;
#else
  const uint8_t *nibbles = 0;
#endif
  for (int g = 0; g < G; g++)
    for (int b = nw_first(bands, across, 0) * NB; b < nw_first(bands, across, 1) * NB; b += NB) {
      const int N = NW_MIN(NB, blocks - b), OCS = NW_MIN(16 * NB, OC - b * 16);
      const long o = ((long)g * blocks + b) * 16;
      const nw_taps taps = {w + ((long)g * blocks + b) * block, block, (long)DH * FW * LD, DW * LD, KH, KW, words};
      nw_b1_base(taps, bias + o, missed, base, base + CLASSES * NB * 16, CLASSES, I, N);
#if defined(NW_B1_TABLE)
      if (KH * KW * words <= NW_B1_STEPS) nw_nibbles(taps, nibbles, N);
#endif
      for (int t = 0; t < T; t++)
        for (int first = nw_first(pixels, along, 0); first < stop; first += P) {
          const int p0 = NW_MIN(first, stop - P);
          const uint32_t *xp[12];
          const int32_t *bp[12];
          long at[12];
          int oy = p0 / OW, ox = p0 % OW;
          NW_UNROLL for (int p = 0; p < P; p++) {
            xp[p] = x + (((long)t * FH + oy * SH) * FW + ox * SW) * LD + (long)g * words;
            bp[p] = base + (CLASSES > 1 ? rows[oy] + columns[ox] : 0) * N * 16;
            at[p] = (((long)t * OH + oy) * OW + ox) * G * OC + (long)g * OC + b * 16;
            if (++ox == OW) ox = 0, oy++;
          }
          if (N == NB && OCS == NB * 16)
            nw_b1_tile(xp, taps, nibbles, bp, at, mult, shift, o, res, y, NB * 16, P, NB, end);
          else
            nw_b1_tile(xp, taps, nibbles, bp, at, mult, shift, o, res, y, OC - (blocks - 1) / NB * NB * 16, P, (blocks - 1) % NB + 1, end);
        }
    }
}
