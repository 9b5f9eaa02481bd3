/* watch_posix.c - see watch.h. */
#include "os/watch.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "base/error.h"
#include "base/units.h"
#include "os/thread.h"

/* A look costs some 10 us (reads of /proc and of control files that stay open). */
uint32_t st_watch_interval_us = 20000;

struct st_watch {
    struct st_watch_calls calls;
    void *user;
    struct st_memory_reader *reader;
    pthread_t thread;
    pthread_mutex_t turn;
    atomic_bool stop;
};

static void *run(void *arg)
{
    struct st_watch *w = arg;
    const struct timespec pause = {
        st_watch_interval_us / 1000000, (long)(st_watch_interval_us % 1000000) * 1000};
    while (!atomic_load(&w->stop)) {
        struct st_memory_state state;
        st_memory_reader_read(w->reader, &state);
        w->calls.look(w->user, &state, st_now_ns());
        if (pthread_mutex_trylock(&w->turn) == 0) {
            w->calls.act(w->user);
            pthread_mutex_unlock(&w->turn);
        }
        nanosleep(&pause, NULL);
    }
    return NULL;
}

struct st_watch *st_watch_start(const struct st_watch_calls *calls, void *user)
{
    struct st_watch *w = st_xcalloc(1, sizeof *w);
    w->calls = *calls;
    w->user = user;
    w->reader = st_memory_reader_new();
    pthread_mutex_init(&w->turn, NULL);
    if (st_thread_start(&w->thread, run, w)) {
        st_memory_reader_free(w->reader);
        pthread_mutex_destroy(&w->turn);
        free(w);
        return NULL;
    }
    return w;
}

void st_watch_stop(struct st_watch *w)
{
    if (w) {
        atomic_store(&w->stop, true);
        pthread_join(w->thread, NULL);
        st_memory_reader_free(w->reader);
        pthread_mutex_destroy(&w->turn);
        free(w);
    }
}

void st_watch_enter(struct st_watch *w)
{
    if (w) {
        pthread_mutex_lock(&w->turn);
    }
}

void st_watch_leave(struct st_watch *w)
{
    if (w) {
        pthread_mutex_unlock(&w->turn);
    }
}
