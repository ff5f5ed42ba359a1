/* Start of a Cortex-M program: the vector table, memory as C expects it, the floating-point unit. */
#include <stdint.h>

extern uint32_t nw_data_from, nw_data_start, nw_data_end, nw_bss_start, nw_bss_end, nw_stack_top;
int main(void);
void nw_exit(int status);

void Reset_Handler(void) {
  *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20; /* CPACR: full access to the floating-point unit */
  __asm__ volatile("dsb\n isb");
  const uint32_t *from = &nw_data_from;
  for (uint32_t *to = &nw_data_start; to < &nw_data_end;) *to++ = *from++;
  for (uint32_t *to = &nw_bss_start; to < &nw_bss_end;) *to++ = 0;
  nw_exit(main());
}

static void fault(void) { nw_exit(99); }

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    &nw_stack_top, (const void *)Reset_Handler, (const void *)fault, (const void *)fault, (const void *)fault, (const void *)fault,
    (const void *)fault, 0, 0, 0, 0, (const void *)fault, 0, 0, (const void *)fault, (const void *)fault};
