/* Products of computed matrices, and attention: the second factor becomes the weights of a 1x1 convolution.
 *
 * Strides are in elements; rows of the first factor and of the result lie side by side (stride one along a row). Up to three
 * outer dimensions of sizes B0, B1, B2; a stride of zero repeats a factor.
 */
#include "conv_f32.h"
#include "norm_f32.h"

static const float nw_no_bias[64] NW_ALIGNED = {0};

/* w[N/16][K][16] = z[k*SK + n*SN] * scale, zeros beyond N */
NW_INLINE void nw_panels_f32(const float *NW_RESTRICT z, float *NW_RESTRICT w, int K, int N, long SK, long SN, float scale) {
  for (int b = 0; b < N; b += 16) {
    const int n = NW_MIN(16, N - b);
    for (int k = 0; k < K; k++, w += 16) {
      const float *p = z + k * SK + b * SN;
      for (int j = 0; j < n; j++) w[j] = p[j * SN] * scale;
      for (int j = n; j < 16; j++) w[j] = 0.0f;
    }
  }
}

/* y[m*YM + n] = sum_k x[m*XM + k] * w[n/16][k][n%16] in tiles of PW rows and NB blocks */
NW_INLINE void nw_product_f32(const float *NW_RESTRICT x, const float *NW_RESTRICT w, float *NW_RESTRICT y, int M, int K, int N,
                              int XM, int YM, int PW, int NB) {
  const int blocks = (N + 15) / 16, whole = blocks / NB * NB - (blocks % NB == 0 && N % 16 ? NB : 0);
  for (int b = 0; b < whole; b += NB)
    nw_conv_band_f32(x, w + (long)b * K * 16, nw_no_bias, 0, y + b * 16, 0, M, XM, 1, M, YM, K, NB * 16, 1, 1, 1, 1, 1, 1, 1, PW, NB, 0, NW_ALL, NW_ALL);
  if (whole < blocks)
    nw_conv_band_f32(x, w + (long)whole * K * 16, nw_no_bias, 0, y + whole * 16, 0, M, XM, 1, M, YM, K, N - whole * 16, 1, 1, 1, 1, 1,
                     1, 1, PW, blocks - whole, 0, NW_ALL, NW_ALL);
}

/* `w` is scratch of ceil(N/16)*16*K floats. */
NW_INLINE void nw_matmul_f32(const float *x, const float *z, float *y, float *w, int B0, int B1, int B2, int M, int K, int N, long X0,
                             long X1, long X2, long Z0, long Z1, long Z2, long Y0, long Y1, long Y2, int XM, long ZK, long ZN,
                             int YM, int PW, int NB) {
  for (int i = 0; i < B0; i++)
    for (int j = 0; j < B1; j++)
      for (int k = 0; k < B2; k++) {
        nw_panels_f32(z + i * Z0 + j * Z1 + k * Z2, w, K, N, ZK, ZN, 1.0f);
        nw_product_f32(x + i * X0 + j * X1 + k * X2, w, y + i * Y0 + j * Y1 + k * Y2, M, K, N, XM, YM, PW, NB);
      }
}

/* y = softmax(scale * q k' + mask) v, R rows of scores at a time.
 * `w` is scratch: panels of k, panels of v, then R*N scores. */
NW_INLINE void nw_sdpa_f32(const float *q, const float *k, const float *v, const float *mask, float *y, float *w, int HAS_MASK,
                           int B0, int B1, int B2, int M, int N, int D, int DV, int R, long Q0, long Q1, long Q2, long K0, long K1,
                           long K2, long V0, long V1, long V2, long M0, long M1, long M2, long Y0, long Y1, long Y2, int QM, long KN,
                           long VN, long MM, int YM, float scale, int PS, int NS, int PY, int NY) {
  float *wv = w + (long)(N + 15) / 16 * 16 * D, *s = wv + (long)(DV + 15) / 16 * 16 * N;
  for (int a = 0; a < B0; a++)
    for (int b = 0; b < B1; b++)
      for (int c = 0; c < B2; c++) {
        nw_panels_f32(k + a * K0 + b * K1 + c * K2, w, D, N, 1, KN, scale);
        nw_panels_f32(v + a * V0 + b * V1 + c * V2, wv, N, DV, VN, 1, 1.0f);
        for (int first = 0; first < M; first += R) {
          const int m = NW_MIN(first, M - R); /* a last block that would stick out is moved back */
          nw_product_f32(q + a * Q0 + b * Q1 + c * Q2 + (long)m * QM, w, s, R, D, N, QM, N, PS, NS);
          for (int r = 0; HAS_MASK && r < R; r++) {
            const float *p = mask + a * M0 + b * M1 + c * M2 + (m + r) * MM;
            for (int n = 0; n < N; n++) s[(long)r * N + n] += p[n];
          }
          nw_softmax_in_place_f32(s, R, N);
          nw_product_f32(s, wv, y + a * Y0 + b * Y1 + c * Y2 + (long)m * YM, R, N, DV, N, YM, PY, NY);
        }
      }
}
