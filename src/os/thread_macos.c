/* thread_macos.c - see thread.h. */
#include <pthread/qos.h>

#include "os/thread.h"

void fb_thread_lower_priority(void)
{
    (void)pthread_set_qos_class_self_np(QOS_CLASS_BACKGROUND, 0);
}

int fb_thread_id(void)
{
    return 0;
}

int fb_thread_cpu(void)
{
    return -1;
}

/* Threads cannot be kept off a processor. */
void fb_thread_keep_off(int id, int cpu)
{
    (void)id;
    (void)cpu;
}
