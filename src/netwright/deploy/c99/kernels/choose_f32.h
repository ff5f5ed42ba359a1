/* Choosing by data: places of the largest elements, and what stands at places. Places are whole numbers in floats. */
#include "base.h"

/* Places of the K largest (smallest) of D elements that lie A apart, in order, equal ones as they stand; a stable merge sort.
 * order holds 2*D numbers. Not-a-number stands where it stood. */
NW_INLINE void nw_topk(const float *NW_RESTRICT x, float *NW_RESTRICT y, int32_t *NW_RESTRICT order, long B, long D, long K, long A,
                       int LARGEST) {
  for (long b = 0; b < B; b++, x += D * A, y += K * A)
    for (long a = 0; a < A; a++) {
      const float *v = x + a;
      int32_t *from = order, *to = order + D;
      for (long i = 0; i < D; i++) from[i] = (int32_t)i;
      for (long run = 1; run < D; run *= 2) {
        for (long at = 0; at < D; at += 2 * run) {
          const long middle = NW_MIN(at + run, D), end = NW_MIN(at + 2 * run, D);
          long i = at, j = middle;
          for (long o = at; o < end; o++) {
            const int second = i == middle || (j < end && (LARGEST ? v[from[j] * A] > v[from[i] * A] : v[from[j] * A] < v[from[i] * A]));
            to[o] = second ? from[j++] : from[i++];
          }
        }
        int32_t *other = from;
        from = to;
        to = other;
      }
      for (long k = 0; k < K; k++) y[k * A + a] = (float)from[k];
    }
}

/* y[b][d][:] = x[b][index[b][d]][:], A elements of S bytes; EACH: a place for every element. Places outside are moved to the nearest
 * inside, so that no memory but x is read. */
NW_INLINE void nw_gather(const uint8_t *NW_RESTRICT x, const float *NW_RESTRICT index, uint8_t *NW_RESTRICT y, long B, long DX, long DY,
                         long A, long S, int EACH) {
  const long n = EACH ? A : 1, size = EACH ? S : A * S;
  for (long b = 0; b < B; b++, x += DX * A * S)
    for (long d = 0; d < DY; d++, index += n)
      for (long a = 0; a < n; a++, y += size) {
        const float place = index[a] > 0.0f ? index[a] : 0.0f;
        const long row = place < (float)(DX - 1) ? (long)place : DX - 1;
        memcpy(y, x + (row * A + a) * S, (size_t)size);
      }
}
