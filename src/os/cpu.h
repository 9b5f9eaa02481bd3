/* cpu.h - the processors that this process may use. Thread-safe. */
#ifndef FB_OS_CPU_H
#define FB_OS_CPU_H

/* Physical cores this process may run on, at least 1. Linux: CPU affinity and the containers' quota
 * count. macOS: performance cores only. */
int fb_cpu_count(void);

/* Model name and the instruction-set flags that select kernels, in one line: for profiles and
 * sidecars, which are valid for one kind of processor. Never NULL; valid for ever. */
const char *fb_cpu_name(void);

#endif
