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

/* The system's number of the calling thread, for fb_thread_keep_off. */
int fb_thread_id(void);

/* The processor that the calling thread runs on; -1: unknown. */
int fb_thread_cpu(void);

/* The thread runs where the calling one may, except for one processor; -1: no exception. Without
 * another processor, or where the system does not offer this, nothing happens. */
void fb_thread_keep_off(int id, int cpu);

#endif
