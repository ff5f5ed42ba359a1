/* Spiking operators: spikes are -1, 0, 1 in a byte, currents int32; T steps stand one after another. */
#include "dot4.h"

/* Adds (or takes away) sixteen weights. */
NW_INLINE nw_i16 nw_add_row(nw_i16 acc, const int8_t *w, int positive) {
#if defined(NW_AVX512)
  const __m512i v = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)w));
  return positive ? _mm512_add_epi32(acc, v) : _mm512_sub_epi32(acc, v);
#elif defined(NW_AVX2)
  const __m128i v = _mm_loadu_si128((const __m128i *)w);
  const __m256i a = _mm256_cvtepi8_epi32(v), b = _mm256_cvtepi8_epi32(_mm_srli_si128(v, 8));
  acc.a = positive ? _mm256_add_epi32(acc.a, a) : _mm256_sub_epi32(acc.a, a);
  acc.b = positive ? _mm256_add_epi32(acc.b, b) : _mm256_sub_epi32(acc.b, b);
  return acc;
#else
  for (int o = 0; o < 16; o++) acc.v[o] += positive ? w[o] : -w[o];
  return acc;
#endif
}

/* The rows of weights of n active channels, added to 16*N sums that stay in registers. */
NW_INLINE void nw_add_rows(int32_t *NW_RESTRICT sums, const int8_t *NW_RESTRICT x, const int8_t *NW_RESTRICT w,
                           const int16_t *NW_RESTRICT active, int n, int OC, int N) {
  nw_i16 acc[4];
  NW_UNROLL for (int j = 0; j < N; j++) acc[j] = nw_i16_load(sums + 16 * j);
  for (int k = 0; k < n; k++) {
    const int c = active[k];
    const int8_t *v = w + (long)c * OC;
    if (x[c] > 0) {
      NW_UNROLL for (int j = 0; j < N; j++) acc[j] = nw_add_row(acc[j], v + 16 * j, 1);
    } else {
      NW_UNROLL for (int j = 0; j < N; j++) acc[j] = nw_add_row(acc[j], v + 16 * j, 0);
    }
  }
  NW_UNROLL for (int j = 0; j < N; j++) nw_i16_store(sums + 16 * j, acc[j]);
}

/* Channels of one pixel that spike; eight silent ones are passed over at once. */
NW_INLINE int nw_active(const int8_t *NW_RESTRICT x, int16_t *NW_RESTRICT active, int IC) {
  int n = 0, c = 0;
  for (; c + 8 <= IC; c += 8) {
    uint64_t eight;
    memcpy(&eight, x + c, 8);
    if (eight == 0) continue;
    for (int j = 0; j < 8; j++) {
      active[n] = (int16_t)(c + j);
      n += x[c + j] != 0;
    }
  }
  for (; c < IC; c++) {
    active[n] = (int16_t)c;
    n += x[c] != 0;
  }
  return n;
}

/* Event-driven convolution: only channels that spike are visited, and add their row of weights to the taps they reach.
 * w is [G][KH][KW][IC][OC] (counts of one group). */
NW_INLINE void nw_event_conv(const int8_t *NW_RESTRICT x, const int8_t *NW_RESTRICT w, const int32_t *NW_RESTRICT bias,
                             int32_t *NW_RESTRICT y, int16_t *NW_RESTRICT active, int T, int IH, int IW, int OH, int OW, int G, int IC,
                             int OC, int KH, int KW, int SH, int SW, int PT, int PL, int DH, int DW) {
  const int LDX = G * IC, LDY = G * OC;
  for (int t = 0; t < T; t++, y += (long)OH * OW * LDY) {
    for (int p = 0; p < OH * OW; p++) memcpy(y + (long)p * LDY, bias, (size_t)LDY * sizeof(int32_t));
    for (int iy = 0; iy < IH; iy++)
      for (int ix = 0; ix < IW; ix++, x += LDX)
        for (int g = 0; g < G; g++) {
          const int8_t *xg = x + g * IC;
          const int n = nw_active(xg, active, IC);
          if (n == 0) continue;
          for (int ky = 0; ky < KH; ky++) {
            const int ay = iy + PT - ky * DH;
            if (ay < 0 || ay % SH || ay / SH >= OH) continue;
            for (int kx = 0; kx < KW; kx++) {
              const int ax = ix + PL - kx * DW;
              if (ax < 0 || ax % SW || ax / SW >= OW) continue;
              int32_t *row = y + ((long)(ay / SH) * OW + ax / SW) * LDY + g * OC;
              const int8_t *wt = w + (((long)g * KH + ky) * KW + kx) * IC * OC;
              int o = 0;
              for (; o + 64 <= OC; o += 64) nw_add_rows(row + o, xg, wt + o, active, n, OC, 4);
              for (; o + 16 <= OC; o += 16) nw_add_rows(row + o, xg, wt + o, active, n, OC, 1);
              for (; o < OC; o++)
                for (int k = 0; k < n; k++) row[o] += xg[active[k]] * wt[(long)active[k] * OC + o];
            }
          }
        }
  }
}

/* Depthwise: w [KH][KW][C]. */
NW_INLINE void nw_event_dwconv(const int8_t *NW_RESTRICT x, const int8_t *NW_RESTRICT w, const int32_t *NW_RESTRICT bias,
                               int32_t *NW_RESTRICT y, int T, int IH, int IW, int OH, int OW, int C, int KH, int KW, int SH, int SW,
                               int PT, int PL, int DH, int DW) {
  for (int t = 0; t < T; t++, x += (long)IH * IW * C)
    for (int oy = 0; oy < OH; oy++)
      for (int ox = 0; ox < OW; ox++, y += C) {
        memcpy(y, bias, (size_t)C * sizeof(int32_t));
        for (int ky = 0; ky < KH; ky++) {
          const int iy = oy * SH - PT + ky * DH;
          if (iy < 0 || iy >= IH) continue;
          for (int kx = 0; kx < KW; kx++) {
            const int ix = ox * SW - PL + kx * DW;
            if (ix < 0 || ix >= IW) continue;
            const int8_t *NW_RESTRICT v = x + ((long)iy * IW + ix) * C, *NW_RESTRICT k = w + ((long)ky * KW + kx) * C;
            for (int c = 0; c < C; c++) y[c] += v[c] * k[c];
          }
        }
      }
}

/* v += current; s = [v >= theta] (signed: minus [v <= -theta]); v -= s*theta, for all steps of 16 neurons at a time: the
 * membrane lives in registers. CONSTANT: the same current in every step. */
NW_INLINE void nw_integrate(const int32_t *NW_RESTRICT x, const int32_t *NW_RESTRICT theta, const int32_t *NW_RESTRICT v0,
                            int8_t *NW_RESTRICT y, int T, long R, int C, int CONSTANT, int SIGNED) {
  const long step = R * C;
  for (long r = 0; r < R; r++)
    for (int c0 = 0; c0 < C; c0 += 16) {
      const int n = NW_MIN(16, C - c0);
      const long at = r * C + c0;
      int64_t v[16] = {0}, threshold[16] = {0};
      for (int c = 0; c < n; c++) {
        v[c] = v0[c0 + c];
        threshold[c] = theta[c0 + c];
      }
      for (int t = 0; t < T; t++) {
        const int32_t *current = x + (CONSTANT ? at : t * step + at);
        for (int c = 0; c < n; c++) {
          v[c] += current[c];
          const int64_t s = (int64_t)(v[c] >= threshold[c]) - (int64_t)(SIGNED && v[c] <= -threshold[c]);
          v[c] -= s * threshold[c];
          y[t * step + at + c] = (int8_t)s;
        }
      }
    }
}

/* Currents of AT and BT steps (one of them may be 1) of n neurons. */
NW_INLINE void nw_iadd(const int32_t *NW_RESTRICT a, const int32_t *NW_RESTRICT b, int32_t *NW_RESTRICT y, int AT, int BT, long n) {
  const int T = NW_MAX(AT, BT);
  for (int t = 0; t < T; t++)
    for (long i = 0; i < n; i++) y[t * n + i] = a[(AT == 1 ? 0 : t) * n + i] + b[(BT == 1 ? 0 : t) * n + i];
}

/* Sum of the steps start..T-1. */
NW_INLINE void nw_readout(const int32_t *NW_RESTRICT x, int32_t *NW_RESTRICT y, int T, int start, long n) {
  for (long i = 0; i < n; i++) {
    int64_t s = 0;
    for (int t = start; t < T; t++) s += x[t * n + i];
    y[i] = (int32_t)s;
  }
}

/* Convolution of 32-bit sums (a head behind a sum of spikes), accumulated in 64 bits. w is [G][KH][KW][IC][OC]. */
NW_INLINE void nw_conv_i32(const int32_t *NW_RESTRICT x, const int8_t *NW_RESTRICT w, const int32_t *NW_RESTRICT bias,
                           int32_t *NW_RESTRICT y, int T, int IH, int IW, int OH, int OW, int G, int IC, int OC, int KH, int KW, int SH,
                           int SW, int PT, int PL, int DH, int DW) {
  for (int t = 0; t < T; t++, x += (long)IH * IW * G * IC)
    for (int oy = 0; oy < OH; oy++)
      for (int ox = 0; ox < OW; ox++)
        for (int g = 0; g < G; g++, y += OC)
          for (int o0 = 0; o0 < OC; o0 += 16) {
            const int n = NW_MIN(16, OC - o0);
            int64_t acc[16] = {0};
            for (int o = 0; o < n; o++) acc[o] = bias[g * OC + o0 + o];
            for (int ky = 0; ky < KH; ky++) {
              const int iy = oy * SH - PT + ky * DH;
              if (iy < 0 || iy >= IH) continue;
              for (int kx = 0; kx < KW; kx++) {
                const int ix = ox * SW - PL + kx * DW;
                if (ix < 0 || ix >= IW) continue;
                const int32_t *v = x + ((long)iy * IW + ix) * G * IC + g * IC;
                const int8_t *k = w + (((long)g * KH + ky) * KW + kx) * IC * OC + o0;
                for (int i = 0; i < IC; i++)
                  for (int o = 0; o < n; o++) acc[o] += (int64_t)v[i] * k[(long)i * OC + o];
              }
            }
            for (int o = 0; o < n; o++) y[o0 + o] = (int32_t)acc[o];
          }
}
