/* Convolution of floats in register tiles of PR x PW pixels by NB blocks of 16 output channels.
 *
 *   y[p][o] = relu?( bias[o] + sum_{ky,kx,i} x[p*S + k*D][i] * w[o][ky][kx][i] + res[p][o] )
 *
 * x is padded already: rows of IW pixels of LD channels. w is packed [G][OC/16][KH][KW][IC][16], bias [G][OC/16][16], zeros
 * beyond OC. IC and OC are counts of one of the G groups. A tile that would stick out is moved back and computed twice.
 */
#include "lanes.h"

/* Stores LANES channels of P pixels, whose vectors stand NV apart, at the places `to`, which grow. */
NW_INLINE void nw_conv_scatter_f32(const nw_vf *acc, int NV, float *NW_RESTRICT y, const int32_t *NW_RESTRICT to, int LANES, int OW,
                                   int LDY, int P, int PW) {
#if defined(NW_AVX512)
  const __m512i places = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  for (int lane = 0; lane < LANES;) { /* those within the same sixteen channels together */
    const int line = to[lane] / 16 * 16;
    const __m512i from = _mm512_add_epi32(places, _mm512_set1_epi32(lane));
    unsigned bits = 0;
    for (; lane < LANES && to[lane] < line + 16; lane++) bits |= 1u << (to[lane] - line);
    NW_UNROLL for (int p = 0; p < P; p++) {
      const __m512 v = _mm512_maskz_expand_ps((__mmask16)bits, _mm512_permutexvar_ps(from, (__m512)acc[p * NV]));
      _mm512_mask_storeu_ps(y + ((long)(p / PW) * OW + p % PW) * LDY + line, (__mmask16)bits, v);
    }
  }
#else
  for (int p = 0; p < P; p++) {
    float v[NW_VL];
    memcpy(v, &acc[p * NV], sizeof v);
    for (int lane = 0; lane < LANES; lane++) y[((long)(p / PW) * OW + p % PW) * LDY + to[lane]] = v[lane];
  }
#endif
}

/* `to`: the places of the channels in a pixel of y, or 0 where they lie side by side. */
NW_INLINE void nw_conv_tile_f32(const float *NW_RESTRICT x, const float *NW_RESTRICT w, const float *NW_RESTRICT bias,
                                const float *NW_RESTRICT res, float *NW_RESTRICT y, const int32_t *NW_RESTRICT to, int IW,
                                int LD, int OW, int LDY, int IC, int OCS, int KH, int KW, int SH, int SW, int DH, int DW, int PR,
                                int PW, int NB, int RELU) {
  const int NV = NB * NW_PB, P = PR * PW;
  const long block = (long)KH * KW * IC * 16;
  nw_vf acc[64];
  NW_UNROLL for (int p = 0; p < P; p++) {
    NW_UNROLL for (int n = 0; n < NV; n++) acc[p * NV + n] = nw_load(bias + n * NW_VL);
  }
  for (int ky = 0; ky < KH; ky++)
    for (int kx = 0; kx < KW; kx++) {
      const float *NW_RESTRICT xt = x + ((long)ky * DH * IW + kx * DW) * LD;
      const float *NW_RESTRICT wt = w + ((long)ky * KW + kx) * IC * 16;
      for (int i = 0; i < IC; i++) {
        nw_vf wv[16];
        NW_UNROLL for (int n = 0; n < NV; n++) wv[n] = nw_load(wt + (n / NW_PB) * block + (long)i * 16 + (n % NW_PB) * NW_VL);
        NW_UNROLL for (int p = 0; p < P; p++) {
          const float v = xt[((long)(p / PW) * SH * IW + (p % PW) * SW) * LD + i];
          NW_UNROLL for (int n = 0; n < NV; n++) acc[p * NV + n] = nw_axpy(acc[p * NV + n], v, wv[n]);
        }
      }
    }
  NW_UNROLL for (int p = 0; p < P; p++) {
    NW_UNROLL for (int n = 0; n < NV; n++) {
      const int left = OCS - n * NW_VL, lanes = left < NW_VL ? left : NW_VL;
      const long at = ((long)(p / PW) * OW + p % PW) * LDY + n * NW_VL;
      if (lanes > 0) {
        nw_vf v = acc[p * NV + n];
        if (res) v = nw_add(v, nw_load_part(res + at, lanes));
        if (RELU) v = nw_relu(v);
        if (to) acc[p * NV + n] = v;
        else nw_store_part(y + at, v, lanes);
      }
    }
  }
  if (to) {
    NW_UNROLL for (int n = 0; n < NV; n++)
      nw_conv_scatter_f32(acc + n, NV, y, to + n * NW_VL, NW_MIN(OCS - n * NW_VL, NW_VL), OW, LDY, P, PW);
  }
}

/* One band of NB blocks that starts at output channel `o`; OCS of its 16*NB channels exist. */
NW_INLINE void nw_conv_band_f32(const float *NW_RESTRICT x, const float *NW_RESTRICT w, const float *NW_RESTRICT bias,
                                const float *NW_RESTRICT res, float *NW_RESTRICT y, const int32_t *NW_RESTRICT to, int IW,
                                int LD, int OH, int OW, int LDY, int IC, int OCS, int KH, int KW, int SH, int SW, int DH, int DW,
                                int PR, int PW, int NB, int RELU, nw_share down, nw_share along) {
  const int below = nw_first(OH, down, 1), beyond = nw_first(OW, along, 1);
  for (int y0 = nw_first(OH, down, 0); y0 < below; y0 += PR)
    for (int x0 = nw_first(OW, along, 0); x0 < beyond; x0 += PW) {
      const int oy = NW_MIN(y0, below - PR), ox = NW_MIN(x0, beyond - PW);
      const long at = ((long)oy * OW + ox) * LDY;
      nw_conv_tile_f32(x + ((long)oy * SH * IW + ox * SW) * LD, w, bias, res ? res + at : 0, y + at, to, IW, LD, OW, LDY, IC,
                       OCS, KH, KW, SH, SW, DH, DW, PR, PW, NB, RELU);
    }
}

/* HAS_RES says that `res` is there: a literal, so that the test costs nothing. */
NW_INLINE void nw_conv_f32(const float *NW_RESTRICT x, const float *NW_RESTRICT w, const float *NW_RESTRICT bias,
                           const float *NW_RESTRICT res, float *NW_RESTRICT y, int IW, int LD, int OH, int OW, int G, int IC,
                           int OC, int KH, int KW, int SH, int SW, int DH, int DW, int PR, int PW, int NB, int HAS_RES,
                           int RELU, nw_share s) {
  const int blocks = (OC + 15) / 16, whole = blocks / NB * NB - (blocks % NB == 0 && OC % 16 ? NB : 0);
  const long block = (long)KH * KW * IC * 16;
  const float *r = HAS_RES ? res : 0;
  const nw_share down = NW_SPLITS(OH, PR) ? s : NW_ALL, along = !NW_SPLITS(OH, PR) && NW_SPLITS(OW, PW) ? s : NW_ALL;
  const nw_share across = NW_SPLITS(OH, PR) || NW_SPLITS(OW, PW) ? NW_ALL : s;
  const int bands = whole / NB;
  for (int g = 0; g < G; g++) {
    const float *xg = x + g * IC, *wg = w + g * blocks * block, *bg = bias + g * blocks * 16;
    const long o0 = (long)g * OC;
    for (int b = nw_first(bands, across, 0) * NB; b < nw_first(bands, across, 1) * NB; b += NB)
      nw_conv_band_f32(xg, wg + b * block, bg + b * 16, r ? r + o0 + b * 16 : 0, y + o0 + b * 16, 0, IW, LD, OH, OW, G * OC,
                       IC, NB * 16, KH, KW, SH, SW, DH, DW, PR, PW, NB, RELU, down, along);
    if (whole < blocks && across.part == across.parts - 1) {
      const int rest = blocks - whole;
      nw_conv_band_f32(xg, wg + whole * block, bg + whole * 16, r ? r + o0 + whole * 16 : 0, y + o0 + whole * 16, 0, IW, LD, OH,
                       OW, G * OC, IC, OC - whole * 16, KH, KW, SH, SW, DH, DW, PR, PW, rest, RELU, down, along);
    }
  }
}

/* Depthwise: w [C/16][KH][KW][16], bias [C/16][16]; C channels a pixel, tiles of PR x PW pixels. */
NW_INLINE void nw_dw_tile_f32(const float *NW_RESTRICT x, const float *NW_RESTRICT w, const float *NW_RESTRICT bias,
                              const float *NW_RESTRICT res, float *NW_RESTRICT y, int IW, int OW, int C, int LANES, int KH, int KW,
                              int SH, int SW, int DH, int DW, int PR, int PW, int RELU) {
  const int P = PR * PW;
  nw_vf acc[64];
  NW_UNROLL for (int p = 0; p < P; p++) acc[p] = nw_load(bias);
  for (int ky = 0; ky < KH; ky++)
    for (int kx = 0; kx < KW; kx++) {
      const nw_vf wv = nw_load(w + ((long)ky * KW + kx) * 16);
      const float *NW_RESTRICT xt = x + ((long)ky * DH * IW + kx * DW) * C;
      NW_UNROLL for (int p = 0; p < P; p++)
        acc[p] = nw_fma(acc[p], nw_load(xt + ((long)(p / PW) * SH * IW + (p % PW) * SW) * C), wv);
    }
  NW_UNROLL for (int p = 0; p < P; p++) {
    const long at = ((long)(p / PW) * OW + p % PW) * C;
    nw_vf v = acc[p];
    if (res) v = nw_add(v, nw_load_part(res + at, LANES));
    if (RELU) v = nw_relu(v);
    nw_store_part(y + at, v, LANES);
  }
}

NW_INLINE void nw_dwconv_f32(const float *NW_RESTRICT x, const float *NW_RESTRICT w, const float *NW_RESTRICT bias,
                             const float *NW_RESTRICT res, float *NW_RESTRICT y, int IW, int OH, int OW, int C, int KH, int KW,
                             int SH, int SW, int DH, int DW, int PR, int PW, int HAS_RES, int RELU, nw_share s) {
  const float *r = HAS_RES ? res : 0;
  const int whole = C / NW_VL * NW_VL;
  const nw_share down = NW_SPLITS(OH, PR) ? s : NW_ALL, across = NW_SPLITS(OH, PR) ? NW_ALL : s;
  const int above = nw_first(OH, down, 0), below = nw_first(OH, down, 1), vectors = whole / NW_VL;
  for (int c = nw_first(vectors, across, 0) * NW_VL; c < nw_first(vectors, across, 1) * NW_VL; c += NW_VL)
    for (int y0 = above; y0 < below; y0 += PR)
      for (int x0 = 0; x0 < OW; x0 += PW) {
        const int oy = NW_MIN(y0, below - PR), ox = NW_MIN(x0, OW - PW);
        const long at = ((long)oy * OW + ox) * C + c;
        nw_dw_tile_f32(x + ((long)oy * SH * IW + ox * SW) * C + c, w + (long)(c / 16) * KH * KW * 16 + c % 16, bias + c,
                       r ? r + at : 0, y + at, IW, OW, C, NW_VL, KH, KW, SH, SW, DH, DW, PR, PW, RELU);
      }
  if (whole < C && across.part == across.parts - 1)
    for (int y0 = above; y0 < below; y0 += PR)
      for (int x0 = 0; x0 < OW; x0 += PW) {
        const int oy = NW_MIN(y0, below - PR), ox = NW_MIN(x0, OW - PW);
        const long at = ((long)oy * OW + ox) * C + whole;
        nw_dw_tile_f32(x + ((long)oy * SH * IW + ox * SW) * C + whole, w + (long)(whole / 16) * KH * KW * 16 + whole % 16,
                       bias + whole, r ? r + at : 0, y + at, IW, OW, C, C - whole, KH, KW, SH, SW, DH, DW, PR, PW, RELU);
      }
}
