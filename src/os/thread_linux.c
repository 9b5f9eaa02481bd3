/* thread_linux.c - see thread.h. */
#define _GNU_SOURCE
#include "os/thread.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

void fb_thread_lower_priority(void)
{
    (void)setpriority(PRIO_PROCESS, 0, 19); /* of this thread alone */
}

int fb_thread_id(void)
{
    return (int)syscall(SYS_gettid);
}

int fb_thread_cpu(void)
{
    return sched_getcpu();
}

void fb_thread_keep_off(int id, int cpu)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) { /* more processors than fit */
        return;
    }
    if (cpu >= 0 && cpu < CPU_SETSIZE) {
        CPU_CLR(cpu, &set);
    }
    if (CPU_COUNT(&set) > 0) {
        (void)sched_setaffinity(id, sizeof set, &set);
    }
}
