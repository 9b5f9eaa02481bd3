/* memory_macos.c - figures from Mach and sysctl. macOS has no containers that limit memory. */
#include "os/memory.h"
#include "os/memory_platform.h"

#include "base/units.h"

#include <malloc/malloc.h>
#include <libproc.h>
#include <mach/mach.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sysctl.h>
#include <unistd.h>

void fb_memory_state_now(struct fb_memory_state *out)
{
    uint64_t total = 0;
    size_t size = sizeof total;
    if (sysctlbyname("hw.memsize", &total, &size, NULL, 0)) {
        total = (uint64_t)sysconf(_SC_PHYS_PAGES) * fb_vm_page_size();
    }
    out->total_bytes = total;
    out->available_bytes = total;
    out->limit_bytes = UINT64_MAX;
    out->limit_used_bytes = 0;
    out->pressure = 0;
    vm_statistics64_data_t vm;
    mach_msg_type_number_t count = HOST_VM_INFO64_COUNT;
    mach_port_t host = mach_host_self();
    if (host_statistics64(host, HOST_VM_INFO64, (host_info64_t)&vm, &count) == KERN_SUCCESS) {
        /* free_count includes the speculative pages; file-backed pages can be dropped. Inactive
         * anonymous pages do not count: they would have to be compressed or swapped. */
        uint64_t pages = (uint64_t)vm.free_count + vm.purgeable_count + vm.external_page_count;
        out->available_bytes = fb_min(pages * fb_vm_page_size(), total);
    }
    mach_port_deallocate(mach_task_self(), host);
}

static bool task(struct mach_task_basic_info *info)
{
    mach_msg_type_number_t count = MACH_TASK_BASIC_INFO_COUNT;
    return task_info(mach_task_self(), MACH_TASK_BASIC_INFO, (task_info_t)info, &count) ==
           KERN_SUCCESS;
}

uint64_t fb_memory_rss(void)
{
    struct mach_task_basic_info info;
    return task(&info) ? info.resident_size : 0;
}

uint64_t fb_memory_peak_rss(void)
{
    struct mach_task_basic_info info;
    return task(&info) ? info.resident_size_max : 0;
}

uint64_t fb_os_written_bytes(void)
{
    struct rusage_info_v4 info;
    int rc = proc_pid_rusage(getpid(), RUSAGE_INFO_V4, (rusage_info_t *)&info);
    return rc == 0 ? info.ri_diskio_byteswritten : 0;
}

/* Apple's processors have 16 KiB pages and no larger ones for ordinary programs. */
uint64_t fb_vm_commit_left(void)
{
    return UINT64_MAX;
}

uint64_t fb_vm_data_bytes(void)
{
    return 0;
}

void fb_vm_advise_huge(void *base, size_t size)
{
    (void)base;
    (void)size;
}

void fb_vm_advise_small(void *base, size_t size)
{
    (void)base;
    (void)size;
}

bool fb_vm_populate_call(void *base, size_t size)
{
    (void)base;
    (void)size;
    return false;
}

/* MADV_FREE keeps the old bytes until memory is short; fresh pages in the same place are zero. */
bool fb_vm_discard_call(void *base, size_t size)
{
    return mmap(base, size, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED;
}

size_t fb_memory_block_bytes(const void *block)
{
    return malloc_size(block);
}
