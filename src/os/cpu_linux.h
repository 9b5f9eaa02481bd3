/* cpu_linux.h - the parts of cpu_linux.c that tests call with a `root` of their own
 * (proc_linux.h). */
#ifndef FB_OS_CPU_LINUX_H
#define FB_OS_CPU_LINUX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Physical cores among `n` processors (the hyperthreads of one core count once). */
int fb_cpu_cores(const char *root, const int *cpus, int n);

/* "model name: flag flag ..." from /proc/cpuinfo, with only the flags that select kernels. */
void fb_cpu_describe(const char *root, char *buf, size_t cap);

/* The processors this process may run on. Returns their number; the caller frees *out. */
int fb_cpu_allowed(int **out);

/* Ticks in which the n processors were idle. False when not all of them are in /proc/stat. */
bool fb_cpu_idle_at(const char *root, const int *cpus, int n, uint64_t *ticks);

#endif
