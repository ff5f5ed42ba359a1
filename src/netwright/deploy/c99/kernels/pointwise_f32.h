/* Pointwise functions of floats, written without branches so that compilers vectorise them. */
#include "base.h"

enum { NW_RELU, NW_CLAMP, NW_GELU, NW_GELU_TANH, NW_SILU, NW_HARDSWISH, NW_HARDSIGMOID, NW_SIGMOID, NW_TANH, NW_LEAKY, NW_ELU };
enum { NW_SOFTPLUS = 16, NW_MISH, NW_ABS, NW_SQRT, NW_RSQRT, NW_EXP, NW_LOG, NW_SIN, NW_COS, NW_ERF, NW_POW };
enum { NW_ADD, NW_SUB, NW_MUL, NW_DIV, NW_MAXIMUM, NW_MINIMUM, NW_GT, NW_GE, NW_LT, NW_LE, NW_EQ, NW_NE };

/* exp by 2^n * p(r), |r| <= ln2/2; relative error below 3e-7, arguments beyond +-87 saturate, NaN stays. */
NW_INLINE float nw_exp(float x) {
  union { float f; int32_t i; } z, s;
  x = x < -87.0f ? -87.0f : x;
  x = x > 87.0f ? 87.0f : x;
  z.f = x * 1.44269504088896341f + 12582912.0f;
  s.i = (int32_t)((uint32_t)(z.i - 0x4B400000 + 127) << 23);
  const float n = z.f - 12582912.0f, r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return (p * r * r + r + 1.0f) * s.f;
}

NW_INLINE float nw_sigmoid(float x) { return 1.0f / (1.0f + nw_exp(-x)); }
NW_INLINE float nw_tanh(float x) { return 1.0f - 2.0f / (1.0f + nw_exp(2.0f * x)); }

/* erf to 1.5e-7 (Abramowitz and Stegun, 7.1.26). */
NW_INLINE float nw_erf(float x) {
  const float a = x < 0.0f ? -x : x, t = 1.0f / (1.0f + 0.3275911f * a);
  const float p = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
  const float e = 1.0f - p * nw_exp(-a * a);
  return x < 0.0f ? -e : e;
}

NW_INLINE float nw_limit(float x, float lo, float hi) {
  x = x < lo ? lo : x;
  return x > hi ? hi : x;
}

NW_INLINE float nw_act(float x, int act, float a, float b) {
  switch (act) {
    case NW_RELU: return x < 0.0f ? 0.0f : x;
    case NW_CLAMP: return nw_limit(x, a, b);
    case NW_GELU: return 0.5f * x * (1.0f + nw_erf(x * 0.70710678118654752f));
    case NW_GELU_TANH: return 0.5f * x * (1.0f + nw_tanh(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    case NW_SILU: return x * nw_sigmoid(x);
    case NW_HARDSWISH: return x * nw_limit(x + 3.0f, 0.0f, 6.0f) * (1.0f / 6.0f);
    case NW_HARDSIGMOID: return nw_limit(x + 3.0f, 0.0f, 6.0f) * (1.0f / 6.0f);
    case NW_SIGMOID: return nw_sigmoid(x);
    case NW_TANH: return nw_tanh(x);
    case NW_SOFTPLUS: return x * a > b ? x : log1pf(expf(x * a)) / a;
    case NW_MISH: return x * nw_tanh(x > 20.0f ? x : log1pf(expf(x)));
    case NW_ABS: return fabsf(x);
    case NW_SQRT: return sqrtf(x);
    case NW_RSQRT: return 1.0f / sqrtf(x);
    case NW_EXP: return expf(x);
    case NW_LOG: return logf(x);
    case NW_SIN: return sinf(x);
    case NW_COS: return cosf(x);
    case NW_ERF: return nw_erf(x);
    case NW_POW: return powf(x, a);
    case NW_LEAKY: return x < 0.0f ? a * x : x;
    default: return x < 0.0f ? a * (nw_exp(x) - 1.0f) : x;
  }
}

NW_INLINE void nw_act_f32(const float *NW_RESTRICT x, float *NW_RESTRICT y, long n, int act, float a, float b) {
  for (long i = 0; i < n; i++) y[i] = nw_act(x[i], act, a, b);
}

NW_INLINE void nw_act_in_place_f32(float *y, long n, int act, float a, float b) {
  for (long i = 0; i < n; i++) y[i] = nw_act(y[i], act, a, b);
}

NW_INLINE float nw_apply(float a, float b, int op) {
  switch (op) {
    case NW_ADD: return a + b;
    case NW_SUB: return a - b;
    case NW_MUL: return a * b;
    case NW_DIV: return a / b;
    case NW_MAXIMUM: return a > b || a != a ? a : b;
    case NW_MINIMUM: return a < b || a != a ? a : b;
    case NW_GT: return a > b ? 1.0f : 0.0f;
    case NW_GE: return a >= b ? 1.0f : 0.0f;
    case NW_LT: return a < b ? 1.0f : 0.0f;
    case NW_LE: return a <= b ? 1.0f : 0.0f;
    case NW_EQ: return a == b ? 1.0f : 0.0f;
    default: return a != b ? 1.0f : 0.0f;
  }
}

/* y[a][d][b] = x[a][d][b] op z[d]; `reverse` puts z first. */
NW_INLINE void nw_binary_f32(const float *NW_RESTRICT x, const float *NW_RESTRICT z, float *NW_RESTRICT y, long A, long D, long B,
                             int op, int reverse) {
  for (long a = 0; a < A; a++) {
    if (B == 1) {
      for (long d = 0; d < D; d++) y[a * D + d] = reverse ? nw_apply(z[d], x[a * D + d], op) : nw_apply(x[a * D + d], z[d], op);
    } else {
      for (long d = 0; d < D; d++)
        for (long b = 0; b < B; b++) {
          const long i = (a * D + d) * B + b;
          y[i] = reverse ? nw_apply(z[d], x[i], op) : nw_apply(x[i], z[d], op);
        }
    }
  }
}

NW_INLINE void nw_add_in_place_f32(float *NW_RESTRICT y, const float *NW_RESTRICT z, long n) {
  for (long i = 0; i < n; i++) y[i] += z[i];
}

/* y[r][c] = x[r][c] * scale[c] + bias[c] */
NW_INLINE void nw_affine_f32(const float *NW_RESTRICT x, const float *NW_RESTRICT scale, const float *NW_RESTRICT bias,
                             float *NW_RESTRICT y, long R, long C) {
  for (long r = 0; r < R; r++)
    for (long c = 0; c < C; c++) y[r * C + c] = x[r * C + c] * scale[c] + bias[c];
}

/* y[r][c] = x[r][c] < 0 ? slope[c] * x[r][c] : x[r][c] */
NW_INLINE void nw_prelu_f32(const float *NW_RESTRICT x, const float *NW_RESTRICT slope, float *NW_RESTRICT y, long R, long C) {
  for (long r = 0; r < R; r++)
    for (long c = 0; c < C; c++) y[r * C + c] = x[r * C + c] < 0.0f ? slope[c] * x[r * C + c] : x[r * C + c];
}

/* y[i] = c[i] ? a[i] : b[i] */
NW_INLINE void nw_where_f32(const float *NW_RESTRICT c, const float *NW_RESTRICT a, const float *NW_RESTRICT b, float *NW_RESTRICT y,
                            long n) {
  for (long i = 0; i < n; i++) y[i] = c[i] != 0.0f ? a[i] : b[i];
}
