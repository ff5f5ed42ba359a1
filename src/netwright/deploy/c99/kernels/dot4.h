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
#elif defined(NW_NEON)
typedef struct { int32x4_t v[4]; } nw_i16;
NW_INLINE nw_i16 nw_i16_load(const int32_t *p) {
  nw_i16 r = {{vld1q_s32(p), vld1q_s32(p + 4), vld1q_s32(p + 8), vld1q_s32(p + 12)}};
  return r;
}
NW_INLINE void nw_i16_store(int32_t *p, nw_i16 v) {
  for (int q = 0; q < 4; q++) vst1q_s32(p + 4 * q, v.v[q]);
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
#if defined(__AVXVNNI__)
  return _mm256_dpbusd_avx_epi32(acc, x, w);
#endif
  const __m256i x0 = _mm256_and_si256(x, _mm256_set1_epi16(255)), x1 = _mm256_srli_epi16(x, 8);
  const __m256i w0 = _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8), w1 = _mm256_srai_epi16(w, 8);
  acc = _mm256_add_epi32(acc, _mm256_madd_epi16(x0, w0));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(x1, w1));
}
#endif

/* nw_w4: 16 x 4 weights of a byte. */
#if defined(NW_AVX512)
typedef __m512i nw_w4;
typedef int nw_w4_room;
NW_INLINE nw_w4 nw_w4_load(const int8_t *w) { return _mm512_loadu_si512(w); }
#elif defined(NW_AVX2)
typedef struct { __m256i a, b; } nw_w4;
typedef int nw_w4_room;
NW_INLINE nw_w4 nw_w4_load(const int8_t *w) {
  nw_w4 r = {_mm256_loadu_si256((const __m256i *)w), _mm256_loadu_si256((const __m256i *)(w + 32))};
  return r;
}
#else
typedef const int8_t *nw_w4;
typedef int8_t nw_w4_room[64];
NW_INLINE nw_w4 nw_w4_load(const int8_t *w) { return w; }
#endif

/* The k-th of four ternary weights in each of 64 bytes. */
NW_INLINE nw_w4 nw_w4_ternary(const uint8_t *w, int k, nw_w4_room room) {
#if defined(NW_AVX512)
  (void)room;
  const __m512i codes = _mm512_and_si512(_mm512_srli_epi16(_mm512_loadu_si512(w), (unsigned)(2 * k)), _mm512_set1_epi8(3));
  return _mm512_sub_epi8(codes, _mm512_set1_epi8(1));
#elif defined(NW_AVX2)
  (void)room;
  const __m256i three = _mm256_set1_epi8(3), one = _mm256_set1_epi8(1);
  const __m256i a = _mm256_loadu_si256((const __m256i *)w), b = _mm256_loadu_si256((const __m256i *)(w + 32));
  nw_w4 r = {_mm256_sub_epi8(_mm256_and_si256(_mm256_srli_epi16(a, 2 * k), three), one),
             _mm256_sub_epi8(_mm256_and_si256(_mm256_srli_epi16(b, 2 * k), three), one)};
  return r;
#else
  for (int i = 0; i < 64; i++) room[i] = (int8_t)((w[i] >> (2 * k) & 3) - 1);
  return room;
#endif
}

/* Adds the dot products of four unsigned bytes of x with 16 x 4 weights. */
NW_INLINE nw_i16 nw_dot4(nw_i16 acc, const uint8_t *x, nw_w4 w) {
#if defined(NW_AVX512) && defined(__AVX512VNNI__)
  int32_t v;
  memcpy(&v, x, 4);
  /* the built-in function makes the compiler copy the sums around every loop */
  __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(_mm512_set1_epi32(v)), "v"(w));
  return acc;
#elif defined(NW_AVX512)
  int32_t v;
  memcpy(&v, x, 4);
  const __m256i xs = _mm256_set1_epi32(v);
  const __m256i a = nw_dot4_8(_mm512_castsi512_si256(acc), xs, _mm512_castsi512_si256(w));
  const __m256i b = nw_dot4_8(_mm512_extracti64x4_epi64(acc, 1), xs, _mm512_extracti64x4_epi64(w, 1));
  return _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
#elif defined(NW_AVX2)
  int32_t v;
  memcpy(&v, x, 4);
  const __m256i xs = _mm256_set1_epi32(v);
  acc.a = nw_dot4_8(acc.a, xs, w.a);
  acc.b = nw_dot4_8(acc.b, xs, w.b);
  return acc;
#elif defined(NW_NEON)
  /* a product of an unsigned and a signed byte fits in 16 bits */
  int32_t v;
  memcpy(&v, x, 4);
  const int16x8_t xs = vreinterpretq_s16_u16(vmovl_u8(vreinterpret_u8_s32(vdup_n_s32(v))));
  for (int q = 0; q < 4; q++) {
    const int8x16_t ws = vld1q_s8(w + 16 * q);
    const int32x4_t low = vpaddlq_s16(vmulq_s16(xs, vmovl_s8(vget_low_s8(ws))));
    const int32x4_t high = vpaddlq_s16(vmulq_s16(xs, vmovl_s8(vget_high_s8(ws))));
    acc.v[q] = vaddq_s32(acc.v[q], vpaddq_s32(low, high));
  }
  return acc;
#else
  for (int o = 0; o < 16; o++)
    acc.v[o] += x[0] * w[o * 4] + x[1] * w[o * 4 + 1] + x[2] * w[o * 4 + 2] + x[3] * w[o * 4 + 3];
  return acc;
#endif
}

#if defined(NW_AVX2) && !defined(NW_AVX512)
/* clamp((v * mu + 2^(sh-1)) >> sh, lo, hi) of eight sums, in 32 bits. */
NW_INLINE __m256i nw_rescale_8(__m256i v, __m256i mu, __m256i sh, int lo, int hi) {
  const __m256i one = _mm256_set1_epi32(1), half = _mm256_sllv_epi32(one, _mm256_sub_epi32(sh, one));
  v = _mm256_srav_epi32(_mm256_add_epi32(_mm256_mullo_epi32(v, mu), half), sh);
  return _mm256_min_epi32(_mm256_max_epi32(v, _mm256_set1_epi32(lo)), _mm256_set1_epi32(hi));
}

/* Four of them in 64 bits, in the low halves: 2^62 makes the sums positive, since there is no arithmetic shift. */
NW_INLINE __m256i nw_rescale_4(__m256i v, __m256i mu, __m256i sh, int lo, int hi) {
  const __m256i one = _mm256_set1_epi64x(1), up = _mm256_set1_epi64x((int64_t)1 << 62);
  const __m256i low = _mm256_set1_epi64x(lo), high = _mm256_set1_epi64x(hi);
  const __m256i half = _mm256_sllv_epi64(one, _mm256_sub_epi64(sh, one));
  v = _mm256_add_epi64(_mm256_add_epi64(_mm256_mul_epi32(v, mu), half), up);
  v = _mm256_sub_epi64(_mm256_srlv_epi64(v, sh), _mm256_srlv_epi64(up, sh));
  v = _mm256_blendv_epi8(v, low, _mm256_cmpgt_epi64(low, v));
  return _mm256_blendv_epi8(v, high, _mm256_cmpgt_epi64(v, high));
}
NW_INLINE __m256i nw_rescale_8_wide(__m256i v, __m256i mu, __m256i sh, int lo, int hi) {
  const __m256i even = nw_rescale_4(v, mu, _mm256_and_si256(sh, _mm256_set1_epi64x(0xFFFFFFFF)), lo, hi);
  const __m256i odd = nw_rescale_4(_mm256_srli_epi64(v, 32), _mm256_srli_epi64(mu, 32), _mm256_srli_epi64(sh, 32), lo, hi);
  return _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
}
#endif

/* What happens to the sums of a layer; literals.
 *   rescale: 0 stored as they are, 1 codes clamp((sum * mult + 2^(shift-1)) >> shift, lo, hi), 2 the same where 32 bits suffice
 *   add:     1 then codes clamp((code * ma + res * mb + 2^(by-1)) >> by, least, most), res of type `res`; never beyond 32 bits
 */
typedef struct { int type, rescale, lo, hi, add, res, ma, mb, by, least, most; } nw_end;

/* Sums of n (a literal, 1..16) channels, the first of which has the factors mult[o] and shift[o], to y[at]. */
NW_INLINE void nw_finish(nw_i16 sums, const nw_mult *mult, const uint8_t *shift, long o, const void *res, void *y, long at, int n,
                         nw_end end) {
#if defined(NW_AVX512)
  const __mmask16 m = (__mmask16)((1u << n) - 1u);
  if (!end.rescale) {
    _mm512_mask_storeu_epi32((int32_t *)y + at, m, sums);
    return;
  }
#if defined(NW_MULT16)
  const __m512i mu = _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)(mult + o)));
#else
  const __m512i mu = _mm512_loadu_si512(mult + o);
#endif
  const __m512i sh = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(shift + o)));
  __m512i v;
  if (end.rescale == 2) {
    const __m512i one = _mm512_set1_epi32(1), half = _mm512_sllv_epi32(one, _mm512_sub_epi32(sh, one));
    v = _mm512_srav_epi32(_mm512_add_epi32(_mm512_mullo_epi32(sums, mu), half), sh);
    v = _mm512_min_epi32(_mm512_max_epi32(v, _mm512_set1_epi32(end.lo)), _mm512_set1_epi32(end.hi));
  } else {
    const __m512i one = _mm512_set1_epi64(1);
    __m512i even = _mm512_mul_epi32(sums, mu), odd = _mm512_mul_epi32(_mm512_srli_epi64(sums, 32), _mm512_srli_epi64(mu, 32));
    const __m512i s0 = _mm512_and_si512(sh, _mm512_set1_epi64(63)), s1 = _mm512_srli_epi64(sh, 32);
    even = _mm512_add_epi64(even, _mm512_sllv_epi64(one, _mm512_sub_epi64(s0, one)));
    odd = _mm512_add_epi64(odd, _mm512_sllv_epi64(one, _mm512_sub_epi64(s1, one)));
    const __m512i lo = _mm512_set1_epi64(end.lo), hi = _mm512_set1_epi64(end.hi);
    even = _mm512_min_epi64(_mm512_max_epi64(_mm512_srav_epi64(even, s0), lo), hi);
    odd = _mm512_min_epi64(_mm512_max_epi64(_mm512_srav_epi64(odd, s1), lo), hi);
    v = _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
  }
  if (end.add) {
    const __m128i codes = _mm_maskz_loadu_epi8(m, (const int8_t *)res + at);
    const __m512i r = end.res == NW_U8 ? _mm512_cvtepu8_epi32(codes) : _mm512_cvtepi8_epi32(codes);
    v = _mm512_add_epi32(_mm512_mullo_epi32(v, _mm512_set1_epi32(end.ma)), _mm512_mullo_epi32(r, _mm512_set1_epi32(end.mb)));
    v = _mm512_srai_epi32(_mm512_add_epi32(v, _mm512_set1_epi32((int32_t)(1u << (end.by - 1)))), (unsigned)end.by);
    v = _mm512_min_epi32(_mm512_max_epi32(v, _mm512_set1_epi32(end.least)), _mm512_set1_epi32(end.most));
  }
  if (nw_size(end.type) == 1) _mm_mask_storeu_epi8((int8_t *)y + at, m, _mm512_cvtepi32_epi8(v));
  else _mm512_mask_storeu_epi32((int32_t *)y + at, m, v);
#elif defined(NW_AVX2)
  __m256i v[2] = {sums.a, sums.b};
  for (int h = 0; h < 2 && 8 * h < n; h++) {
    const int left = n - 8 * h;
    if (end.rescale) {
#if defined(NW_MULT16)
      const __m256i mu = _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(mult + o + 8 * h)));
#else
      const __m256i mu = _mm256_loadu_si256((const __m256i *)(mult + o + 8 * h));
#endif
      const __m256i sh = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(shift + o + 8 * h)));
      v[h] = end.rescale == 2 ? nw_rescale_8(v[h], mu, sh, end.lo, end.hi) : nw_rescale_8_wide(v[h], mu, sh, end.lo, end.hi);
    }
    if (end.add) {
      int64_t codes = 0;
      memcpy(&codes, (const int8_t *)res + at + 8 * h, left < 8 ? (size_t)left : 8u);
      const __m128i c = _mm_cvtsi64_si128(codes);
      const __m256i r = end.res == NW_U8 ? _mm256_cvtepu8_epi32(c) : _mm256_cvtepi8_epi32(c);
      v[h] = _mm256_add_epi32(_mm256_mullo_epi32(v[h], _mm256_set1_epi32(end.ma)), _mm256_mullo_epi32(r, _mm256_set1_epi32(end.mb)));
      v[h] = _mm256_srai_epi32(_mm256_add_epi32(v[h], _mm256_set1_epi32((int32_t)(1u << (end.by - 1)))), end.by);
      v[h] = _mm256_min_epi32(_mm256_max_epi32(v[h], _mm256_set1_epi32(end.least)), _mm256_set1_epi32(end.most));
    }
    if (nw_size(end.type) == 4) {
      memcpy((int32_t *)y + at + 8 * h, &v[h], (left < 8 ? (size_t)left : 8u) * 4u);
    } else {
      const __m256i lows = _mm256_shuffle_epi8(v[h], _mm256_set1_epi32(0x0C080400));
      const int64_t bytes = (int64_t)(((uint64_t)(uint32_t)_mm256_extract_epi32(lows, 4) << 32) | (uint32_t)_mm256_extract_epi32(lows, 0));
      memcpy((int8_t *)y + at + 8 * h, &bytes, left < 8 ? (size_t)left : 8u);
    }
  }
#else
  int32_t s[16];
  nw_i16_store(s, sums);
  if (end.rescale == 2)
    for (int c = 0; c < n; c++)
      s[c] = nw_clamp32((s[c] * mult[o + c] + (int32_t)(1u << (shift[o + c] - 1))) >> shift[o + c], end.lo, end.hi);
  else if (end.rescale)
    for (int c = 0; c < n; c++) s[c] = (int32_t)nw_clamp(nw_rescale(s[c], mult[o + c], shift[o + c]), end.lo, end.hi);
  if (end.add)
    for (int c = 0; c < n; c++)
      s[c] = nw_clamp32((s[c] * end.ma + nw_get(res, end.res, at + c) * end.mb + (int32_t)(1u << (end.by - 1))) >> end.by, end.least,
                        end.most);
  for (int c = 0; c < n; c++) nw_put(y, end.type, at + c, s[c]);
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
  int32_t s[16];
  nw_i16_store(s, acc);
  for (int c = 0; c < n; c++) s[c] += nw_get(x, XT, at + c) * w[c];
  return nw_i16_load(s);
#endif
}
