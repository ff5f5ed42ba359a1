/* Recurrent layers: x holds W x + b of all T steps, [T][gates*H]; w, bias are R and b' as the weights of a 1x1 convolution.
 * y is [T][H] (and the cell after the last step in row T, with CELL). `g` is scratch: gates*H products, H states, H cells.
 */
#include "conv_f32.h"
#include "pointwise_f32.h"

enum { NW_LSTM, NW_GRU, NW_RNN_TANH, NW_RNN_RELU };

NW_INLINE void nw_first_f32(float *y, const float *given, int H) {
  if (given) memcpy(y, given, (size_t)H * sizeof(float));
  else memset(y, 0, (size_t)H * sizeof(float));
}

NW_INLINE void nw_sequence_f32(const float *NW_RESTRICT x, const float *NW_RESTRICT w, const float *NW_RESTRICT bias, const float *h0,
                                const float *c0, float *NW_RESTRICT y, float *NW_RESTRICT g, int KIND, int T, int H, int REVERSE,
                                int CELL, int NB) {
  const int GATES = KIND == NW_LSTM ? 4 : KIND == NW_GRU ? 3 : 1, N = GATES * H;
  float *NW_RESTRICT h = g + N, *NW_RESTRICT c = h + H;
  nw_first_f32(h, h0, H);
  nw_first_f32(c, c0, H);
  for (int step = 0; step < T; step++) {
    const int t = REVERSE ? T - 1 - step : step;
    const float *NW_RESTRICT p = x + (long)t * N;
    nw_conv_f32(h, w, bias, 0, g, 1, H, 1, 1, 1, H, N, 1, 1, 1, 1, 1, 1, 1, 1, NB, 0, 0, NW_ALL);
    for (int j = 0; j < H; j++) {
      if (KIND == NW_LSTM) {
        c[j] = nw_sigmoid(p[H + j] + g[H + j]) * c[j] + nw_sigmoid(p[j] + g[j]) * nw_tanh(p[2 * H + j] + g[2 * H + j]);
        h[j] = nw_sigmoid(p[3 * H + j] + g[3 * H + j]) * nw_tanh(c[j]);
      } else if (KIND == NW_GRU) {
        const float z = nw_sigmoid(p[H + j] + g[H + j]);
        h[j] = (1.0f - z) * nw_tanh(p[2 * H + j] + nw_sigmoid(p[j] + g[j]) * g[2 * H + j]) + z * h[j];
      } else {
        const float v = p[j] + g[j];
        h[j] = KIND == NW_RNN_TANH ? nw_tanh(v) : v < 0.0f ? 0.0f : v;
      }
    }
    memcpy(y + (long)t * H, h, (size_t)H * sizeof(float));
  }
  if (CELL) memcpy(y + (long)T * H, c, (size_t)H * sizeof(float));
}

/* N sequences, each with first states of its own. */
NW_INLINE void nw_recurrent_f32(const float *NW_RESTRICT x, const float *NW_RESTRICT w, const float *NW_RESTRICT bias, const float *h0,
                                const float *c0, float *NW_RESTRICT y, float *NW_RESTRICT g, int KIND, int N, int T, int H,
                                int REVERSE, int CELL, int NB) {
  const long GATES = KIND == NW_LSTM ? 4 : KIND == NW_GRU ? 3 : 1;
  for (long n = 0; n < N; n++)
    nw_sequence_f32(x + n * T * GATES * H, w, bias, h0 ? h0 + n * H : 0, c0 ? c0 + n * H : 0, y + n * (T + CELL) * H, g, KIND, T, H,
                    REVERSE, CELL, NB);
}
