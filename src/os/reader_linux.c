/*
 * reader_linux.c - the memory's state read again and again, and the pressure on it.
 *
 * Pressure is the kernel's own account of lost time (PSI), "some": one task or more stood still
 *
 *      some avg10=0.00 avg60=0.00 avg300=0.00 total=131917020      (microseconds since the start)
 *
 * of which the total is used: averages would go on complaining for ten seconds after the cause has
 * gone. The kernel renews it every two seconds.
 */
#include "os/memory.h"
#include "os/memory_platform.h"
#include "os/proc_linux.h"

#include "base/error.h"
#include "base/units.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PRESSURE_WINDOW_NS 2000000000ull

struct fb_memory_reader {
    struct fb_cgroup cgroup;
    int meminfo;
    int machine_pressure;
    uint64_t total_bytes;
    uint64_t stalled_us; /* at since_ns */
    uint64_t since_ns;   /* 0: not looked yet */
    double pressure;
};

struct fb_memory_reader *fb_memory_reader_open(void)
{
    struct fb_memory_reader *r = fb_xcalloc(1, sizeof *r);
    struct fb_memory_state state;
    fb_memory_state_now(&state);
    r->total_bytes = state.total_bytes;
    fb_cgroup_open("", &r->cgroup);
    r->meminfo = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
    r->machine_pressure = open("/proc/pressure/memory", O_RDONLY | O_CLOEXEC);
    return r;
}

void fb_memory_reader_close(struct fb_memory_reader *r)
{
    fb_cgroup_close(&r->cgroup);
    if (r->meminfo >= 0) {
        close(r->meminfo);
    }
    if (r->machine_pressure >= 0) {
        close(r->machine_pressure);
    }
    free(r);
}

bool fb_psi_total(const char *text, uint64_t *us)
{
    const char *total = strncmp(text, "some ", 5) == 0 ? strstr(text, "total=") : NULL;
    if (!total || total[6] < '0' || total[6] > '9') {
        return false;
    }
    *us = strtoull(total + 6, NULL, 10);
    return true;
}

/* The share of lost time between two looks that are a window apart. */
static double pressure(struct fb_memory_reader *r)
{
    char text[512];
    int fd = r->cgroup.pressure >= 0 ? r->cgroup.pressure : r->machine_pressure;
    uint64_t now = fb_now_ns(), us = 0;
    if (r->since_ns && now - r->since_ns < PRESSURE_WINDOW_NS) {
        return r->pressure;
    }
    if (!fb_proc_again(fd, text, sizeof text) || !fb_psi_total(text, &us)) {
        return 0;
    }
    r->pressure = 0;
    if (r->since_ns && us > r->stalled_us) {
        double share = (double)(us - r->stalled_us) * 1e3 / (double)(now - r->since_ns);
        r->pressure = share < 1 ? share : 1;
    }
    r->stalled_us = us;
    r->since_ns = now;
    return r->pressure;
}

void fb_memory_reader_look(struct fb_memory_reader *r, struct fb_memory_state *out)
{
    char text[4096];
    uint64_t kib;
    out->total_bytes = r->total_bytes;
    out->available_bytes = r->total_bytes;
    if (fb_proc_again(r->meminfo, text, sizeof text) &&
        fb_proc_field(text, "MemAvailable:", &kib)) {
        out->available_bytes = fb_min(kib * FB_KIB, r->total_bytes);
    }
    fb_cgroup_read(&r->cgroup, r->total_bytes, &out->limit_bytes, &out->limit_used_bytes);
    out->pressure = pressure(r);
    if (r->cgroup.pressure < 0 && out->available_bytes > r->total_bytes / 8) {
        out->pressure = 0; /* somebody is short of memory, in a container of its own */
    }
}
