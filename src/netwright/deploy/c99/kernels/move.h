/* Moving data: padding, layouts, slices, concatenation, nearest interpolation, maximum pooling; S is the size of an element. */
#include "base.h"

/* [T][H][W][C] into a zero frame; C is in bytes. */
NW_INLINE void nw_frame(const uint8_t *NW_RESTRICT x, uint8_t *NW_RESTRICT y, int T, int H, int W, long C, int top, int left, int bottom,
                        int right) {
  const long row = (long)(W + left + right) * C;
  for (int t = 0; t < T; t++) {
    memset(y, 0, (size_t)(top * row));
    y += top * row;
    for (int h = 0; h < H; h++, x += W * C, y += row) {
      memset(y, 0, (size_t)(left * C));
      memcpy(y + left * C, x, (size_t)(W * C));
      memset(y + (left + W) * C, 0, (size_t)(right * C));
    }
    memset(y, 0, (size_t)(bottom * row));
    y += bottom * row;
  }
}

/* y[i][j][k][l][m][n] = x[i*s0 + j*s1 + k*s2 + l*s3 + m*s4 + n*s5]; a stride of zero repeats. */
NW_INLINE void nw_relayout(const uint8_t *NW_RESTRICT x, uint8_t *NW_RESTRICT y, int S, long d0, long d1, long d2, long d3, long d4,
                           long d5, long s0, long s1, long s2, long s3, long s4, long s5) {
  for (long i = 0; i < d0; i++)
    for (long j = 0; j < d1; j++)
      for (long k = 0; k < d2; k++)
        for (long l = 0; l < d3; l++)
          for (long m = 0; m < d4; m++) {
            const uint8_t *p = x + (i * s0 + j * s1 + k * s2 + l * s3 + m * s4) * S;
            if (s5 == 1) {
              memcpy(y, p, (size_t)(d5 * S));
              y += d5 * S;
            } else {
              for (long n = 0; n < d5; n++, y += S) memcpy(y, p + n * s5 * S, (size_t)S);
            }
          }
}

/* y[a][d][:] = x[a][index[d]][:], B bytes each. */
NW_INLINE void nw_take(const uint8_t *NW_RESTRICT x, const int32_t *NW_RESTRICT index, uint8_t *NW_RESTRICT y, long A, long DX, long DY,
                       long B) {
  for (long a = 0; a < A; a++, x += DX * B)
    for (long d = 0; d < DY; d++, y += B) memcpy(y, x + index[d] * B, (size_t)B);
}

/* y[a][d][:] = x[a][start + d*step][:], B bytes each. */
NW_INLINE void nw_slice(const uint8_t *NW_RESTRICT x, uint8_t *NW_RESTRICT y, long A, long DX, long DY, long start, long step, long B) {
  for (long a = 0; a < A; a++) {
    const uint8_t *p = x + (a * DX + start) * B;
    if (step == 1) {
      memcpy(y, p, (size_t)(DY * B));
      y += DY * B;
    } else {
      for (long d = 0; d < DY; d++, y += B) memcpy(y, p + d * step * B, (size_t)B);
    }
  }
}

/* One part of a concatenation: y[a][at + d][:] = x[a][d][:], B bytes each. */
NW_INLINE void nw_place(const uint8_t *NW_RESTRICT x, uint8_t *NW_RESTRICT y, long A, long DX, long DY, long at, long B) {
  for (long a = 0; a < A; a++) memcpy(y + (a * DY + at) * B, x + a * DX * B, (size_t)(DX * B));
}

/* Fill [A][D][B] elements of S bytes with one element. */
NW_INLINE void nw_fill(const uint8_t *NW_RESTRICT value, uint8_t *NW_RESTRICT y, long n, int S) {
  for (long i = 0; i < n; i++) memcpy(y + i * S, value, (size_t)S);
}

/* Zeros between the pixels of [H][W][C], C in bytes: pixel (h, w) goes to (h*SH, w*SW). */
NW_INLINE void nw_spread(const uint8_t *NW_RESTRICT x, uint8_t *NW_RESTRICT y, int H, int W, long C, int SH, int SW) {
  const long row = ((long)(W - 1) * SW + 1) * C;
  memset(y, 0, (size_t)(((long)(H - 1) * SH + 1) * row));
  for (int h = 0; h < H; h++)
    for (int w = 0; w < W; w++, x += C) memcpy(y + h * SH * row + (long)w * SW * C, x, (size_t)C);
}

/* Nearest interpolation, channels last, C in bytes. */
NW_INLINE void nw_nearest(const uint8_t *NW_RESTRICT x, uint8_t *NW_RESTRICT y, int IH, int IW, long C, int OH, int OW) {
  const float ky = (float)IH / (float)OH, kx = (float)IW / (float)OW;
  for (int oy = 0; oy < OH; oy++) {
    const int iy = NW_MIN((int)((float)oy * ky), IH - 1);
    for (int ox = 0; ox < OW; ox++, y += C) {
      const int ix = NW_MIN((int)((float)ox * kx), IW - 1);
      memcpy(y, x + ((long)iy * IW + ix) * C, (size_t)C);
    }
  }
}

/* Maximum pooling, channels last; padding never wins. */
#define NW_MAX_POOL(NAME, TYPE)                                                                                              \
  NW_INLINE void NAME(const TYPE *NW_RESTRICT x, TYPE *NW_RESTRICT y, int T, int IH, int IW, int C, int OH, int OW, int KH, int KW, \
                      int SH, int SW, int PT, int PL) {                                                                      \
    for (int t = 0; t < T; t++, x += (long)IH * IW * C)                                                                      \
      for (int oy = 0; oy < OH; oy++)                                                                                        \
        for (int ox = 0; ox < OW; ox++, y += C) {                                                                            \
          const int ya = NW_MAX(oy * SH - PT, 0), xa = NW_MAX(ox * SW - PL, 0);                                              \
          const int yb = NW_MIN(oy * SH - PT + KH, IH), xb = NW_MIN(ox * SW - PL + KW, IW);                                  \
          memcpy(y, x + ((long)ya * IW + xa) * C, (size_t)C * sizeof(TYPE));                                                 \
          for (int iy = ya; iy < yb; iy++)                                                                                   \
            for (int ix = xa; ix < xb; ix++) {                                                                               \
              const TYPE *v = x + ((long)iy * IW + ix) * C;                                                                  \
              for (int c = 0; c < C; c++) y[c] = v[c] > y[c] || v[c] != v[c] ? v[c] : y[c];                                  \
            }                                                                                                                \
        }                                                                                                                    \
  }
NW_MAX_POOL(nw_max_pool_f32, float)
NW_MAX_POOL(nw_max_pool_u8, uint8_t)
NW_MAX_POOL(nw_max_pool_i8, int8_t)
NW_MAX_POOL(nw_max_pool_i32, int32_t)
