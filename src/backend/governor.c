/*
 * governor.c - gives memory back while the model runs, and takes it again.
 *
 *      watch's thread:  look: state of the memory -> st_governor_decide -> the stream's target
 *                       act:  the stream goes there, if nobody computes a graph, or one is at work
 *                             on what stays (open passes, kept weights)
 *      computing thread: st_stream_adapt at every point where it holds no pointer into the stream
 *
 * So a long computation does not delay what can be given back at once, and what it uses is given
 * back as soon as it is done with it.
 */
#include "backend/internal.h"

#include <stdlib.h>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "os/watch.h"
#include "plan/governor.h"

/* Between two lines about it. */
#define SAY_NS 1000000000ull

uint64_t st_governor_calm_ns = 1000000000;

struct governor {
    struct st_watch *watch;
    struct st_stream *stream;
    struct st_governor policy; /* the watch's thread only */
    bool in_graph;             /* guarded by the watch's turns */
    uint64_t said_ns;
    int said_slots;
    uint64_t said_kept_bytes;
};

static void look(void *user, const struct st_memory_state *state, uint64_t now_ns)
{
    struct governor *g = user;
    const struct st_governor_input in = {
        .now_ns = now_ns,
        .headroom_bytes = st_memory_headroom(state),
        .limit_bytes = state->limit_bytes,
        .reserve_bytes = st_memory_reserve(state),
        .held_bytes = st_stream_held(g->stream),
        .pressure = state->pressure,
    };
    st_stream_set_target(g->stream, st_governor_decide(&g->policy, &in));
}

static void act(void *user)
{
    struct governor *g = user;
    st_stream_adapt(g->stream, !g->in_graph);
}

struct governor *st_governor_start(struct st_stream *stream)
{
    static const struct st_watch_calls calls = {look, act};
    struct governor *g = st_xcalloc(1, sizeof *g);
    g->stream = stream;
    g->said_slots = st_stream_n_slots(stream);
    g->said_kept_bytes = st_stream_kept_bytes(stream);
    st_governor_init(
        &g->policy, st_stream_most(stream), st_stream_least(stream), st_governor_calm_ns);
    g->watch = st_watch_start(&calls, g);
    return g;
}

void st_governor_stop(struct governor *g)
{
    if (g) {
        st_watch_stop(g->watch);
        free(g);
    }
}

/* One line when something has changed, with the direction of the change. */
static void say(struct governor *g)
{
    int slots = st_stream_n_slots(g->stream);
    uint64_t kept = st_stream_kept_bytes(g->stream), now = st_now_ns();
    if ((slots == g->said_slots && kept == g->said_kept_bytes) || now - g->said_ns < SAY_NS) {
        return;
    }
    const char *what = slots < g->said_slots || kept < g->said_kept_bytes ? "memory is short"
                                                                          : "there is memory again";
    if (slots != g->said_slots) {
        st_info("%s: expert slots %d -> %d", what, g->said_slots, slots);
    }
    if (kept != g->said_kept_bytes) {
        st_info(
            "%s: dense weights kept %s -> %s", what, ST_SIZE(g->said_kept_bytes), ST_SIZE(kept));
    }
    g->said_ns = now;
    g->said_slots = slots;
    g->said_kept_bytes = kept;
}

void st_governor_begin(struct governor *g)
{
    if (g) {
        st_watch_enter(g->watch);
        g->in_graph = true;
    }
}

void st_governor_compute(struct governor *g)
{
    if (g) {
        st_watch_leave(g->watch);
    }
}

void st_governor_computed(struct governor *g)
{
    if (g) {
        st_watch_enter(g->watch);
    }
}

void st_governor_end(struct governor *g)
{
    if (g) {
        say(g);
        g->in_graph = false;
        st_watch_leave(g->watch);
    }
}
