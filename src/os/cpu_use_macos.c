/* cpu_use_macos.c - Mach's ticks of all processors; a process cannot be kept off some. */
#include "os/cpu_use.h"

#include <mach/mach.h>
#include <unistd.h>

bool fb_cpu_idle_now(uint64_t *idle_ns, int *n_cpus)
{
    host_cpu_load_info_data_t load;
    mach_msg_type_number_t count = HOST_CPU_LOAD_INFO_COUNT;
    mach_port_t host = mach_host_self();
    kern_return_t rc = host_statistics(host, HOST_CPU_LOAD_INFO, (host_info_t)&load, &count);
    mach_port_deallocate(mach_task_self(), host);
    *n_cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
    /* Ticks are 32 bits wide: they overflow after some 500 days of a processor, and then one
     * difference is wrong. */
    *idle_ns = load.cpu_ticks[CPU_STATE_IDLE] * (1000000000u / (uint64_t)sysconf(_SC_CLK_TCK));
    return rc == KERN_SUCCESS;
}
