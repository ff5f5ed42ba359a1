/* Layer and group norm, softmax, reductions, average pooling and interpolation of floats. */
#include "pointwise_f32.h"

/* Sum in eight strands, so that it vectorises without reordering by the compiler. */
NW_INLINE float nw_sum(const float *x, long n) {
  float s[8] = {0};
  long i = 0;
  for (; i + 8 <= n; i += 8)
    for (int j = 0; j < 8; j++) s[j] += x[i + j];
  for (; i < n; i++) s[0] += x[i];
  return ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]));
}

/* y[r][:] = (x[r][:] - mean) / sqrt(var + eps) * weight + bias over rows of C */
NW_INLINE void nw_layer_norm_f32(const float *NW_RESTRICT x, const float *NW_RESTRICT weight, const float *NW_RESTRICT bias,
                                 float *NW_RESTRICT y, long R, long C, float eps) {
  for (long r = 0; r < R; r++, x += C, y += C) {
    const float mean = nw_sum(x, C) / (float)C;
    for (long c = 0; c < C; c++) y[c] = x[c] - mean;
    float s[8] = {0};
    long c = 0;
    for (; c + 8 <= C; c += 8)
      for (int j = 0; j < 8; j++) s[j] += y[c + j] * y[c + j];
    for (; c < C; c++) s[0] += y[c] * y[c];
    const float var = (((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]))) / (float)C;
    const float k = 1.0f / sqrtf(var + eps);
    for (c = 0; c < C; c++) y[c] = y[c] * k * weight[c] + bias[c];
  }
}

/* y[n][p][:] = (x[n][p][:] - mean_g) / sqrt(var_g + eps) * weight + bias, channels last, statistics of G groups of channels over
 * all P positions; `s` is scratch of C floats. */
NW_INLINE void nw_group_norm_f32(const float *NW_RESTRICT x, const float *NW_RESTRICT weight, const float *NW_RESTRICT bias,
                                 float *NW_RESTRICT y, float *NW_RESTRICT s, long N, long P, int C, int G, float eps) {
  const int per = C / G;
  const float share = 1.0f / ((float)P * (float)per);
  for (long n = 0; n < N; n++, x += P * C, y += P * C) {
    memset(s, 0, (size_t)C * sizeof(float));
    for (long p = 0; p < P; p++)
      for (int c = 0; c < C; c++) s[c] += x[p * C + c];
    for (int g = 0; g < G; g++) {
      const float mean = nw_sum(s + g * per, per) * share;
      for (int c = 0; c < per; c++) s[g * per + c] = mean;
    }
    for (long p = 0; p < P; p++)
      for (int c = 0; c < C; c++) y[p * C + c] = x[p * C + c] - s[c];
    memset(s, 0, (size_t)C * sizeof(float));
    for (long p = 0; p < P; p++)
      for (int c = 0; c < C; c++) s[c] += y[p * C + c] * y[p * C + c];
    for (int g = 0; g < G; g++) {
      const float k = 1.0f / sqrtf(nw_sum(s + g * per, per) * share + eps);
      for (int c = 0; c < per; c++) s[g * per + c] = k * weight[g * per + c];
    }
    for (long p = 0; p < P; p++)
      for (int c = 0; c < C; c++) y[p * C + c] = y[p * C + c] * s[c] + bias[c];
  }
}

/* Largest element, in eight strands. */
NW_INLINE float nw_top(const float *x, long n) {
  float s[8];
  long i = 0;
  for (int j = 0; j < 8; j++) s[j] = x[0];
  for (; i + 8 <= n; i += 8)
    for (int j = 0; j < 8; j++) s[j] = x[i + j] > s[j] ? x[i + j] : s[j];
  for (; i < n; i++) s[0] = x[i] > s[0] ? x[i] : s[0];
  for (int j = 4; j; j /= 2)
    for (int k = 0; k < j; k++) s[k] = s[k + j] > s[k] ? s[k + j] : s[k];
  return s[0];
}

NW_INLINE void nw_softmax_in_place_f32(float *y, long R, long C) {
  for (long r = 0; r < R; r++, y += C) {
    const float top = nw_top(y, C);
    for (long c = 0; c < C; c++) y[c] = nw_exp(y[c] - top);
    const float k = 1.0f / nw_sum(y, C);
    for (long c = 0; c < C; c++) y[c] *= k;
  }
}

NW_INLINE void nw_softmax_f32(const float *NW_RESTRICT x, float *NW_RESTRICT y, long R, long C) {
  memcpy(y, x, (size_t)(R * C) * sizeof(float));
  nw_softmax_in_place_f32(y, R, C);
}

enum { NW_SUM_OF, NW_MEAN_OF, NW_AMAX_OF, NW_AMIN_OF };

NW_INLINE float nw_reduced(float a, float b, int op) {
  if (op == NW_AMAX_OF) return a > b || a != a ? a : b;
  if (op == NW_AMIN_OF) return a < b || a != a ? a : b;
  return a + b;
}

/* y[a][b] = sum, mean, maximum or minimum over d of x[a][d][b] */
NW_INLINE void nw_reduce_f32(const float *NW_RESTRICT x, float *NW_RESTRICT y, long A, long D, long B, int op) {
  const float k = op == NW_MEAN_OF ? 1.0f / (float)D : 1.0f;
  for (long a = 0; a < A; a++, x += D * B, y += B) {
    if (B == 1 && (op == NW_SUM_OF || op == NW_MEAN_OF)) {
      y[0] = nw_sum(x, D) * k;
    } else {
      memcpy(y, x, (size_t)B * sizeof(float));
      for (long d = 1; d < D; d++)
        for (long b = 0; b < B; b++) y[b] = nw_reduced(y[b], x[d * B + b], op);
      if (op == NW_MEAN_OF)
        for (long b = 0; b < B; b++) y[b] *= k;
    }
  }
}

/* Average pooling, channels last; padding counts in the divisor when COUNT_PAD. */
NW_INLINE void nw_avg_pool_f32(const float *NW_RESTRICT x, float *NW_RESTRICT y, int IH, int IW, int C, int OH, int OW, int KH,
                               int KW, int SH, int SW, int PT, int PL, int COUNT_PAD) {
  for (int oy = 0; oy < OH; oy++)
    for (int ox = 0; ox < OW; ox++, y += C) {
      const int y0 = oy * SH - PT, x0 = ox * SW - PL, y1 = NW_MIN(y0 + KH, IH + PT), x1 = NW_MIN(x0 + KW, IW + PL);
      const int ya = NW_MAX(y0, 0), xa = NW_MAX(x0, 0), yb = NW_MIN(y1, IH), xb = NW_MIN(x1, IW);
      const float k = 1.0f / (float)(COUNT_PAD ? (y1 - y0) * (x1 - x0) : (yb - ya) * (xb - xa));
      memset(y, 0, (size_t)C * sizeof(float));
      for (int iy = ya; iy < yb; iy++)
        for (int ix = xa; ix < xb; ix++) {
          const float *v = x + ((long)iy * IW + ix) * C;
          for (int c = 0; c < C; c++) y[c] += v[c];
        }
      for (int c = 0; c < C; c++) y[c] *= k;
    }
}

/* Average over windows i*IH/OH .. ceil((i+1)*IH/OH), channels last. */
NW_INLINE void nw_adaptive_pool_f32(const float *NW_RESTRICT x, float *NW_RESTRICT y, int IH, int IW, int C, int OH, int OW) {
  for (int oy = 0; oy < OH; oy++)
    for (int ox = 0; ox < OW; ox++, y += C) {
      const int ya = oy * IH / OH, yb = ((oy + 1) * IH + OH - 1) / OH, xa = ox * IW / OW, xb = ((ox + 1) * IW + OW - 1) / OW;
      const float k = 1.0f / (float)((yb - ya) * (xb - xa));
      memset(y, 0, (size_t)C * sizeof(float));
      for (int iy = ya; iy < yb; iy++)
        for (int ix = xa; ix < xb; ix++)
          for (int c = 0; c < C; c++) y[c] += x[((long)iy * IW + ix) * C + c];
      for (int c = 0; c < C; c++) y[c] *= k;
    }
}

/* Bilinear interpolation, channels last. */
NW_INLINE void nw_bilinear_f32(const float *NW_RESTRICT x, float *NW_RESTRICT y, int IH, int IW, int C, int OH, int OW, int CORNERS) {
  const float ky = CORNERS ? (OH > 1 ? (float)(IH - 1) / (float)(OH - 1) : 0.0f) : (float)IH / (float)OH;
  const float kx = CORNERS ? (OW > 1 ? (float)(IW - 1) / (float)(OW - 1) : 0.0f) : (float)IW / (float)OW;
  for (int oy = 0; oy < OH; oy++) {
    const float fy = CORNERS ? ky * (float)oy : NW_MAX(ky * ((float)oy + 0.5f) - 0.5f, 0.0f);
    const int y0 = NW_MIN((int)fy, IH - 1), y1 = NW_MIN(y0 + 1, IH - 1);
    const float b = fy - (float)y0;
    for (int ox = 0; ox < OW; ox++, y += C) {
      const float fx = CORNERS ? kx * (float)ox : NW_MAX(kx * ((float)ox + 0.5f) - 0.5f, 0.0f);
      const int x0 = NW_MIN((int)fx, IW - 1), x1 = NW_MIN(x0 + 1, IW - 1);
      const float a = fx - (float)x0;
      const float *p = x + ((long)y0 * IW + x0) * C, *q = x + ((long)y0 * IW + x1) * C;
      const float *r = x + ((long)y1 * IW + x0) * C, *s = x + ((long)y1 * IW + x1) * C;
      for (int c = 0; c < C; c++)
        y[c] = (1.0f - b) * ((1.0f - a) * p[c] + a * q[c]) + b * ((1.0f - a) * r[c] + a * s[c]);
    }
  }
}
