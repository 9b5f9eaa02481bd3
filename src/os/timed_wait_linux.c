/* timed_wait_linux.c - see timed_wait.h. */
#include "os/timed_wait.h"

#include <errno.h>
#include <time.h>

#define SECOND_NS 1000000000u

void fb_timed_wait_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC); /* the clock of fb_now_ns */
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

bool fb_timed_wait(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t until_ns)
{
    struct timespec until = {
        .tv_sec = (time_t)(until_ns / SECOND_NS), .tv_nsec = (long)(until_ns % SECOND_NS)};
    return pthread_cond_timedwait(cond, lock, &until) != ETIMEDOUT;
}
