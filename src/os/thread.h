/* thread.h - threads of our own, beside those of the program and of llama.cpp. */
#ifndef FB_OS_THREAD_H
#define FB_OS_THREAD_H

#include <pthread.h>
#include <stddef.h>

/* Starts a thread that takes none of the program's signals, on a small stack: `run` must do without
 * much of its own. Returns what pthread_create does. */
int fb_thread_start(pthread_t *out, void *(*run)(void *arg), void *arg);

/* Runs `run` on a thread with a stack of `stack_bytes`, and waits for it. `stack`: that many bytes
 * to use, aligned to pages; NULL: new memory with a guard page, of which only the part that is used
 * becomes resident, and which is given back. Returns what pthread_create does. */
int fb_thread_call(void *stack, size_t stack_bytes, void *(*run)(void *arg), void *arg);

/* From now on the calling thread hardly runs where others want the processor. */
void fb_thread_give_way(void);

#endif
