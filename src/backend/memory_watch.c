/*
 * memory_watch.c - see memory_watch.h. Two governors are asked on the watch's thread: one for the
 * memory of the weights (plan/governor.h), one for the threads (plan/thread_governor.h).
 *
 *      memory       look ---> target of the stream ---> act: adapts the stream between graphs
 *      processors   look, every 100 ms ---> n_threads, which the engine reads before each pass
 *
 * While the stream is loaded, memory that is planned and not yet taken counts as taken.
 */
#include "backend/memory_watch.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "backend/device_state.h"
#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "os/cpu.h"
#include "os/watch.h"
#include "plan/governor.h"
#include "plan/thread_governor.h"

/* Least time between two lines about memory. */
#define LOG_INTERVAL_NS 1000000000ull

struct fb_memory_watch {
    struct fb_watch *watch;
    struct fb_stream *stream;
    struct fb_governor governor; /* the watch's thread only */
    bool in_graph;               /* guarded by the watch's turns; true while the stream is loaded */
    atomic_bool loading;
    uint64_t begin_bytes; /* resident set of the process when nothing of the stream was */
    struct fb_thread_governor threads; /* the watch's thread only, as the next one */
    struct fb_cpu_use first, last;     /* readings */
    atomic_int n_threads;              /* the decision of `threads` */
    _Atomic double others;             /* see fb_memory_watch_others */
    /* The last line that was logged; the computing thread only. */
    uint64_t logged_ns;
    int logged_slots;
    uint64_t logged_resident_bytes;
};

/* While the stream is loaded: memory that it will take and has not yet. It is not in the headroom,
 * so that less memory than planned shows before it is taken. */
static uint64_t pending(const struct fb_memory_watch *m)
{
    if (!atomic_load(&m->loading)) {
        return 0;
    }
    uint64_t given_back = fb_stream_most(m->stream) - fb_stream_held(m->stream);
    uint64_t in_the_end = m->begin_bytes + fb_stream_planned(m->stream);
    in_the_end -= fb_min(in_the_end, given_back);
    return in_the_end - fb_min(in_the_end, fb_memory_rss());
}

static void look_at_processors(struct fb_memory_watch *m)
{
    struct fb_cpu_use now;
    if (fb_now_ns() - m->last.now_ns < fb_device.use_interval_ns || !fb_cpu_use_read(&now)) {
        return;
    }
    double used = fb_cpu_use_by_others(&m->last, &now);
    atomic_store(
        &m->n_threads, fb_thread_governor_decide(&m->threads, now.now_ns, used, now.n_cpus));
    atomic_store(&m->others, fb_cpu_use_by_others(&m->first, &now));
    m->last = now;
}

static void look(void *user, const struct fb_memory_state *state, uint64_t now_ns)
{
    struct fb_memory_watch *m = user;
    uint64_t headroom = fb_memory_headroom(state);
    const struct fb_governor_input in = {
        .now_ns = now_ns,
        .headroom_bytes = headroom - fb_min(headroom, pending(m)),
        .limit_bytes = state->limit_bytes,
        .reserve_bytes = fb_memory_reserve(state),
        .held_bytes = fb_stream_held(m->stream),
        .pressure = state->pressure,
    };
    fb_stream_set_target(m->stream, fb_governor_decide(&m->governor, &in));
    look_at_processors(m);
}

static void act(void *user)
{
    struct fb_memory_watch *m = user;
    fb_stream_adapt(m->stream, !m->in_graph);
}

struct fb_memory_watch *fb_memory_watch_start(
    struct fb_stream *stream, int n_threads, const struct fb_cpu_use *before)
{
    static const struct fb_watch_calls calls = {look, act};
    struct fb_memory_watch *m = fb_xcalloc(1, sizeof *m);
    m->stream = stream;
    m->logged_slots = fb_stream_n_slots(stream);
    m->logged_resident_bytes = fb_stream_resident_bytes(stream);
    fb_governor_init(
        &m->governor, fb_stream_most(stream), fb_stream_least(stream), fb_device.calm_ns);
    m->begin_bytes = fb_memory_rss();
    atomic_init(&m->loading, true);
    m->in_graph = true;
    fb_thread_governor_init(&m->threads, n_threads, fb_cpu_count(), fb_device.calm_ns);
    atomic_init(&m->n_threads, n_threads);
    m->first = m->last = *before;
    look_at_processors(m); /* the first token must not be the slowest */
    m->watch = fb_watch_start(&calls, m);
    fb_watch_enter(m->watch);
    return m;
}

void fb_memory_watch_loaded(struct fb_memory_watch *m)
{
    if (m) {
        atomic_store(&m->loading, false);
        fb_memory_watch_graph_end(m);
    }
}

void fb_memory_watch_stop(struct fb_memory_watch *m)
{
    if (m) {
        fb_watch_stop(m->watch);
        free(m);
    }
}

int fb_memory_watch_threads(const struct fb_memory_watch *m)
{
    return m ? atomic_load(&m->n_threads) : 0;
}

double fb_memory_watch_others(const struct fb_memory_watch *m)
{
    return m ? atomic_load(&m->others) : 0;
}

/* Logs one line per quantity that has changed since the last line. */
static void log_change(struct fb_memory_watch *m)
{
    int slots = fb_stream_n_slots(m->stream);
    uint64_t resident = fb_stream_resident_bytes(m->stream), now = fb_now_ns();
    if (fb_stream_lends(m->stream)) {
        return; /* to a batch: slots are fewer for a while, which says nothing about the machine */
    }
    if ((slots == m->logged_slots && resident == m->logged_resident_bytes) ||
        now - m->logged_ns < LOG_INTERVAL_NS) {
        return;
    }
    bool less = slots < m->logged_slots || resident < m->logged_resident_bytes;
    const char *why = less ? "memory is short" : "memory is available again";
    if (slots != m->logged_slots) {
        fb_info("%s: expert slots %d -> %d", why, m->logged_slots, slots);
    }
    if (resident != m->logged_resident_bytes) {
        fb_info("%s: resident dense weights %s -> %s", why, FB_SIZE(m->logged_resident_bytes),
            FB_SIZE(resident));
    }
    m->logged_ns = now;
    m->logged_slots = slots;
    m->logged_resident_bytes = resident;
}

void fb_memory_watch_graph_begin(struct fb_memory_watch *m)
{
    if (m) {
        fb_watch_enter(m->watch);
        m->in_graph = true;
    }
}

void fb_memory_watch_graph_end(struct fb_memory_watch *m)
{
    if (m) {
        log_change(m);
        m->in_graph = false;
        fb_watch_leave(m->watch);
    }
}

void fb_memory_watch_compute_begin(struct fb_memory_watch *m)
{
    if (m) {
        fb_watch_leave(m->watch);
    }
}

void fb_memory_watch_compute_end(struct fb_memory_watch *m)
{
    if (m) {
        fb_watch_enter(m->watch);
    }
}
