#include "stream/experts_internal.h"

#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"
#include "os/memory.h"
#include "os/populate.h"

#define ROOM 2 /* times the slots planned; more is never asked for (bench/LOG.md) */

/* --- Making and freeing -------------------------------------------------------------------- */

/* How many slots a pool may come to have by trading. */
static int room_for(int n_slots, int n_expert)
{
    return n_slots > n_expert / ROOM ? n_expert : ROOM * n_slots;
}

/* Lays out the pools: sizes only. */
static void plan_pools(struct fb_experts *x, const struct fb_stream_config *config)
{
    const struct fb_weights *ws = x->weights;
    bool shared = config->shared_slots > 0;
    x->n_pools = shared ? 1 : ws->n_groups;
    x->pools = fb_xcalloc((size_t)x->n_pools, sizeof *x->pools);
    x->pool_of = fb_xcalloc((size_t)ws->n_groups, sizeof *x->pool_of);
    x->first_id = fb_xcalloc((size_t)ws->n_groups, sizeof *x->first_id);
    x->ahead = fb_xcalloc((size_t)ws->n_groups, sizeof *x->ahead);
    int id = 0;
    for (int g = 0; g < ws->n_groups; g++) {
        const struct fb_group *group = &ws->groups[g];
        x->pool_of[g] = shared ? 0 : g;
        x->first_id[g] = shared ? id : 0;
        id += group->n_expert;
        struct fb_pool *pool = &x->pools[x->pool_of[g]];
        pool->n_slots = shared ? config->shared_slots : config->slots[g];
        pool->max_slots = pool->n_slots;
        pool->room = shared ? pool->n_slots : room_for(pool->n_slots, group->n_expert);
        pool->hollow = fb_io_is_virtual(x->io);
        pool->n_parts = group->n_parts > pool->n_parts ? group->n_parts : pool->n_parts;
        for (int p = 0; p < group->n_parts; p++) {
            pool->stride[p] =
                shared ? fb_weights_shared_stride(ws, p) : ws->weights[group->weight[p]].stride;
        }
    }
}

static void make_cache(struct fb_experts *x, const struct fb_cache_policy *policy)
{
    const struct fb_weights *ws = x->weights;
    int *experts = fb_xcalloc((size_t)x->n_pools, sizeof *experts);
    int *slots = fb_xcalloc((size_t)x->n_pools, sizeof *slots);
    for (int g = 0; g < ws->n_groups; g++) {
        experts[x->pool_of[g]] += ws->groups[g].n_expert;
    }
    for (int i = 0; i < x->n_pools; i++) {
        slots[i] = x->pools[i].n_slots;
    }
    x->cache = fb_cache_new(x->n_pools, experts, slots, policy);
    for (int i = 0; i < x->n_pools; i++) { /* room for two tokens' experts stays in each */
        int least = 2 * ws->catalog->n_expert_used;
        fb_cache_set_floor(x->cache, i, least < 1 || least > slots[i] ? slots[i] : least);
    }
    free(experts);
    free(slots);
}

static bool reserve_slots(struct fb_experts *x)
{
    for (int i = 0; i < x->n_pools; i++) {
        struct fb_pool *pool = &x->pools[i];
        size_t n_loads = (size_t)pool->room * FB_MAX_PARTS;
        pool->load_of = fb_xcalloc(n_loads, sizeof *pool->load_of);
        pool->ahead = fb_xcalloc((size_t)pool->room, sizeof *pool->ahead);
        for (size_t k = 0; k < n_loads; k++) {
            pool->load_of[k] = -1;
        }
        for (int p = 0; p < pool->n_parts; p++) {
            uint64_t planned = (uint64_t)pool->n_slots * pool->stride[p];
            pool->memory_bytes[p] = (uint64_t)pool->room * pool->stride[p];
            pool->memory[p] = fb_vm_reserve(pool->memory_bytes[p], true);
            if (!pool->memory[p]) {
                return false;
            }
            fb_vm_small_pages(pool->memory[p] + planned, pool->memory_bytes[p] - planned);
            x->stats.memory_bytes += planned;
        }
    }
    return true;
}

static bool make_staging(struct fb_experts *x, uint64_t bytes)
{
    const struct fb_weights *ws = x->weights;
    for (int i = 0; i < ws->n_weights; i++) {
        if (ws->weights[i].group >= 0 && ws->weights[i].unpack != FB_UNPACK_DIRECT) {
            x->stage_size = fb_max(x->stage_size, fb_weight_envelope(ws, i));
            x->stage_size =
                fb_max(x->stage_size, fb_round_up(ws->weights[i].stride, FB_BLOCK_BYTES));
        }
    }
    if (x->stage_size == 0) {
        return true;
    }
    x->n_stages = (int)fb_min(bytes / x->stage_size, MAX_LOADS);
    FB_ASSERT(x->n_stages > 0);
    x->stage_busy = fb_xcalloc((size_t)x->n_stages, sizeof *x->stage_busy);
    x->staging_bytes = (uint64_t)x->n_stages * x->stage_size;
    x->staging = fb_vm_reserve(x->staging_bytes, true);
    if (!x->staging) {
        return false;
    }
    if (!fb_io_is_virtual(x->io)) {
        fb_vm_populate(x->staging, x->staging_bytes);
    }
    x->stats.memory_bytes += x->staging_bytes;
    return true;
}

enum forebay_status fb_experts_new(struct fb_unpacker *unpacker,
    const struct fb_stream_config *config, struct fb_experts **out, struct forebay_error *err)
{
    const char *name =
        config->policy ? config->policy : fb_stream_default_policy(config->shared_slots > 0);
    const struct fb_cache_policy *policy = fb_cache_policy(name);
    if (!policy) {
        return fb_fail(
            err, FOREBAY_E_USAGE, fb_cache_policy_names(), "unknown cache policy '%s'", name);
    }
    struct fb_experts *x = fb_xcalloc(1, sizeof *x);
    x->unpacker = unpacker;
    x->io = unpacker->io;
    x->weights = unpacker->weights;
    for (int i = 0; i < MAX_LOADS; i++) {
        x->order[i] = i;
    }
    plan_pools(x, config);
    if (!reserve_slots(x) || !make_staging(x, config->staging_bytes)) {
        fb_experts_free(x);
        return fb_fail(err, FOREBAY_E_NOMEM,
            "Lower --mem, or lift the address space limit (ulimit -v).",
            "cannot reserve memory for expert slots");
    }
    make_cache(x, policy);
    x->most_bytes = fb_experts_most(x);
    *out = x;
    return FOREBAY_OK;
}

void fb_experts_free(struct fb_experts *x)
{
    if (!x) {
        return;
    }
    fb_populator_end(x->populator);
    for (int k = 0; k < x->n_open; k++) { /* what they bring is not put into place any more */
        struct fb_io_request *request = &x->loads[x->order[k]].request;
        if (!fb_io_cancel(x->io, request)) {
            fb_io_wait(x->io, request, NULL);
        }
    }
    for (int i = 0; i < x->n_pools; i++) {
        for (int p = 0; p < x->pools[i].n_parts; p++) {
            if (x->pools[i].memory[p]) {
                fb_vm_release(x->pools[i].memory[p], x->pools[i].memory_bytes[p]);
            }
        }
        free(x->pools[i].load_of);
        free(x->pools[i].ahead);
    }
    if (x->staging) {
        fb_vm_release(x->staging, x->staging_bytes);
    }
    fb_cache_free(x->cache);
    free(x->stage_busy);
    free(x->ahead);
    free(x->first_id);
    free(x->pool_of);
    free(x->pools);
    free(x);
}

void fb_experts_touch_memory(struct fb_experts *x)
{
    if (fb_io_is_virtual(x->io)) {
        return;
    }
    struct fb_vm_range *ranges = fb_xcalloc((size_t)x->n_pools * FB_MAX_PARTS + 1, sizeof *ranges);
    int n = 0;
    for (int i = 0; i < x->n_pools; i++) {
        for (int p = 0; p < x->pools[i].n_parts; p++) {
            ranges[n++] = (struct fb_vm_range){
                x->pools[i].memory[p], (uint64_t)x->pools[i].n_slots * x->pools[i].stride[p]};
        }
    }
    x->populator = fb_populator_start(ranges, n);
    free(ranges);
}

bool fb_experts_wait_memory(struct fb_experts *x, forebay_progress progress, void *user)
{
    bool more = x->populator != NULL, go_on = true;
    uint64_t done, total = fb_experts_held(x);
    while (more && go_on) {
        more = fb_populator_help(x->populator, &done);
        go_on = !progress || progress("taking memory for experts", done, total, user);
    }
    fb_populator_end(x->populator);
    x->populator = NULL;
    return go_on;
}

void *fb_experts_slots(const struct fb_experts *x, int weight, uint64_t *stride, int *n_slots)
{
    const struct fb_weight *w = &x->weights->weights[weight];
    const struct fb_pool *pool = &x->pools[x->pool_of[w->group]];
    *stride = pool->stride[w->part];
    *n_slots = pool->n_slots;
    return pool->memory[w->part] + w->delta;
}

bool fb_experts_has(const struct fb_experts *x, int group, int expert, uint32_t parts)
{
    int pool = x->pool_of[group];
    int slot = fb_cache_find(x->cache, pool, x->first_id[group] + expert);
    return slot >= 0 && (fb_cache_parts(x->cache, pool, slot) & parts) == parts;
}

/* --- For batches --------------------------------------------------------------------------- */

struct fb_experts_cache fb_experts_cache(const struct fb_experts *x, int group)
{
    bool shared = x->n_pools < x->weights->n_groups;
    return (struct fb_experts_cache){x->cache, x->pool_of[group], x->first_id[group], shared};
}

void fb_experts_hold(struct fb_experts *x, int group)
{
    x->pools[x->pool_of[group]].n_passes++;
    fb_prefetch_cancel(x, group);
    fb_loads_collect(x);
    while (fb_loads_settle(x, -1) > 0) {
    }
}

void fb_experts_release(struct fb_experts *x, int group)
{
    x->pools[x->pool_of[group]].n_passes--;
}

int fb_experts_claim(struct fb_experts *x, int group, int expert, bool *ahead)
{
    uint32_t all = fb_group_parts(&x->weights->groups[group]);
    *ahead = false;
    if (!fb_experts_has(x, group, expert, all)) {
        return -1;
    }
    int slot = fb_cache_find(x->cache, x->pool_of[group], x->first_id[group] + expert);
    *ahead = fb_prefetch_claim(x, group, slot, all);
    return slot;
}

int fb_experts_acquire(struct fb_experts *x, int group, int expert)
{
    int pool = x->pool_of[group], evicted;
    int slot = fb_cache_acquire(x->cache, pool, x->first_id[group] + expert, &evicted);
    if (slot >= 0) {
        x->pools[pool].ahead[slot] = 0; /* what was foreseen there is gone */
    }
    return slot;
}

void fb_experts_count(struct fb_experts *x, uint64_t requests, uint64_t hits)
{
    x->stats.expert_requests += requests;
    x->stats.expert_hits += hits;
}

char *fb_experts_staging(struct fb_experts *x, uint64_t *bytes)
{
    for (int i = 0; i < x->n_stages; i++) {
        if (x->stage_busy[i]) {
            fb_loads_drain(x);
            break;
        }
    }
    *bytes = x->staging_bytes;
    return x->staging;
}

/* --- More and less memory ------------------------------------------------------------------ */

/* Memory of all slots, if every pool has as many as `count` says. */
static uint64_t sum_slots(const struct fb_experts *x, int (*count)(const struct fb_pool *pool))
{
    uint64_t bytes = 0;
    for (int i = 0; i < x->n_pools; i++) {
        bytes += (uint64_t)count(&x->pools[i]) * fb_pool_slot_bytes(&x->pools[i]);
    }
    return bytes;
}

static int slots_now(const struct fb_pool *pool)
{
    return pool->n_slots;
}

static int slots_planned(const struct fb_pool *pool)
{
    return pool->max_slots;
}

uint64_t fb_experts_held(const struct fb_experts *x)
{
    return sum_slots(x, slots_now);
}

uint64_t fb_experts_most(const struct fb_experts *x)
{
    return sum_slots(x, slots_planned);
}

uint64_t fb_experts_least(const struct fb_experts *x)
{
    return sum_slots(x, fb_pool_fewest);
}

int fb_experts_n_slots(const struct fb_experts *x)
{
    int n = 0;
    for (int i = 0; i < x->n_pools; i++) {
        n += x->pools[i].n_slots;
    }
    return n;
}

/* Of what the pools can give back, the share that they keep. */
static double share_of(const struct fb_experts *x, uint64_t bytes)
{
    uint64_t most = fb_experts_most(x), least = fb_experts_least(x);
    if (bytes >= most) {
        return 1;
    }
    return bytes <= least ? 0 : (double)(bytes - least) / (double)(most - least);
}

void fb_experts_resize(struct fb_experts *x, uint64_t bytes)
{
    double share = share_of(x, bytes);
    for (int growing = 0; growing < 2; growing++) { /* what is given back comes first */
        for (int i = 0; i < x->n_pools; i++) {
            int n = fb_pool_share(&x->pools[i], share);
            if (n != x->pools[i].n_slots && (n > x->pools[i].n_slots) == (growing == 1)) {
                fb_pool_resize(&x->pools[i], x->cache, i, n);
            }
        }
    }
}

bool fb_experts_settled(const struct fb_experts *x, uint64_t bytes)
{
    double share = share_of(x, bytes);
    for (int i = 0; i < x->n_pools; i++) {
        if (fb_pool_share(&x->pools[i], share) != x->pools[i].n_slots) {
            return false;
        }
    }
    return true;
}

void fb_experts_stats(const struct fb_experts *x, struct fb_stream_stats *out)
{
    out->demand_bytes += x->stats.demand_bytes;
    out->prefetch_bytes += x->stats.prefetch_bytes;
    out->prefetch_used_bytes += x->stats.prefetch_used_bytes;
    out->expert_bytes = x->stats.demand_bytes + x->stats.prefetch_used_bytes;
    out->lookahead_bytes = x->stats.prefetch_used_bytes;
    out->expert_requests += x->stats.expert_requests;
    out->expert_hits += x->stats.expert_hits;
    out->stall_ns += x->stats.stall_ns;
    out->prefetch_stall_ns += x->stats.prefetch_stall_ns;
    out->memory_bytes += x->stats.memory_bytes;
}
