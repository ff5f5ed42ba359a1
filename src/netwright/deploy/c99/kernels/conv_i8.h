/* Convolution of 8-bit codes with 8-bit weights, sums in int32.
 *
 *   y[p][o] = clamp(rescale(bias[o] + sum x*w, mult[o], shift[o]), lo, hi)        (without mult: the sums)
 *
 * x lies in a frame [IH][IW][G][I4*4] of unsigned bytes, made by nw_bytes: signed codes stand 128 higher there, and the bias
 * has 128 * sum(w) taken off. w is packed [G][OC/16][KH][KW][I4][16][4], zeros where there is no channel; ternary weights (BITS 2)
 * [G][OC/16][KH][KW][I4/4][16][4], four of them in a byte as w + 1, the lowest bits for the first of four I4.
 */
#include "dot4.h"

/* The frame: padding and missing channels hold the byte `zero` (128 for signed codes), codes are shifted by it. */
NW_INLINE void nw_bytes(const uint8_t *NW_RESTRICT x, uint8_t *NW_RESTRICT y, int T, int H, int W, int G, int I, int I4, int top, int left,
                        int bottom, int right, int zero) {
  const int FW = W + left + right, D = I4 * 4;
  const long pixel = (long)G * D;
  for (int t = 0; t < T; t++, y += (H + top + bottom) * FW * pixel) {
    memset(y, zero, (size_t)(top * FW * pixel));
    memset(y + (top + H) * FW * pixel, zero, (size_t)(bottom * FW * pixel));
    for (int h = 0; h < H; h++) {
      uint8_t *row = y + (long)(top + h) * FW * pixel;
      memset(row, zero, (size_t)(left * pixel));
      memset(row + (left + W) * pixel, zero, (size_t)(right * pixel));
      row += left * pixel;
      if (D == I) {
        for (long i = 0; i < W * pixel; i++) row[i] = (uint8_t)(x[i] ^ zero);
        x += W * pixel;
      } else {
        for (long i = 0; i < (long)W * G; i++, x += I, row += D)
          for (int j = 0; j < D; j++) row[j] = (uint8_t)(j < I ? x[j] ^ zero : zero);
      }
    }
  }
}

/* P pixels by N blocks of 16 channels, the first of which is `o`: x[p] is the first tap of a pixel, at[p] its place in y; the tap
 * (ky, kx) is `dy`, `dx` bytes further. */
NW_INLINE void nw_conv_tile_i8(const uint8_t *const *x, const int8_t *NW_RESTRICT w, const int32_t *NW_RESTRICT bias,
                               const nw_mult *NW_RESTRICT mult, const uint8_t *NW_RESTRICT shift, long o, const void *NW_RESTRICT res,
                               void *NW_RESTRICT y, const long *at, long dy, long dx, int I4, int OCS, int KH, int KW, int P, int N,
                               int BITS, nw_end end) {
  const long block = (long)KH * KW * I4 * (BITS * 8);
  nw_i16 acc[24];
  NW_UNROLL for (int p = 0; p < P; p++) {
    NW_UNROLL for (int n = 0; n < N; n++) acc[p * N + n] = nw_i16_load(bias + o + 16 * n);
  }
  for (int ky = 0; ky < KH; ky++)
    for (int kx = 0; kx < KW; kx++) {
      const long tap = ky * dy + kx * dx;
      const int8_t *wt = w + ((long)ky * KW + kx) * I4 * (BITS * 8);
      if (BITS == 2) {
        for (int i = 0; i < I4; i += 4) {
          NW_UNROLL for (int k = 0; k < 4; k++) {
            NW_UNROLL for (int n = 0; n < N; n++) {
              nw_w4_room room;
              const nw_w4 wv = nw_w4_ternary((const uint8_t *)wt + n * block + (long)i * 16, k, room);
              NW_UNROLL for (int p = 0; p < P; p++) acc[p * N + n] = nw_dot4(acc[p * N + n], x[p] + tap + (i + k) * 4, wv);
            }
          }
        }
      } else {
        for (int i = 0; i < I4; i++) {
          nw_w4 wv[4];
          NW_UNROLL for (int n = 0; n < N; n++) wv[n] = nw_w4_load(wt + n * block + (long)i * 64);
          NW_UNROLL for (int p = 0; p < P; p++) {
            NW_UNROLL for (int n = 0; n < N; n++) acc[p * N + n] = nw_dot4(acc[p * N + n], x[p] + tap + i * 4, wv[n]);
          }
        }
      }
    }
  NW_UNROLL for (int p = 0; p < P; p++) {
    NW_UNROLL for (int n = 0; n < N; n++)
      nw_finish(acc[p * N + n], mult, shift, o + 16 * n, res, y, at[p] + 16 * n, OCS - 16 * n < 16 ? OCS - 16 * n : 16, end);
  }
}

/* Tiles of P pixels by NB blocks. */
NW_INLINE void nw_conv_i8(const uint8_t *NW_RESTRICT x, const int8_t *NW_RESTRICT w, const int32_t *NW_RESTRICT bias,
                          const nw_mult *NW_RESTRICT mult, const uint8_t *NW_RESTRICT shift, const void *NW_RESTRICT res,
                          void *NW_RESTRICT y, int T, int IH, int IW, int OH, int OW, int G, int I4, int OC, int KH, int KW, int SH,
                          int SW, int DH, int DW, int P, int NB, int BITS, nw_end end, nw_share s) {
  const int blocks = (OC + 15) / 16, LD = G * I4 * 4, pixels = OH * OW, last = (blocks - 1) / NB * NB, bands = last / NB + 1;
  const nw_share across = NW_SPLITS(pixels, P) ? NW_ALL : s, along = NW_SPLITS(pixels, P) ? s : NW_ALL;
  const int stop = nw_first(pixels, along, 1);
  const long block = (long)KH * KW * I4 * (BITS * 8), dy = (long)DH * IW * LD, dx = (long)DW * LD;
  for (int t = 0; t < T; t++)
    for (int g = 0; g < G; g++)
      for (int b = nw_first(bands, across, 0) * NB; b < nw_first(bands, across, 1) * NB; b += NB) {
        const int8_t *wb = w + ((long)g * blocks + b) * block;
        const long o = ((long)g * blocks + b) * 16;
        for (int first = nw_first(pixels, along, 0); first < stop; first += P) {
          const int p0 = NW_MIN(first, stop - P);
          const uint8_t *xp[12];
          long at[12];
          int oy = p0 / OW, ox = p0 % OW;
          NW_UNROLL for (int p = 0; p < P; p++) {
            xp[p] = x + (((long)t * IH + oy * SH) * IW + ox * SW) * LD + g * I4 * 4;
            at[p] = (((long)t * OH + oy) * OW + ox) * G * OC + g * OC + b * 16;
            if (++ox == OW) ox = 0, oy++;
          }
          if (b < last || OC == (last + NB) * 16)
            nw_conv_tile_i8(xp, wb, bias, mult, shift, o, res, y, at, dy, dx, I4, NB * 16, KH, KW, P, NB, BITS, end);
          else
            nw_conv_tile_i8(xp, wb, bias, mult, shift, o, res, y, at, dy, dx, I4, OC - last * 16, KH, KW, P, blocks - last, BITS, end);
        }
      }
}

/* One block of n channels, the first of which is `o`, of a depthwise convolution, one row of P pixels at a time. */
NW_INLINE void nw_dw_row_i8(const void *NW_RESTRICT x, const int8_t *NW_RESTRICT w, const int32_t *NW_RESTRICT bias,
                            const nw_mult *NW_RESTRICT mult, const uint8_t *NW_RESTRICT shift, long o, void *NW_RESTRICT y, int XT,
                            long from, long at, int IW, int C, int n, int KH, int KW, int SW, int DH, int DW, int P, nw_end end) {
  nw_i16 acc[8];
  NW_UNROLL for (int p = 0; p < P; p++) acc[p] = nw_i16_load(bias + o);
  for (int ky = 0; ky < KH; ky++)
    for (int kx = 0; kx < KW; kx++) {
      const long tap = from + o + ((long)ky * DH * IW + kx * DW) * C;
      NW_UNROLL for (int p = 0; p < P; p++) acc[p] = nw_tap(acc[p], x, XT, tap + (long)p * SW * C, w + o + ((long)ky * KW + kx) * C, n);
    }
  NW_UNROLL for (int p = 0; p < P; p++) nw_finish(acc[p], mult, shift, o, 0, y, at + o + (long)p * C, n, end);
}

/* Depthwise: x a zero frame of codes of type XT, w [KH][KW][C]; bias, mult and shift [C], filled up to 16. */
NW_INLINE void nw_dwconv_i8(const void *NW_RESTRICT x, const int8_t *NW_RESTRICT w, const int32_t *NW_RESTRICT bias,
                            const nw_mult *NW_RESTRICT mult, const uint8_t *NW_RESTRICT shift, void *NW_RESTRICT y, int XT, int T, int IH,
                            int IW, int OH, int OW, int C, int KH, int KW, int SH, int SW, int DH, int DW, nw_end end, nw_share s) {
  const int P = OW < 4 ? OW : 4, whole = C / 16 * 16;
  for (int t = 0; t < T; t++)
    for (int oy = nw_first(OH, s, 0); oy < nw_first(OH, s, 1); oy++)
      for (int x0 = 0; x0 < OW; x0 += P) {
        const int ox = NW_MIN(x0, OW - P);
        const long at = (((long)t * OH + oy) * OW + ox) * C, from = (((long)t * IH + oy * SH) * IW + ox * SW) * C;
        for (int c = 0; c < whole; c += 16)
          nw_dw_row_i8(x, w, bias, mult, shift, c, y, XT, from, at, IW, C, 16, KH, KW, SW, DH, DW, P, end);
        if (whole < C)
          nw_dw_row_i8(x, w, bias, mult, shift, whole, y, XT, from, at, IW, C, C % 16 ? C % 16 : 16, KH, KW, SW, DH, DW, P, end);
      }
}
