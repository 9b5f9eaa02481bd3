/*
 * proc_linux.h - small readers of /proc and /sys, and what containers allow.
 *
 * `root` is put before every path: "" for this machine, a directory that imitates one in tests.
 */
#ifndef ST_OS_PROC_LINUX_H
#define ST_OS_PROC_LINUX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Reads a text file whole, NUL-terminated, cut at cap - 1. False when it cannot be opened. */
bool st_proc_text(const char *root, const char *path, char *buf, size_t cap);

/* The number after the line's first word `key` (with its ':', if the file has one). */
bool st_proc_field(const char *text, const char *key, uint64_t *out);

/* Memory of the tightest container: the level of any cgroup hierarchy, v1 or v2, with the least
 * left. *limit is UINT64_MAX, *used 0 when there is none. Limits of `total` and above are none. */
void st_cgroup_memory(const char *root, uint64_t total, uint64_t *limit, uint64_t *used);

/* Processors' worth of time this container may use; 0: no quota. */
double st_cgroup_cpus(const char *root);

/* The fields of struct st_memory_state, for a root. */
struct st_memory_state;
void st_memory_state_at(const char *root, struct st_memory_state *out);

/* Physical cores among `n` processors (siblings of one core count once). */
int st_cpu_cores(const char *root, const int *cpus, int n);

/* "model name: flag flag ..." from /proc/cpuinfo, only flags that select kernels. */
void st_cpu_describe(const char *root, char *buf, size_t cap);

#endif
