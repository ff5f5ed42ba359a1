/* Binary convolution: signs of codes with weights of one bit, by XNOR and population count.
 *
 *   sum = bits - 2 * popcount(x ^ w), over the taps inside the picture only (padding adds nothing)
 *
 * A set bit is -1. x is [H][W][G][words] of 32 bits, w [G][OC/16][KH][KW][words][16]; missing bits are 0 in both.
 */
#include "dot4.h"

/* Signs of the codes: bit c of a pixel is set where x < 0. */
NW_INLINE void nw_signs(const void *NW_RESTRICT x, uint32_t *NW_RESTRICT y, int type, long n, int I) {
  const int words = (I + 31) / 32;
  for (long p = 0; p < n; p++)
    for (int j = 0; j < words; j++) {
      const int width = NW_MIN(32, I - j * 32);
      const long at = p * I + j * 32;
      uint32_t v = 0;
#if defined(NW_AVX512)
      if (type == NW_I8) {
        v = (uint32_t)_mm256_movepi8_mask(
            _mm256_maskz_loadu_epi8(width < 32 ? (__mmask32)((1u << width) - 1u) : (__mmask32)0xFFFFFFFFu, (const int8_t *)x + at));
        y[p * words + j] = v;
        continue;
      }
#endif
      for (int c = 0; c < width; c++) v |= (uint32_t)(nw_get(x, type, at + c) < 0) << c;
      y[p * words + j] = v;
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
NW_INLINE nw_i16 nw_xor_count(nw_i16 acc, uint32_t x, const uint32_t *w) {
#if defined(NW_AVX512) && defined(__AVX512VPOPCNTDQ__)
  return _mm512_add_epi32(acc, _mm512_popcnt_epi32(_mm512_xor_si512(_mm512_set1_epi32((int32_t)x), _mm512_loadu_si512(w))));
#elif defined(NW_AVX2)
  /* Four bits at a time from a table in a register, then bytes to 32 bits. */
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i low = _mm256_set1_epi8(15), ones8 = _mm256_set1_epi8(1), ones16 = _mm256_set1_epi16(1), xs = _mm256_set1_epi32((int32_t)x);
  __m256i r[2];
  for (int h = 0; h < 2; h++) {
    const __m256i v = _mm256_xor_si256(xs, _mm256_loadu_si256((const __m256i *)(w + 8 * h)));
    const __m256i n = _mm256_add_epi8(_mm256_shuffle_epi8(table, _mm256_and_si256(v, low)),
                                      _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(v, 4), low)));
    r[h] = _mm256_madd_epi16(_mm256_maddubs_epi16(n, ones8), ones16);
  }
#if defined(NW_AVX512)
  return _mm512_add_epi32(acc, _mm512_inserti64x4(_mm512_castsi256_si512(r[0]), r[1], 1));
#else
  acc.a = _mm256_add_epi32(acc.a, r[0]);
  acc.b = _mm256_add_epi32(acc.b, r[1]);
  return acc;
#endif
#else
  int32_t s[16];
  nw_i16_store(s, acc);
  for (int o = 0; o < 16; o++) s[o] += nw_popcount(x ^ w[o]);
  return nw_i16_load(s);
#endif
}

/* bias + bits - 2 * count */
NW_INLINE nw_i16 nw_count_to_sum(nw_i16 count, const int32_t *bias, int32_t bits) {
#if defined(NW_AVX512)
  return _mm512_add_epi32(_mm512_loadu_si512(bias), _mm512_sub_epi32(_mm512_set1_epi32(bits), _mm512_slli_epi32(count, 1)));
#else
  int32_t s[16];
  nw_i16_store(s, count);
  for (int o = 0; o < 16; o++) s[o] = bias[o] + bits - 2 * s[o];
  return nw_i16_load(s);
#endif
}

NW_INLINE void nw_conv_b1(const uint32_t *NW_RESTRICT x, const uint32_t *NW_RESTRICT w, const int32_t *NW_RESTRICT bias,
                          const nw_mult *NW_RESTRICT mult, const uint8_t *NW_RESTRICT shift, void *NW_RESTRICT y, int type, int T, int IH,
                          int IW, int OH, int OW, int G, int I, int OC, int KH, int KW, int SH, int SW, int PT, int PL, int DH, int DW,
                          int RESCALE, int lo, int hi) {
  const int blocks = (OC + 15) / 16, words = (I + 31) / 32;
  const int32_t none[16] = {0};
  for (int t = 0; t < T; t++)
    for (int g = 0; g < G; g++)
      for (int b = 0; b < blocks; b++) {
        const uint32_t *wb = w + ((long)g * blocks + b) * KH * KW * words * 16;
        const long o = ((long)g * blocks + b) * 16;
        const nw_mult *mb = RESCALE ? mult + o : 0;
        const uint8_t *sb = RESCALE ? shift + o : 0;
        for (int oy = 0; oy < OH; oy++)
          for (int ox = 0; ox < OW; ox++) {
            nw_i16 count = nw_i16_load(none);
            int taps = 0;
            for (int ky = 0; ky < KH; ky++) {
              const int iy = oy * SH - PT + ky * DH;
              if (iy < 0 || iy >= IH) continue;
              for (int kx = 0; kx < KW; kx++) {
                const int ix = ox * SW - PL + kx * DW;
                if (ix < 0 || ix >= IW) continue;
                const uint32_t *xt = x + ((((long)t * IH + iy) * IW + ix) * G + g) * words;
                const uint32_t *wt = wb + ((long)ky * KW + kx) * words * 16;
                for (int j = 0; j < words; j++) count = nw_xor_count(count, xt[j], wt + j * 16);
                taps++;
              }
            }
            const nw_i16 sums = nw_count_to_sum(count, bias + o, taps * I);
            const long at = (((long)t * OH + oy) * OW + ox) * G * OC + g * OC + b * 16;
            if (OC - b * 16 >= 16) nw_finish(sums, mb, sb, y, type, at, 16, RESCALE, lo, hi);
            else nw_finish(sums, mb, sb, y, type, at, OC % 16 ? OC % 16 : 16, RESCALE, lo, hi);
          }
      }
}
