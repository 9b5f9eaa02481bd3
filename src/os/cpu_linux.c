/* cpu_linux.c - CPU affinity, topology, container quota, and the name of the processor. */
#define _GNU_SOURCE
#include "os/cgroup_linux.h"
#include "os/cpu.h"
#include "os/cpu_linux.h"
#include "os/proc_linux.h"

#include "base/error.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int fb_cpu_allowed(int **out)
{
    for (int max = 1024; max <= 1 << 20; max *= 4) {
        cpu_set_t *set = CPU_ALLOC((size_t)max);
        size_t size = CPU_ALLOC_SIZE((size_t)max);
        FB_ASSERT(set);
        int rc = sched_getaffinity(0, size, set);
        int errnum = errno, n = 0;
        if (rc == 0) {
            *out = fb_xmalloc((size_t)CPU_COUNT_S(size, set) * sizeof **out);
            for (int cpu = 0; cpu < max; cpu++) {
                if (CPU_ISSET_S((size_t)cpu, size, set)) {
                    (*out)[n++] = cpu;
                }
            }
        }
        CPU_FREE(set);
        if (rc == 0) {
            return n;
        }
        if (errnum != EINVAL) { /* EINVAL: the kernel's set is larger */
            break;
        }
    }
    int n = (int)sysconf(_SC_NPROCESSORS_ONLN);
    n = n > 0 ? n : 1;
    *out = fb_xmalloc((size_t)n * sizeof **out);
    for (int i = 0; i < n; i++) {
        (*out)[i] = i;
    }
    return n;
}

/* A core is identified by the first of its hyperthreads. */
static int core_of(const char *root, int cpu)
{
    char path[128], text[64];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    int first;
    if (!fb_proc_text(root, path, text, sizeof text) || sscanf(text, "%d", &first) != 1) {
        return cpu;
    }
    return first;
}

int fb_cpu_cores(const char *root, const int *cpus, int n)
{
    int *core = fb_xmalloc((size_t)n * sizeof *core);
    int cores = 0;
    for (int i = 0; i < n; i++) {
        int c = core_of(root, cpus[i]);
        int j = 0;
        while (j < cores && core[j] != c) {
            j++;
        }
        core[j] = c;
        cores += j == cores;
    }
    free(core);
    return cores;
}

int fb_cpu_count(void)
{
    int *cpus = NULL;
    int n = fb_cpu_allowed(&cpus);
    int cores = fb_cpu_cores("", cpus, n);
    free(cpus);
    /* Rounded down: above the quota, all threads are stopped at once for the rest of a period. */
    double quota = fb_cgroup_cpus("");
    if (quota > 0 && quota < cores) {
        cores = (int)quota;
    }
    return cores > 1 ? cores : 1;
}

/* Whether llama.cpp's CPU backends have kernels of their own for this flag. */
static bool selects_kernels(const char *flag)
{
    static const char *const prefixes[] = {"avx", "amx", "fma", "f16c", "bmi2", "sse3", "ssse3",
        "sse4", "asimd", "sve", "sme", "i8mm", "bf16", "fphp", "vsx", "vxe", "lasx", "lsx"};
    if (!strncmp(flag, "smep", 4)) { /* x86's SMEP, not Arm's SME */
        return false;
    }
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        if (!strncmp(flag, prefixes[i], strlen(prefixes[i]))) {
            return true;
        }
    }
    return false;
}

/* The text after "key<blanks>: " in /proc/cpuinfo, up to the end of the file; NULL when there is no
 * such line. */
static const char *cpuinfo_value(const char *text, const char *key)
{
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (!strncmp(line, key, strlen(key))) {
            const char *p = line + strlen(key);
            p += strspn(p, " \t");
            if (*p == ':') {
                return p + 1 + strspn(p + 1, " ");
            }
        }
    }
    return NULL;
}

static void add_text(char *buf, size_t cap, const char *glue, const char *text, size_t n)
{
    size_t used = strlen(buf);
    snprintf(buf + used, cap - used, "%s%.*s", glue, (int)n, text);
}

void fb_cpu_describe(const char *root, char *buf, size_t cap)
{
    char text[16384]; /* the first processor's paragraph is enough */
    buf[0] = 0;
    if (!fb_proc_text(root, "/proc/cpuinfo", text, sizeof text)) {
        text[0] = 0;
    }
    const char *name = cpuinfo_value(text, "model name");
    const char *part = cpuinfo_value(text, "CPU part");
    if (name) {
        add_text(buf, cap, "", name, strcspn(name, "\n"));
    } else if (part) { /* on Arm the kernel gives only numbers */
        const char *maker = cpuinfo_value(text, "CPU implementer");
        add_text(buf, cap, "Arm ", maker ? maker : "?", maker ? strcspn(maker, "\n") : 1);
        add_text(buf, cap, "/", part, strcspn(part, "\n"));
    } else {
        add_text(buf, cap, "", "unknown processor", 17);
    }
    const char *flags = cpuinfo_value(text, "flags");
    flags = flags ? flags : cpuinfo_value(text, "Features");
    const char *glue = ": ";
    while (flags && *flags && *flags != '\n') {
        size_t n = strcspn(flags, " \n");
        if (selects_kernels(flags)) {
            add_text(buf, cap, glue, flags, n);
            glue = " ";
        }
        flags += n + (flags[n] == ' ');
    }
}

static char name_text[1024];

static void fill_name(void)
{
    fb_cpu_describe("", name_text, sizeof name_text);
}

const char *fb_cpu_name(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fill_name);
    return name_text;
}
