/* thread.h - threads of our own, beside those of the program and of llama.cpp. */
#ifndef FB_OS_THREAD_H
#define FB_OS_THREAD_H

#include <pthread.h>

/* Starts a thread that takes none of the program's signals, on a small stack: `run` must do without
 * much of its own. Returns what pthread_create does. */
int fb_thread_start(pthread_t *out, void *(*run)(void *arg), void *arg);

/* From now on the calling thread hardly runs where others want the processor. */
void fb_thread_give_way(void);

/* The system's number of the calling thread, for fb_thread_keep_off. */
int fb_thread_id(void);

/* The processor that the calling thread runs on; -1: unknown. */
int fb_thread_cpu(void);

/* The thread runs where the calling one may, except for one processor; -1: no exception. Without
 * another processor, or where the system does not offer this, nothing happens. */
void fb_thread_keep_off(int id, int cpu);

#endif
