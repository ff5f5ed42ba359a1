/* Convolution of floats of which only the channels are computed whose gate is not zero, sixteen of them at a time. */
#include "conv_f32.h"

/* to: the channels that are on, in order, then -1, OC of them filled up to whole blocks of 16; y [P][OC] to zeros. */
NW_INLINE void nw_active_f32(const float *NW_RESTRICT gate, float *NW_RESTRICT y, int32_t *NW_RESTRICT to, long P, int OC) {
  int n = 0;
  for (int c = 0; c < OC; c++)
    if (gate[c] != 0.0f) to[n++] = c;
  for (; n < (OC + 15) / 16 * 16; n++) to[n] = -1;
  memset(y, 0, (size_t)(P * OC) * sizeof(float));
}

/* The rows w [OC][K] of one block of channels side by side, [K][16]. Lanes without a channel repeat the first. */
NW_INLINE void nw_gather_rows_f32(const float *NW_RESTRICT w, const int32_t *NW_RESTRICT to, float *NW_RESTRICT y, int K) {
  const float *row[16];
  if (to[0] < 0) return;
  for (int j = 0; j < 16; j++) row[j] = w + (long)to[to[j] < 0 ? 0 : j] * K;
  for (int k = 0; k < K; k++)
    for (int j = 0; j < 16; j++) y[(long)k * 16 + j] = row[j][k];
}

/* One block of channels: w is [KH][KW][IC][16], then the bias [16]; each channel goes to its place among the OC of y. Threads
 * share the pixels; where those are too few, one does it alone. */
NW_INLINE void nw_conv_active_f32(const float *NW_RESTRICT x, const float *NW_RESTRICT w, const int32_t *NW_RESTRICT to,
                                  float *NW_RESTRICT y, int IW, int OH, int OW, int IC, int OC, int KH, int KW, int SH, int SW,
                                  int DH, int DW, int PR, int PW, int RELU, nw_share s) {
  const int rows = OH >= NETWRIGHT_THREADS * PR, columns = !rows && OW >= NETWRIGHT_THREADS * PW;
  int n = 0;
  while (n < 16 && to[n] >= 0) n++;
  if (n == 0 || (!rows && !columns && s.part > 0)) return;
  nw_conv_band_f32(x, w, w + (long)KH * KW * IC * 16, 0, y, to, IW, IC, OH, OW, OC, IC, n, KH, KW, SH, SW, DH, DW, PR, PW, 1, RELU,
                   rows ? s : NW_ALL, columns ? s : NW_ALL);
}
