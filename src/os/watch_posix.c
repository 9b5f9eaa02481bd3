/* watch_posix.c - see watch.h. */
#include "os/watch.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "base/error.h"
#include "base/units.h"
#include "os/thread.h"

/* A look takes about 10 us (reads of /proc and of cgroup files that stay open). */
uint32_t fb_watch_interval_us = 20000;

struct fb_watch {
    struct fb_watch_calls calls;
    void *user;
    struct fb_memory_reader *reader;
    pthread_t thread;
    pthread_mutex_t turn;
    atomic_bool stop;
};

static void *run(void *arg)
{
    struct fb_watch *w = arg;
    const struct timespec pause = {
        fb_watch_interval_us / 1000000, (long)(fb_watch_interval_us % 1000000) * 1000};
    while (!atomic_load(&w->stop)) {
        struct fb_memory_state state;
        fb_memory_reader_read(w->reader, &state);
        w->calls.look(w->user, &state, fb_now_ns());
        if (pthread_mutex_trylock(&w->turn) == 0) {
            w->calls.act(w->user);
            pthread_mutex_unlock(&w->turn);
        }
        nanosleep(&pause, NULL);
    }
    return NULL;
}

struct fb_watch *fb_watch_start(const struct fb_watch_calls *calls, void *user)
{
    struct fb_watch *w = fb_xcalloc(1, sizeof *w);
    w->calls = *calls;
    w->user = user;
    w->reader = fb_memory_reader_new();
    pthread_mutex_init(&w->turn, NULL);
    if (fb_thread_start(&w->thread, run, w) != 0) {
        fb_memory_reader_free(w->reader);
        pthread_mutex_destroy(&w->turn);
        free(w);
        return NULL;
    }
    return w;
}

void fb_watch_stop(struct fb_watch *w)
{
    if (w) {
        atomic_store(&w->stop, true);
        pthread_join(w->thread, NULL);
        fb_memory_reader_free(w->reader);
        pthread_mutex_destroy(&w->turn);
        free(w);
    }
}

void fb_watch_enter(struct fb_watch *w)
{
    if (w) {
        pthread_mutex_lock(&w->turn);
    }
}

void fb_watch_leave(struct fb_watch *w)
{
    if (w) {
        pthread_mutex_unlock(&w->turn);
    }
}
