#include "stream/stream.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"
#include "os/memory.h"
#include "stream/unpack.h"
#include "stream/sets.h"
#include "stream/elastic.h"
#include "stream/experts.h"
#include "stream/preload.h"
#include "stream/ring.h"
#include "stream/transit.h"

/* Tokens from which on reading ahead and gathering rows is worth it. */
#define SET_TOKENS 32

struct fb_stream {
    const struct fb_weights *weights;
    struct fb_io_engine *io;
    struct fb_unpacker unpacker;

    /* Dense weights that are kept, one after another; place[w] is UINT64_MAX for the others. Of
     * them, `elastic` knows which are in memory now. */
    char *resident;
    uint64_t resident_bytes;
    uint64_t *place;
    struct fb_elastic elastic;

    struct fb_ring *ring; /* NULL when nothing dense can be streamed, and before loading */
    bool in_ring;         /* the weight in use is computed with in the ring */
    char *scratch;        /* ... or here, in its computed form */
    uint64_t scratch_bytes;
    uint64_t ring_bytes;
    bool preload;

    struct fb_experts *experts; /* NULL for dense models */
    struct fb_transit *transit; /* NULL without batches */
    struct fb_batch *batch;
    uint64_t slot_bytes;

    _Atomic uint64_t target, held;
    _Atomic uint64_t shrinks, grows;
    uint64_t heeded;  /* the target that was last acted on */
    uint64_t adapted; /* ... and the one that has been reached */
};

static enum forebay_status no_memory(
    struct fb_stream *s, const char *what, struct forebay_error *err)
{
    fb_stream_free(s);
    return fb_fail(err, FOREBAY_E_NOMEM,
        "Lower --mem, or lift the address space limit (ulimit -v).", "cannot reserve memory for %s",
        what);
}

/* Gives every dense weight its place; says how large scratch must be. */
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

/* In one pool for all groups a step is one layer of a token, and what lies a few of them back is not
 * yet a moment of the text. */
const char *fb_stream_default_policy(bool shared)
{
    return shared ? "lru" : "echo";
}

static bool is_absent(void *user, int group, int expert)
{
    const struct fb_stream *s = user;
    return !fb_experts_has(s->experts, group, expert, fb_group_parts(&s->weights->groups[group]));
}

static bool make_batch(struct fb_stream *s, uint64_t bytes)
{
    if (bytes > 0) {
        s->transit = fb_transit_new(&s->unpacker, bytes, is_absent, s);
        s->batch = s->transit ? fb_batch_new(&s->unpacker, s->experts, s->transit) : NULL;
        return s->batch != NULL;
    }
    return true;
}

enum forebay_status fb_stream_new(const struct fb_weights *weights,
    const struct fb_stream_config *config, fb_unpack_fn arrive, void *user, struct fb_stream **out,
    struct forebay_error *err)
{
    struct fb_stream *s = fb_xcalloc(1, sizeof *s);
    s->weights = weights;
    s->place = fb_xcalloc((size_t)weights->n_weights, sizeof *s->place);
    lay_out(s, config->resident);
    fb_elastic_init(&s->elastic, weights, config->resident, config->ring_bytes, s->scratch_bytes);
    s->scratch_bytes = fb_max(s->scratch_bytes, s->elastic.scratch_bytes);
    s->adapted = UINT64_MAX;
    atomic_init(&s->target, UINT64_MAX);
    enum forebay_status status = fb_io_open(&config->io, &s->io, err);
    if (status != FOREBAY_OK) {
        fb_stream_free(s);
        return status;
    }
    s->unpacker = (struct fb_unpacker){s->io, weights, arrive, config->check, user, 0};
    if (s->resident_bytes > 0 && !(s->resident = fb_vm_reserve(s->resident_bytes, true))) {
        return no_memory(s, "resident weights", err);
    }
    if (s->scratch_bytes > 0 && !(s->scratch = fb_vm_reserve(s->scratch_bytes, true))) {
        return no_memory(s, "a weight in use", err);
    }
    s->ring_bytes = config->ring_bytes;
    s->preload = config->preload;
    if (weights->n_groups > 0) {
        status = fb_experts_new(&s->unpacker, config, &s->experts, err);
        if (status != FOREBAY_OK) {
            fb_stream_free(s);
            return status;
        }
        if (!make_batch(s, config->transit_bytes)) {
            return no_memory(s, "experts on their way", err);
        }
        struct fb_stream_stats stats = {0};
        fb_experts_stats(s->experts, &stats);
        s->slot_bytes = stats.memory_bytes;
    }
    s->heeded = fb_stream_most(s);
    atomic_store(&s->held, s->heeded);
    *out = s;
    return FOREBAY_OK;
}

void fb_stream_free(struct fb_stream *s)
{
    if (!s) {
        return;
    }
    fb_batch_free(s->batch);
    fb_transit_free(s->transit);
    fb_experts_free(s->experts);
    fb_ring_free(s->ring);
    fb_io_free(s->io);
    if (s->resident) {
        fb_vm_release(s->resident, s->resident_bytes);
    }
    if (s->scratch) {
        fb_vm_release(s->scratch, s->scratch_bytes);
    }
    fb_elastic_release(&s->elastic);
    free(s->place);
    free(s);
}

/* Makes the memory held known to other threads. */
static void note_held(struct fb_stream *s)
{
    uint64_t held = fb_elastic_held(&s->elastic);
    held += s->experts ? fb_experts_held(s->experts) : 0;
    atomic_store(&s->held, held);
}

/* Puts one dense unit into place. */
static void unpack_one(struct fb_stream *s, int weight, const void *raw, void *dest)
{
    struct fb_unpack arrival = {.weight = weight, .raw = raw, .dest = dest};
    fb_unpacker_run(&s->unpacker, &arrival, 1);
}

/* --- Loading what is kept ------------------------------------------------------------------ */

struct load_progress {
    forebay_progress report;
    void *user;
    uint64_t done, total;
};

static enum forebay_status cancelled(struct forebay_error *err)
{
    return fb_fail(err, FOREBAY_E_CANCELLED, "", "loading was cancelled");
}

/* Kept weights in file order whose envelope is in (min, max]; *largest of these. */
static int *kept_weights(
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
    int n, struct load_progress *progress, struct forebay_error *err)
{
    fb_ring_schedule(ring, order, n);
    for (int i = 0; i < n; i++) {
        const struct fb_weight *w = &s->weights->weights[order[i]];
        const void *raw;
        enum forebay_status status = fb_ring_take(ring, order[i], &raw, err);
        if (status != FOREBAY_OK) {
            return status;
        }
        unpack_one(s, order[i], raw, s->resident + s->place[order[i]] + w->delta);
        fb_ring_release(ring);
        progress->done += w->stride;
        if (progress->report && !progress->report("reading resident weights", progress->done,
                                    progress->total, progress->user)) {
            return cancelled(err);
        }
    }
    return FOREBAY_OK;
}

/* Reads the kept weights with an envelope in (min, max] through a ring made for that, which takes
 * memory that the slots will take later. */
static enum forebay_status load_aside(struct fb_stream *s, uint64_t min, uint64_t max,
    struct load_progress *progress, struct forebay_error *err)
{
    int n;
    uint64_t largest;
    int *order = kept_weights(s, min, max, &n, &largest);
    enum forebay_status status = FOREBAY_OK;
    if (n > 0) {
        struct fb_ring *aside =
            fb_ring_new(&s->unpacker, fb_max(largest, fb_min(3 * largest, s->slot_bytes)), true);
        status = aside ? load_through(s, aside, order, n, progress, err)
                       : fb_fail(err, FOREBAY_E_NOMEM, "Lower --mem.", "no address space to load");
        fb_ring_free(aside);
    }
    free(order);
    return status;
}

/* What is not larger than the ring, through that. */
static enum forebay_status load_rest(
    struct fb_stream *s, struct load_progress *progress, struct forebay_error *err)
{
    uint64_t bytes = s->ring_bytes ? s->ring_bytes : s->elastic.ring_bytes;
    if (bytes == 0) {
        return FOREBAY_OK;
    }
    s->ring = fb_ring_new(&s->unpacker, bytes, s->ring_bytes > 0);
    if (!s->ring) {
        return fb_fail(err, FOREBAY_E_NOMEM, "Lower --mem.", "no address space for the ring");
    }
    int n;
    uint64_t largest;
    int *order = kept_weights(s, 0, s->ring_bytes, &n, &largest);
    enum forebay_status status = load_through(s, s->ring, order, n, progress, err);
    free(order);
    return status;
}

enum forebay_status fb_stream_load(
    struct fb_stream *s, forebay_progress progress, void *user, struct forebay_error *err)
{
    struct load_progress p = {.report = progress, .user = user, .total = s->resident_bytes};
    /* What is larger than the ring comes first, while ring and slots have no memory yet (S4). */
    enum forebay_status status = load_aside(s, s->ring_bytes, UINT64_MAX, &p, err);
    if (status == FOREBAY_OK && s->experts) {
        fb_experts_touch_memory(s->experts);
    }
    if (status == FOREBAY_OK) {
        status = load_rest(s, &p, err);
    }
    if (status == FOREBAY_OK && s->preload) {
        status = fb_preload(s, s->weights, progress, user, err);
    }
    if (status == FOREBAY_OK && s->experts && !fb_experts_wait_memory(s->experts, progress, user)) {
        return cancelled(err);
    }
    return status;
}

/* --- More and less memory ------------------------------------------------------------------ */

uint64_t fb_stream_most(const struct fb_stream *s)
{
    return s->elastic.most_bytes + (s->experts ? fb_experts_most(s->experts) : 0);
}

static uint64_t least_experts(const struct fb_stream *s)
{
    return s->experts ? fb_experts_least(s->experts) : 0;
}

uint64_t fb_stream_least(const struct fb_stream *s)
{
    return fb_min(s->elastic.least_bytes + least_experts(s), fb_stream_most(s));
}

uint64_t fb_stream_held(const struct fb_stream *s)
{
    return atomic_load(&s->held);
}

void fb_stream_set_target(struct fb_stream *s, uint64_t bytes)
{
    atomic_store(&s->target, bytes);
}

int fb_stream_n_slots(const struct fb_stream *s)
{
    return s->experts ? fb_experts_n_slots(s->experts) : 0;
}

uint64_t fb_stream_resident_bytes(const struct fb_stream *s)
{
    return s->resident_bytes - s->elastic.most_bytes + s->elastic.kept_bytes;
}

/* Gives back the memory of a kept weight, with the pages that it shares with neighbours which have
 * been given back. */
static void discard_dense(struct fb_stream *s, int weight)
{
    uint64_t from = s->place[weight], to = from + s->weights->weights[weight].stride;
    for (int i = weight + 1; i < s->weights->n_weights && !fb_elastic_kept(&s->elastic, i); i++) {
        if (s->place[i] == to) {
            to += s->weights->weights[i].stride;
            break;
        }
    }
    for (int i = weight - 1; i >= 0 && !fb_elastic_kept(&s->elastic, i); i--) {
        if (s->place[i] != UINT64_MAX) {
            from = s->place[i];
            break;
        }
    }
    fb_vm_discard(s->resident + from, to - from);
}

/* Gives back the dense weights that are not to be kept any more. */
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

void fb_stream_adapt(struct fb_stream *s, bool all)
{
    uint64_t target = atomic_load(&s->target);
    if (target == s->adapted) {
        return;
    }
    target = fb_min(target, fb_stream_most(s));
    atomic_fetch_add(&s->shrinks, target < s->heeded);
    atomic_fetch_add(&s->grows, target > s->heeded);
    s->heeded = target;
    uint64_t least = least_experts(s);
    uint64_t wanted = fb_elastic_plan(&s->elastic, target - fb_min(target, least));
    if (all) {
        drop_dense(s);
    }
    uint64_t dense = fb_max(fb_elastic_held(&s->elastic), wanted);
    uint64_t slots = target - fb_min(target, dense);
    if (s->experts) {
        fb_experts_resize(s->experts, slots);
    }
    note_held(s);
    bool reached = !s->experts || fb_experts_settled(s->experts, slots);
    if (reached && fb_elastic_held(&s->elastic) == wanted) {
        s->adapted = target;
    }
}

/* --- Dense weights ------------------------------------------------------------------------- */

bool fb_stream_is_resident(const struct fb_stream *s, int weight)
{
    return fb_elastic_kept(&s->elastic, weight);
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
    enum forebay_status status = fb_ring_take(s->ring, weight, &raw, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    s->in_ring = s->weights->weights[weight].unpack == FB_UNPACK_DIRECT;
    if (fb_elastic_restore(&s->elastic, weight)) { /* there is room for it again */
        s->in_ring = false;
        unpack_one(s, weight, raw, fb_stream_resident(s, weight));
        fb_ring_release(s->ring);
        raw = fb_stream_resident(s, weight);
        note_held(s);
    } else if (!s->in_ring) {
        unpack_one(s, weight, raw, s->scratch);
        fb_ring_release(s->ring); /* its room is for the next reads, while this one is used */
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

/* --- Experts ------------------------------------------------------------------------------- */

int fb_stream_lease_limit(const struct fb_stream *s, int group)
{
    return fb_experts_lease_limit(s->experts, group);
}

void fb_stream_lease_begin(struct fb_stream *s, struct fb_lease *pass, int group,
    const int *experts, const int *uses, int n, uint32_t parts)
{
    fb_experts_begin(s->experts, pass, group, experts, uses, n, parts);
}

void fb_stream_prefetch(struct fb_stream *s, int group, const int *experts, int n)
{
    fb_experts_prefetch(s->experts, group, experts, n);
}

bool fb_stream_lease_ready(struct fb_stream *s, const struct fb_lease *pass, int part)
{
    return fb_experts_ready(s->experts, pass, part);
}

enum forebay_status fb_stream_lease_wait(
    struct fb_stream *s, struct fb_lease *pass, int part, struct forebay_error *err)
{
    fb_stream_adapt(s, false);
    return fb_experts_wait(s->experts, pass, part, err);
}

void fb_stream_lease_end(struct fb_stream *s, struct fb_lease *pass)
{
    fb_experts_end(s->experts, pass);
}

void *fb_stream_slots(const struct fb_stream *s, int weight, uint64_t *stride, int *n_slots)
{
    return fb_experts_slots(s->experts, weight, stride, n_slots);
}

bool fb_stream_has(const struct fb_stream *s, int group, int expert, uint32_t parts)
{
    return fb_experts_has(s->experts, group, expert, parts);
}

bool fb_stream_wants_sets(
    const struct fb_stream *s, int group, const int *experts, int n, int tokens)
{
    const struct fb_group *g = &s->weights->groups[group];
    if (n > fb_experts_lease_limit(s->experts, group)) {
        return true;
    }
    if (!s->batch || tokens < SET_TOKENS) {
        return false;
    }
    for (int i = 0; i < n; i++) {
        if (!fb_experts_has(s->experts, group, experts[i], fb_group_parts(g))) {
            return true;
        }
    }
    return false;
}

void fb_stream_schedule_experts(struct fb_stream *s, const struct fb_expert_use *uses, int n)
{
    if (s->transit) {
        fb_transit_schedule(s->transit, uses, n);
    }
}

void fb_stream_batch_begin(struct fb_stream *s, int weight, const struct fb_routes *routes)
{
    FB_ASSERT(s->batch);
    fb_batch_begin(s->batch, weight, routes);
}

enum forebay_status fb_stream_batch_next(
    struct fb_stream *s, int weight, struct fb_set *set, struct forebay_error *err)
{
    fb_stream_adapt(s, false);
    return fb_batch_next(s->batch, weight, set, err);
}

void fb_stream_batch_end(struct fb_stream *s)
{
    if (s->batch) {
        fb_batch_end(s->batch);
    }
}

void fb_stream_poll(struct fb_stream *s)
{
    fb_io_poll(s->io);
}

void fb_stream_stats(const struct fb_stream *s, struct fb_stream_stats *out)
{
    *out = (struct fb_stream_stats){0};
    if (s->ring) {
        const struct fb_ring_stats *ring = fb_ring_stats(s->ring);
        out->demand_bytes = ring->demand_bytes;
        out->prefetch_bytes = ring->prefetch_bytes;
        out->prefetch_used_bytes = ring->prefetch_used_bytes;
        out->stall_ns = ring->stall_ns;
        out->prefetch_stall_ns = ring->prefetch_stall_ns;
    }
    if (s->experts) {
        fb_experts_stats(s->experts, out);
    }
    if (s->transit) {
        const struct fb_transit_stats *transit = fb_transit_stats(s->transit);
        out->demand_bytes += transit->demand_bytes;
        out->prefetch_bytes += transit->prefetch_bytes;
        out->prefetch_used_bytes += transit->prefetch_used_bytes;
        out->expert_bytes += transit->demand_bytes + transit->prefetch_used_bytes;
        out->stall_ns += transit->stall_ns;
        out->prefetch_stall_ns += transit->prefetch_stall_ns;
        out->memory_bytes += fb_transit_bytes(s->transit);
    }
    out->unpack_ns = s->unpacker.spent_ns;
    out->shrinks = atomic_load(&s->shrinks);
    out->grows = atomic_load(&s->grows);
    out->memory_bytes += s->resident_bytes + s->ring_bytes;
    out->memory_bytes += s->elastic.scratch_bytes ? 0 : s->scratch_bytes;
    fb_io_counters(s->io, &out->io);
    out->io_method = fb_io_method_name(s->io);
}
