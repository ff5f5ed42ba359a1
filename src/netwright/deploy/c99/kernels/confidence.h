/* Whether a spiking network has seen enough. */
#include "base.h"

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
