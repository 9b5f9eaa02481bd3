/*
 * offload_search.c - the largest plan that fits by a measure.
 *
 *      extents    -1   0   1   2   3   4   5   6   7
 *                fits, or is nothing |       | does not fit, or is past the last one
 *                                    lo      hi
 *
 * An extent between lo and hi is measured until there is none. It is the one that the estimate,
 * once corrected by the last measurement, holds for the largest; after a few rounds, the middle
 * one.
 */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "plan/offload.h"

/* Measurements take up to half a second each. Guided by the estimate two or three were enough for
 * every model tried. */
#define GUIDED 4
/* Layers may be divided differently among several devices once the estimate has been corrected. */
#define TRIES 3

struct offload_search {
    const struct fb_catalog *catalog;
    uint64_t kv_bytes;
    bool ffns_apart;
    const struct fb_offload_rooms *rooms;
    int64_t
        error[FOREBAY_DEVICES]; /* of the estimate: measured, but neither weights nor KV cache */
    bool measured[FOREBAY_DEVICES]; /* else a guess */
    int lo, hi;
    int *tries;   /* by extent: measurements that did not fit */
    bool *failed; /* by extent: no division among the devices fits */
    struct fb_offload_plan best;
    fb_offload_measure measure;
    void *user;
    struct forebay_error *err;
};

/* Devices on which there may be nothing but weights, for all that is assumed. */
enum hope { NONE, UNMEASURED, ALL };

/* What is left for weights and KV cache. */
static struct fb_offload_rooms left(const struct offload_search *s, enum hope hope)
{
    struct fb_offload_rooms rooms = *s->rooms;
    for (int d = 0; d < rooms.n; d++) {
        bool hoping = hope == ALL || (hope == UNMEASURED && !s->measured[d]);
        int64_t error = hoping ? -(int64_t)s->kv_bytes : s->error[d];
        uint64_t more = error < 0 ? (uint64_t)-error : 0, less = error > 0 ? (uint64_t)error : 0;
        rooms.bytes[d] -= fb_min(rooms.bytes[d], less);
        rooms.bytes[d] += fb_min(UINT64_MAX - rooms.bytes[d], more);
    }
    return rooms;
}

static bool place(
    const struct offload_search *s, int extent, enum hope hope, struct fb_offload_plan *plan)
{
    struct fb_offload_rooms rooms = left(s, hope);
    return fb_offload_at(s->catalog, s->kv_bytes, s->ffns_apart, &rooms, extent, plan);
}

/* Measures the plan. *fits: it is the best so far. */
static enum forebay_status try_plan(
    struct offload_search *s, const struct fb_offload_plan *plan, bool *fits)
{
    uint64_t measured[FOREBAY_DEVICES] = {0};
    enum forebay_status status = s->measure(s->user, plan, measured, s->err);
    *fits = status == FOREBAY_OK;
    for (int d = 0; d < s->rooms->n && status == FOREBAY_OK; d++) {
        *fits = *fits && measured[d] <= s->rooms->bytes[d];
        if (fb_offload_uses(plan, d)) {
            s->error[d] = (int64_t)(measured[d] - plan->bytes_on[d]);
            s->measured[d] = true;
        }
    }
    if (*fits) {
        s->best = *plan;
    }
    return status;
}

/* Whether the extent, which has just failed, could fit if the layers were divided differently. */
static bool divides_differently(
    const struct offload_search *s, int extent, const struct fb_offload_plan *failed)
{
    struct fb_offload_plan other;
    return s->tries[extent] < TRIES && place(s, extent, UNMEASURED, &other) &&
           memcmp(other.layers_on, failed->layers_on, sizeof other.layers_on) != 0;
}

static enum forebay_status narrow(struct offload_search *s, int extent)
{
    struct fb_offload_plan plan;
    bool fits;
    if (!place(s, extent, NONE, &plan) && !place(s, extent, UNMEASURED, &plan) &&
        !place(s, extent, ALL, &plan)) {
        s->hi = extent;
        return FOREBAY_OK;
    }
    int reached = fb_offload_extent(&plan);
    if (s->failed[reached]) {
        s->hi = extent;
        return FOREBAY_OK;
    }
    enum forebay_status status = try_plan(s, &plan, &fits);
    if (fits) {
        s->lo = reached;
    } else if (status == FOREBAY_OK) {
        s->tries[reached]++;
        s->failed[reached] = !divides_differently(s, reached, &plan);
        s->hi = s->failed[reached] ? extent : s->hi;
    }
    return status;
}

static enum forebay_status bisect(struct offload_search *s)
{
    enum forebay_status status = FOREBAY_OK;
    for (int round = 0; s->lo + 1 < s->hi && status == FOREBAY_OK; round++) {
        int extent = s->lo + (s->hi - s->lo) / 2;
        if (round < GUIDED) {
            struct fb_offload_rooms rooms = left(s, NONE);
            struct fb_offload_plan plan =
                fb_offload_make(s->catalog, s->kv_bytes, s->ffns_apart, &rooms);
            extent = fb_offload_extent(&plan);
            extent = extent <= s->lo ? s->lo + 1 : extent;
            extent = extent >= s->hi ? s->hi - 1 : extent;
        }
        status = narrow(s, extent);
    }
    return status;
}

/* Measures an extent above the best one that may take less than those before it. */
static enum forebay_status try_end(struct offload_search *s, int extent)
{
    struct fb_offload_plan plan;
    bool fits;
    if (extent <= s->lo || !place(s, extent, ALL, &plan) ||
        s->tries[fb_offload_extent(&plan)] > 0) {
        return FOREBAY_OK;
    }
    enum forebay_status status = try_plan(s, &plan, &fits);
    s->tries[fb_offload_extent(&plan)]++;
    s->failed[fb_offload_extent(&plan)] = !fits;
    if (fits) {
        s->lo = fb_offload_extent(&plan);
        s->hi = fb_offload_whole_extent(s->catalog) + 1;
        status = bisect(s);
    }
    return status;
}

enum forebay_status fb_offload_search(const struct fb_catalog *catalog, uint64_t kv_bytes,
    uint64_t reserve_bytes, bool ffns_apart, const struct fb_offload_rooms *rooms,
    fb_offload_measure measure, void *user, struct fb_offload_plan *out, struct forebay_error *err)
{
    int last = fb_offload_whole_extent(catalog);
    struct offload_search s = {.catalog = catalog,
        .kv_bytes = kv_bytes,
        .ffns_apart = ffns_apart,
        .rooms = rooms,
        .lo = -1,
        .hi = last + 1,
        .tries = fb_xcalloc((size_t)last + 1, sizeof *s.tries),
        .failed = fb_xcalloc((size_t)last + 1, sizeof *s.failed),
        .measure = measure,
        .user = user,
        .err = err};
    for (int d = 0; d < rooms->n; d++) {
        s.error[d] = (int64_t)reserve_bytes;
    }
    enum forebay_status status = bisect(&s);
    if (status == FOREBAY_OK) {
        status = try_end(&s, catalog->n_layer);
    }
    if (status == FOREBAY_OK) {
        status = try_end(&s, last);
    }
    free(s.tries);
    free(s.failed);
    if (status == FOREBAY_OK) {
        *out = s.best;
    }
    return status;
}
