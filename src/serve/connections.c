/*
 * connections.c - see connections.h. A ring holds the connections that have a deadline, in order of
 * it; a thread shuts down the sockets whose deadline has passed, and every other change is made by
 * the thread of the connection. One lock guards everything.
 */
#include "serve/connections.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/units.h"
#include "os/thread.h"
#include "os/timed_wait.h"

#define SECOND_NS     1000000000u
#define MS_NS         1000000u
#define ROOM_WAIT_NS  (1000 * (uint64_t)MS_NS)
#define EVICT_WAIT_NS (100 * (uint64_t)MS_NS)
#define GRACE_NS      (500 * (uint64_t)MS_NS) /* for a client that has just connected */
#define BUCKETS       256

struct fb_connections {
    uint64_t wait_ns;
    int max;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* the first deadline */
    pthread_cond_t changed_count;
    /* Guarded by `lock`. */
    struct fb_connection ring; /* a list head: connections with a deadline, in order of these */
    int n_reserved;            /* places of connections that libmicrohttpd has not begun */
    int n_open;
    int n_ended;    /* of these, shut down and not yet closed */
    int n_answered; /* computing or sending */
    bool quit;
};

/* --- Deadlines. With the lock held --------------------------------------------------------- */

static void stop_deadline(struct fb_connection *c)
{
    if (c->at_ns) {
        c->before->after = c->after;
        c->after->before = c->before;
        c->at_ns = 0;
    }
}

/* All deadlines have the same length, so the end of the ring is the place of a new one. */
static void start_deadline(struct fb_connections *cs, struct fb_connection *c)
{
    stop_deadline(c);
    c->at_ns = fb_now_ns() + cs->wait_ns;
    c->before = cs->ring.before;
    c->after = &cs->ring;
    c->before->after = c->after->before = c;
    if (c->before == &cs->ring) {
        pthread_cond_signal(&cs->changed);
    }
}

static void end(struct fb_connections *cs, struct fb_connection *c)
{
    shutdown(c->fd, SHUT_RDWR);
    stop_deadline(c);
    cs->n_ended += !c->ended;
    c->ended = true;
}

static void *watch(void *user)
{
    struct fb_connections *cs = user;
    pthread_mutex_lock(&cs->lock);
    while (!cs->quit) {
        struct fb_connection *first = cs->ring.after;
        if (first == &cs->ring) {
            pthread_cond_wait(&cs->changed, &cs->lock);
        } else if (first->at_ns > fb_now_ns()) {
            fb_timed_wait(&cs->changed, &cs->lock, first->at_ns);
        } else {
            end(cs, first);
        }
    }
    pthread_mutex_unlock(&cs->lock);
    return NULL;
}

/* --- Eviction. With the lock held ---------------------------------------------------------- */

static struct fb_connection *victim(struct fb_connections *cs)
{
    int count[BUCKETS] = {0}, most = 0;
    for (struct fb_connection *c = cs->ring.after; c != &cs->ring; c = c->after) {
        if (c->state == FB_RECEIVING) {
            int n = ++count[c->bucket];
            most = n > most ? n : most;
        }
    }
    for (struct fb_connection *c = cs->ring.after; c != &cs->ring; c = c->after) {
        if (c->state == FB_RECEIVING && count[c->bucket] == most) {
            return c;
        }
    }
    return NULL;
}

/* Evicts a connection that has had `grace_ns` to send its request. Returns when one will have. */
static uint64_t evict(struct fb_connections *cs, uint64_t grace_ns)
{
    struct fb_connection *c = victim(cs);
    uint64_t now = fb_now_ns(), since = c ? c->at_ns - cs->wait_ns : now;
    if (c && now - since >= grace_ns) {
        end(cs, c);
        return now;
    }
    return since + grace_ns;
}

/* With the lock held. */
static int n_places(const struct fb_connections *cs)
{
    return cs->n_reserved + cs->n_open;
}

bool fb_connections_reserve(struct fb_connections *cs)
{
    uint64_t until = fb_now_ns() + ROOM_WAIT_NS;
    bool room = false;
    pthread_mutex_lock(&cs->lock);
    do {
        uint64_t next = until;
        if (n_places(cs) - cs->n_ended >= cs->max) {
            next = fb_min(until, evict(cs, GRACE_NS) + MS_NS);
        }
        room = n_places(cs) < cs->max + FB_CONNECTIONS_SURPLUS;
        if (!room) {
            fb_timed_wait(&cs->changed_count, &cs->lock, next);
        }
    } while (!room && fb_now_ns() < until);
    cs->n_reserved += room;
    pthread_mutex_unlock(&cs->lock);
    return room;
}

void fb_connections_unreserve(struct fb_connections *cs)
{
    pthread_mutex_lock(&cs->lock);
    cs->n_reserved--;
    pthread_mutex_unlock(&cs->lock);
}

void fb_connections_evict(struct fb_connections *cs)
{
    uint64_t until = fb_now_ns() + EVICT_WAIT_NS;
    bool in_time = true;
    pthread_mutex_lock(&cs->lock);
    int before = n_places(cs);
    evict(cs, 0);
    while (n_places(cs) >= before && in_time) {
        in_time = fb_timed_wait(&cs->changed_count, &cs->lock, until);
    }
    pthread_mutex_unlock(&cs->lock);
}

bool fb_connections_are_answered(struct fb_connections *cs)
{
    pthread_mutex_lock(&cs->lock);
    bool all = cs->n_answered >= cs->max;
    pthread_mutex_unlock(&cs->lock);
    return all;
}

void fb_connections_wait_unanswered(struct fb_connections *cs, int ms)
{
    uint64_t until = fb_now_ns() + (uint64_t)ms * MS_NS;
    bool in_time = true;
    pthread_mutex_lock(&cs->lock);
    while (cs->n_answered > 0 && in_time) {
        in_time = fb_timed_wait(&cs->changed_count, &cs->lock, until);
    }
    pthread_mutex_unlock(&cs->lock);
}

/* --- Life ---------------------------------------------------------------------------------- */

struct fb_connections *fb_connections_new(int seconds, int max)
{
    struct fb_connections *cs = fb_xcalloc(1, sizeof *cs);
    cs->wait_ns = (uint64_t)seconds * SECOND_NS;
    cs->max = max;
    cs->ring.before = cs->ring.after = &cs->ring;
    pthread_mutex_init(&cs->lock, NULL);
    fb_timed_wait_init(&cs->changed);
    fb_timed_wait_init(&cs->changed_count);
    if (fb_thread_start(&cs->thread, watch, cs) != 0) {
        free(cs);
        return NULL;
    }
    return cs;
}

void fb_connections_free(struct fb_connections *cs)
{
    if (!cs) {
        return;
    }
    pthread_mutex_lock(&cs->lock);
    FB_ASSERT(cs->n_open == 0);
    cs->quit = true;
    pthread_cond_signal(&cs->changed);
    pthread_mutex_unlock(&cs->lock);
    pthread_join(cs->thread, NULL);
    pthread_cond_destroy(&cs->changed_count);
    pthread_cond_destroy(&cs->changed);
    pthread_mutex_destroy(&cs->lock);
    free(cs);
}

/* --- One connection ------------------------------------------------------------------------ */

/* With the lock held. */
static void set_state(
    struct fb_connections *cs, struct fb_connection *c, enum fb_connection_state state)
{
    cs->n_answered += (state != FB_RECEIVING) - (c->state != FB_RECEIVING);
    if (cs->n_answered == 0) {
        pthread_cond_broadcast(&cs->changed_count);
    }
    c->state = state;
    stop_deadline(c);
    if (state != FB_COMPUTING && !c->ended) {
        start_deadline(cs, c);
    }
}

static void change(
    struct fb_connections *cs, struct fb_connection *c, enum fb_connection_state state)
{
    pthread_mutex_lock(&cs->lock);
    set_state(cs, c, state);
    pthread_mutex_unlock(&cs->lock);
}

void fb_connection_open(struct fb_connections *cs, struct fb_connection *c)
{
    for (const char *at = c->client; *at; at++) {
        c->bucket = (uint8_t)(c->bucket * 31 + (unsigned char)*at);
    }
    pthread_mutex_lock(&cs->lock);
    cs->n_reserved--;
    cs->n_open++;
    set_state(cs, c, FB_RECEIVING);
    pthread_cond_broadcast(&cs->changed_count); /* it can be evicted now */
    pthread_mutex_unlock(&cs->lock);
}

void fb_connection_close(struct fb_connections *cs, struct fb_connection *c)
{
    pthread_mutex_lock(&cs->lock);
    set_state(cs, c, FB_RECEIVING);
    stop_deadline(c);
    cs->n_open--;
    cs->n_ended -= c->ended;
    pthread_cond_broadcast(&cs->changed_count);
    pthread_mutex_unlock(&cs->lock);
}

void fb_connection_receive(struct fb_connections *cs, struct fb_connection *c)
{
    change(cs, c, FB_RECEIVING);
}

void fb_connection_compute(struct fb_connections *cs, struct fb_connection *c)
{
    change(cs, c, FB_COMPUTING);
}

void fb_connection_send(struct fb_connections *cs, struct fb_connection *c)
{
    change(cs, c, FB_SENDING);
}
