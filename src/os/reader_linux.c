/*
 * reader_linux.c - repeated readings of the memory state, with the pressure on memory.
 *
 * Pressure is the kernel's account of lost time (PSI), the line "some": at least one task was
 * stalled
 *
 *      some avg10=0.00 avg60=0.00 avg300=0.00 total=131917020      (microseconds since boot)
 *
 * We use differences of `total`: the averages stay high for ten seconds after the cause is gone.
 * The kernel updates it every two seconds.
 */
#include "os/cgroup_linux.h"
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
    uint64_t since_ns;   /* 0: not read yet */
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

/* The fraction of time lost between the last two readings that were a window apart. */
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
        out->pressure = 0; /* some other container is short of memory, not the machine */
    }
}
