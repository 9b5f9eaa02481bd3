/* thread.h - starts helper threads, besides those of the program and of llama.cpp. */
#ifndef FB_OS_THREAD_H
#define FB_OS_THREAD_H

#include <pthread.h>

/* Starts a thread with all signals blocked and a stack of 256 KiB. Returns 0 or an errno, as
 * pthread_create. */
int fb_thread_start(pthread_t *out, void *(*run)(void *arg), void *arg);

/* Gives the calling thread the lowest priority. */
void fb_thread_lower_priority(void);

#endif
