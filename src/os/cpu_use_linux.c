/* cpu_use_linux.c - idle time from /proc/stat, in ticks of 10 ms per processor. */
#include "os/cpu_use.h"
#include "os/cpu_linux.h"
#include "os/proc_linux.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"

/* The lines of all processors; the long ones of interrupts come after them. */
#define LINE_BYTES 160

static bool contains(const int *cpus, int n, int cpu)
{
    int low = 0;
    while (low < n && cpus[low] != cpu) {
        low++;
    }
    return low < n;
}

bool fb_cpu_idle_at(const char *root, const int *cpus, int n, uint64_t *ticks)
{
    size_t cap = ((size_t)sysconf(_SC_NPROCESSORS_CONF) + 64) * LINE_BYTES;
    char *text = fb_xmalloc(cap);
    int found = 0;
    *ticks = 0;
    if (!fb_proc_text(root, "/proc/stat", text, cap)) {
        text[0] = 0;
    }
    for (const char *line = text; line; line = strchr(line, '\n')) {
        int cpu;
        unsigned long long idle, waiting; /* for a disk, which is idle, too */
        line += *line == '\n';
        if (sscanf(line, "cpu%d %*u %*u %*u %llu %llu", &cpu, &idle, &waiting) == 3 &&
            contains(cpus, n, cpu)) {
            *ticks += idle + waiting;
            found++;
        }
    }
    free(text);
    return found == n;
}

bool fb_cpu_idle_now(uint64_t *idle_ns, int *n_cpus)
{
    int *cpus = NULL;
    uint64_t ticks = 0;
    *n_cpus = fb_cpu_allowed(&cpus);
    bool read = fb_cpu_idle_at("", cpus, *n_cpus, &ticks);
    *idle_ns = ticks * (1000000000u / (uint64_t)sysconf(_SC_CLK_TCK));
    free(cpus);
    return read;
}
