/*
 * memory_watch.c - gives memory back while the model runs, and takes it again.
 *
 *      watch's thread:  look: state of the memory -> fb_governor_decide -> the stream's target
 *                       act:  the stream goes there, if nobody computes a graph, or one is at work
 *                             on what stays (open passes, kept weights)
 *      computing thread: fb_stream_adapt at every point where it holds no pointer into the stream
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

struct governor {
    struct fb_watch *watch;
    struct fb_stream *stream;
    struct fb_governor policy; /* the watch's thread only */
    bool in_graph;             /* guarded by the watch's turns */
    uint64_t said_ns;
    int said_slots;
    uint64_t said_kept_bytes;
};

static void look(void *user, const struct fb_memory_state *state, uint64_t now_ns)
{
    struct governor *g = user;
    const struct fb_governor_input in = {
        .now_ns = now_ns,
        .headroom_bytes = fb_memory_headroom(state),
        .limit_bytes = state->limit_bytes,
        .reserve_bytes = fb_memory_reserve(state),
        .held_bytes = fb_stream_held(g->stream),
        .pressure = state->pressure,
    };
    fb_stream_set_target(g->stream, fb_governor_decide(&g->policy, &in));
}

static void act(void *user)
{
    struct governor *g = user;
    fb_stream_adapt(g->stream, !g->in_graph);
}

struct governor *fb_governor_start(struct fb_stream *stream)
{
    static const struct fb_watch_calls calls = {look, act};
    struct governor *g = fb_xcalloc(1, sizeof *g);
    g->stream = stream;
    g->said_slots = fb_stream_n_slots(stream);
    g->said_kept_bytes = fb_stream_resident_bytes(stream);
    fb_governor_init(
        &g->policy, fb_stream_most(stream), fb_stream_least(stream), fb_device.calm_ns);
    g->watch = fb_watch_start(&calls, g);
    return g;
}

void fb_governor_stop(struct governor *g)
{
    if (g) {
        fb_watch_stop(g->watch);
        free(g);
    }
}

/* One line when something has changed, with the direction of the change. */
static void say(struct governor *g)
{
    int slots = fb_stream_n_slots(g->stream);
    uint64_t kept = fb_stream_resident_bytes(g->stream), now = fb_now_ns();
    if ((slots == g->said_slots && kept == g->said_kept_bytes) || now - g->said_ns < SAY_NS) {
        return;
    }
    const char *what = slots < g->said_slots || kept < g->said_kept_bytes ? "memory is short"
                                                                          : "there is memory again";
    if (slots != g->said_slots) {
        fb_info("%s: expert slots %d -> %d", what, g->said_slots, slots);
    }
    if (kept != g->said_kept_bytes) {
        fb_info(
            "%s: dense weights kept %s -> %s", what, FB_SIZE(g->said_kept_bytes), FB_SIZE(kept));
    }
    g->said_ns = now;
    g->said_slots = slots;
    g->said_kept_bytes = kept;
}

void fb_governor_begin(struct governor *g)
{
    if (g) {
        fb_watch_enter(g->watch);
        g->in_graph = true;
    }
}

void fb_governor_compute(struct governor *g)
{
    if (g) {
        fb_watch_leave(g->watch);
    }
}

void fb_governor_computed(struct governor *g)
{
    if (g) {
        fb_watch_enter(g->watch);
    }
}

void fb_governor_end(struct governor *g)
{
    if (g) {
        say(g);
        g->in_graph = false;
        fb_watch_leave(g->watch);
    }
}
