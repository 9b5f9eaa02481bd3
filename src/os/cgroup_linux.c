/*
 * cgroup_linux.c - finds this process in the cgroup hierarchies and reads the limits on the way up.
 *
 * /proc/self/cgroup has our path in each hierarchy, /proc/self/mountinfo the mount points:
 *
 *      4:memory:/docker/abc                               (hierarchy : controllers : path)
 *      35 31 0:32 /docker /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
 *                 ^root   ^mount point
 *
 * so our directory is mount point + (path without root). In a cgroup namespace, or with a bind
 * mount that hides the ancestors, that directory may not exist: then the mount point itself is the
 * nearest visible level. Every level from our directory up to the mount point may have a limit; all
 * of them apply, and each level is charged with everything below it.
 */
#include "os/cgroup_linux.h"
#include "os/proc_linux.h"

#include "base/units.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct hierarchy {
    char dir[2048];   /* our level, to be read below `root` */
    size_t mount_len; /* length of the mount point, a prefix of dir */
    bool v2;
};

/* Whether `word` is one of the comma-separated words of `list`. */
static bool has_word(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = list; (p = strstr(p, word)); p += n) {
        if ((p == list || p[-1] == ',') && (p[n] == 0 || p[n] == ',')) {
            return true;
        }
    }
    return false;
}

/* Our path in the hierarchy of a v1 `controller`; in that of v2 when it is NULL. */
static bool own_path(const char *root, const char *controller, char *out, size_t cap)
{
    char text[8192];
    char *save = NULL;
    if (!fb_proc_text(root, "/proc/self/cgroup", text, sizeof text)) {
        return false;
    }
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *names = strchr(line, ':');
        char *path = names ? strchr(++names, ':') : NULL;
        if (!path) {
            continue;
        }
        *path++ = 0;
        if (controller ? has_word(names, controller) : !*names) {
            return snprintf(out, cap, "%s", path) < (int)cap;
        }
    }
    return false;
}

/* Parses one mountinfo line: the mount's root and mount point, if it is the wanted hierarchy. */
static bool parse_mount(char *line, const char *controller, char **mount_root, char **mount_point)
{
    char *tail = strstr(line, " - ");
    if (!tail) {
        return false;
    }
    *tail = 0;
    char *save = NULL, *field[5];
    char *type = strtok_r(tail + 3, " ", &save);
    (void)strtok_r(NULL, " ", &save);
    char *options = strtok_r(NULL, " ", &save);
    if (!type || strcmp(type, controller ? "cgroup" : "cgroup2") ||
        (controller && (!options || !has_word(options, controller)))) {
        return false;
    }
    save = NULL;
    for (int i = 0; i < 5; i++) {
        field[i] = strtok_r(i ? NULL : line, " ", &save);
        if (!field[i]) {
            return false;
        }
    }
    *mount_root = field[3];
    *mount_point = field[4];
    return true;
}

static bool is_dir(const char *root, const char *path)
{
    char full[4096];
    return snprintf(full, sizeof full, "%s%s/.", root, path) < (int)sizeof full &&
           access(full, F_OK) == 0;
}

/* Finds our directory in the hierarchy. False when it is not mounted. */
static bool find_hierarchy(const char *root, const char *controller, struct hierarchy *out)
{
    char path[1024], *line = NULL, *mount_root, *mount;
    size_t cap = 0;
    bool found = false;
    char name[4096];
    snprintf(name, sizeof name, "%s/proc/self/mountinfo", root);
    FILE *f = own_path(root, controller, path, sizeof path) ? fopen(name, "re") : NULL;
    while (f && !found && getline(&line, &cap, f) > 0) {
        line[strcspn(line, "\n")] = 0;
        if (!parse_mount(line, controller, &mount_root, &mount) || !is_dir(root, mount)) {
            continue;
        }
        found = true;
        out->v2 = !controller;
        size_t skip = strcmp(mount_root, "/") ? strlen(mount_root) : 0;
        bool below = !strncmp(path, mount_root, skip) && (path[skip] == '/' || !path[skip]);
        const char *rest = below && strcmp(path + skip, "/") ? path + skip : "";
        int n = snprintf(out->dir, sizeof out->dir, "%s%s", mount, rest);
        out->mount_len = strlen(mount);
        if (n >= (int)sizeof out->dir || strstr(rest, "/..") || !is_dir(root, out->dir)) {
            found = out->mount_len < sizeof out->dir;
            snprintf(out->dir, sizeof out->dir, "%s", mount);
        }
    }
    if (f) {
        fclose(f);
    }
    free(line);
    return found;
}

/* Cuts dir to its parent; false when it is already the mount point. */
static bool go_up(struct hierarchy *h)
{
    char *slash = strrchr(h->dir, '/');
    if (strlen(h->dir) <= h->mount_len || !slash) {
        return false;
    }
    *slash = 0;
    return strlen(h->dir) >= h->mount_len;
}

static bool read_level(
    const char *root, const struct hierarchy *h, const char *file, char *buf, size_t cap)
{
    char path[2304];
    snprintf(path, sizeof path, "%s/%s", h->dir, file);
    return fb_proc_text(root, path, buf, cap);
}

/* UINT64_MAX for anything but a non-negative number, such as "max" and -1. */
static uint64_t number(const char *text)
{
    char *end;
    if (text[0] < '0' || text[0] > '9') {
        return UINT64_MAX;
    }
    uint64_t n = strtoull(text, &end, 10);
    return *end == '\n' || !*end ? n : UINT64_MAX;
}

static uint64_t read_limit(const char *root, const struct hierarchy *h, const char *file)
{
    char text[64];
    return read_level(root, h, file, text, sizeof text) ? number(text) : UINT64_MAX;
}

/* --- Memory -------------------------------------------------------------------------------- */

static int open_at(const char *root, const struct hierarchy *h, const char *file)
{
    char path[4096];
    int n = snprintf(path, sizeof path, "%s%s/%s", root, h->dir, file);
    return n < (int)sizeof path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
}

static void open_level(const char *root, const struct hierarchy *h, struct fb_cgroup_level *out)
{
    static const char *const files[2][FB_CGROUP_FILES] = {
        {"memory.limit_in_bytes", NULL, "memory.usage_in_bytes", "memory.stat"},
        {"memory.max", "memory.high", "memory.current", "memory.stat"},
    };
    out->v2 = h->v2;
    for (int i = 0; i < FB_CGROUP_FILES; i++) {
        out->fd[i] = files[h->v2][i] ? open_at(root, h, files[h->v2][i]) : -1;
    }
}

void fb_cgroup_open(const char *root, struct fb_cgroup *out)
{
    static const char *const controllers[] = {"memory", NULL};
    out->n = 0;
    out->pressure = -1;
    for (int i = 0; i < 2 && out->n < FB_CGROUP_LEVELS; i++) {
        struct hierarchy h;
        if (!find_hierarchy(root, controllers[i], &h)) {
            continue;
        }
        if (h.v2 && strlen(h.dir) > h.mount_len) { /* that of the root is the machine's */
            out->pressure = open_at(root, &h, "memory.pressure");
        }
        do {
            open_level(root, &h, &out->levels[out->n++]);
        } while (out->n < FB_CGROUP_LEVELS && go_up(&h));
    }
}

void fb_cgroup_close(struct fb_cgroup *group)
{
    for (int i = 0; i < group->n; i++) {
        for (int f = 0; f < FB_CGROUP_FILES; f++) {
            if (group->levels[i].fd[f] >= 0) {
                close(group->levels[i].fd[f]);
            }
        }
    }
    if (group->pressure >= 0) {
        close(group->pressure);
    }
    group->n = 0;
    group->pressure = -1;
}

/* The number in an open file; UINT64_MAX as in `number`, and when it cannot be read. */
static uint64_t fd_limit(int fd)
{
    char text[64];
    return fb_proc_again(fd, text, sizeof text) ? number(text) : UINT64_MAX;
}

/* Limit and use of one level. Page cache is charged, too, but the kernel drops it before it kills a
 * process, so it does not count as used. */
static void level_memory(
    const struct fb_cgroup_level *level, uint64_t total, uint64_t *limit, uint64_t *used)
{
    static const char *const keys[2][2] = {
        {"total_inactive_file", "total_active_file"}, {"inactive_file", "active_file"}};
    char stat[8192];
    uint64_t inactive = 0, active = 0, ancestors = UINT64_MAX;
    /* Above memory.high the kernel throttles us to a crawl: as bad as a hard limit. */
    *limit = fb_min(fd_limit(level->fd[FB_CGROUP_MAX]), fd_limit(level->fd[FB_CGROUP_HIGH]));
    *used = 0;
    if (level->v2 && *limit >= total) {
        return;
    }
    if (!fb_proc_again(level->fd[FB_CGROUP_STAT], stat, sizeof stat)) {
        stat[0] = 0;
    }
    (void)fb_proc_field(stat, keys[level->v2][0], &inactive);
    (void)fb_proc_field(stat, keys[level->v2][1], &active);
    if (!level->v2) {
        (void)fb_proc_field(stat, "hierarchical_memory_limit", &ancestors);
        *limit = fb_min(*limit, ancestors);
    }
    uint64_t usage = fd_limit(level->fd[FB_CGROUP_USED]);
    usage = usage == UINT64_MAX ? 0 : usage;
    *used = usage - fb_min(usage, inactive + active);
}

void fb_cgroup_read(const struct fb_cgroup *group, uint64_t total, uint64_t *limit, uint64_t *used)
{
    uint64_t least = UINT64_MAX;
    *limit = UINT64_MAX;
    *used = 0;
    for (int i = 0; i < group->n; i++) {
        uint64_t level_limit, level_used;
        level_memory(&group->levels[i], total, &level_limit, &level_used);
        if (level_limit >= total) {
            continue;
        }
        uint64_t left = level_limit - fb_min(level_limit, level_used);
        if (left < least || (left == least && level_limit < *limit)) {
            least = left;
            *limit = level_limit;
            *used = level_used;
        }
    }
}

void fb_cgroup_memory(const char *root, uint64_t total, uint64_t *limit, uint64_t *used)
{
    struct fb_cgroup group;
    fb_cgroup_open(root, &group);
    fb_cgroup_read(&group, total, limit, used);
    fb_cgroup_close(&group);
}

/* --- Processors ---------------------------------------------------------------------------- */

/* One level's quota in processors; 0: none. cpu.max of v2 is "max 100000" or "150000 100000". */
static double level_cpus(const char *root, const struct hierarchy *h)
{
    char text[128];
    double quota, period;
    if (h->v2) {
        bool two = read_level(root, h, "cpu.max", text, sizeof text) &&
                   sscanf(text, "%lf %lf", &quota, &period) == 2;
        return two && quota > 0 && period > 0 ? quota / period : 0;
    }
    uint64_t q = read_limit(root, h, "cpu.cfs_quota_us"); /* -1: none */
    uint64_t p = read_limit(root, h, "cpu.cfs_period_us");
    return q != UINT64_MAX && p != UINT64_MAX && p ? (double)q / (double)p : 0;
}

double fb_cgroup_cpus(const char *root)
{
    static const char *const controllers[] = {"cpu", NULL};
    double least = 0;
    for (int i = 0; i < 2; i++) {
        struct hierarchy h;
        if (!find_hierarchy(root, controllers[i], &h)) {
            continue;
        }
        do {
            double cpus = level_cpus(root, &h);
            if (cpus > 0 && (least <= 0 || cpus < least)) {
                least = cpus;
            }
        } while (go_up(&h));
    }
    return least;
}
