#include "stream/preload.h"

#include <time.h>

#include "base/error.h"
#include "os/memory.h"
#include "stream/adapt.h"
#include "stream/leases.h"
#include "stream/components.h"

#define LEASE_MOST 64 /* experts in a lease */

#define ROOM_SECONDS 1 /* as long as the governor waits before it uses memory again */

bool fb_preload_room(struct fb_stream *s, uint64_t bytes)
{
    const uint64_t nap_ns = 5000000;
    fb_stream_adapt(s, true);
    while (!fb_io_is_virtual(s->io)) {
        struct fb_memory_state state;
        fb_memory_state(&state);
        if (fb_memory_headroom(&state) >= fb_memory_reserve(&state) + bytes) {
            s->no_room_ns = 0;
            return true;
        }
        if (s->no_room_ns >= ROOM_SECONDS * 1000000000ull) {
            return false; /* has waited long enough, perhaps in earlier calls */
        }
        nanosleep(&(struct timespec){0, (long)nap_ns}, NULL);
        s->no_room_ns += nap_ns;
        fb_stream_adapt(s, true);
    }
    return true;
}

/* Position in the order of reading. */
struct preload_position {
    int group, expert;
};

/* Opens a lease on the next experts, LEASE_MOST or the rest of a group: as many as have slots,
 * since some may have been given back. */
static void begin(struct fb_stream *s, struct preload_position *next, struct fb_lease *lease)
{
    const struct fb_group *group = &s->weights->groups[next->group];
    int experts[LEASE_MOST], n = 0, slots = fb_stream_lease_limit(s, next->group);
    for (; n < LEASE_MOST && next->expert + n < group->n_expert && next->expert + n < slots; n++) {
        experts[n] = next->expert + n;
    }
    if (n > 0) {
        fb_stream_lease_begin(s, lease, next->group, experts, NULL, n, fb_group_parts(group));
    }
    next->expert += n;
    if (n == 0 || next->expert >= group->n_expert) {
        *next = (struct preload_position){next->group + 1, 0};
    }
}

static enum forebay_status finish(
    struct fb_stream *s, struct fb_lease *lease, struct forebay_error *err)
{
    enum forebay_status status = FOREBAY_OK;
    int n_parts = s->weights->groups[lease->group].n_parts;
    for (int part = 0; part < n_parts && status == FOREBAY_OK; part++) {
        status = fb_stream_lease_wait(s, lease, part, err);
    }
    fb_stream_lease_end(s, lease);
    return status;
}

enum forebay_status fb_preload(
    struct fb_stream *s, forebay_progress progress, void *progress_user, struct forebay_error *err)
{
    struct fb_lease leases[2] = {{.group = -1}, {.group = -1}};
    struct fb_lease *older = &leases[0], *newer = &leases[1]; /* waited for; keeps the disk busy */
    struct preload_position next = {0, 0};
    enum forebay_status status = FOREBAY_OK;
    int n_groups = s->weights->n_groups;
    do {
        bool short_of = older->group >= 0 && fb_stream_must_shrink(s);
        while (next.group < n_groups && !short_of && newer->group < 0) {
            fb_preload_room(s, 0);
            begin(s, &next, newer);
        }
        if (older->group >= 0) {
            status = finish(s, older, err);
        }
        struct fb_lease *closed = older;
        older = newer;
        newer = closed;
        int done = older->group >= 0 ? older->group : next.group;
        if (status == FOREBAY_OK && n_groups > 0 && progress &&
            !progress("reading experts", (uint64_t)done, (uint64_t)n_groups, progress_user)) {
            status = fb_fail(err, FOREBAY_E_CANCELLED, "", "loading was cancelled");
        }
        fb_stream_adapt(s, true);
    } while (status == FOREBAY_OK && (older->group >= 0 || next.group < n_groups));
    if (older->group >= 0) {
        fb_stream_lease_end(s, older);
    }
    fb_lease_clear(older);
    fb_lease_clear(newer);
    return status;
}
