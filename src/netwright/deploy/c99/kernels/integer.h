/* Pointwise and reducing operators on codes and sums. */
#include "base.h"

/* clamp(rint(x * inverse), lo, hi), ties to even; NaN becomes 0. */
NW_INLINE void nw_quantize(const float *NW_RESTRICT x, void *NW_RESTRICT y, int type, long n, float inverse, float lo, float hi) {
  long i = 0;
#if defined(NW_AVX2)
  for (; i + 16 <= n && nw_size(type) == 1; i += 16) {
    __m128i codes[4];
    for (int h = 0; h < 2; h++) {
      __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i + 8 * h), _mm256_set1_ps(inverse));
      v = _mm256_and_ps(v, _mm256_cmp_ps(v, v, _CMP_ORD_Q));
      v = _mm256_min_ps(_mm256_max_ps(v, _mm256_set1_ps(lo)), _mm256_set1_ps(hi));
      const __m256i whole = _mm256_cvtps_epi32(v);
      codes[2 * h] = _mm256_castsi256_si128(whole);
      codes[2 * h + 1] = _mm256_extracti128_si256(whole, 1);
    }
    const __m128i a = _mm_packs_epi32(codes[0], codes[1]), b = _mm_packs_epi32(codes[2], codes[3]);
    _mm_storeu_si128((__m128i *)((uint8_t *)y + i), type == NW_U8 ? _mm_packus_epi16(a, b) : _mm_packs_epi16(a, b));
  }
#endif
  for (; i < n; i++) {
    float v = x[i] * inverse;
    v = v < lo ? lo : v;
    v = v > hi ? hi : v;
    v = v != v ? 0.0f : v;
    nw_put(y, type, i, (int32_t)rintf(v));
  }
}

/* float(x[r][c]) * scale[c] */
NW_INLINE void nw_dequantize(const void *NW_RESTRICT x, const float *NW_RESTRICT scale, float *NW_RESTRICT y, int type, long R, long C) {
  for (long r = 0; r < R; r++)
    for (long c = 0; c < C; c++) y[r * C + c] = (float)nw_get(x, type, r * C + c) * scale[c];
}

NW_INLINE void nw_qadd(const void *NW_RESTRICT a, const void *NW_RESTRICT b, void *NW_RESTRICT y, int ta, int tb, int type, long n,
                       int64_t ma, int64_t mb, int shift, int lo, int hi) {
  const int64_t half = (int64_t)1 << (shift - 1);
  for (long i = 0; i < n; i++)
    nw_put(y, type, i, (int32_t)nw_clamp((nw_get(a, ta, i) * ma + nw_get(b, tb, i) * mb + half) >> shift, lo, hi));
}

/* y[a][d][b] = clamp(rescale(x[a][d][b] * z[d]), lo, hi) */
NW_INLINE void nw_qmul(const void *NW_RESTRICT x, const void *NW_RESTRICT z, void *NW_RESTRICT y, int tx, int tz, int type, long A, long D,
                       long B, int64_t mult, int shift, int lo, int hi) {
  for (long a = 0; a < A; a++) {
    if (B == 1) {
      for (long d = 0; d < D; d++) {
        const long i = a * D + d;
        nw_put(y, type, i, (int32_t)nw_clamp(nw_rescale((int64_t)nw_get(x, tx, i) * nw_get(z, tz, d), mult, shift), lo, hi));
      }
    } else {
      for (long d = 0; d < D; d++)
        for (long b = 0; b < B; b++) {
          const long i = (a * D + d) * B + b;
          nw_put(y, type, i, (int32_t)nw_clamp(nw_rescale((int64_t)nw_get(x, tx, i) * nw_get(z, tz, d), mult, shift), lo, hi));
        }
    }
  }
}

/* y[r][c] = clamp((x[r][c] * mult[c] + bias[c] + half) >> shift, lo, hi) */
NW_INLINE void nw_requantize(const void *NW_RESTRICT x, const int32_t *NW_RESTRICT mult, const int32_t *NW_RESTRICT bias,
                             void *NW_RESTRICT y, int tx, int type, long R, long C, int shift, int lo, int hi) {
  const int64_t half = (int64_t)1 << (shift - 1);
  for (long r = 0; r < R; r++)
    for (long c = 0; c < C; c++)
      nw_put(y, type, r * C + c,
             (int32_t)nw_clamp(((int64_t)nw_get(x, tx, r * C + c) * mult[c] + bias[c] + half) >> shift, lo, hi));
}

/* As nw_requantize, by one line a channel where x >= gate[c] and by another below it. */
NW_INLINE void nw_qprelu(const void *NW_RESTRICT x, const int32_t *NW_RESTRICT gate, const int32_t *NW_RESTRICT mult,
                         const int32_t *NW_RESTRICT bias, const int32_t *NW_RESTRICT below_mult, const int32_t *NW_RESTRICT below_bias,
                         void *NW_RESTRICT y, int tx, int type, long R, long C, int shift, int lo, int hi) {
  const int64_t half = (int64_t)1 << (shift - 1);
  for (long r = 0; r < R; r++)
    for (long c = 0; c < C; c++) {
      const int32_t v = nw_get(x, tx, r * C + c);
      const int above = v >= gate[c];
      const int64_t m = above ? mult[c] : below_mult[c], b = above ? bias[c] : below_bias[c];
      nw_put(y, type, r * C + c, (int32_t)nw_clamp((v * m + b + half) >> shift, lo, hi));
    }
}

/* y = table[x + offset]; the table holds bytes, or 16-bit numbers where the codes are wider. */
NW_INLINE void nw_lut8(const void *NW_RESTRICT x, const uint8_t *NW_RESTRICT table, uint8_t *NW_RESTRICT y, int tx, long n, int offset) {
  for (long i = 0; i < n; i++) y[i] = table[nw_get(x, tx, i) + offset];
}
NW_INLINE void nw_lut16(const void *NW_RESTRICT x, const int16_t *NW_RESTRICT table, int32_t *NW_RESTRICT y, int tx, long n, int offset) {
  for (long i = 0; i < n; i++) y[i] = table[nw_get(x, tx, i) + offset];
}

/* Sum over d of x[a][d][b], rescaled and clamped, or as it is (int32). */
NW_INLINE void nw_sum_codes(const void *NW_RESTRICT x, void *NW_RESTRICT y, int tx, int type, long A, long D, long B, int RESCALE,
                            int64_t mult, int shift, int lo, int hi) {
  for (long a = 0; a < A; a++)
    for (long b0 = 0; b0 < B; b0 += 64) {
      const long n = NW_MIN(64, B - b0);
      int64_t s[64] = {0};
      for (long d = 0; d < D; d++)
        for (long b = 0; b < n; b++) s[b] += nw_get(x, tx, (a * D + d) * B + b0 + b);
      for (long b = 0; b < n; b++)
        nw_put(y, type, a * B + b0 + b, (int32_t)(RESCALE ? nw_clamp(nw_rescale(s[b], mult, shift), lo, hi) : s[b]));
    }
}
