/* thread_macos.c - see thread.h. */
#include <pthread/qos.h>

#include "os/thread.h"

void fb_thread_lower_priority(void)
{
    (void)pthread_set_qos_class_self_np(QOS_CLASS_BACKGROUND, 0);
}
