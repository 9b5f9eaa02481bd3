/*
 * dense.c - lays dense weights out, loads those that are resident, and streams the others.
 *
 *      s->resident   [w0    ][w3 ][w4      ]...   place[w] is the offset of weight w
 *      s->ring       weights as they are read, by ring.c
 *      s->scratch    one weight in its computed form, where that is not the file's
 *
 * While loading, resident weights pass through a ring, too. Those larger than the planned ring are
 * loaded first, through a ring of their own in memory that slots and staging are planned to use:
 * that memory is not allocated yet (S4).
 */
#include "stream/dense.h"

#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"
#include "os/memory.h"
#include "plan/plan.h"
#include "stream/adapt.h"
#include "stream/components.h"
#include "stream/preload.h"

#define RING_DEPTH 3 /* of the ring for loading: one weight is unpacked while others are read */

/* --- Making and freeing ----------------------------------------------------------------------- */

/* Gives every resident weight its place, and sizes scratch for the others. */
static void lay_out(struct fb_stream *s, const bool *resident)
{
    for (int i = 0; i < s->weights->n_weights; i++) {
        const struct fb_weight *w = &s->weights->weights[i];
        s->place[i] = UINT64_MAX;
        if (w->group >= 0) {
            continue;
        }
        if (resident[i]) {
            s->place[i] = s->resident_bytes;
            s->resident_bytes += w->stride;
        } else if (w->unpack != FB_UNPACK_DIRECT) {
            s->scratch_bytes = fb_max(s->scratch_bytes, w->stride);
        }
    }
}

bool fb_dense_init(struct fb_stream *s, const struct fb_plan *plan)
{
    s->place = fb_xcalloc((size_t)s->weights->n_weights, sizeof *s->place);
    s->ring_bytes = plan->ring_bytes;
    lay_out(s, plan->resident);
    fb_elastic_init(&s->elastic, s->weights, plan->resident, plan->ring_bytes, s->scratch_bytes);
    s->scratch_bytes = fb_max(s->scratch_bytes, s->elastic.scratch_bytes);
    if (s->resident_bytes > 0 && !(s->resident = fb_vm_reserve(s->resident_bytes, true))) {
        return false;
    }
    return s->scratch_bytes == 0 || (s->scratch = fb_vm_reserve(s->scratch_bytes, true));
}

void fb_dense_release(struct fb_stream *s)
{
    fb_ring_free(s->ring);
    if (s->resident) {
        fb_vm_release(s->resident, s->resident_bytes);
    }
    if (s->scratch) {
        fb_vm_release(s->scratch, s->scratch_bytes);
    }
    fb_elastic_release(&s->elastic);
    free(s->place);
}

static void unpack_one(struct fb_stream *s, int weight, const void *raw, void *dest)
{
    struct fb_unpack unit = {.weight = weight, .raw = raw, .dest = dest};
    fb_unpacker_run(&s->unpacker, &unit, 1);
}

/* --- Loading ---------------------------------------------------------------------------------- */

/* Resident weights in file order whose envelope is in (min, max], and the largest of these
 * envelopes. The array, of *n, is the caller's to free. */
static int *resident_weights(
    const struct fb_stream *s, uint64_t min, uint64_t max, int *n, uint64_t *largest)
{
    int *order = fb_xcalloc((size_t)s->weights->n_weights, sizeof *order);
    *n = 0;
    *largest = 0;
    for (int i = 0; i < s->weights->n_weights; i++) {
        uint64_t envelope = fb_weight_envelope(s->weights, i);
        if (s->place[i] != UINT64_MAX && envelope > min && envelope <= max) {
            order[(*n)++] = i; /* weights are in catalogue order, which is file order */
            *largest = fb_max(*largest, envelope);
        }
    }
    return order;
}

static enum forebay_status load_through(struct fb_stream *s, struct fb_ring *ring, const int *order,
    int n, struct fb_dense_loading *loading, struct forebay_error *err)
{
    fb_ring_schedule(ring, order, n);
    for (int i = 0; i < n; i++) {
        const struct fb_weight *w = &s->weights->weights[order[i]];
        const void *raw;
        enum forebay_status status = fb_ring_acquire(ring, order[i], &raw, err);
        if (status != FOREBAY_OK) {
            return status;
        }
        bool wanted = fb_elastic_present(&s->elastic, order[i]); /* or it is streamed by now */
        if (wanted) {
            unpack_one(s, order[i], raw, s->resident + s->place[order[i]] + w->delta);
        }
        fb_ring_release(ring);
        fb_preload_room(s, i + 1 < n ? s->weights->weights[order[i + 1]].stride : 0);
        loading->done_bytes += w->stride;
        if (loading->progress && !loading->progress("reading resident weights", loading->done_bytes,
                                     s->resident_bytes, loading->user)) {
            return fb_fail(err, FOREBAY_E_CANCELLED, "", "loading was cancelled");
        }
    }
    return FOREBAY_OK;
}

enum forebay_status fb_dense_load_large(
    struct fb_stream *s, struct fb_dense_loading *loading, struct forebay_error *err)
{
    int n;
    uint64_t largest;
    int *order = resident_weights(s, s->ring_bytes, UINT64_MAX, &n, &largest);
    enum forebay_status status = FOREBAY_OK;
    if (n > 0) { /* through a ring in memory that experts will use later */
        uint64_t later_bytes = s->slots.planned_bytes + fb_loads_staging_bytes(&s->loads);
        struct fb_ring *aside = fb_ring_new(
            &s->unpacker, fb_max(largest, fb_min(RING_DEPTH * largest, later_bytes)), true);
        status = aside ? load_through(s, aside, order, n, loading, err)
                       : fb_fail(err, FOREBAY_E_NOMEM, "Lower --mem.",
                             "cannot reserve memory for loading weights");
        fb_ring_free(aside);
    }
    free(order);
    return status;
}

enum forebay_status fb_dense_load_rest(
    struct fb_stream *s, struct fb_dense_loading *loading, struct forebay_error *err)
{
    uint64_t bytes = s->ring_bytes ? s->ring_bytes : s->elastic.ring_bytes;
    if (bytes == 0) {
        return FOREBAY_OK;
    }
    s->ring = fb_ring_new(&s->unpacker, bytes, s->ring_bytes > 0);
    if (!s->ring) {
        return fb_fail(err, FOREBAY_E_NOMEM, "Lower --mem.", "cannot reserve memory for the ring");
    }
    int n;
    uint64_t largest;
    int *order = resident_weights(s, 0, s->ring_bytes, &n, &largest);
    enum forebay_status status = load_through(s, s->ring, order, n, loading, err);
    free(order);
    return status;
}

/* --- Use -------------------------------------------------------------------------------------- */

bool fb_stream_is_resident(const struct fb_stream *s, int weight)
{
    return fb_elastic_present(&s->elastic, weight);
}

void *fb_stream_resident(const struct fb_stream *s, int weight)
{
    FB_ASSERT(fb_stream_is_resident(s, weight));
    return s->resident + s->place[weight] + s->weights->weights[weight].delta;
}

void fb_stream_schedule_dense(struct fb_stream *s, const int *weights, int n)
{
    if (s->ring) {
        fb_ring_schedule(s->ring, weights, n);
    }
}

enum forebay_status fb_stream_dense_acquire(
    struct fb_stream *s, int weight, const void **out, struct forebay_error *err)
{
    FB_ASSERT(s->ring && s->weights->weights[weight].group < 0);
    const void *raw;
    enum forebay_status status = fb_ring_acquire(s->ring, weight, &raw, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    s->in_ring = s->weights->weights[weight].unpack == FB_UNPACK_DIRECT;
    if (fb_elastic_restore(&s->elastic, weight)) { /* it fits again */
        s->in_ring = false;
        unpack_one(s, weight, raw, fb_stream_resident(s, weight));
        fb_ring_release(s->ring);
        raw = fb_stream_resident(s, weight);
        fb_adapt_note_held(s);
    } else if (!s->in_ring) {
        unpack_one(s, weight, raw, s->scratch);
        fb_ring_release(s->ring); /* its room serves the next reads meanwhile */
        raw = s->scratch;
    }
    *out = raw;
    return FOREBAY_OK;
}

void fb_stream_dense_release(struct fb_stream *s)
{
    if (s->in_ring) {
        fb_ring_release(s->ring);
    }
}
