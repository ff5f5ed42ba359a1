/* Steps that are worth it, done by several threads: a small pool that spins briefly, then parks. One run uses it at a time; a
 * second one that comes meanwhile works alone. NETWRIGHT_THREADS is the most there can be, 1 unless it is defined. */
#include "base.h"

typedef void nw_task(void *const *p, nw_share s);

#if NETWRIGHT_THREADS > 1 && !defined(NW_PART)
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#if defined(__x86_64__) || defined(__i386__)
#define NW_PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define NW_PAUSE() __asm__ volatile("yield")
#else
#define NW_PAUSE() ((void)0)
#endif
enum { NW_SPINS = 2000 }; /* some tens of microseconds */

static struct {
  pthread_mutex_t lock;
  pthread_cond_t wake;
  nw_task *task;
  void *const *p;
  unsigned round;
  int pending, sleeping, busy, parts;
  pid_t owner;
} nw_pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static void *nw_worker(void *number) {
  const int part = (int)(intptr_t)number;
  unsigned seen = 0;
  for (;;) {
    int spins = 0;
    while (__atomic_load_n(&nw_pool.round, __ATOMIC_SEQ_CST) == seen) {
      if (++spins < NW_SPINS) {
        NW_PAUSE();
        continue;
      }
      pthread_mutex_lock(&nw_pool.lock);
      __atomic_add_fetch(&nw_pool.sleeping, 1, __ATOMIC_SEQ_CST);
      while (__atomic_load_n(&nw_pool.round, __ATOMIC_SEQ_CST) == seen) pthread_cond_wait(&nw_pool.wake, &nw_pool.lock);
      __atomic_sub_fetch(&nw_pool.sleeping, 1, __ATOMIC_SEQ_CST);
      pthread_mutex_unlock(&nw_pool.lock);
    }
    seen++;
    nw_pool.task(nw_pool.p, (nw_share){part, nw_pool.parts});
    __atomic_sub_fetch(&nw_pool.pending, 1, __ATOMIC_ACQ_REL);
  }
  return 0;
}

/* Threads to use: what the environment asks for, else as many as there are processors. */
static int nw_allowed(void) {
  const char *wanted = getenv("NETWRIGHT_THREADS");
  if (wanted && atoi(wanted) > 0) return NW_MIN(atoi(wanted), NETWRIGHT_THREADS);
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return NW_MIN(CPU_COUNT(&set), NETWRIGHT_THREADS);
#endif
  return NETWRIGHT_THREADS;
}

/* Starts the threads; again in a child of fork, which has none. A thread that cannot be had is done without. */
static void nw_start(void) {
  sigset_t all, before;
  nw_pool.lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
  nw_pool.wake = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
  nw_pool.round = 0;
  nw_pool.sleeping = 0;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int wanted = nw_allowed();
  for (nw_pool.parts = 1; nw_pool.parts < wanted; nw_pool.parts++) {
    pthread_t thread;
    if (pthread_create(&thread, 0, nw_worker, (void *)(intptr_t)nw_pool.parts)) break;
    pthread_detach(thread);
  }
  pthread_sigmask(SIG_SETMASK, &before, 0);
  nw_pool.owner = getpid();
}

NW_POOL void nw_together(nw_task *task, void *const *p) {
  if (__atomic_exchange_n(&nw_pool.busy, 1, __ATOMIC_ACQUIRE)) {
    task(p, NW_ALL);
    return;
  }
  if (nw_pool.owner != getpid()) nw_start();
  if (nw_pool.parts > 1) {
    nw_pool.task = task;
    nw_pool.p = p;
    __atomic_store_n(&nw_pool.pending, nw_pool.parts - 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&nw_pool.round, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&nw_pool.sleeping, __ATOMIC_SEQ_CST)) {
      pthread_mutex_lock(&nw_pool.lock);
      pthread_cond_broadcast(&nw_pool.wake);
      pthread_mutex_unlock(&nw_pool.lock);
    }
    task(p, (nw_share){0, nw_pool.parts});
    for (int spins = 0; __atomic_load_n(&nw_pool.pending, __ATOMIC_ACQUIRE); spins++) {
      if (spins < NW_SPINS)
        NW_PAUSE();
      else
        sched_yield();
    }
  } else {
    task(p, NW_ALL);
  }
  __atomic_store_n(&nw_pool.busy, 0, __ATOMIC_RELEASE);
}
#elif NETWRIGHT_THREADS > 1
NW_POOL void nw_together(nw_task *task, void *const *p);
#else
NW_INLINE void nw_together(nw_task *task, void *const *p) { task(p, NW_ALL); }
#endif
