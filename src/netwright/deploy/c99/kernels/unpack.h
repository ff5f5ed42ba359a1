/* Weights of one or two bits, unpacked into the arena while their layer works; the object file holds the bits only. */
#include "base.h"

/* n weights -1 or +1 from a plane of bits (set: -1), lowest bit first. */
NW_INLINE void nw_unpack1(const uint32_t *NW_RESTRICT negative, int8_t *NW_RESTRICT w, long n) {
  long i = 0;
#if defined(NW_AVX512)
  for (; i + 64 <= n; i += 64) {
    const __mmask64 m = (uint64_t)negative[i / 32] | (uint64_t)negative[i / 32 + 1] << 32;
    _mm512_storeu_si512(w + i, _mm512_mask_blend_epi8(m, _mm512_set1_epi8(1), _mm512_set1_epi8(-1)));
  }
#endif
  for (; i < n; i++) w[i] = (int8_t)(1 - 2 * (int)(negative[i / 32] >> (i % 32) & 1u));
}

/* n weights -1, 0 or +1 from two planes: where they are not zero, and where they are negative. */
NW_INLINE void nw_unpack2(const uint32_t *NW_RESTRICT some, const uint32_t *NW_RESTRICT negative, int8_t *NW_RESTRICT w, long n) {
  long i = 0;
#if defined(NW_AVX512)
  for (; i + 64 <= n; i += 64) {
    const __mmask64 m = (uint64_t)negative[i / 32] | (uint64_t)negative[i / 32 + 1] << 32;
    const __mmask64 s = (uint64_t)some[i / 32] | (uint64_t)some[i / 32 + 1] << 32;
    _mm512_storeu_si512(w + i, _mm512_mask_blend_epi8(m, _mm512_maskz_set1_epi8(s, 1), _mm512_set1_epi8(-1)));
  }
#endif
  for (; i < n; i++)
    w[i] = (int8_t)((int)(some[i / 32] >> (i % 32) & 1u) - 2 * (int)(negative[i / 32] >> (i % 32) & 1u));
}

/* [G][K][I][O] to the packing of conv_i8.h: [G][O/16][K][I4][16][4], K taps. */
NW_INLINE void nw_repack(const int8_t *NW_RESTRICT w, int8_t *NW_RESTRICT y, int G, int K, int I, int O) {
  const int I4 = (I + 3) / 4, blocks = (O + 15) / 16;
#if defined(NW_AVX2)
  const int whole = O / 16, quads = I / 4 * 4;
#else
  const int whole = 0, quads = 0;
#endif
  if (whole < blocks || quads < I) memset(y, 0, (size_t)G * (size_t)blocks * (size_t)K * (size_t)I4 * 64);
#if defined(NW_AVX2)
  for (int g = 0; g < G; g++)
    for (int k = 0; k < K; k++)
      for (int i = 0; i < quads; i += 4)
        for (int b = 0; b < whole; b++) { /* four rows of sixteen outputs, interleaved byte by byte */
          const int8_t *row = w + (((long)g * K + k) * I + i) * O + b * 16;
          __m128i r[4], *to = (__m128i *)(y + ((((long)g * blocks + b) * K + k) * I4 + i / 4) * 64);
          NW_UNROLL for (int j = 0; j < 4; j++) r[j] = _mm_loadu_si128((const __m128i *)(row + (long)j * O));
          const __m128i low = _mm_unpacklo_epi8(r[0], r[1]), high = _mm_unpackhi_epi8(r[0], r[1]);
          const __m128i low2 = _mm_unpacklo_epi8(r[2], r[3]), high2 = _mm_unpackhi_epi8(r[2], r[3]);
          _mm_storeu_si128(to, _mm_unpacklo_epi16(low, low2));
          _mm_storeu_si128(to + 1, _mm_unpackhi_epi16(low, low2));
          _mm_storeu_si128(to + 2, _mm_unpacklo_epi16(high, high2));
          _mm_storeu_si128(to + 3, _mm_unpackhi_epi16(high, high2));
        }
#endif
  for (int g = 0; g < G; g++)
    for (int k = 0; k < K; k++)
      for (int i = 0; i < I; i++)
        for (int o = i < quads ? whole * 16 : 0; o < O; o++)
          y[((((long)g * blocks + o / 16) * K + k) * I4 + i / 4) * 64 + (o % 16) * 4 + i % 4] = w[(((long)g * K + k) * I + i) * O + o];
}

/* Bits without gaps to the packing of conv_b1.h: [G][O/16][K][words][16], `I` bits in the words of one tap and channel. */
NW_INLINE void nw_unpack_words(const uint32_t *NW_RESTRICT bits, uint32_t *NW_RESTRICT y, int G, int K, int I, int O) {
  const int blocks = (O + 15) / 16, words = (I + 31) / 32;
  long at = 0;
  for (long gb = 0; gb < (long)G * blocks; gb++) {
    const int n = NW_MIN(16, O - (int)(gb % blocks) * 16);
    for (int k = 0; k < K; k++)
      for (int j = 0; j < words; j++, y += 16) {
        const int width = NW_MIN(32, I - j * 32);
        for (int o = 0; o < 16; o++) {
          uint32_t v = 0;
          if (o < n) {
            const int s = (int)(at % 32);
            v = bits[at / 32] >> s;
            if (s + width > 32) v |= bits[at / 32 + 1] << (32 - s);
            if (width < 32) v &= (1u << width) - 1u;
            at += width;
          }
          y[o] = v;
        }
      }
  }
}

/* The right side of a product of two computed tensors, packed like weights: element (k, o) of matrix g is b[g*SG + k*SK + o*SO].
 * Bytes for conv_i8.h, [G][O/16][K4][16][4]; `bias` takes off what `zero` added to the codes of the left side. */
NW_INLINE void nw_pack_bytes(const int8_t *NW_RESTRICT b, int8_t *NW_RESTRICT y, int32_t *NW_RESTRICT bias, int G, int K, int O, long SG,
                             long SK, long SO, int zero) {
  const int K4 = (K + 3) / 4, blocks = (O + 15) / 16;
  memset(y, 0, (size_t)G * (size_t)blocks * (size_t)K4 * 64);
  for (int g = 0; g < G; g++)
    for (int o = 0; o < blocks * 16; o++) {
      int32_t sum = 0;
      int8_t *to = y + ((long)g * blocks + o / 16) * K4 * 64 + (o % 16) * 4;
      for (int k = 0; k < K && o < O; k++) {
        const int8_t v = b[g * SG + k * SK + o * SO];
        to[(long)(k / 4) * 64 + k % 4] = v;
        sum += v;
      }
      bias[(long)g * blocks * 16 + o] = -zero * sum;
    }
}

/* Signs for conv_b1.h, [G][O/16][words][16]. */
NW_INLINE void nw_pack_signs(const int8_t *NW_RESTRICT b, uint32_t *NW_RESTRICT y, int G, int K, int O, long SG, long SK, long SO) {
  const int words = (K + 31) / 32, blocks = (O + 15) / 16;
  memset(y, 0, (size_t)G * (size_t)blocks * (size_t)words * 64);
  for (int g = 0; g < G; g++)
    for (int k = 0; k < K; k++)
      for (int o = 0; o < O; o++)
        y[(((long)g * blocks + o / 16) * words + k / 32) * 16 + o % 16] |= (uint32_t)(b[g * SG + k * SK + o * SO] < 0) << (k % 32);
}
