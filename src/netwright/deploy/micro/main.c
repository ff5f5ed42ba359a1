/* Runs the network on floats from the file `input` of the host and writes its outputs and the instructions that each run took. On a
 * Cortex-M through semihosting (Arm IHI 0100), elsewhere through the C library. */
#include "model.h"
#include <stdint.h>

static float in[MODEL_INPUT_ELEMENTS], out[MODEL_OUTPUT_ELEMENTS];

#if defined(__ARM_ARCH_PROFILE) && __ARM_ARCH_PROFILE == 'M'
static int call(int operation, const void *arguments) {
  register int r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = arguments;
  __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}
static int open_file(const char *name, int length, int writing) {
  const uint32_t a[3] = {(uint32_t)name, writing ? 5u : 1u, (uint32_t)length};
  return call(0x01, a);
}
/* Both return how many bytes were not moved. */
static int read_file(int file, void *to, uint32_t n) {
  const uint32_t a[3] = {(uint32_t)file, (uint32_t)to, n};
  return call(0x06, a);
}
static int write_file(int file, const void *from, uint32_t n) {
  const uint32_t a[3] = {(uint32_t)file, (uint32_t)from, n};
  return call(0x05, a);
}
static void close_file(int file) {
  const uint32_t a[1] = {(uint32_t)file};
  call(0x02, a);
}
void nw_exit(int status) {
  const uint32_t a[2] = {0x20026u, (uint32_t)status};
  for (;;) call(0x20, a);
}
/* SysTick counts the board's clock down; QEMU with -icount moves that clock by instructions. */
static void start_clock(void) {
  *(volatile uint32_t *)0xE000E014u = 0xFFFFFFu;
  *(volatile uint32_t *)0xE000E018u = 0;
  *(volatile uint32_t *)0xE000E010u = 5;
}
static uint32_t now(void) { return 0xFFFFFFu - *(volatile uint32_t *)0xE000E018u; }
#else
#include <stdio.h>
static FILE *files[2];
static int open_file(const char *name, int length, int writing) {
  (void)length;
  files[writing] = fopen(name, writing ? "wb" : "rb");
  return files[writing] ? writing : -1;
}
static int read_file(int file, void *to, uint32_t n) { return (int)(n - fread(to, 1, n, files[file])); }
static int write_file(int file, const void *from, uint32_t n) { return (int)(n - fwrite(from, 1, n, files[file])); }
static void close_file(int file) { fclose(files[file]); }
static void start_clock(void) {}
static uint32_t now(void) { return 0; }
#endif

int main(void) {
  const int from = open_file("input", 5, 0), to = open_file("output", 6, 1);
  if (from < 0 || to < 0) return 2;
  start_clock();
  while (read_file(from, in, sizeof in) == 0) {
    const uint32_t before = now();
    model_run(in, out); /* 0, or the exit that was taken */
    const uint32_t ticks = (now() - before) & 0xFFFFFFu; /* the counter has 24 bits */
    if (write_file(to, out, sizeof out) || write_file(to, &ticks, sizeof ticks)) return 4;
  }
  close_file(to);
  return 0;
}
