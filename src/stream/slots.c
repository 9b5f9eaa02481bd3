/*
 * slots.c - lays the pools out, gives and finds slots, and divides memory among the pools.
 *
 * Address space is reserved for more slots than planned (ROOM), because pools lend slots to each
 * other; the planned bytes are never exceeded. When memory gets short, every pool keeps the same
 * share of the slots it can give back.
 */
#include "stream/slots.h"

#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"
#include "os/memory.h"
#include "os/populate.h"

#define ROOM 2 /* times the slots planned; no pool ever asked for more (bench/LOG.md) */

/* --- Making and freeing ----------------------------------------------------------------------- */

/* How many slots a pool may reach by borrowing. */
static int room_for(int n_slots, int n_expert)
{
    return n_slots > n_expert / ROOM ? n_expert : ROOM * n_slots;
}

/* Lays out the pools: sizes only. */
static void plan_pools(struct fb_slots *s, const struct fb_plan *plan, bool hollow)
{
    const struct fb_weights *ws = s->weights;
    bool shared = plan->shared_slots > 0;
    s->n_pools = shared ? 1 : ws->n_groups;
    s->pools = fb_xcalloc((size_t)s->n_pools, sizeof *s->pools);
    s->wanted = fb_xcalloc((size_t)s->n_pools, sizeof *s->wanted);
    s->pool_of = fb_xcalloc((size_t)ws->n_groups, sizeof *s->pool_of);
    s->first_key = fb_xcalloc((size_t)ws->n_groups, sizeof *s->first_key);
    int key = 0;
    for (int g = 0; g < ws->n_groups; g++) {
        const struct fb_group *group = &ws->groups[g];
        s->pool_of[g] = shared ? 0 : g;
        s->first_key[g] = shared ? key : 0;
        key += group->n_expert;
        struct fb_pool *pool = &s->pools[s->pool_of[g]];
        pool->n_slots = shared ? plan->shared_slots : plan->slots[g];
        pool->max_slots = pool->n_slots;
        pool->room = shared ? pool->n_slots : room_for(pool->n_slots, group->n_expert);
        pool->hollow = hollow;
        pool->n_parts = group->n_parts > pool->n_parts ? group->n_parts : pool->n_parts;
        for (int p = 0; p < group->n_parts; p++) {
            pool->stride[p] =
                shared ? fb_weights_shared_stride(ws, p) : ws->weights[group->weight[p]].stride;
        }
    }
}

static void make_cache(struct fb_slots *s, const struct fb_cache_policy *policy)
{
    const struct fb_weights *ws = s->weights;
    int *n_keys = fb_xcalloc((size_t)s->n_pools, sizeof *n_keys);
    int *n_slots = fb_xcalloc((size_t)s->n_pools, sizeof *n_slots);
    for (int g = 0; g < ws->n_groups; g++) {
        n_keys[s->pool_of[g]] += ws->groups[g].n_expert;
    }
    for (int i = 0; i < s->n_pools; i++) {
        n_slots[i] = s->pools[i].n_slots;
    }
    s->cache = fb_cache_new(s->n_pools, n_keys, n_slots, policy);
    for (int i = 0; i < s->n_pools; i++) { /* each keeps room for two tokens' experts */
        int least = 2 * ws->catalog->n_expert_used;
        fb_cache_set_floor(s->cache, i, least < 1 || least > n_slots[i] ? n_slots[i] : least);
    }
    free(n_keys);
    free(n_slots);
}

static bool reserve_pool(struct fb_pool *pool)
{
    size_t n_loads = (size_t)pool->room * FB_MAX_PARTS;
    pool->load_of = fb_xcalloc(n_loads, sizeof *pool->load_of);
    pool->prefetched = fb_xcalloc((size_t)pool->room, sizeof *pool->prefetched);
    for (size_t k = 0; k < n_loads; k++) {
        pool->load_of[k] = -1;
    }
    for (int p = 0; p < pool->n_parts; p++) {
        uint64_t planned = (uint64_t)pool->n_slots * pool->stride[p];
        pool->memory_bytes[p] = (uint64_t)pool->room * pool->stride[p];
        pool->memory[p] = fb_vm_reserve_space(pool->memory_bytes[p], true);
        if (!pool->memory[p] || !fb_vm_allow(pool->memory[p], planned)) {
            return false;
        }
        fb_vm_small_pages(pool->memory[p] + planned, pool->memory_bytes[p] - planned);
    }
    return true;
}

bool fb_slots_init(struct fb_slots *s, const struct fb_weights *weights, const struct fb_plan *plan,
    const struct fb_cache_policy *policy, bool hollow)
{
    *s = (struct fb_slots){.weights = weights};
    plan_pools(s, plan, hollow);
    for (int i = 0; i < s->n_pools; i++) {
        if (!reserve_pool(&s->pools[i])) {
            return false;
        }
    }
    make_cache(s, policy);
    s->planned_bytes = fb_slots_most(s);
    return true;
}

void fb_slots_release(struct fb_slots *s)
{
    fb_populator_end(s->populator);
    for (int i = 0; i < s->n_pools; i++) {
        for (int p = 0; p < s->pools[i].n_parts; p++) {
            if (s->pools[i].memory[p]) {
                fb_vm_release(s->pools[i].memory[p], s->pools[i].memory_bytes[p]);
            }
        }
        free(s->pools[i].load_of);
        free(s->pools[i].prefetched);
    }
    fb_cache_free(s->cache);
    free(s->wanted);
    free(s->first_key);
    free(s->pool_of);
    free(s->pools);
}

void fb_slots_populate_start(struct fb_slots *s)
{
    struct fb_vm_range *ranges = fb_xcalloc((size_t)s->n_pools * FB_MAX_PARTS + 1, sizeof *ranges);
    int n = 0;
    for (int i = 0; i < s->n_pools; i++) {
        const struct fb_pool *pool = &s->pools[i];
        for (int p = 0; p < pool->n_parts && !pool->hollow; p++) {
            ranges[n++] =
                (struct fb_vm_range){pool->memory[p], (uint64_t)pool->n_slots * pool->stride[p]};
        }
    }
    if (n > 0) {
        s->populator = fb_populator_start(ranges, n);
    }
    for (int i = 0; i < s->n_pools; i++) {
        s->pools[i].populator = s->populator;
    }
    free(ranges);
}

enum fb_populated fb_slots_populate_help(struct fb_slots *s, uint64_t *done)
{
    *done = fb_slots_held(s);
    return s->populator ? fb_populator_help(s->populator, done) : FB_POPULATED_ALL;
}

void fb_slots_populate_end(struct fb_slots *s)
{
    fb_populator_end(s->populator);
    s->populator = NULL;
    for (int i = 0; i < s->n_pools; i++) {
        s->pools[i].populator = NULL;
    }
}

/* --- Slots and experts ------------------------------------------------------------------------ */

bool fb_slots_shared(const struct fb_slots *s)
{
    return s->n_pools < s->weights->n_groups;
}

void *fb_slots_base(const struct fb_slots *s, int weight, uint64_t *stride, int *n_slots)
{
    const struct fb_weight *w = &s->weights->weights[weight];
    const struct fb_pool *pool = &s->pools[s->pool_of[w->group]];
    *stride = pool->stride[w->part];
    *n_slots = pool->n_slots;
    return pool->memory[w->part] + w->delta;
}

int fb_slots_find(const struct fb_slots *s, int group, int expert)
{
    return fb_cache_find(s->cache, s->pool_of[group], s->first_key[group] + expert);
}

bool fb_slots_has(const struct fb_slots *s, int group, int expert, uint32_t parts)
{
    int slot = fb_slots_find(s, group, expert);
    return slot >= 0 && (fb_cache_parts(s->cache, s->pool_of[group], slot) & parts) == parts;
}

static int given(struct fb_slots *s, int pool, int slot)
{
    if (slot >= 0) {
        s->pools[pool].prefetched[slot] = 0; /* of the expert that was evicted */
    }
    return slot;
}

int fb_slots_acquire(struct fb_slots *s, int group, int expert)
{
    int pool = s->pool_of[group], evicted;
    return given(s, pool, fb_cache_acquire(s->cache, pool, s->first_key[group] + expert, &evicted));
}

int fb_slots_offer(struct fb_slots *s, int group, int expert)
{
    int pool = s->pool_of[group], evicted;
    return given(s, pool, fb_cache_offer(s->cache, pool, s->first_key[group] + expert, &evicted));
}

void fb_slots_borrow(struct fb_slots *s, int group)
{
    int pool = s->pool_of[group], other, slot;
    if (!fb_cache_trade(s->cache, pool, &other, &slot)) {
        return;
    }
    struct fb_pool *to = &s->pools[pool], *from = &s->pools[other];
    if (fb_slots_most(s) - fb_pool_slot_bytes(from) + fb_pool_slot_bytes(to) <= s->planned_bytes) {
        fb_pool_lend(from, other, slot, to, pool, s->cache);
    }
}

/* --- More and less memory --------------------------------------------------------------------- */

/* Memory of all slots, if every pool has as many as `count` says. */
static uint64_t sum_slots(const struct fb_slots *s, int (*count)(const struct fb_pool *pool))
{
    uint64_t bytes = 0;
    for (int i = 0; i < s->n_pools; i++) {
        bytes += (uint64_t)count(&s->pools[i]) * fb_pool_slot_bytes(&s->pools[i]);
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

uint64_t fb_slots_held(const struct fb_slots *s)
{
    return sum_slots(s, slots_now);
}

uint64_t fb_slots_most(const struct fb_slots *s)
{
    return sum_slots(s, slots_planned);
}

uint64_t fb_slots_least(const struct fb_slots *s)
{
    return sum_slots(s, fb_pool_fewest);
}

int fb_slots_count(const struct fb_slots *s)
{
    int n = 0;
    for (int i = 0; i < s->n_pools; i++) {
        n += s->pools[i].n_slots;
    }
    return n;
}

/* Fraction of what the pools can give back that they keep. */
static double share_of(const struct fb_slots *s, uint64_t bytes)
{
    uint64_t most = fb_slots_most(s), least = fb_slots_least(s);
    if (bytes >= most) {
        return 1;
    }
    return bytes <= least ? 0 : (double)(bytes - least) / (double)(most - least);
}

/* Fills in how many slots each pool has when all have `bytes`: equal shares of what they can give
 * back, and a slot more each for the first pools, as far as the rest goes. */
static void divide(const struct fb_slots *s, uint64_t bytes)
{
    double share = share_of(s, bytes);
    uint64_t used = 0;
    for (int i = 0; i < s->n_pools; i++) {
        s->wanted[i] = fb_pool_share(&s->pools[i], share);
        used += (uint64_t)s->wanted[i] * fb_pool_slot_bytes(&s->pools[i]);
    }
    for (int i = 0; i < s->n_pools; i++) {
        uint64_t more = fb_pool_slot_bytes(&s->pools[i]);
        if (s->wanted[i] < s->pools[i].max_slots && used + more <= bytes) {
            s->wanted[i]++;
            used += more;
        }
    }
}

bool fb_slots_resize(struct fb_slots *s, uint64_t bytes)
{
    bool reached = true;
    divide(s, bytes);
    for (int growing = 0; growing < 2; growing++) { /* memory is given back first, then regained */
        for (int i = 0; i < s->n_pools; i++) {
            int n = s->wanted[i];
            if (n != s->pools[i].n_slots && (n > s->pools[i].n_slots) == (growing == 1)) {
                fb_pool_resize(&s->pools[i], s->cache, i, n);
            }
        }
    }
    for (int i = 0; i < s->n_pools; i++) {
        reached = reached && s->wanted[i] == s->pools[i].n_slots;
    }
    return reached;
}
