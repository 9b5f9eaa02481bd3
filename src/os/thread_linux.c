/* thread_linux.c - see thread.h. */
#include "os/thread.h"

#include <sys/resource.h>

void fb_thread_lower_priority(void)
{
    (void)setpriority(PRIO_PROCESS, 0, 19); /* of this thread alone */
}
