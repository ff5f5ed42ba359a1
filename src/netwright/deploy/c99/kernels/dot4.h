/* nw_i16: sixteen int32 sums, and the dot product of four unsigned bytes with 16 x 4 signed ones that adds to them. */
#include "base.h"

#if defined(NW_AVX512)
typedef __m512i nw_i16;
NW_INLINE nw_i16 nw_i16_load(const int32_t *p) { return _mm512_loadu_si512(p); }
NW_INLINE void nw_i16_store(int32_t *p, nw_i16 v) { _mm512_storeu_si512(p, v); }
#elif defined(NW_AVX2)
typedef struct { __m256i a, b; } nw_i16;
NW_INLINE nw_i16 nw_i16_load(const int32_t *p) {
  nw_i16 r = {_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 8))};
  return r;
}
NW_INLINE void nw_i16_store(int32_t *p, nw_i16 v) {
  _mm256_storeu_si256((__m256i *)p, v.a);
  _mm256_storeu_si256((__m256i *)(p + 8), v.b);
}
#else
typedef struct { int32_t v[16]; } nw_i16;
NW_INLINE nw_i16 nw_i16_load(const int32_t *p) {
  nw_i16 r;
  memcpy(r.v, p, sizeof r.v);
  return r;
}
NW_INLINE void nw_i16_store(int32_t *p, nw_i16 v) { memcpy(p, v.v, sizeof v.v); }
#endif

#if defined(NW_AVX2) && !(defined(NW_AVX512) && defined(__AVX512VNNI__))
/* Eight sums: even and odd bytes apart, so that 16-bit products cannot saturate. */
NW_INLINE __m256i nw_dot4_8(__m256i acc, __m256i x, __m256i w) {
  const __m256i x0 = _mm256_and_si256(x, _mm256_set1_epi16(255)), x1 = _mm256_srli_epi16(x, 8);
  const __m256i w0 = _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8), w1 = _mm256_srai_epi16(w, 8);
  acc = _mm256_add_epi32(acc, _mm256_madd_epi16(x0, w0));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(x1, w1));
}
#endif

NW_INLINE nw_i16 nw_dot4(nw_i16 acc, const uint8_t *x, const int8_t *w) {
#if defined(NW_AVX512) && defined(__AVX512VNNI__)
  int32_t v;
  memcpy(&v, x, 4);
  return _mm512_dpbusd_epi32(acc, _mm512_set1_epi32(v), _mm512_loadu_si512(w));
#elif defined(NW_AVX512)
  int32_t v;
  memcpy(&v, x, 4);
  const __m256i xs = _mm256_set1_epi32(v);
  const __m256i a = nw_dot4_8(_mm512_castsi512_si256(acc), xs, _mm256_loadu_si256((const __m256i *)w));
  const __m256i b = nw_dot4_8(_mm512_extracti64x4_epi64(acc, 1), xs, _mm256_loadu_si256((const __m256i *)(w + 32)));
  return _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
#elif defined(NW_AVX2)
  int32_t v;
  memcpy(&v, x, 4);
  const __m256i xs = _mm256_set1_epi32(v);
  acc.a = nw_dot4_8(acc.a, xs, _mm256_loadu_si256((const __m256i *)w));
  acc.b = nw_dot4_8(acc.b, xs, _mm256_loadu_si256((const __m256i *)(w + 32)));
  return acc;
#else
  for (int o = 0; o < 16; o++)
    acc.v[o] += x[0] * w[o * 4] + x[1] * w[o * 4 + 1] + x[2] * w[o * 4 + 2] + x[3] * w[o * 4 + 3];
  return acc;
#endif
}

/* Sums of n (a literal, 1..16) channels to storage: int32 as they are, else clamp(rescale(sum, mult, shift), lo, hi). */
NW_INLINE void nw_finish(nw_i16 sums, const nw_mult *mult, const uint8_t *shift, void *y, int type, long at, int n, int RESCALE, int lo,
                         int hi) {
#if defined(NW_AVX512)
  const __mmask16 m = (__mmask16)((1u << n) - 1u);
  if (!RESCALE) {
    _mm512_mask_storeu_epi32((int32_t *)y + at, m, sums);
    return;
  }
#if defined(NW_MULT16)
  const __m512i mu = _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)mult));
#else
  const __m512i mu = _mm512_loadu_si512(mult);
#endif
  const __m512i sh = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)shift)), one = _mm512_set1_epi64(1);
  __m512i even = _mm512_mul_epi32(sums, mu), odd = _mm512_mul_epi32(_mm512_srli_epi64(sums, 32), _mm512_srli_epi64(mu, 32));
  const __m512i s0 = _mm512_and_si512(sh, _mm512_set1_epi64(63)), s1 = _mm512_srli_epi64(sh, 32);
  even = _mm512_add_epi64(even, _mm512_sllv_epi64(one, _mm512_sub_epi64(s0, one)));
  odd = _mm512_add_epi64(odd, _mm512_sllv_epi64(one, _mm512_sub_epi64(s1, one)));
  const __m512i lo64 = _mm512_set1_epi64(lo), hi64 = _mm512_set1_epi64(hi);
  even = _mm512_min_epi64(_mm512_max_epi64(_mm512_srav_epi64(even, s0), lo64), hi64);
  odd = _mm512_min_epi64(_mm512_max_epi64(_mm512_srav_epi64(odd, s1), lo64), hi64);
  const __m512i v = _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
  if (nw_size(type) == 1) _mm_mask_storeu_epi8((int8_t *)y + at, m, _mm512_cvtepi32_epi8(v));
  else _mm512_mask_storeu_epi32((int32_t *)y + at, m, v);
#else
  int32_t s[16];
  nw_i16_store(s, sums);
  for (int o = 0; o < n; o++)
    nw_put(y, type, at + o, RESCALE ? (int32_t)nw_clamp(nw_rescale(s[o], mult[o], shift[o]), lo, hi) : s[o]);
#endif
}

/* n (a literal, 1..16) codes of type XT times n weights, added to sixteen sums; nothing beyond them is read. */
NW_INLINE nw_i16 nw_tap(nw_i16 acc, const void *NW_RESTRICT x, int XT, long at, const int8_t *NW_RESTRICT w, int n) {
#if defined(NW_AVX2)
  uint8_t part[2][16] = {{0}};
  const void *xp = (const uint8_t *)x + at, *wp = w;
  if (n < 16) {
    memcpy(part[0], xp, (size_t)n);
    memcpy(part[1], wp, (size_t)n);
    xp = part[0];
    wp = part[1];
  }
  const __m128i xv = _mm_loadu_si128((const __m128i *)xp), wv = _mm_loadu_si128((const __m128i *)wp);
#if defined(NW_AVX512)
  const __m512i a = XT == NW_U8 ? _mm512_cvtepu8_epi32(xv) : _mm512_cvtepi8_epi32(xv), b = _mm512_cvtepi8_epi32(wv);
  /* the upper half of every lane of b is cleared: madd then gives the one product */
  return _mm512_add_epi32(acc, _mm512_madd_epi16(a, _mm512_and_si512(b, _mm512_set1_epi32(0xFFFF))));
#else
  const __m256i low = _mm256_set1_epi32(0xFFFF);
  const __m128i x8 = _mm_srli_si128(xv, 8), w8 = _mm_srli_si128(wv, 8);
  const __m256i a0 = XT == NW_U8 ? _mm256_cvtepu8_epi32(xv) : _mm256_cvtepi8_epi32(xv);
  const __m256i a1 = XT == NW_U8 ? _mm256_cvtepu8_epi32(x8) : _mm256_cvtepi8_epi32(x8);
  acc.a = _mm256_add_epi32(acc.a, _mm256_madd_epi16(a0, _mm256_and_si256(_mm256_cvtepi8_epi32(wv), low)));
  acc.b = _mm256_add_epi32(acc.b, _mm256_madd_epi16(a1, _mm256_and_si256(_mm256_cvtepi8_epi32(w8), low)));
  return acc;
#endif
#else
  for (int c = 0; c < n; c++) acc.v[c] += nw_get(x, XT, at + c) * w[c];
  return acc;
#endif
}
