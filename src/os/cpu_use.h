/* cpu_use.h - how much of the processors' time this process and other programs used. */
#ifndef FB_OS_CPU_USE_H
#define FB_OS_CPU_USE_H

#include <stdbool.h>
#include <stdint.h>

/* Totals since some moment in the past: only differences of two readings have a meaning. */
struct fb_cpu_use {
    uint64_t now_ns;  /* fb_now_ns */
    uint64_t idle_ns; /* nobody used it, over all processors that this process may run on */
    uint64_t own_ns;  /* by this process */
    int n_cpus;       /* processors that this process may run on; hyperthreads count one each */
};

/* Reads them: some 20 us, more on machines with hundreds of processors. False when the system does
 * not say. */
bool fb_cpu_use_read(struct fb_cpu_use *out);

/* Processors that other programs used, on average, between two readings. */
double fb_cpu_use_by_others(const struct fb_cpu_use *from, const struct fb_cpu_use *to);

/* Blocks for `ns` nanoseconds and returns the same for that time; *n_cpus: processors that this
 * process may run on. 0, and *n_cpus is 1, when the system does not say. */
double fb_cpu_use_watch(uint64_t ns, int *n_cpus);

/* For tests: from now on fb_cpu_use_read reports what `fake` says. It is called on any thread.
 * NULL: the truth again. */
typedef void (*fb_cpu_use_fake)(struct fb_cpu_use *out);
void fb_cpu_use_override(fb_cpu_use_fake fake);

/* The system's part: reads idle_ns and n_cpus. For fb_cpu_use_read only. */
bool fb_cpu_idle_now(uint64_t *idle_ns, int *n_cpus);

#endif
