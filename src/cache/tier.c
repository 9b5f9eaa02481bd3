#include "cache/tier.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cache/cache.h"

#define POLICY "echo"

struct tier_group {
    int pool; /* of the cache; -1: not in the tier */
    int n_experts, n_slots;
    uint32_t all; /* its parts, as bits */
    int *whole;   /* [n_experts] by slot: the expert all of whose parts it holds, or -1 */
    int *pinned;  /* [n_experts] slots */
    int n_pinned;
};

struct fb_tier {
    int n_groups;
    struct tier_group *groups;
    struct fb_cache *cache;
    struct fb_tier_stats stats;
};

struct fb_tier *fb_tier_new(
    int n_groups, const int *n_experts, const int *n_parts, const int *n_slots)
{
    struct fb_tier *t = fb_xcalloc(1, sizeof *t);
    int *keys = fb_xcalloc((size_t)n_groups, sizeof *keys);
    int *slots = fb_xcalloc((size_t)n_groups, sizeof *slots);
    int n_pools = 0;
    t->n_groups = n_groups;
    t->groups = fb_xcalloc((size_t)n_groups, sizeof *t->groups);
    for (int g = 0; g < n_groups; g++) {
        struct tier_group *group = &t->groups[g];
        group->pool = -1;
        group->n_experts = n_experts[g];
        group->all = (1u << n_parts[g]) - 1;
        if (n_slots[g] > 0) {
            group->pool = n_pools;
            group->n_slots = n_slots[g];
            group->whole = fb_xcalloc((size_t)n_experts[g], sizeof *group->whole);
            memset(group->whole, -1, (size_t)n_experts[g] * sizeof *group->whole);
            group->pinned = fb_xcalloc((size_t)n_experts[g], sizeof *group->pinned);
            keys[n_pools] = n_experts[g];
            slots[n_pools++] = n_slots[g];
        }
    }
    t->cache = fb_cache_new(n_pools, keys, slots, fb_cache_policy(POLICY));
    free(keys);
    free(slots);
    return t;
}

void fb_tier_free(struct fb_tier *t)
{
    if (t) {
        for (int g = 0; g < t->n_groups; g++) {
            free(t->groups[g].whole);
            free(t->groups[g].pinned);
        }
        fb_cache_free(t->cache);
        free(t->groups);
        free(t);
    }
}

static struct tier_group *group_of(const struct fb_tier *t, int group)
{
    FB_ASSERT(group >= 0 && group < t->n_groups && t->groups[group].pool >= 0);
    return &t->groups[group];
}

int fb_tier_slots(const struct fb_tier *t, int group)
{
    return t->groups[group].n_slots;
}

int fb_tier_expert(const struct fb_tier *t, int g, int slot)
{
    const struct tier_group *group = group_of(t, g);
    FB_ASSERT(slot >= 0 && slot < group->n_slots);
    return group->whole[slot];
}

void fb_tier_resize(struct fb_tier *t, int g, int n)
{
    struct tier_group *group = group_of(t, g);
    FB_ASSERT(group->n_pinned == 0);
    fb_cache_resize(t->cache, group->pool, n);
    for (int slot = n; slot < group->n_slots; slot++) {
        group->whole[slot] = -1;
    }
    group->n_slots = n;
}

static void pin(struct fb_tier *t, struct tier_group *group, int slot)
{
    fb_cache_pin(t->cache, group->pool, slot);
    group->pinned[group->n_pinned++] = slot;
}

/* Gives a missing expert a slot, to be filled; -1: it is not worth one, and need not have it. *lost
 * is the expert that the slot held. */
static int give_slot(struct fb_tier *t, struct tier_group *group, int expert, bool must, int *lost)
{
    int evicted, slot = must ? fb_cache_acquire(t->cache, group->pool, expert, &evicted)
                             : fb_cache_offer(t->cache, group->pool, expert, &evicted);
    *lost = -1;
    if (slot >= 0) {
        *lost = group->whole[slot];
        group->whole[slot] = -1;
        fb_cache_set_parts(t->cache, group->pool, slot, 0);
        pin(t, group, slot);
    }
    return slot;
}

int fb_tier_open(struct fb_tier *t, int g, const struct fb_tier_need *need, int *slot_of,
    int *missing, int *slots, int *lost, bool *fits)
{
    struct tier_group *group = group_of(t, g);
    int n_missing = 0;
    FB_ASSERT(group->n_pinned == 0);
    memset(slot_of, -1, (size_t)group->n_experts * sizeof *slot_of);
    fb_cache_step(t->cache, group->pool);
    for (int i = 0; i < need->n; i++) {
        int e = need->experts[i], slot = fb_cache_find(t->cache, group->pool, e);
        bool hit = slot >= 0 && fb_cache_parts(t->cache, group->pool, slot) == group->all;
        fb_cache_touch(t->cache, group->pool, e);
        t->stats.requests += (uint64_t)need->uses[i];
        if (hit) {
            t->stats.hits += (uint64_t)need->uses[i];
            slot_of[e] = slot;
            pin(t, group, slot);
        } else {
            missing[n_missing++] = e;
        }
    }
    *fits = need->n <= group->n_slots;
    for (int i = 0; i < n_missing; i++) {
        slots[i] = give_slot(t, group, missing[i], *fits, &lost[i]);
        FB_ASSERT(slots[i] >= 0 || !*fits);
        if (*fits) {
            slot_of[missing[i]] = slots[i];
        }
    }
    return n_missing;
}

void fb_tier_fill(struct fb_tier *t, int g, int slot, int part)
{
    struct tier_group *group = group_of(t, g);
    uint32_t parts = fb_cache_parts(t->cache, group->pool, slot) | 1u << part;
    fb_cache_set_parts(t->cache, group->pool, slot, parts);
    if (parts == group->all) {
        group->whole[slot] = fb_cache_key(t->cache, group->pool, slot);
    }
}

void fb_tier_close(struct fb_tier *t, int g)
{
    struct tier_group *group = group_of(t, g);
    while (group->n_pinned > 0) {
        fb_cache_unpin(t->cache, group->pool, group->pinned[--group->n_pinned]);
    }
}

struct fb_tier_stats fb_tier_stats(const struct fb_tier *t)
{
    return t->stats;
}
