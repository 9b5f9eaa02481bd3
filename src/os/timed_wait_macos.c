/* timed_wait_macos.c - see timed_wait.h. Condition variables have no choice of clocks here, but a
 * wait for a duration. */
#include "os/timed_wait.h"

#include <errno.h>
#include <time.h>

#include "base/units.h"

#define SECOND_NS 1000000000u

void fb_timed_wait_init(pthread_cond_t *cond)
{
    pthread_cond_init(cond, NULL);
}

bool fb_timed_wait(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t until_ns)
{
    uint64_t now = fb_now_ns(), left = until_ns > now ? until_ns - now : 0;
    struct timespec duration = {
        .tv_sec = (time_t)(left / SECOND_NS), .tv_nsec = (long)(left % SECOND_NS)};
    return pthread_cond_timedwait_relative_np(cond, lock, &duration) != ETIMEDOUT;
}
