#include "stream/preload.h"

#include "base/error.h"

#define PASS_MOST 64 /* experts in a pass */

static bool room_for_all(const struct fb_stream *stream, const struct fb_weights *weights)
{
    bool all = true;
    for (int g = 0; g < weights->n_groups && all; g++) {
        uint64_t stride;
        int n_slots;
        fb_stream_slots(stream, weights->groups[g].weight[0], &stride, &n_slots);
        all = n_slots == weights->groups[g].n_expert; /* a shared pool has more, or too few */
    }
    return all;
}

/* Where reading has come to. */
struct place {
    int group, first;
};

/* Opens a pass over the next experts: as many of a group as a pass takes. */
static void begin(struct fb_stream *stream, const struct fb_weights *weights, struct place *next,
    struct fb_lease *pass)
{
    const struct fb_group *group = &weights->groups[next->group];
    int experts[PASS_MOST], n = 0;
    for (; n < PASS_MOST && next->first + n < group->n_expert; n++) {
        experts[n] = next->first + n;
    }
    fb_stream_lease_begin(stream, pass, next->group, experts, NULL, n, fb_group_parts(group));
    next->first += n;
    if (next->first == group->n_expert) {
        *next = (struct place){next->group + 1, 0};
    }
}

static enum forebay_status finish(struct fb_stream *stream, const struct fb_weights *weights,
    struct fb_lease *pass, struct forebay_error *err)
{
    enum forebay_status status = FOREBAY_OK;
    for (int part = 0; part < weights->groups[pass->group].n_parts && status == FOREBAY_OK;
         part++) {
        status = fb_stream_lease_wait(stream, pass, part, err);
    }
    fb_stream_lease_end(stream, pass);
    return status;
}

enum forebay_status fb_preload(struct fb_stream *stream, const struct fb_weights *weights,
    forebay_progress progress, void *progress_user, struct forebay_error *err)
{
    struct fb_lease passes[2] = {{.group = -1}, {.group = -1}};
    struct fb_lease *older = &passes[0], *newer = &passes[1]; /* waited for; keeps the disk busy */
    struct place next = {0, 0};
    enum forebay_status status = FOREBAY_OK;
    int n_groups = room_for_all(stream, weights) ? weights->n_groups : 0;
    do {
        if (next.group < n_groups) {
            begin(stream, weights, &next, newer);
        }
        if (older->group >= 0) {
            status = finish(stream, weights, older, err);
        }
        struct fb_lease *free_one = older;
        older = newer;
        newer = free_one;
        int done = older->group >= 0 ? older->group : n_groups;
        if (status == FOREBAY_OK && n_groups > 0 && progress &&
            !progress("reading experts", (uint64_t)done, (uint64_t)n_groups, progress_user)) {
            status = fb_fail(err, FOREBAY_E_CANCELLED, "", "loading was cancelled");
        }
    } while (status == FOREBAY_OK && older->group >= 0);
    if (older->group >= 0) {
        fb_stream_lease_end(stream, older);
    }
    fb_lease_clear(older);
    fb_lease_clear(newer);
    return status;
}
