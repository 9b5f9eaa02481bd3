/*
 * proc_linux.h - small readers of /proc and /sys, and what containers allow.
 *
 * `root` is put before every path: "" for this machine, a directory that imitates one in tests.
 */
#ifndef FB_OS_PROC_LINUX_H
#define FB_OS_PROC_LINUX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Reads a text file whole, NUL-terminated, cut at cap - 1. False when it cannot be opened. */
bool fb_proc_text(const char *root, const char *path, char *buf, size_t cap);

/* Reads an open file again from its beginning, cut at cap - 1. False when that fails. */
bool fb_proc_again(int fd, char *buf, size_t cap);

/* The number after the line's first word `key` (with its ':', if the file has one). */
bool fb_proc_field(const char *text, const char *key, uint64_t *out);

/* Memory of the tightest container: the level of any cgroup hierarchy, v1 or v2, with the least
 * left. *limit is UINT64_MAX, *used 0 when there is none. Limits of `total` and above are none. */
void fb_cgroup_memory(const char *root, uint64_t total, uint64_t *limit, uint64_t *used);

/* The same, again and again: the files of every level stay open. Levels beyond the first 16 are left
 * out: they are the ones nearest to the root. */
enum { FB_CGROUP_MAX, FB_CGROUP_HIGH, FB_CGROUP_USED, FB_CGROUP_STAT, FB_CGROUP_FILES };
#define FB_CGROUP_LEVELS 16
struct fb_cgroup_level {
    bool v2;
    int fd[FB_CGROUP_FILES]; /* -1: there is none */
};
struct fb_cgroup {
    struct fb_cgroup_level levels[FB_CGROUP_LEVELS];
    int n;
    int pressure; /* memory.pressure of our own level, -1: there is none */
};
void fb_cgroup_open(const char *root, struct fb_cgroup *out);
void fb_cgroup_read(const struct fb_cgroup *group, uint64_t total, uint64_t *limit, uint64_t *used);
void fb_cgroup_close(struct fb_cgroup *group);

/* The total of the line "some" of a pressure file, in microseconds. */
bool fb_psi_total(const char *text, uint64_t *us);

/* Processors' worth of time this container may use; 0: no quota. */
double fb_cgroup_cpus(const char *root);

/* The fields of struct fb_memory_state, for a root. */
struct fb_memory_state;
void fb_memory_state_at(const char *root, struct fb_memory_state *out);

/* The processors this process may run on. Returns how many; *out is the caller's to free. */
int fb_cpu_allowed(int **out);

/* Ticks in which the n processors were idle. False when not all of them are in /proc/stat. */
bool fb_cpu_idle_at(const char *root, const int *cpus, int n, uint64_t *ticks);

/* Physical cores among `n` processors (siblings of one core count once). */
int fb_cpu_cores(const char *root, const int *cpus, int n);

/* "model name: flag flag ..." from /proc/cpuinfo, only flags that select kernels. */
void fb_cpu_describe(const char *root, char *buf, size_t cap);

#endif
