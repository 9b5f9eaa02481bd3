/*
 * stream.c - makes a stream of its components, loads it, and chooses how experts are used.
 */
#include "stream/stream.h"

#include <limits.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"
#include "os/memory.h"
#include "stream/components.h"
#include "stream/preload.h"

/* From this many tokens on, prefetching across layers and gathering rows is worth the effort. */
#define SET_TOKENS 32
/* So many passes must have had no use for the transit before its memory becomes slots again: where
 * pieces of prompts alternate with single tokens, slots would come and go. */
#define PASSES_WITHOUT 4

/* --- Making and freeing ----------------------------------------------------------------------- */

void fb_stream_options_init(struct fb_stream_options *options)
{
    *options = (struct fb_stream_options){0};
    fb_io_options_init(&options->io);
}

/* In a shared pool, a step is one layer of a token, and the steps just before it say nothing about
 * the text: echo finds no repetitions. */
const char *fb_stream_default_policy(bool shared)
{
    return shared ? "lru" : "echo";
}

static enum forebay_status no_memory(const char *what, struct forebay_error *err)
{
    char hint[160];
    fb_vm_limit_text(hint, sizeof hint);
    return fb_fail(err, FOREBAY_E_NOMEM, hint, "cannot reserve memory for %s", what);
}

static bool is_absent(void *user, int group, int expert)
{
    const struct fb_stream *s = user;
    return !fb_slots_has(&s->slots, group, expert, fb_group_parts(&s->weights->groups[group]));
}

static enum forebay_status make_experts(struct fb_stream *s, const struct fb_plan *plan,
    const struct fb_stream_options *options, struct forebay_error *err)
{
    bool hollow = fb_io_is_virtual(s->io);
    const char *name =
        options->policy ? options->policy : fb_stream_default_policy(plan->shared_slots > 0);
    const struct fb_cache_policy *policy = fb_cache_policy(name);
    if (!policy) {
        return fb_fail(
            err, FOREBAY_E_USAGE, fb_cache_policy_names(), "unknown cache policy '%s'", name);
    }
    s->prefetch_lists = fb_prefetch_lists_new(s->weights->n_groups);
    s->taught = fb_xcalloc((size_t)s->weights->n_groups, sizeof *s->taught);
    if (!fb_slots_init(&s->slots, s->weights, plan, policy, hollow) ||
        !fb_loads_init(&s->loads, &s->unpacker, &s->slots, plan->staging_bytes)) {
        return no_memory("expert slots", err);
    }
    if (plan->transit_bytes > 0) {
        s->transit = fb_transit_new(&s->unpacker, plan->transit_bytes, is_absent, s);
        if (!s->transit) {
            return no_memory("experts in transit", err);
        }
        s->sets = fb_sets_new(s->weights);
    }
    return FOREBAY_OK;
}

static enum forebay_status make_components(struct fb_stream *s, const struct fb_plan *plan,
    const struct fb_stream_options *options, struct forebay_error *err)
{
    enum forebay_status status = fb_io_open(&options->io, &s->io, err);
    if (status != FOREBAY_OK) {
        return status;
    }
    s->unpacker = (struct fb_unpacker){.io = s->io,
        .weights = s->weights,
        .unpack = options->unpack,
        .check = options->check,
        .user = options->user};
    if (!fb_dense_init(s, plan)) {
        return no_memory("dense weights", err);
    }
    return s->weights->n_groups > 0 ? make_experts(s, plan, options, err) : FOREBAY_OK;
}

enum forebay_status fb_stream_new(const struct fb_weights *weights, const struct fb_plan *plan,
    const struct fb_stream_options *options, struct fb_stream **out, struct forebay_error *err)
{
    struct fb_stream *s = fb_xcalloc(1, sizeof *s);
    s->weights = weights;
    s->preload = plan->preload && !options->cold;
    s->adapted = UINT64_MAX;
    s->last_scheduled = INT_MAX;
    s->spare_bytes = plan->budget_bytes - fb_min(plan->budget_bytes, plan->total_bytes);
    atomic_init(&s->target, UINT64_MAX);
    enum forebay_status status = make_components(s, plan, options, err);
    if (status != FOREBAY_OK) {
        fb_stream_free(s);
        return status;
    }
    s->heeded = fb_stream_most(s);
    fb_adapt_note_held(s);
    *out = s;
    return FOREBAY_OK;
}

void fb_stream_free(struct fb_stream *s)
{
    if (!s) {
        return;
    }
    fb_sets_free(s->sets);
    fb_transit_free(s->transit);
    fb_loads_release(&s->loads);
    fb_slots_release(&s->slots);
    free(s->prefetch_lists);
    free(s->taught);
    fb_dense_release(s);
    fb_io_free(s->io);
    free(s);
}

/* Helps to claim the memory of slots. What there is no room for, after slots were given back, is
 * left to be claimed by its first use. False when `progress` said stop. */
static bool populate_rest(struct fb_stream *s, forebay_progress progress, void *user)
{
    enum fb_populated got = FB_POPULATED_PIECE;
    bool proceed = true;
    while (got != FB_POPULATED_ALL && proceed) {
        uint64_t done;
        got = fb_slots_populate_help(&s->slots, &done);
        if (got == FB_POPULATED_NO_ROOM && !fb_preload_room(s, 0)) {
            break;
        }
        fb_stream_adapt(s, true);
        proceed = !progress || progress("allocating memory for experts", done,
                                   fb_max(done, fb_slots_held(&s->slots)), user);
    }
    return proceed;
}

enum forebay_status fb_stream_load(
    struct fb_stream *s, forebay_progress progress, void *progress_user, struct forebay_error *err)
{
    struct fb_dense_loading loading = {.progress = progress, .user = progress_user};
    enum forebay_status status = fb_dense_load_large(s, &loading, err);
    if (status == FOREBAY_OK) {
        fb_slots_populate_start(&s->slots);
        status = fb_dense_load_rest(s, &loading, err);
    }
    if (status == FOREBAY_OK && s->preload) {
        status = fb_preload(s, progress, progress_user, err);
    }
    if (status == FOREBAY_OK && !populate_rest(s, progress, progress_user)) {
        status = fb_fail(err, FOREBAY_E_CANCELLED, "", "loading was cancelled");
    }
    fb_slots_populate_end(&s->slots);
    fb_stream_adapt(s, true);
    return status;
}

/* --- Experts ---------------------------------------------------------------------------------- */

/* Whether a pass that uses experts so may need sets, which take the transit. */
static bool may_need_sets(const struct fb_stream *s, const struct fb_expert_use *uses, int n)
{
    for (int i = 0; i < n; i++) {
        int group = s->weights->weights[uses[i].weight].group;
        int most = s->weights->groups[group].n_expert;
        int64_t needed = fb_min((uint64_t)uses[i].tokens * (uint64_t)uses[i].picks, (uint64_t)most);
        if (uses[i].tokens >= SET_TOKENS || needed > fb_stream_lease_limit(s, group)) {
            return true;
        }
    }
    return false;
}

void fb_stream_schedule_experts(struct fb_stream *s, const struct fb_expert_use *uses, int n)
{
    if (!s->transit || n == 0) {
        return;
    }
    bool sets = may_need_sets(s, uses, n);
    int first = s->weights->weights[uses[0].weight].group;
    bool new_pass = first <= s->last_scheduled; /* a pass may come in pieces */
    s->last_scheduled = s->weights->weights[uses[n - 1].weight].group;
    s->passes_without = sets ? 0 : s->passes_without + new_pass;
    if (sets || s->passes_without == PASSES_WITHOUT) {
        fb_adapt_lend_transit(s, sets);
    }
    fb_transit_schedule(s->transit, uses, n, sets && uses[0].tokens > 1);
}

static bool wants_sets(const struct fb_stream *s, int group, const struct fb_routes *routes)
{
    uint32_t all = fb_group_parts(&s->weights->groups[group]);
    if (routes->n_needed > fb_stream_lease_limit(s, group)) {
        return true;
    }
    if (!s->sets || routes->tokens < SET_TOKENS) {
        return false;
    }
    for (int i = 0; i < routes->n_needed; i++) {
        if (!fb_slots_has(&s->slots, group, routes->needed[i], all)) {
            return true;
        }
    }
    return false;
}

bool fb_stream_layer_begin(
    struct fb_stream *s, struct fb_lease *lease, int weight, const struct fb_routes *routes)
{
    int group = s->weights->weights[weight].group;
    if (wants_sets(s, group, routes)) {
        fb_stream_sets_begin(s, weight, routes);
        return false;
    }
    fb_stream_lease_begin(s, lease, group, routes->needed, routes->uses, routes->n_needed,
        fb_group_parts(&s->weights->groups[group]));
    return true;
}

void *fb_stream_slots(const struct fb_stream *s, int weight, uint64_t *stride, int *n_slots)
{
    return fb_slots_base(&s->slots, weight, stride, n_slots);
}

int fb_stream_pool(const struct fb_stream *s, int group)
{
    return s->slots.pool_of[group];
}

void fb_stream_set_holder(struct fb_stream *s, const struct fb_pool_holder *holder)
{
    for (int i = 0; i < s->slots.n_pools; i++) {
        s->slots.pools[i].holder = holder;
    }
}

bool fb_stream_has(const struct fb_stream *s, int group, int expert, uint32_t parts)
{
    return fb_slots_has(&s->slots, group, expert, parts);
}

/* --- Both ------------------------------------------------------------------------------------- */

void fb_stream_poll(struct fb_stream *s)
{
    fb_io_poll(s->io);
}

static uint64_t planned_bytes(const struct fb_stream *s)
{
    uint64_t bytes = s->resident_bytes + s->ring_bytes + s->slots.planned_bytes +
                     fb_loads_staging_bytes(&s->loads);
    bytes += s->elastic.scratch_bytes ? 0 : s->scratch_bytes;
    return bytes;
}

uint64_t fb_stream_planned(const struct fb_stream *s)
{
    return planned_bytes(s);
}

uint64_t fb_stream_now(const struct fb_stream *s)
{
    uint64_t transit = s->transit_used ? fb_transit_bytes(s->transit) : 0;
    return planned_bytes(s) - fb_stream_most(s) + fb_stream_held(s) - s->lent + transit;
}

void fb_stream_stats(const struct fb_stream *s, struct fb_stream_stats *out)
{
    *out = s->stats;
    fb_stream_stats_add(out, &s->loads.stats);
    if (s->transit) {
        fb_stream_stats_add(out, fb_transit_stats(s->transit));
    }
    out->expert_bytes = out->demand_bytes + out->prefetch_used_bytes;
    out->lookahead_bytes = s->loads.stats.prefetch_used_bytes;
    if (s->ring) {
        fb_stream_stats_add(out, fb_ring_stats(s->ring));
    }
    out->unpack_ns = s->unpacker.spent_ns;
    out->shrinks = atomic_load(&s->shrinks);
    out->grows = atomic_load(&s->grows);
    out->memory_bytes = planned_bytes(s);
    fb_io_counters(s->io, &out->io);
    out->io_method = fb_io_method_name(s->io);
}
