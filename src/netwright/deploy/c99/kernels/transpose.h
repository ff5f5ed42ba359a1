/* Transposition: y[b][c][r] = x[b][r][c], elements of S bytes (1 or 4). */
#include "base.h"

#if defined(NW_AVX2)
/* 8 x 8 words. */
NW_INLINE void nw_turn_8x8(const uint8_t *NW_RESTRICT x, uint8_t *NW_RESTRICT y, long from, long to) {
  __m256 a[8], b[8];
  for (int i = 0; i < 8; i++) a[i] = _mm256_loadu_ps((const float *)(x + i * from));
  for (int i = 0; i < 8; i += 2) {
    b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; j++) {
      a[i + 2 * j] = _mm256_shuffle_ps(b[i + j], b[i + j + 2], 0x44);
      a[i + 2 * j + 1] = _mm256_shuffle_ps(b[i + j], b[i + j + 2], 0xEE);
    }
  for (int i = 0; i < 4; i++) {
    _mm256_storeu_ps((float *)(y + i * to), _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
    _mm256_storeu_ps((float *)(y + (i + 4) * to), _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
  }
}

/* 16 x 16 bytes: four rounds that interleave row i with row i + 8. */
NW_INLINE void nw_turn_16x16(const uint8_t *NW_RESTRICT x, uint8_t *NW_RESTRICT y, long from, long to) {
  __m128i a[16], b[16];
  for (int i = 0; i < 16; i++) a[i] = _mm_loadu_si128((const __m128i *)(x + i * from));
  for (int round = 0; round < 4; round++) {
    for (int i = 0; i < 8; i++) {
      b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
      b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
    }
    memcpy(a, b, sizeof a);
  }
  for (int i = 0; i < 16; i++) _mm_storeu_si128((__m128i *)(y + i * to), a[i]);
}
#endif

NW_INLINE void nw_transpose(const uint8_t *NW_RESTRICT x, uint8_t *NW_RESTRICT y, int S, long B, long R, long C) {
  long rows = 0, columns = 0; /* what whole blocks cover */
#if defined(NW_AVX2)
  const long block = S == 4 ? 8 : 16, line = 64 / S;
  if (S == 4 || S == 1) rows = R / block * block, columns = C / block * block;
#endif
  for (long b = 0; b < B; b++, x += R * C * S, y += R * C * S) {
#if defined(NW_AVX2)
    for (long c0 = 0; c0 < columns; c0 += line) /* whole lines of the cache, so that rows far apart may share a set of it */
      for (long r0 = 0; r0 < rows; r0 += line)
        for (long r = r0; r < NW_MIN(r0 + line, rows); r += block)
          for (long c = c0; c < NW_MIN(c0 + line, columns); c += block) {
            if (S == 4) nw_turn_8x8(x + (r * C + c) * S, y + (c * R + r) * S, C * S, R * S);
            else nw_turn_16x16(x + (r * C + c) * S, y + (c * R + r) * S, C * S, R * S);
          }
#endif
    for (long c = 0; c < C; c++)
      for (long r = c < columns ? rows : 0; r < R; r++) memcpy(y + (c * R + r) * S, x + (r * C + c) * S, (size_t)S);
  }
}
