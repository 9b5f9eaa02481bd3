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

struct st_memory_reader {
    struct st_cgroup cgroup;
    int meminfo;
    int machine_pressure;
    uint64_t total_bytes;
    uint64_t stalled_us; /* at since_ns */
    uint64_t since_ns;   /* 0: not looked yet */
    double pressure;
};

struct st_memory_reader *st_memory_reader_open(void)
{
    struct st_memory_reader *r = st_xcalloc(1, sizeof *r);
    struct st_memory_state state;
    st_memory_state_now(&state);
    r->total_bytes = state.total_bytes;
    st_cgroup_open("", &r->cgroup);
    r->meminfo = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
    r->machine_pressure = open("/proc/pressure/memory", O_RDONLY | O_CLOEXEC);
    return r;
}

void st_memory_reader_close(struct st_memory_reader *r)
{
    st_cgroup_close(&r->cgroup);
    if (r->meminfo >= 0) {
        close(r->meminfo);
    }
    if (r->machine_pressure >= 0) {
        close(r->machine_pressure);
    }
    free(r);
}

bool st_psi_total(const char *text, uint64_t *us)
{
    const char *total = strncmp(text, "some ", 5) == 0 ? strstr(text, "total=") : NULL;
    if (!total || total[6] < '0' || total[6] > '9') {
        return false;
    }
    *us = strtoull(total + 6, NULL, 10);
    return true;
}

/* The share of lost time between two looks that are a window apart. */
static double pressure(struct st_memory_reader *r)
{
    char text[512];
    int fd = r->cgroup.pressure >= 0 ? r->cgroup.pressure : r->machine_pressure;
    uint64_t now = st_now_ns(), us = 0;
    if (r->since_ns && now - r->since_ns < PRESSURE_WINDOW_NS) {
        return r->pressure;
    }
    if (!st_proc_again(fd, text, sizeof text) || !st_psi_total(text, &us)) {
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

void st_memory_reader_look(struct st_memory_reader *r, struct st_memory_state *out)
{
    char text[4096];
    uint64_t kib;
    out->total_bytes = r->total_bytes;
    out->available_bytes = r->total_bytes;
    if (st_proc_again(r->meminfo, text, sizeof text) &&
        st_proc_field(text, "MemAvailable:", &kib)) {
        out->available_bytes = st_min(kib * ST_KIB, r->total_bytes);
    }
    st_cgroup_read(&r->cgroup, r->total_bytes, &out->limit_bytes, &out->limit_used_bytes);
    out->pressure = pressure(r);
    if (r->cgroup.pressure < 0 && out->available_bytes > r->total_bytes / 8) {
        out->pressure = 0; /* somebody is short of memory, in a container of its own */
    }
}
