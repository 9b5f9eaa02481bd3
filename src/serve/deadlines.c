#include "serve/deadlines.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

#include "base/error.h"
#include "base/units.h"

#define SECOND_NS 1000000000u

struct fb_deadlines {
    uint64_t wait_ns;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* Guarded by `lock`. */
    struct fb_deadline ring; /* a list head; in order of starting, which is that of their times */
    bool quit;
};

static void unlink_deadline(struct fb_deadline *d)
{
    if (d->at_ns) {
        d->before->after = d->after;
        d->after->before = d->before;
        d->at_ns = 0;
    }
}

/* Waits until the first deadline, or up to a second longer, or until the ring changes. With the
 * lock held. */
static void wait(struct fb_deadlines *ds)
{
    const struct fb_deadline *first = ds->ring.after;
    if (first == &ds->ring) {
        pthread_cond_wait(&ds->changed, &ds->lock);
        return;
    }
    struct timespec until;
    timespec_get(&until, TIME_UTC); /* the clock of pthread_cond_timedwait, also on macOS */
    uint64_t now = fb_now_ns();
    until.tv_sec += (time_t)(first->at_ns > now ? (first->at_ns - now) / SECOND_NS : 0) + 1;
    pthread_cond_timedwait(&ds->changed, &ds->lock, &until);
}

static void *watch(void *user)
{
    struct fb_deadlines *ds = user;
    pthread_mutex_lock(&ds->lock);
    while (!ds->quit) {
        struct fb_deadline *first = ds->ring.after;
        if (first != &ds->ring && first->at_ns <= fb_now_ns()) {
            shutdown(first->fd, SHUT_RDWR);
            unlink_deadline(first);
        } else {
            wait(ds);
        }
    }
    pthread_mutex_unlock(&ds->lock);
    return NULL;
}

struct fb_deadlines *fb_deadlines_new(int seconds)
{
    struct fb_deadlines *ds = fb_xcalloc(1, sizeof *ds);
    ds->wait_ns = (uint64_t)seconds * SECOND_NS;
    ds->ring.before = ds->ring.after = &ds->ring;
    pthread_mutex_init(&ds->lock, NULL);
    pthread_cond_init(&ds->changed, NULL);
    if (pthread_create(&ds->thread, NULL, watch, ds) != 0) {
        free(ds);
        return NULL;
    }
    return ds;
}

void fb_deadlines_free(struct fb_deadlines *ds)
{
    if (!ds) {
        return;
    }
    pthread_mutex_lock(&ds->lock);
    FB_ASSERT(ds->ring.after == &ds->ring);
    ds->quit = true;
    pthread_cond_signal(&ds->changed);
    pthread_mutex_unlock(&ds->lock);
    pthread_join(ds->thread, NULL);
    pthread_cond_destroy(&ds->changed);
    pthread_mutex_destroy(&ds->lock);
    free(ds);
}

void fb_deadline_start(struct fb_deadlines *ds, struct fb_deadline *d)
{
    pthread_mutex_lock(&ds->lock);
    unlink_deadline(d);
    d->at_ns = fb_now_ns() + ds->wait_ns;
    d->before = ds->ring.before;
    d->after = &ds->ring;
    d->before->after = d->after->before = d;
    pthread_cond_signal(&ds->changed);
    pthread_mutex_unlock(&ds->lock);
}

void fb_deadline_stop(struct fb_deadlines *ds, struct fb_deadline *d)
{
    pthread_mutex_lock(&ds->lock);
    unlink_deadline(d);
    pthread_mutex_unlock(&ds->lock);
}
