/* Convolution of 8-bit codes with 8-bit weights, sums in int32.
 *
 *   y[p][o] = clamp(rescale(bias[o] + sum x*w, mult[o], shift[o]), lo, hi)        (without mult: the sums)
 *
 * x lies in a frame [IH][IW][G][I4*4] of unsigned bytes, made by nw_bytes: signed codes stand 128 higher there, and the bias
 * has 128 * sum(w) taken off. w is packed [G][OC/16][KH][KW][I4][16][4], zeros where there is no channel.
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

NW_INLINE void nw_conv_tile_i8(const uint8_t *NW_RESTRICT x, const int8_t *NW_RESTRICT w, const int32_t *NW_RESTRICT bias,
                               const nw_mult *NW_RESTRICT mult, const uint8_t *NW_RESTRICT shift, void *NW_RESTRICT y, int type, long at,
                               int IW, int LD, int LDY, int I4, int N, int KH, int KW, int SW, int DH, int DW, int P, int RESCALE,
                               int lo, int hi) {
  nw_i16 acc[16];
  NW_UNROLL for (int p = 0; p < P; p++) acc[p] = nw_i16_load(bias);
  for (int ky = 0; ky < KH; ky++)
    for (int kx = 0; kx < KW; kx++) {
      const uint8_t *xt = x + ((long)ky * DH * IW + kx * DW) * LD;
      const int8_t *wt = w + ((long)ky * KW + kx) * I4 * 64;
      for (int i = 0; i < I4; i++) {
        NW_UNROLL for (int p = 0; p < P; p++) acc[p] = nw_dot4(acc[p], xt + (long)p * SW * LD + i * 4, wt + (long)i * 64);
      }
    }
  NW_UNROLL for (int p = 0; p < P; p++) nw_finish(acc[p], mult, shift, y, type, at + (long)p * LDY, N, RESCALE, lo, hi);
}

NW_INLINE void nw_conv_i8(const uint8_t *NW_RESTRICT x, const int8_t *NW_RESTRICT w, const int32_t *NW_RESTRICT bias,
                          const nw_mult *NW_RESTRICT mult, const uint8_t *NW_RESTRICT shift, void *NW_RESTRICT y, int type, int T, int IH,
                          int IW, int OH, int OW, int G, int I4, int OC, int KH, int KW, int SH, int SW, int DH, int DW, int P,
                          int RESCALE, int lo, int hi) {
  const int blocks = (OC + 15) / 16, LD = G * I4 * 4, whole = OC / 16, tail = OC % 16;
  const long block = (long)KH * KW * I4 * 64;
  for (int t = 0; t < T; t++)
    for (int g = 0; g < G; g++)
      for (int b = 0; b < blocks; b++) {
        const int8_t *wb = w + ((long)g * blocks + b) * block;
        const long o = ((long)g * blocks + b) * 16;
        const nw_mult *mb = RESCALE ? mult + o : 0;
        const uint8_t *sb = RESCALE ? shift + o : 0;
        for (int oy = 0; oy < OH; oy++)
          for (int x0 = 0; x0 < OW; x0 += P) {
            const int ox = NW_MIN(x0, OW - P);
            const uint8_t *xt = x + (((long)t * IH + oy * SH) * IW + ox * SW) * LD + g * I4 * 4;
            const long at = (((long)t * OH + oy) * OW + ox) * G * OC + g * OC + b * 16;
            if (b < whole)
              nw_conv_tile_i8(xt, wb, bias + o, mb, sb, y, type, at, IW, LD, G * OC, I4, 16, KH, KW, SW, DH, DW, P, RESCALE, lo, hi);
            else
              nw_conv_tile_i8(xt, wb, bias + o, mb, sb, y, type, at, IW, LD, G * OC, I4, tail, KH, KW, SW, DH, DW, P, RESCALE, lo, hi);
          }
      }
}

/* One block of n channels of a depthwise convolution, one row of P pixels at a time. */
NW_INLINE void nw_dw_row_i8(const void *NW_RESTRICT x, const int8_t *NW_RESTRICT w, const int32_t *NW_RESTRICT bias,
                            const nw_mult *NW_RESTRICT mult, const uint8_t *NW_RESTRICT shift, void *NW_RESTRICT y, int XT, int type,
                            long from, long at, int IW, int C, int n, int KH, int KW, int SW, int DH, int DW, int P, int RESCALE,
                            int lo, int hi) {
  nw_i16 acc[8];
  NW_UNROLL for (int p = 0; p < P; p++) acc[p] = nw_i16_load(bias);
  for (int ky = 0; ky < KH; ky++)
    for (int kx = 0; kx < KW; kx++) {
      const long tap = from + ((long)ky * DH * IW + kx * DW) * C;
      NW_UNROLL for (int p = 0; p < P; p++) acc[p] = nw_tap(acc[p], x, XT, tap + (long)p * SW * C, w + ((long)ky * KW + kx) * C, n);
    }
  NW_UNROLL for (int p = 0; p < P; p++) nw_finish(acc[p], mult, shift, y, type, at + (long)p * C, n, RESCALE, lo, hi);
}

/* Depthwise: x a zero frame of codes of type XT, w [KH][KW][C]; bias, mult and shift [C], filled up to 16. */
NW_INLINE void nw_dwconv_i8(const void *NW_RESTRICT x, const int8_t *NW_RESTRICT w, const int32_t *NW_RESTRICT bias,
                            const nw_mult *NW_RESTRICT mult, const uint8_t *NW_RESTRICT shift, void *NW_RESTRICT y, int XT, int type,
                            int T, int IH, int IW, int OH, int OW, int C, int KH, int KW, int SH, int SW, int DH, int DW, int RESCALE,
                            int lo, int hi) {
  const int P = OW < 4 ? OW : 4, whole = C / 16 * 16;
  for (int t = 0; t < T; t++)
    for (int oy = 0; oy < OH; oy++)
      for (int x0 = 0; x0 < OW; x0 += P) {
        const int ox = NW_MIN(x0, OW - P);
        const long at = (((long)t * OH + oy) * OW + ox) * C, from = (((long)t * IH + oy * SH) * IW + ox * SW) * C;
        for (int c = 0; c < whole; c += 16)
          nw_dw_row_i8(x, w + c, bias + c, RESCALE ? mult + c : 0, RESCALE ? shift + c : 0, y, XT, type, from + c, at + c, IW, C, 16, KH,
                       KW, SW, DH, DW, P, RESCALE, lo, hi);
        if (whole < C)
          nw_dw_row_i8(x, w + whole, bias + whole, RESCALE ? mult + whole : 0, RESCALE ? shift + whole : 0, y, XT, type, from + whole,
                       at + whole, IW, C, C % 16 ? C % 16 : 16, KH, KW, SW, DH, DW, P, RESCALE, lo, hi);
      }
}
