/* nw_vf: a vector of NW_VL floats; sixteen channels are NW_PB of them. One kernel source serves every instruction set. */
#include "base.h"

#if defined(NW_AVX512)
#define NW_VL 16
#elif defined(NW_AVX2)
#define NW_VL 8
#elif defined(NW_VECTOR)
#define NW_VL 4
#else
#define NW_VL 16
#endif
#define NW_PB (16 / NW_VL)

#if defined(NW_VECTOR)
typedef float nw_vf __attribute__((vector_size(4 * NW_VL)));
typedef int32_t nw_vm __attribute__((vector_size(4 * NW_VL)));
typedef float nw_vu __attribute__((vector_size(4 * NW_VL), aligned(4), may_alias));

NW_INLINE nw_vf nw_load(const float *p) { return *(const nw_vu *)p; }
NW_INLINE void nw_store(float *p, nw_vf v) { *(nw_vu *)p = v; }
NW_INLINE nw_vf nw_zero(void) { return (nw_vf){0}; }
NW_INLINE nw_vf nw_add(nw_vf a, nw_vf b) { return a + b; }
NW_INLINE nw_vf nw_fma(nw_vf acc, nw_vf a, nw_vf b) { return acc + a * b; }
NW_INLINE nw_vf nw_axpy(nw_vf acc, float a, nw_vf b) { return acc + a * b; }
/* Negative lanes to zero; NaN stays. */
NW_INLINE nw_vf nw_relu(nw_vf a) { return (nw_vf)((nw_vm)a & ~(a < (nw_vf){0})); }
#else
typedef struct { float v[NW_VL]; } nw_vf;

NW_INLINE nw_vf nw_load(const float *p) {
  nw_vf r;
  memcpy(r.v, p, sizeof r.v);
  return r;
}
NW_INLINE void nw_store(float *p, nw_vf a) { memcpy(p, a.v, sizeof a.v); }
NW_INLINE nw_vf nw_zero(void) {
  nw_vf r;
  memset(&r, 0, sizeof r);
  return r;
}
NW_INLINE nw_vf nw_add(nw_vf a, nw_vf b) {
  for (int i = 0; i < NW_VL; i++) a.v[i] += b.v[i];
  return a;
}
NW_INLINE nw_vf nw_fma(nw_vf acc, nw_vf a, nw_vf b) {
  for (int i = 0; i < NW_VL; i++) acc.v[i] += a.v[i] * b.v[i];
  return acc;
}
NW_INLINE nw_vf nw_axpy(nw_vf acc, float a, nw_vf b) {
  for (int i = 0; i < NW_VL; i++) acc.v[i] += a * b.v[i];
  return acc;
}
NW_INLINE nw_vf nw_relu(nw_vf a) {
  for (int i = 0; i < NW_VL; i++) a.v[i] = a.v[i] < 0.0f ? 0.0f : a.v[i];
  return a;
}
#endif

NW_INLINE nw_vf nw_one(void) {
  float v[NW_VL];
  for (int i = 0; i < NW_VL; i++) v[i] = 1.0f;
  return nw_load(v);
}

/* Store the first n (a literal, 1..NW_VL) lanes. */
NW_INLINE void nw_store_part(float *p, nw_vf v, int n) {
#if defined(NW_AVX512)
  if (n == 16) nw_store(p, v);
  else _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1u), (__m512)v);
#else
  memcpy(p, &v, (size_t)n * sizeof(float));
#endif
}
NW_INLINE nw_vf nw_load_part(const float *p, int n) {
#if defined(NW_AVX512)
  return n == 16 ? nw_load(p) : (nw_vf)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1u), p);
#else
  nw_vf v = nw_zero();
  memcpy(&v, p, (size_t)n * sizeof(float));
  return v;
#endif
}
