/* Neurons for the batched simulator: currents of S or T steps as whole numbers in float, [S][N][pixels][channels]; spikes of T
 * steps out, as floats, or as bytes with `zero` added. The rules are those of spiking.h. A few thousand neurons at a time go
 * through all steps, while their state stays in the nearest cache.
 *
 * theta, v0 and the like are repeated along the channels, far enough that such a part may start at any of them. */
#include "spiking.h"

/* One step of n neurons, a function for each rule. */
#define NW_SIM_STEP(NAME, RULE) \
  NW_NOINLINE void NAME(const float *NW_RESTRICT x, const int32_t *NW_RESTRICT theta, int32_t *NW_RESTRICT v, \
                        int32_t *NW_RESTRICT sent, int32_t *NW_RESTRICT s, long n, int limit) { \
    for (long i = 0; i < n; i++) { \
      const int32_t u = v[i] + (int32_t)x[i], fired = nw_fire(u, theta[i], (RULE) == NW_MEMORY ? sent[i] : 0, RULE, limit); \
      v[i] = (RULE) == NW_BURST ? u - fired * theta[i] : u - (fired > 0 ? theta[i] : 0) + (fired < 0 ? theta[i] : 0); \
      if ((RULE) == NW_MEMORY) sent[i] += fired; \
      s[i] = fired; \
    } \
  }
NW_SIM_STEP(nw_sim_if, NW_IF)
NW_SIM_STEP(nw_sim_bipolar, NW_BIPOLAR)
NW_SIM_STEP(nw_sim_memory, NW_MEMORY)
NW_SIM_STEP(nw_sim_burst, NW_BURST)

static void nw_sim_step(const float *x, const int32_t *theta, int32_t *v, int32_t *sent, int32_t *s, long n, int rule, int limit) {
  if (rule == NW_IF) nw_sim_if(x, theta, v, sent, s, n, limit);
  else if (rule == NW_BIPOLAR) nw_sim_bipolar(x, theta, v, sent, s, n, limit);
  else if (rule == NW_MEMORY) nw_sim_memory(x, theta, v, sent, s, n, limit);
  else nw_sim_burst(x, theta, v, sent, s, n, limit);
}

static void nw_sim_store(const int32_t *NW_RESTRICT s, void *NW_RESTRICT y, long at, long n, int floats, int zero) {
  float *NW_RESTRICT f = (float *)y + at;
  uint8_t *NW_RESTRICT b = (uint8_t *)y + at;
  if (floats)
    for (long i = 0; i < n; i++) f[i] = (float)s[i];
  else
    for (long i = 0; i < n; i++) b[i] = (uint8_t)(s[i] + zero);
}

/* sum [k][C] = the sums of spikes s [k][KW][C]; or more onto them. */
NW_INLINE void nw_sim_add(const int32_t *NW_RESTRICT s, int32_t *NW_RESTRICT sum, int k, int KW, int C, int more) {
  for (int o = 0; o < k; o++, sum += C)
    for (int kx = 0; kx < KW; kx++, s += C)
      for (int c = 0; c < C; c++) sum[c] = (more || kx ? sum[c] : 0) + s[c];
}

/* n neurons of C channels. */
void nw_simulate(const float *x, const int32_t *theta, const int32_t *v0, void *y, long n, int C, int T, int S, int floats, int zero,
                 int rule, int limit) {
  int32_t v[NW_PART_NEURONS], sent[NW_PART_NEURONS], s[NW_PART_NEURONS];
  for (long at = 0; at < n; at += NW_PART_NEURONS) {
    const long m = NW_MIN(NW_PART_NEURONS, n - at), c = at % C;
    memcpy(v, v0 + c, (size_t)m * sizeof(int32_t));
    if (rule == NW_MEMORY) memset(sent, 0, sizeof sent);
    for (int t = 0; t < T; t++) {
      nw_sim_step(x + (S == 1 ? 0 : t * n) + at, theta + c, v, sent, s, m, rule, limit);
      nw_sim_store(s, y, t * n + at, m, floats, zero);
    }
  }
}

/* Neurons, and the sums of their spikes over windows of KH x KW that do not overlap. KH*KW*C is at most NW_PART_NEURONS. */
void nw_simulate_pooled(const float *x, const int32_t *theta, const int32_t *v0, void *y, long N, int H, int W, int C, int KH, int KW,
                        int T, int S, int floats, int zero, int rule, int limit) {
  int32_t v[NW_PART_NEURONS], sent[NW_PART_NEURONS], s[NW_PART_NEURONS], sum[NW_PART_NEURONS];
  const int OH = H / KH, OW = W / KW, most = NW_PART_NEURONS / (KH * KW * C);
  const long in = N * H * W * C, out = N * OH * OW * C;
  for (long row = 0; row < N * OH; row++)
    for (int ox = 0; ox < OW; ox += most) {
      const int k = NW_MIN(most, OW - ox);
      const long m = (long)k * KW * C;
      const float *first = x + ((row / OH * H + row % OH * KH) * W + (long)ox * KW) * C;
      for (int ky = 0; ky < KH; ky++) memcpy(v + ky * m, v0, (size_t)m * sizeof(int32_t));
      if (rule == NW_MEMORY) memset(sent, 0, sizeof sent);
      for (int t = 0; t < T; t++) {
        const float *now = first + (S == 1 ? 0 : t * in);
        for (int ky = 0; ky < KH; ky++) {
          nw_sim_step(now + (long)ky * W * C, theta, v + ky * m, sent + ky * m, s, m, rule, limit);
          if (KW == 2) nw_sim_add(s, sum, k, 2, C, ky > 0);
          else nw_sim_add(s, sum, k, KW, C, ky > 0);
        }
        nw_sim_store(sum, y, t * out + (row * OW + ox) * C, (long)k * C, floats, zero);
      }
    }
}
