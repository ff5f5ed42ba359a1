/* Whether a spiking network has seen enough. */
#include "base.h"

/* A time step begins: nothing was heard yet. */
NW_INLINE void nw_hush(float *quiet) { *quiet = 1.0f; }

/* Not quiet any more where one of n neurons fired. */
NW_INLINE void nw_hear(const int8_t *NW_RESTRICT spikes, float *NW_RESTRICT quiet, long n) {
  int any = 0;
  for (long i = 0; i < n; i++) any |= spikes[i];
  if (any) *quiet = 0.0f;
}

/* Brings n logits, summed over fewer steps than all, to their mean; 1 where the largest softmax(alpha * logits) is >= confidence. */
NW_INLINE int nw_confident(float *y, int n, float mean, float alpha, float confidence) {
  float largest = y[0] * mean, sum = 0.0f;
  for (int i = 0; i < n; i++) {
    y[i] *= mean;
    if (y[i] > largest) largest = y[i];
  }
  for (int i = 0; i < n; i++) sum += expf(alpha * (y[i] - largest));
  return confidence * sum <= 1.0f;
}
