/* Spiking operators: spikes are -1, 0, 1 in a byte, currents int32; T steps stand one after another. */
#include "conv_i8.h"
#include "unpack.h"

/* Share of spikes from which all channels are multiplied rather than those that spike visited; more than one: never. */
#if defined(NW_AVX512) && defined(__AVX512VNNI__)
#define NW_DENSE_SPIKES 0.10
#elif defined(NW_AVX2)
#define NW_DENSE_SPIKES 0.45
#else
#define NW_DENSE_SPIKES 2.0
#endif

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
  int32_t s[16];
  nw_i16_store(s, acc);
  for (int o = 0; o < 16; o++) s[o] += positive ? w[o] : -w[o];
  return nw_i16_load(s);
#endif
}

/* The rows of weights of n active channels, added to 16*N sums that stay in registers. */
NW_INLINE void nw_add_rows(int32_t *NW_RESTRICT sums, const int8_t *NW_RESTRICT x, const int8_t *NW_RESTRICT w,
                           const int16_t *NW_RESTRICT active, int n, int OC, int N) {
  nw_i16 acc[8];
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

/* The same for the last N (a literal, below 16) of the sums; nothing beyond them is touched. */
NW_INLINE void nw_add_part(int32_t *NW_RESTRICT sums, const int8_t *NW_RESTRICT x, const int8_t *NW_RESTRICT w,
                           const int16_t *NW_RESTRICT active, int n, int OC, int N) {
#if defined(NW_AVX512)
  const __mmask16 m = (__mmask16)((1u << N) - 1u);
  __m512i total = _mm512_maskz_loadu_epi32(m, sums);
  for (int k = 0; k < n; k++) {
    const __m512i row = _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(m, w + (long)active[k] * OC));
    total = x[active[k]] > 0 ? _mm512_add_epi32(total, row) : _mm512_sub_epi32(total, row);
  }
  _mm512_mask_storeu_epi32(sums, m, total);
#else
  int32_t s[16] = {0};
  int8_t v[16] = {0};
  memcpy(s, sums, (size_t)N * sizeof(int32_t));
  nw_i16 acc = nw_i16_load(s);
  for (int k = 0; k < n; k++) {
    memcpy(v, w + (long)active[k] * OC, (size_t)N);
    acc = nw_add_row(acc, v, x[active[k]] > 0);
  }
  nw_i16_store(s, acc);
  memcpy(sums, s, (size_t)N * sizeof(int32_t));
#endif
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
              for (; o + 128 <= OC && NW_TILE(1, 0); o += 128) nw_add_rows(row + o, xg, wt + o, active, n, OC, 8);
              for (; o + 64 <= OC; o += 64) nw_add_rows(row + o, xg, wt + o, active, n, OC, 4);
              for (; o + 16 <= OC; o += 16) nw_add_rows(row + o, xg, wt + o, active, n, OC, 1);
              if (o < OC) nw_add_part(row + o, xg, wt + o, active, n, OC, OC % 16 ? OC % 16 : 16);
            }
          }
        }
  }
}

/* How many of n are not zero. */
NW_INLINE long nw_spikes(const int8_t *x, long n) {
  long i = 0, count = 0;
#if defined(NW_AVX512)
  for (; i + 64 <= n; i += 64) {
    const __m512i v = _mm512_loadu_si512(x + i);
    count += __builtin_popcountll(_mm512_test_epi8_mask(v, v));
  }
#endif
  for (; i + 8 <= n; i += 8) {
    uint64_t eight;
    memcpy(&eight, x + i, 8);
    count += (long)((eight & 0x0101010101010101u) * 0x0101010101010101u >> 56); /* adds the low bits of all bytes */
  }
  for (; i < n; i++) count += x[i] & 1;
  return count;
}

/* Every step in the form that its density asks for: event-driven, or as codes in conv_i8.h, for which the weights are packed once.
 * `dense_bias` is the bias of that form; `packed` and `frame` are scratch for its weights and for one step. */
NW_INLINE void nw_spike_conv(const int8_t *NW_RESTRICT x, const int8_t *NW_RESTRICT w, const int32_t *NW_RESTRICT bias,
                             const int32_t *NW_RESTRICT dense_bias, int32_t *NW_RESTRICT y, int16_t *NW_RESTRICT active,
                             int8_t *NW_RESTRICT packed, uint8_t *NW_RESTRICT frame, int T, int IH, int IW, int OH, int OW, int G, int IC,
                             int OC, int KH, int KW, int SH, int SW, int PT, int PL, int DH, int DW, int PB, int PR, int P, int NB) {
  const long n = (long)IH * IW * G * IC;
  int ready = 0;
  for (int t = 0; t < T; t++, x += n, y += (long)OH * OW * G * OC) {
    if (NW_DENSE_SPIKES > 1.0 || (double)nw_spikes(x, n) <= NW_DENSE_SPIKES * (double)n) {
      nw_event_conv(x, w, bias, y, active, 1, IH, IW, OH, OW, G, IC, OC, KH, KW, SH, SW, PT, PL, DH, DW);
      continue;
    }
    if (!ready) nw_repack(w, packed, G, KH * KW, IC, OC);
    ready = 1;
    nw_bytes((const uint8_t *)x, frame, 1, IH, IW, G, IC, (IC + 3) / 4, PT, PL, PB, PR, 128);
    nw_conv_i8(frame, packed, dense_bias, 0, 0, 0, y, 1, IH + PT + PB, IW + PL + PR, OH, OW, G, (IC + 3) / 4, OC, KH, KW, SH, SW, DH, DW, P,
               NB, 8, (nw_end){.type = NW_I32}, NW_ALL);
  }
}

/* Sums of n (a literal, 1..16) channels of one pixel of a depthwise convolution. */
NW_INLINE void nw_event_dw_pixel(const int8_t *NW_RESTRICT x, const int8_t *NW_RESTRICT w, const int32_t *NW_RESTRICT bias,
                                 int32_t *NW_RESTRICT y, int y0, int x0, int IH, int IW, int C, int n, int KH, int KW, int DH, int DW) {
  nw_i16 acc = nw_i16_load(bias);
  for (int ky = 0; ky < KH; ky++) {
    const int iy = y0 + ky * DH;
    if (iy < 0 || iy >= IH) continue;
    for (int kx = 0; kx < KW; kx++) {
      const int ix = x0 + kx * DW;
      if (ix >= 0 && ix < IW) acc = nw_tap(acc, x, NW_I8, ((long)iy * IW + ix) * C, w + ((long)ky * KW + kx) * C, n);
    }
  }
  nw_finish(acc, 0, 0, 0, 0, y, 0, n, (nw_end){.type = NW_I32});
}

/* Depthwise: w [KH][KW][C], bias [C] filled up to 16. */
NW_INLINE void nw_event_dwconv(const int8_t *NW_RESTRICT x, const int8_t *NW_RESTRICT w, const int32_t *NW_RESTRICT bias,
                               int32_t *NW_RESTRICT y, int T, int IH, int IW, int OH, int OW, int C, int KH, int KW, int SH, int SW,
                               int PT, int PL, int DH, int DW) {
  const int whole = C / 16 * 16;
  for (int t = 0; t < T; t++, x += (long)IH * IW * C)
    for (int oy = 0; oy < OH; oy++)
      for (int ox = 0; ox < OW; ox++, y += C) {
        const int y0 = oy * SH - PT, x0 = ox * SW - PL;
        for (int c = 0; c < whole; c += 16)
          nw_event_dw_pixel(x + c, w + c, bias + c, y + c, y0, x0, IH, IW, C, 16, KH, KW, DH, DW);
        if (whole < C)
          nw_event_dw_pixel(x + whole, w + whole, bias + whole, y + whole, y0, x0, IH, IW, C, C % 16 ? C % 16 : 16, KH, KW, DH, DW);
      }
}

/* How a neuron with potential v fires: s = [v >= theta]; NW_BIPOLAR: minus [v <= -theta]; NW_MEMORY: minus [v < 0] and only
 * while the sum of its spikes stays in 0..LIMIT (0: no limit); NW_BURST: up to LIMIT spikes at once. */
enum { NW_IF, NW_BIPOLAR, NW_MEMORY, NW_BURST };

NW_INLINE int32_t nw_fire(int32_t v, int32_t theta, int32_t sent, int RULE, int LIMIT) {
  if (RULE == NW_BURST) return v < theta ? 0 : NW_MIN(v / theta, LIMIT);
  if (RULE == NW_MEMORY) return ((v >= theta) & (!LIMIT | (sent < LIMIT))) - ((v < 0) & (sent > 0));
  return (v >= theta) - (RULE == NW_BIPOLAR && v <= -theta);
}

NW_INLINE int64_t nw_fire_wide(int64_t v, int64_t theta, int64_t sent, int RULE, int LIMIT) {
  if (RULE == NW_BURST) return v < theta ? 0 : NW_MIN(v / theta, LIMIT);
  if (RULE == NW_MEMORY) return ((v >= theta) & (!LIMIT | (sent < LIMIT))) - ((v < 0) & (sent > 0));
  return (v >= theta) - (RULE == NW_BIPOLAR && v <= -theta);
}

/* All steps of n (a literal, 1..16) neurons whose potentials fit in 32 bits. */
NW_INLINE void nw_integrate_16(const int32_t *NW_RESTRICT x, const int32_t *NW_RESTRICT theta, const int32_t *NW_RESTRICT v0,
                               int8_t *NW_RESTRICT y, int T, long step, int n, int CONSTANT, int RULE, int LIMIT) {
#if defined(NW_AVX512)
  const __mmask16 m = (__mmask16)((1u << n) - 1u);
  const __m512i zero = _mm512_setzero_si512(), one = _mm512_set1_epi32(1), threshold = _mm512_maskz_loadu_epi32(m, theta);
  const __m512i below = _mm512_sub_epi32(zero, threshold), limit = _mm512_set1_epi32(LIMIT);
  __m512i v = _mm512_maskz_loadu_epi32(m, v0), sent = zero;
  for (int t = 0; t < T; t++) {
    v = _mm512_add_epi32(v, _mm512_maskz_loadu_epi32(m, x + (CONSTANT ? 0 : t * step)));
    __mmask16 up = _mm512_cmpge_epi32_mask(v, threshold), down = 0;
    if (RULE == NW_BIPOLAR) down = _mm512_cmple_epi32_mask(v, below);
    if (RULE == NW_MEMORY) {
      down = _mm512_cmplt_epi32_mask(v, zero) & _mm512_cmpgt_epi32_mask(sent, zero);
      if (LIMIT) up &= _mm512_cmplt_epi32_mask(sent, limit);
    }
    v = _mm512_mask_sub_epi32(v, up, v, threshold);
    __m512i s = _mm512_maskz_mov_epi32(up, one);
    if (RULE == NW_BURST)
      for (int k = 1; k < LIMIT && (up = _mm512_mask_cmpge_epi32_mask(up, v, threshold)) != 0; k++) {
        v = _mm512_mask_sub_epi32(v, up, v, threshold);
        s = _mm512_mask_add_epi32(s, up, s, one);
      }
    if (RULE == NW_BIPOLAR || RULE == NW_MEMORY) {
      v = _mm512_mask_add_epi32(v, down, v, threshold);
      s = _mm512_mask_sub_epi32(s, down, s, one);
    }
    if (RULE == NW_MEMORY) sent = _mm512_add_epi32(sent, s);
    _mm_mask_storeu_epi8(y + t * step, m, _mm512_cvtepi32_epi8(s));
  }
#else
  int32_t v[16], sent[16] = {0};
  memcpy(v, v0, (size_t)n * sizeof(int32_t));
  for (int t = 0; t < T; t++) {
    const int32_t *NW_RESTRICT current = x + (CONSTANT ? 0 : t * step);
    int8_t *NW_RESTRICT out = y + t * step;
    for (int c = 0; c < n; c++) {
      v[c] += current[c];
      const int32_t s = nw_fire(v[c], theta[c], sent[c], RULE, LIMIT);
      v[c] -= s * theta[c];
      if (RULE == NW_MEMORY) sent[c] += s;
      out[c] = (int8_t)s;
    }
  }
#endif
}

/* The state before the first step, for networks that take one step at a time: potentials, behind them with NW_MEMORY the
 * sums of spikes. */
NW_INLINE void nw_rest(const int32_t *NW_RESTRICT v0, void *NW_RESTRICT state, long R, int C, int RULE, int WIDE) {
  for (long i = 0; i < R * C; i++) {
    if (WIDE)
      ((int64_t *)state)[i] = v0[i % C];
    else
      ((int32_t *)state)[i] = v0[i % C];
  }
  if (RULE == NW_MEMORY) memset((int32_t *)state + (WIDE ? 2 : 1) * R * C, 0, (size_t)(R * C) * sizeof(int32_t));
}

/* One step of neurons whose state stays. */
NW_INLINE void nw_integrate_step(const int32_t *NW_RESTRICT x, const int32_t *NW_RESTRICT theta, int8_t *NW_RESTRICT y,
                                 void *NW_RESTRICT state, long R, int C, int RULE, int LIMIT, int WIDE) {
  int32_t *const counts = (int32_t *)state + (WIDE ? 2 : 1) * R * C;
  for (long r = 0; r < R; r++, x += C, y += C)
    for (int c = 0; c < C; c++) {
      int32_t *const sent = counts + r * C + c, before = RULE == NW_MEMORY ? *sent : 0;
      if (WIDE) {
        int64_t *const v = (int64_t *)state + r * C + c, u = *v + x[c], s = nw_fire_wide(u, theta[c], before, RULE, LIMIT);
        *v = u - s * theta[c];
        y[c] = (int8_t)s;
      } else {
        int32_t *const v = (int32_t *)state + r * C + c, u = *v + x[c], s = nw_fire(u, theta[c], before, RULE, LIMIT);
        *v = u - s * theta[c];
        y[c] = (int8_t)s;
      }
      if (RULE == NW_MEMORY) *sent = before + y[c];
    }
}

/* Steps up to which neurons go through all of them in registers; of more, which lie a power of two apart, a cache keeps too few. */
#define NW_FEW_STEPS 8
#define NW_PART_NEURONS 2048

/* v += current; s by the rule; v -= s*theta, for all steps of 16 neurons at a time: the membrane lives in registers. With many
 * steps, of a few thousand neurons at a time, whose state stays in the nearest cache. CONSTANT: the same current in every step.
 * WIDE: potentials need 64 bits. */
NW_INLINE void nw_integrate(const int32_t *NW_RESTRICT x, const int32_t *NW_RESTRICT theta, const int32_t *NW_RESTRICT v0,
                            int8_t *NW_RESTRICT y, int T, long R, int C, int CONSTANT, int RULE, int LIMIT, int WIDE) {
  const long step = R * C;
  const int whole = C / 16 * 16, parts = !WIDE && T > NW_FEW_STEPS && C <= NW_PART_NEURONS, rows = parts ? NW_PART_NEURONS / C : 1;
  for (long r = 0; r < R && parts; r += rows) {
    int32_t state[2 * NW_PART_NEURONS];
    const long m = NW_MIN(rows, R - r);
    nw_rest(v0, state, m, C, RULE, 0);
    for (int t = 0; t < T; t++)
      nw_integrate_step(x + (CONSTANT ? 0 : t * step) + r * C, theta, y + t * step + r * C, state, m, C, RULE, LIMIT, 0);
  }
  for (long r = 0; r < R && !WIDE && !parts; r++) {
    for (int c = 0; c < whole; c += 16)
      nw_integrate_16(x + r * C + c, theta + c, v0 + c, y + r * C + c, T, step, 16, CONSTANT, RULE, LIMIT);
    if (whole < C)
      nw_integrate_16(x + r * C + whole, theta + whole, v0 + whole, y + r * C + whole, T, step, C % 16 ? C % 16 : 16, CONSTANT, RULE,
                      LIMIT);
  }
  for (long i = 0; i < step && WIDE; i++) {
    const int64_t threshold = theta[i % C];
    int64_t v = v0[i % C], sent = 0;
    for (int t = 0; t < T; t++) {
      v += x[CONSTANT ? i : t * step + i];
      const int64_t s = nw_fire_wide(v, threshold, sent, RULE, LIMIT);
      v -= s * threshold;
      sent += s;
      y[t * step + i] = (int8_t)s;
    }
  }
}

NW_INLINE void nw_clear(int32_t *NW_RESTRICT y, long n) {
  for (long i = 0; i < n; i++) y[i] = 0;
}

NW_INLINE void nw_accumulate(const int32_t *NW_RESTRICT x, int32_t *NW_RESTRICT y, long n) {
  for (long i = 0; i < n; i++) y[i] += x[i];
}

/* Currents of AT and BT steps (one of them may be 1) of n neurons. */
NW_INLINE void nw_iadd(const int32_t *NW_RESTRICT a, const int32_t *NW_RESTRICT b, int32_t *NW_RESTRICT y, int AT, int BT, long n) {
  const int T = NW_MAX(AT, BT);
  for (int t = 0; t < T; t++)
    for (long i = 0; i < n; i++) y[t * n + i] = a[(AT == 1 ? 0 : t) * n + i] + b[(BT == 1 ? 0 : t) * n + i];
}

/* Running sums over the S = T steps of n currents. */
NW_INLINE void nw_running_sums(const int32_t *NW_RESTRICT x, int32_t *NW_RESTRICT y, int S, int T, long n) {
  (void)S;
  for (long i = 0; i < n; i++) y[i] = x[i];
  for (long i = n; i < T * n; i++) y[i] = y[i - n] + x[i];
}

/* Changes of n currents from one of T steps to the next, from 0; S = 1: a constant current, which changes once. */
NW_INLINE void nw_changes(const int32_t *NW_RESTRICT x, int32_t *NW_RESTRICT y, int S, int T, long n) {
  for (long i = 0; i < n; i++) y[i] = x[i];
  for (long i = n; i < T * n; i++) y[i] = S > 1 ? x[i] - x[i - n] : 0;
}

/* One step of each; `last`, cleared before the first, keeps the sums, or the currents of the step before. */
NW_INLINE void nw_running_sums_step(const int32_t *NW_RESTRICT x, int32_t *NW_RESTRICT y, int32_t *NW_RESTRICT last, long n) {
  for (long i = 0; i < n; i++) y[i] = last[i] += x[i];
}

NW_INLINE void nw_changes_step(const int32_t *NW_RESTRICT x, int32_t *NW_RESTRICT y, int32_t *NW_RESTRICT last, long n) {
  for (long i = 0; i < n; i++) {
    y[i] = x[i] - last[i];
    last[i] = x[i];
  }
}

/* Sum of the steps start..T-1, from v0 [C] where it is given. */
NW_INLINE void nw_readout(const int32_t *NW_RESTRICT x, const int32_t *NW_RESTRICT v0, int32_t *NW_RESTRICT y, int T, int start, long n,
                          int C) {
  for (long i = 0; i < n; i++) {
    int64_t s = v0 ? v0[i % C] : 0;
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
