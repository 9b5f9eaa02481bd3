/* thread.h - starts helper threads, besides those of the program and of llama.cpp. */
#ifndef FB_OS_THREAD_H
#define FB_OS_THREAD_H

#include <pthread.h>
#include <stddef.h>

/* Starts a thread with all signals blocked and a stack of 256 KiB. Returns 0 or an errno, as
 * pthread_create. */
int fb_thread_start(pthread_t *out, void *(*run)(void *arg), void *arg);

/* Runs `run` on a thread with a stack of `stack_bytes`, and waits for it. `stack`: that many bytes
 * to use, aligned to pages; NULL: new memory with a guard page, of which only the part that is used
 * becomes resident, and which is given back. Returns what pthread_create does. */
int fb_thread_call(void *stack, size_t stack_bytes, void *(*run)(void *arg), void *arg);

/* Gives the calling thread the lowest priority. */
void fb_thread_lower_priority(void);

#endif
