#include "stream/sets.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"

#define MAX_UNITS 256 /* read and used at once */
/* What slots keep is what was used most, where a use counts half after so many tokens. */
#define HALF_LIFE 16
#define ONE_USE   (1u << 16)

struct fb_batch {
    struct fb_unpacker *unpacker;
    const struct fb_weights *weights;
    struct fb_experts *experts;
    struct fb_transit *transit;

    int group; /* open, or -1 */
    int n_pinned;
    int *pinned; /* slots; [2 * most experts] */
    /* By expert of the group: */
    int *uses;       /* rows that need it */
    uint32_t *worth; /* how much the last tokens used it */
    int *slot;       /* of a hit, else -1 */
    int *admitted;   /* slot that a miss gets, else -1 */
    int *order;      /* those needed; hits, then misses */

    int weight; /* the matrix in use, or -1 */
    struct fb_unit units[MAX_UNITS];
    int n_units;         /* taken and not put anywhere: the next set, or the one in use */
    bool in_use;         /* ... the latter */
    int *listed, *index; /* of the set in use */
};

struct fb_batch *fb_batch_new(
    struct fb_unpacker *unpacker, struct fb_experts *experts, struct fb_transit *transit)
{
    const struct fb_weights *weights = unpacker->weights;
    struct fb_batch *b = fb_xcalloc(1, sizeof *b);
    *b = (struct fb_batch){unpacker, weights, experts, transit, .group = -1, .weight = -1};
    size_t most = MAX_UNITS;
    for (int g = 0; g < weights->n_groups; g++) {
        most = fb_max(most, (size_t)weights->groups[g].n_expert);
    }
    b->pinned = fb_xcalloc(2 * most, sizeof *b->pinned);
    b->uses = fb_xcalloc(most, sizeof *b->uses);
    b->worth = fb_xcalloc(most, sizeof *b->worth);
    b->slot = fb_xcalloc(most, sizeof *b->slot);
    b->admitted = fb_xcalloc(most, sizeof *b->admitted);
    b->order = fb_xcalloc(most, sizeof *b->order);
    b->listed = fb_xcalloc(most, sizeof *b->listed);
    b->index = fb_xcalloc(most, sizeof *b->index);
    return b;
}

void fb_batch_free(struct fb_batch *b)
{
    if (b) {
        free(b->pinned);
        free(b->uses);
        free(b->worth);
        free(b->slot);
        free(b->admitted);
        free(b->order);
        free(b->listed);
        free(b->index);
        free(b);
    }
}

/* --- Beginning ----------------------------------------------------------------------------- */

/* Counts what is needed, and tells the cache of every token in its turn. */
static void count(struct fb_batch *b, const struct fb_routes *routes)
{
    struct fb_experts_cache c = fb_experts_cache(b->experts, b->group);
    int n_expert = b->weights->groups[b->group].n_expert;
    memset(b->uses, 0, (size_t)n_expert * sizeof *b->uses);
    memset(b->worth, 0, (size_t)n_expert * sizeof *b->worth);
    for (int t = 0; t < routes->tokens; t++) {
        fb_cache_step(c.cache, c.layer);
        for (int e = 0; t % HALF_LIFE == 0 && e < n_expert; e++) {
            b->worth[e] /= 2;
        }
        for (int k = 0; k < routes->picks; k++) {
            int e = routes->experts[t * routes->picks + k];
            b->uses[e]++;
            b->worth[e] += ONE_USE;
            fb_cache_touch(c.cache, c.layer, c.first_id + e);
        }
    }
}

/* Finds the hits. Returns how many experts are needed: those in b->order. */
static int look_up(struct fb_batch *b)
{
    uint64_t requests = 0, hits = 0;
    int n = 0;
    for (int e = 0; e < b->weights->groups[b->group].n_expert; e++) {
        b->admitted[e] = b->slot[e] = -1;
        if (b->uses[e]) {
            bool ahead;
            b->slot[e] = fb_experts_claim(b->experts, b->group, e, &ahead);
            requests += (uint64_t)b->uses[e];
            hits += b->slot[e] >= 0 && !ahead ? (uint64_t)b->uses[e] : 0;
            b->order[n++] = e;
        }
    }
    fb_experts_count(b->experts, requests, hits);
    return n;
}

/* Moves the `k` experts that are worth most to the front of the n, in falling order. */
static void sort_by_worth(struct fb_batch *b, int n, int k)
{
    for (int i = 0; i < k; i++) {
        int best = i;
        for (int j = i + 1; j < n; j++) {
            best = b->worth[b->order[j]] > b->worth[b->order[best]] ? j : best;
        }
        int e = b->order[best];
        memmove(&b->order[i + 1], &b->order[i], (size_t)(best - i) * sizeof *b->order);
        b->order[i] = e;
    }
}

static void pin(struct fb_batch *b, const struct fb_experts_cache *c, int slot)
{
    fb_cache_pin(c->cache, c->layer, slot);
    b->pinned[b->n_pinned++] = slot;
}

/* Decides what the slots hold when the batch is over, and pins what it uses. Of n needed experts the
 * slots keep those that are worth most; a pool that all layers share keeps what it has. */
static void admit(struct fb_batch *b, int n)
{
    struct fb_experts_cache c = fb_experts_cache(b->experts, b->group);
    int keep = c.shared ? 0 : fb_cache_slots(c.cache, c.layer);
    keep = keep < n ? keep : n;
    sort_by_worth(b, n, keep);
    for (int i = 0; i < keep; i++) {
        if (b->slot[b->order[i]] >= 0) {
            pin(b, &c, b->slot[b->order[i]]);
        }
    }
    for (int i = 0; i < keep; i++) {
        int e = b->order[i];
        if (b->slot[e] < 0 && fb_cache_find(c.cache, c.layer, c.first_id + e) < 0) {
            b->admitted[e] = fb_experts_acquire(b->experts, b->group, e);
            if (b->admitted[e] < 0) {
                break; /* the rest is pinned, by reads that nobody waits for */
            }
            pin(b, &c, b->admitted[e]);
        }
    }
    for (int i = keep; i < n; i++) {
        if (b->slot[b->order[i]] >= 0) {
            pin(b, &c, b->slot[b->order[i]]); /* also a slot that is about to change hands */
        }
    }
}

void fb_batch_begin(struct fb_batch *b, int weight, const struct fb_routes *routes)
{
    FB_ASSERT(b->group < 0);
    b->group = b->weights->weights[weight].group;
    fb_experts_hold(b->experts, b->group);
    count(b, routes);
    int n = look_up(b), n_missing = 0;
    admit(b, n);
    for (int e = 0; e < b->weights->groups[b->group].n_expert; e++) {
        if (b->uses[e] && b->slot[e] < 0) {
            b->order[n_missing++] = e; /* in file order */
        }
    }
    fb_transit_need(b->transit, weight, b->order, n_missing, n);
}

/* --- Sets ---------------------------------------------------------------------------------- */

static void release_units(struct fb_batch *b)
{
    for (int i = 0; i < b->n_units; i++) {
        fb_transit_release(b->transit, &b->units[i]);
    }
    b->n_units = 0;
    b->in_use = false;
}

static void fill_set(struct fb_batch *b, struct fb_set *set, int n)
{
    set->n = n;
    set->experts = b->listed;
    set->index = b->index;
    set->n_index = 0;
    for (int i = 0; i < n; i++) {
        set->n_index = b->index[i] >= set->n_index ? b->index[i] + 1 : set->n_index;
    }
}

/* A set of n experts in slots: b->listed and b->index say which. */
static void give_slots(struct fb_batch *b, struct fb_set *set, int n)
{
    int n_slots;
    set->base = fb_experts_slots(b->experts, b->weight, &set->stride, &n_slots);
    fill_set(b, set, n);
}

static int list_hits(struct fb_batch *b)
{
    int n = 0;
    for (int e = 0; e < b->weights->groups[b->group].n_expert; e++) {
        if (b->slot[e] >= 0) {
            b->listed[n] = e;
            b->index[n++] = b->slot[e];
        }
    }
    return n;
}

/* The units that stayed where they were read. */
static void give_units(struct fb_batch *b, struct fb_set *set)
{
    const char *first = b->units[0].raw;
    set->base = (void *)first;
    set->stride = fb_weight_envelope(b->weights, b->weight);
    for (int i = 0; i < b->n_units; i++) {
        b->listed[i] = b->units[i].expert;
        b->index[i] = (int)((uint64_t)((const char *)b->units[i].raw - first) / set->stride);
    }
    b->in_use = true;
    fill_set(b, set, b->n_units);
}

/* Puts the taken units that get a slot into it, and frees their memory. Returns how many: they are
 * listed. */
static int settle_in_slots(struct fb_batch *b)
{
    struct fb_experts_cache c = fb_experts_cache(b->experts, b->group);
    struct fb_unpack arrivals[MAX_UNITS];
    uint64_t stride;
    int n_slots, n = 0, left = 0;
    char *slots = fb_experts_slots(b->experts, b->weight, &stride, &n_slots);
    for (int i = 0; i < b->n_units; i++) {
        int slot = b->admitted[b->units[i].expert];
        if (slot >= 0) {
            arrivals[n] =
                (struct fb_unpack){b->weight, b->units[i].raw, slots + (uint64_t)slot * stride};
            b->listed[n] = b->units[i].expert;
            b->index[n++] = slot;
        }
    }
    if (n == 0) {
        return 0;
    }
    fb_unpacker_run(b->unpacker, arrivals, n);
    uint32_t part = 1u << b->weights->weights[b->weight].part;
    for (int i = 0; i < b->n_units; i++) {
        int slot = b->admitted[b->units[i].expert];
        if (slot >= 0) {
            fb_cache_set_parts(
                c.cache, c.layer, slot, fb_cache_parts(c.cache, c.layer, slot) | part);
            fb_transit_release(b->transit, &b->units[i]);
        } else {
            b->units[left++] = b->units[i];
        }
    }
    b->n_units = left;
    return n;
}

/* Puts the taken units into the places for what is not computed with as it was read. */
static void settle_in_places(struct fb_batch *b, struct fb_set *set)
{
    struct fb_unpack arrivals[MAX_UNITS];
    uint64_t bytes;
    int n = b->n_units;
    char *places = fb_experts_staging(b->experts, &bytes);
    set->base = places;
    set->stride = b->weights->weights[b->weight].stride;
    for (int i = 0; i < n; i++) {
        arrivals[i] =
            (struct fb_unpack){b->weight, b->units[i].raw, places + (uint64_t)i * set->stride};
        b->listed[i] = b->units[i].expert;
        b->index[i] = i;
    }
    fb_unpacker_run(b->unpacker, arrivals, n);
    release_units(b);
    fill_set(b, set, n);
}

/* How many units to take at once: as many as there are places for, or, computed with where they were
 * read, half of the memory, so that the other half can be read into. */
static int most_units(const struct fb_batch *b, bool direct)
{
    uint64_t bytes, most;
    if (direct) {
        most = fb_transit_bytes(b->transit) / 2 / fb_weight_envelope(b->weights, b->weight);
    } else {
        fb_experts_staging(b->experts, &bytes);
        most = bytes / b->weights->weights[b->weight].stride;
    }
    return (int)fb_min(fb_max(most, 1), MAX_UNITS);
}

enum forebay_status fb_batch_next(
    struct fb_batch *b, int weight, struct fb_set *set, struct forebay_error *err)
{
    bool direct = b->weights->weights[weight].unpack == FB_UNPACK_DIRECT;
    FB_ASSERT(b->group == b->weights->weights[weight].group);
    *set = (struct fb_set){0};
    if (b->in_use || weight != b->weight) {
        release_units(b);
    }
    if (weight != b->weight) {
        b->weight = weight;
        int n = list_hits(b);
        if (n > 0) {
            give_slots(b, set, n);
            return FOREBAY_OK;
        }
    }
    if (b->n_units == 0) {
        struct forebay_error error;
        int n = fb_transit_take(b->transit, weight, b->units, most_units(b, direct), &error);
        if (n < 0) {
            if (err) {
                *err = error;
            }
            return error.status;
        }
        b->n_units = n;
        n = settle_in_slots(b);
        if (n > 0) {
            give_slots(b, set, n);
            return FOREBAY_OK;
        }
    }
    if (b->n_units > 0) {
        direct ? give_units(b, set) : settle_in_places(b, set);
    }
    return FOREBAY_OK;
}

void fb_batch_end(struct fb_batch *b)
{
    if (b->group < 0) {
        return;
    }
    struct fb_experts_cache c = fb_experts_cache(b->experts, b->group);
    release_units(b);
    for (int i = 0; i < b->n_pinned; i++) {
        fb_cache_unpin(c.cache, c.layer, b->pinned[i]);
    }
    b->n_pinned = 0;
    fb_experts_release(b->experts, b->group);
    b->group = b->weight = -1;
}
