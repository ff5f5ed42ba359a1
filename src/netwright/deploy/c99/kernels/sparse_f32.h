/* 1x1 convolutions and linear layers with weights most of which are zero; only the others are stored.
 *
 *   y[o][p] = relu?( bias[o] + sum_j w[j] * x[index[j]][p] + res[o][p] )        j of output o: start[o] .. start[o+1]-1
 */
#include "lanes.h"

/* Zeros anywhere: x [C][P], y [O][P]; P is at least one vector. A tile that would stick out is moved back and computed twice. */
NW_INLINE void nw_sparse_f32(const float *NW_RESTRICT x, const float *NW_RESTRICT w, const uint16_t *NW_RESTRICT index,
                             const uint32_t *NW_RESTRICT start, const float *NW_RESTRICT bias, const float *NW_RESTRICT res,
                             float *NW_RESTRICT y, int P, int O, int HAS_RES, int RELU) {
  const int V = NW_MIN(4, P / NW_VL);
  for (int first = 0; first < P; first += V * NW_VL) {
    const int p = NW_MIN(first, P - V * NW_VL);
    for (int o = 0; o < O; o++) {
      nw_vf acc[4];
      NW_UNROLL for (int v = 0; v < V; v++) acc[v] = nw_axpy(nw_zero(), bias[o], nw_one());
      for (uint32_t j = start[o]; j < start[o + 1]; j++) {
        const float *NW_RESTRICT row = x + (long)index[j] * P + p;
        NW_UNROLL for (int v = 0; v < V; v++) acc[v] = nw_axpy(acc[v], w[j], nw_load(row + v * NW_VL));
      }
      NW_UNROLL for (int v = 0; v < V; v++) {
        const long at = (long)o * P + p + v * NW_VL;
        nw_vf s = acc[v];
        if (HAS_RES) s = nw_add(s, nw_load(res + at));
        nw_store(y + at, RELU ? nw_relu(s) : s);
      }
    }
  }
}

/* N pixels of one block of 16 outputs of which LANES exist. */
NW_INLINE void nw_blocks_tile_f32(const float *NW_RESTRICT x, const float *NW_RESTRICT w, const uint16_t *NW_RESTRICT index,
                                  uint32_t from, uint32_t to, const float *NW_RESTRICT bias, const float *NW_RESTRICT res,
                                  float *NW_RESTRICT y, int C, int O, int N, int LANES, int RELU) {
  nw_vf acc[32];
  NW_UNROLL for (int p = 0; p < N; p++) {
    NW_UNROLL for (int n = 0; n < NW_PB; n++) acc[p * NW_PB + n] = nw_load(bias + n * NW_VL);
  }
  for (uint32_t j = from; j < to; j++) {
    nw_vf wv[NW_PB];
    NW_UNROLL for (int n = 0; n < NW_PB; n++) wv[n] = nw_load(w + (long)j * 16 + n * NW_VL);
    NW_UNROLL for (int p = 0; p < N; p++) {
      const float v = x[(long)p * C + index[j]];
      NW_UNROLL for (int n = 0; n < NW_PB; n++) acc[p * NW_PB + n] = nw_axpy(acc[p * NW_PB + n], v, wv[n]);
    }
  }
  NW_UNROLL for (int p = 0; p < N; p++) {
    NW_UNROLL for (int n = 0; n < NW_PB; n++) {
      const int left = LANES - n * NW_VL, lanes = left < NW_VL ? left : NW_VL;
      const long at = (long)p * O + n * NW_VL;
      if (lanes > 0) {
        nw_vf s = acc[p * NW_PB + n];
        if (res) s = nw_add(s, nw_load_part(res + at, lanes));
        nw_store_part(y + at, RELU ? nw_relu(s) : s, lanes);
      }
    }
  }
}

/* Zeros in whole blocks of 16 outputs: w [blocks that are not zero][16], x [P][C], y [P][O], N pixels at a time. */
NW_INLINE void nw_blocks_f32(const float *NW_RESTRICT x, const float *NW_RESTRICT w, const uint16_t *NW_RESTRICT index,
                             const uint32_t *NW_RESTRICT start, const float *NW_RESTRICT bias, const float *NW_RESTRICT res,
                             float *NW_RESTRICT y, int P, int C, int O, int N, int HAS_RES, int RELU) {
  for (int b = 0; b < (O + 15) / 16; b++)
    for (int first = 0; first < P; first += N) {
      const long p = NW_MIN(first, P - N), at = p * O + b * 16;
      const float *r = HAS_RES ? res + at : 0;
      if (O - b * 16 >= 16)
        nw_blocks_tile_f32(x + p * C, w, index, start[b], start[b + 1], bias + b * 16, r, y + at, C, O, N, 16, RELU);
      else
        nw_blocks_tile_f32(x + p * C, w, index, start[b], start[b + 1], bias + b * 16, r, y + at, C, O, N, O % 16, RELU);
    }
}
