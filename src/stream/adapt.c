#include "stream/adapt.h"

#include "base/units.h"
#include "os/memory.h"
#include "stream/components.h"

void fb_adapt_note_held(struct fb_stream *s)
{
    atomic_store(&s->held, fb_elastic_held(&s->elastic) + fb_slots_held(&s->slots) + s->lent);
}

uint64_t fb_stream_most(const struct fb_stream *s)
{
    return s->elastic.most_bytes + fb_slots_most(&s->slots);
}

uint64_t fb_stream_least(const struct fb_stream *s)
{
    return fb_min(s->elastic.least_bytes + fb_slots_least(&s->slots), fb_stream_most(s));
}

uint64_t fb_stream_held(const struct fb_stream *s)
{
    return atomic_load(&s->held);
}

void fb_stream_set_target(struct fb_stream *s, uint64_t bytes)
{
    atomic_store(&s->target, bytes);
}

bool fb_stream_must_shrink(const struct fb_stream *s)
{
    return atomic_load(&s->target) < atomic_load(&s->held);
}

int fb_stream_n_slots(const struct fb_stream *s)
{
    return fb_slots_count(&s->slots);
}

uint64_t fb_stream_resident_bytes(const struct fb_stream *s)
{
    return s->resident_bytes - s->elastic.most_bytes + s->elastic.present_bytes;
}

/* Gives back the memory of a resident weight, with the pages that it shares with neighbours which
 * have been given back. */
static void discard_dense(struct fb_stream *s, int weight)
{
    uint64_t from = s->place[weight], to = from + s->weights->weights[weight].stride;
    for (int i = weight + 1; i < s->weights->n_weights && !fb_elastic_present(&s->elastic, i);
         i++) {
        if (s->place[i] == to) {
            to += s->weights->weights[i].stride;
            break;
        }
    }
    for (int i = weight - 1; i >= 0 && !fb_elastic_present(&s->elastic, i); i--) {
        if (s->place[i] != UINT64_MAX) {
            from = s->place[i];
            break;
        }
    }
    fb_vm_discard(s->resident + from, to - from);
}

/* Gives back the dense weights that are to be streamed, and the ring that is not planned when none
 * is streamed any more. */
static void drop_dense(struct fb_stream *s)
{
    for (int w; (w = fb_elastic_drop(&s->elastic)) >= 0;) {
        discard_dense(s, w);
    }
    if (s->elastic.ring_bytes && s->elastic.n_streamed == 0 && s->elastic.ring_used) {
        fb_ring_discard(s->ring);
        fb_vm_discard(s->scratch, s->scratch_bytes);
        s->elastic.ring_used = false;
    }
}

/* What slots go without, now that so much is lent to a pass and to the transit. */
static void lend(struct fb_stream *s)
{
    uint64_t wanted = s->pass_bytes + (s->transit_used ? fb_transit_bytes(s->transit) : 0);
    s->lent = wanted - fb_min(wanted, s->spare_bytes);
}

void fb_stream_lend(struct fb_stream *s, uint64_t bytes)
{
    if (bytes != s->pass_bytes) {
        s->pass_bytes = bytes;
        lend(s);
    }
}

bool fb_stream_lends(const struct fb_stream *s)
{
    return s->lent > 0;
}

void fb_adapt_lend_transit(struct fb_stream *s, bool used)
{
    if (used == s->transit_used) {
        return;
    }
    s->transit_used = used;
    if (!used) {
        fb_transit_finish(s->transit);
        fb_transit_discard(s->transit);
    }
    lend(s);
    fb_stream_adapt(s, true);
    if (used) {
        fb_transit_populate(s->transit);
    }
}

/* Counts what the governor asked for. */
static void count_target(struct fb_stream *s, uint64_t target)
{
    atomic_fetch_add(&s->shrinks, target < s->heeded);
    atomic_fetch_add(&s->grows, target > s->heeded);
    s->heeded = target;
}

void fb_stream_adapt(struct fb_stream *s, bool all)
{
    uint64_t asked = atomic_load(&s->target);
    if (asked == s->adapted && s->lent == s->adapted_lent) {
        return;
    }
    uint64_t target = fb_min(asked, fb_stream_most(s));
    count_target(s, target);
    target -= fb_min(target, s->lent);
    uint64_t least = fb_slots_least(&s->slots);
    uint64_t wanted = fb_elastic_plan(&s->elastic, target - fb_min(target, least));
    if (all) {
        drop_dense(s);
    }
    uint64_t dense = fb_max(fb_elastic_held(&s->elastic), wanted);
    uint64_t slots = target - fb_min(target, dense);
    bool reached = fb_slots_resize(&s->slots, slots);
    fb_adapt_note_held(s);
    if (reached && fb_elastic_held(&s->elastic) == wanted) {
        s->adapted = asked;
        s->adapted_lent = s->lent;
    }
}
