#include "stream/preload.h"

#include "base/error.h"
#include "stream/leases.h"
#include "stream/components.h"

#define LEASE_MOST 64 /* experts in a lease */

/* Position in the order of reading. */
struct preload_position {
    int group, expert;
};

/* Opens a lease on the next experts, LEASE_MOST or the rest of a group. */
static void begin(struct fb_stream *s, struct preload_position *next, struct fb_lease *lease)
{
    const struct fb_group *group = &s->weights->groups[next->group];
    int experts[LEASE_MOST], n = 0;
    for (; n < LEASE_MOST && next->expert + n < group->n_expert; n++) {
        experts[n] = next->expert + n;
    }
    fb_stream_lease_begin(s, lease, next->group, experts, NULL, n, fb_group_parts(group));
    next->expert += n;
    if (next->expert == group->n_expert) {
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
        if (next.group < n_groups) {
            begin(s, &next, newer);
        }
        if (older->group >= 0) {
            status = finish(s, older, err);
        }
        struct fb_lease *closed = older;
        older = newer;
        newer = closed;
        int done = older->group >= 0 ? older->group : n_groups;
        if (status == FOREBAY_OK && n_groups > 0 && progress &&
            !progress("reading experts", (uint64_t)done, (uint64_t)n_groups, progress_user)) {
            status = fb_fail(err, FOREBAY_E_CANCELLED, "", "loading was cancelled");
        }
    } while (status == FOREBAY_OK && older->group >= 0);
    if (older->group >= 0) {
        fb_stream_lease_end(s, older);
    }
    fb_lease_clear(older);
    fb_lease_clear(newer);
    return status;
}
