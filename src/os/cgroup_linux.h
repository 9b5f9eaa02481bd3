/*
 * cgroup_linux.h - the limits of the containers around this process, in cgroup v1 and v2.
 *
 * `root` as in proc_linux.h.
 */
#ifndef FB_OS_CGROUP_LINUX_H
#define FB_OS_CGROUP_LINUX_H

#include <stdbool.h>
#include <stdint.h>

/* Memory of the tightest container: the level of any cgroup hierarchy, v1 or v2, with the least
 * left. *limit is UINT64_MAX and *used 0 when no level has a limit below `total`. */
void fb_cgroup_memory(const char *root, uint64_t total, uint64_t *limit, uint64_t *used);

/* For reading the same repeatedly: the files of every level stay open. At most 16 levels are read,
 * beginning with our own; those left out are the nearest to the hierarchy's root. */
enum { FB_CGROUP_MAX, FB_CGROUP_HIGH, FB_CGROUP_USED, FB_CGROUP_STAT, FB_CGROUP_FILES };
#define FB_CGROUP_LEVELS 16
struct fb_cgroup_level {
    bool v2;
    int fd[FB_CGROUP_FILES]; /* -1: there is no such file */
};
struct fb_cgroup {
    struct fb_cgroup_level levels[FB_CGROUP_LEVELS];
    int n;
    int pressure; /* memory.pressure of our own level; -1: there is no such file */
};
void fb_cgroup_open(const char *root, struct fb_cgroup *out);
void fb_cgroup_read(const struct fb_cgroup *group, uint64_t total, uint64_t *limit, uint64_t *used);
void fb_cgroup_close(struct fb_cgroup *group);

/* The CPU quota, in processors; 0: none. */
double fb_cgroup_cpus(const char *root);

#endif
