/* timed_wait.h - waits for a condition with a time limit that changes of the date do not affect. */
#ifndef FB_OS_TIMED_WAIT_H
#define FB_OS_TIMED_WAIT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* Initializes a condition variable for fb_timed_wait. pthread_cond_wait works on it, too. */
void fb_timed_wait_init(pthread_cond_t *cond);

/* pthread_cond_wait until fb_now_ns() is `until_ns`. False if that time has come. */
bool fb_timed_wait(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t until_ns);

#endif
