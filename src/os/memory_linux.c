/* memory_linux.c - /proc, cgroups and madvise. */
#define _GNU_SOURCE
#include "os/cgroup_linux.h"
#include "os/memory.h"
#include "os/memory_linux.h"
#include "os/memory_platform.h"
#include "os/proc_linux.h"

#include "base/units.h"

#include <malloc.h>
#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

void fb_memory_state_at(const char *root, struct fb_memory_state *out)
{
    char text[8192];
    uint64_t kib;
    bool known = fb_proc_text(root, "/proc/meminfo", text, sizeof text);
    uint64_t total = (uint64_t)sysconf(_SC_PHYS_PAGES) * fb_vm_page_size();
    if (known && fb_proc_field(text, "MemTotal:", &kib)) {
        total = kib * FB_KIB;
    }
    out->total_bytes = total;
    out->available_bytes = total;
    out->pressure = 0;
    if (known && fb_proc_field(text, "MemAvailable:", &kib)) {
        out->available_bytes = fb_min(kib * FB_KIB, total);
    }
    fb_cgroup_memory(root, total, &out->limit_bytes, &out->limit_used_bytes);
}

void fb_memory_state_now(struct fb_memory_state *out)
{
    fb_memory_state_at("", out);
}

uint64_t fb_memory_rss(void)
{
    char text[256];
    unsigned long long pages = 0;
    if (!fb_proc_text("", "/proc/self/statm", text, sizeof text) ||
        sscanf(text, "%*s %llu", &pages) != 1) {
        return 0;
    }
    return pages * fb_vm_page_size();
}

uint64_t fb_memory_peak_rss(void)
{
    /* Not getrusage: its figure survives exec, so that a small program started by a large one would
     * report that of the large one. */
    char text[4096];
    uint64_t kib = 0;
    if (fb_proc_text("", "/proc/self/status", text, sizeof text)) {
        (void)fb_proc_field(text, "VmHWM:", &kib);
    }
    return fb_max(kib * FB_KIB, fb_memory_rss());
}

uint64_t fb_os_written_bytes(void)
{
    char text[512];
    uint64_t bytes = 0;
    if (fb_proc_text("", "/proc/self/io", text, sizeof text)) {
        (void)fb_proc_field(text, "write_bytes:", &bytes);
    }
    return bytes;
}

uint64_t fb_vm_commit_left(void)
{
    char text[8192];
    uint64_t limit, used;
    if (!fb_proc_text("", "/proc/sys/vm/overcommit_memory", text, sizeof text) || text[0] != '2' ||
        !fb_proc_text("", "/proc/meminfo", text, sizeof text) ||
        !fb_proc_field(text, "CommitLimit:", &limit) ||
        !fb_proc_field(text, "Committed_AS:", &used)) {
        return UINT64_MAX;
    }
    return (limit - fb_min(limit, used)) * FB_KIB;
}

uint64_t fb_vm_data_bytes(void)
{
    char text[4096];
    uint64_t kib = 0;
    if (fb_proc_text("", "/proc/self/status", text, sizeof text)) {
        (void)fb_proc_field(text, "VmData:", &kib);
    }
    return kib * FB_KIB;
}

void fb_vm_advise_huge(void *base, size_t size)
{
    (void)madvise(base, size, MADV_HUGEPAGE);
}

void fb_vm_advise_small(void *base, size_t size)
{
    (void)madvise(base, size, MADV_NOHUGEPAGE);
}

bool fb_vm_populate_call(void *base, size_t size)
{
    int rc;
    do {
        rc = madvise(base, size, MADV_POPULATE_WRITE);
    } while (rc && (errno == EINTR || errno == EAGAIN));
    return rc == 0;
}

bool fb_vm_discard_call(void *base, size_t size)
{
    return madvise(base, size, MADV_DONTNEED) == 0;
}

size_t fb_memory_block_bytes(const void *block)
{
    return malloc_usable_size((void *)block);
}
