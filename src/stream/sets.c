/*
 * sets.c - decides what the slots hold after the batch, and hands out sets.
 *
 * begin counts the uses of each expert, finds the hits, and chooses the experts that the slots keep
 * (admit): those used most by the last tokens. Slots of the layer are pinned until end.
 *
 *      expert needed     present: slot[e] >= 0             a hit: used in its slot
 *                        absent:  admitted[e] >= 0         unpacked into that slot
 *                                 else, DIRECT weight      used in the transit
 *                                 else                     unpacked into staging memory
 *
 * An admitted expert may receive the slot of a hit that is worth less. That is safe because next
 * hands out the hits first, for every part, and only then reads the part into the slot.
 */
#include "stream/sets.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "stream/adapt.h"
#include "stream/components.h"
#include "stream/prefetch.h"

#define MAX_UNITS 256 /* in a set */
/* The worth of an expert: its uses, each counting half after this many tokens. */
#define HALF_LIFE 16
#define ONE_USE   (1u << 16)

struct fb_sets {
    int group; /* open, or -1 */
    int n_pinned;
    int *pinned; /* slots; [2 * most experts] */
    /* By expert of the group: */
    int *uses;       /* tokens that need it */
    uint32_t *worth; /* how much the last tokens used it */
    int *slot;       /* of a hit, else -1 */
    int *admitted;   /* slot that a miss receives, else -1 */
    int *order;      /* those needed; hits, then misses */

    int weight; /* the matrix in use, or -1 */
    struct fb_unit units[MAX_UNITS];
    int n_units;         /* acquired and not in a slot: the next set, or the one in use */
    bool in_use;         /* ... the latter */
    int *listed, *index; /* of the set in use */
};

struct fb_sets *fb_sets_new(const struct fb_weights *weights)
{
    struct fb_sets *b = fb_xcalloc(1, sizeof *b);
    b->group = b->weight = -1;
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

void fb_sets_free(struct fb_sets *b)
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

/* --- Beginning -------------------------------------------------------------------------------- */

static const struct fb_group *open_group(const struct fb_stream *s)
{
    return &s->weights->groups[s->sets->group];
}

static int pool_of(const struct fb_stream *s)
{
    return s->slots.pool_of[s->sets->group];
}

/* Fills uses and worth, and tells the cache of each token's experts, step by step. */
static void count(struct fb_stream *s, const struct fb_routes *routes)
{
    struct fb_sets *b = s->sets;
    int n_expert = open_group(s)->n_expert, pool = pool_of(s);
    int first = s->slots.first_key[b->group];
    memset(b->uses, 0, (size_t)n_expert * sizeof *b->uses);
    memset(b->worth, 0, (size_t)n_expert * sizeof *b->worth);
    for (int t = 0; t < routes->tokens; t++) {
        const int *route = routes->experts + (size_t)t * (size_t)routes->picks;
        if (!s->taught[b->group]) {
            fb_cache_step(s->slots.cache, pool);
        }
        for (int e = 0; t % HALF_LIFE == 0 && e < n_expert; e++) {
            b->worth[e] /= 2;
        }
        for (int k = 0; k < routes->picks; k++) {
            int e = route[k];
            if (e < 0) {
                continue;
            }
            b->uses[e]++;
            b->worth[e] += ONE_USE;
            if (!s->taught[b->group]) {
                fb_cache_touch(s->slots.cache, pool, first + e);
            }
        }
    }
}

/* Finds the hits: experts with all parts present. Returns how many experts are needed; lists them
 * in b->order. */
static int look_up(struct fb_stream *s)
{
    struct fb_sets *b = s->sets;
    uint32_t all = fb_group_parts(open_group(s));
    int n = 0;
    for (int e = 0; e < open_group(s)->n_expert; e++) {
        b->admitted[e] = b->slot[e] = -1;
        if (b->uses[e] == 0) {
            continue;
        }
        s->stats.expert_requests += (uint64_t)b->uses[e];
        if (fb_slots_has(&s->slots, b->group, e, all)) {
            b->slot[e] = fb_slots_find(&s->slots, b->group, e);
            bool prefetched = fb_prefetch_promote(s, b->group, b->slot[e], all);
            s->stats.expert_hits += prefetched ? 0 : (uint64_t)b->uses[e];
        }
        b->order[n++] = e;
    }
    return n;
}

/* Moves the `k` experts that are worth most to the front of b->order (of n), in falling order. */
static void sort_by_worth(struct fb_sets *b, int n, int k)
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

static void pin(struct fb_stream *s, int slot)
{
    if (slot >= 0) {
        fb_cache_pin(s->slots.cache, pool_of(s), slot);
        s->sets->pinned[s->sets->n_pinned++] = slot;
    }
}

/* Decides what the slots hold when the batch is over, and pins what it uses. The slots keep those
 * of the n needed experts that are worth most; a shared pool keeps what it has. */
static void admit(struct fb_stream *s, int n)
{
    struct fb_sets *b = s->sets;
    int keep = fb_slots_shared(&s->slots) ? 0 : fb_cache_slots(s->slots.cache, pool_of(s));
    keep = keep < n ? keep : n;
    sort_by_worth(b, n, keep);
    for (int i = 0; i < keep; i++) {
        pin(s, b->slot[b->order[i]]);
    }
    for (int i = 0; i < keep; i++) {
        int e = b->order[i];
        if (b->slot[e] < 0 && fb_slots_find(&s->slots, b->group, e) < 0) {
            b->admitted[e] = fb_slots_acquire(&s->slots, b->group, e);
            if (b->admitted[e] < 0) {
                break; /* all others are pinned by loads of leases that have ended */
            }
            pin(s, b->admitted[e]);
        }
    }
    for (int i = keep; i < n; i++) {
        pin(s, b->slot[b->order[i]]); /* also a slot that was given to another expert just now */
    }
}

/* Keeps the pool's size, cancels prefetches for the layer, and unpacks what was read. */
static void occupy_pool(struct fb_stream *s)
{
    s->slots.pools[pool_of(s)].n_users++;
    fb_prefetch_cancel(s, s->sets->group);
    fb_loads_collect(&s->loads);
    while (fb_loads_unpack(&s->loads, -1) > 0) {
    }
}

void fb_stream_sets_begin(struct fb_stream *s, int weight, const struct fb_routes *routes)
{
    struct fb_sets *b = s->sets;
    FB_ASSERT(b && b->group < 0);
    fb_adapt_lend_transit(s, true);
    b->group = s->weights->weights[weight].group;
    occupy_pool(s);
    count(s, routes);
    int n = look_up(s), n_missing = 0;
    admit(s, n);
    for (int e = 0; e < open_group(s)->n_expert; e++) {
        if (b->uses[e] && b->slot[e] < 0) {
            b->order[n_missing++] = e; /* in file order */
        }
    }
    fb_transit_need(s->transit, weight, b->order, n_missing, n);
}

/* --- Sets ------------------------------------------------------------------------------------- */

static const struct fb_weight *weight_in_use(const struct fb_stream *s)
{
    return &s->weights->weights[s->sets->weight];
}

static void release_units(struct fb_stream *s)
{
    struct fb_sets *b = s->sets;
    for (int i = 0; i < b->n_units; i++) {
        fb_transit_release(s->transit, &b->units[i]);
    }
    b->n_units = 0;
    b->in_use = false;
}

/* Completes a set of the n experts in b->listed and b->index. */
static void fill_set(struct fb_sets *b, struct fb_set *set, int n)
{
    set->n = n;
    set->experts = b->listed;
    set->index = b->index;
    set->n_index = 0;
    for (int i = 0; i < n; i++) {
        set->n_index = b->index[i] >= set->n_index ? b->index[i] + 1 : set->n_index;
    }
}

/* A set of n experts in slots: b->listed, b->index. */
static void give_slots(struct fb_stream *s, struct fb_set *set, int n)
{
    int n_slots;
    set->base = fb_slots_base(&s->slots, s->sets->weight, &set->stride, &n_slots);
    fill_set(s->sets, set, n);
}

static int list_hits(struct fb_stream *s)
{
    struct fb_sets *b = s->sets;
    int n = 0;
    for (int e = 0; e < open_group(s)->n_expert; e++) {
        if (b->slot[e] >= 0) {
            b->listed[n] = e;
            b->index[n++] = b->slot[e];
        }
    }
    return n;
}

/* A set of the acquired units, where they were read. */
static void give_units(struct fb_stream *s, struct fb_set *set)
{
    struct fb_sets *b = s->sets;
    const char *first = b->units[0].raw;
    set->base = (void *)first;
    set->stride = fb_weight_envelope(s->weights, b->weight);
    for (int i = 0; i < b->n_units; i++) {
        b->listed[i] = b->units[i].expert;
        b->index[i] = (int)((uint64_t)((const char *)b->units[i].raw - first) / set->stride);
    }
    b->in_use = true;
    fill_set(b, set, b->n_units);
}

/* Unpacks the acquired units of admitted experts into their slots, and releases them. Returns how
 * many there were: listed in b->listed and b->index. */
static int unpack_into_slots(struct fb_stream *s)
{
    struct fb_sets *b = s->sets;
    struct fb_unpack unpacks[MAX_UNITS];
    uint64_t stride;
    int n_slots, n = 0, left = 0;
    char *slots = fb_slots_base(&s->slots, b->weight, &stride, &n_slots);
    for (int i = 0; i < b->n_units; i++) {
        int slot = b->admitted[b->units[i].expert];
        if (slot >= 0) {
            unpacks[n] =
                (struct fb_unpack){b->weight, b->units[i].raw, slots + (uint64_t)slot * stride};
            b->listed[n] = b->units[i].expert;
            b->index[n++] = slot;
        }
    }
    if (n == 0) {
        return 0;
    }
    fb_unpacker_run(&s->unpacker, unpacks, n);
    uint32_t part = 1u << weight_in_use(s)->part;
    for (int i = 0; i < b->n_units; i++) {
        int slot = b->admitted[b->units[i].expert];
        if (slot >= 0) {
            uint32_t parts = fb_cache_parts(s->slots.cache, pool_of(s), slot);
            fb_cache_set_parts(s->slots.cache, pool_of(s), slot, parts | part);
            fb_transit_release(s->transit, &b->units[i]);
        } else {
            b->units[left++] = b->units[i];
        }
    }
    b->n_units = left;
    return n;
}

/* A set of the acquired units, unpacked into staging memory. */
static void unpack_into_staging(struct fb_stream *s, struct fb_set *set)
{
    struct fb_sets *b = s->sets;
    struct fb_unpack unpacks[MAX_UNITS];
    int n = b->n_units;
    char *staging = fb_loads_staging(&s->loads);
    set->base = staging;
    set->stride = weight_in_use(s)->stride;
    for (int i = 0; i < n; i++) {
        unpacks[i] =
            (struct fb_unpack){b->weight, b->units[i].raw, staging + (uint64_t)i * set->stride};
        b->listed[i] = b->units[i].expert;
        b->index[i] = i;
    }
    fb_unpacker_run(&s->unpacker, unpacks, n);
    release_units(s);
    fill_set(b, set, n);
}

/* How many units to acquire at once: as many as staging memory holds, or, where they are used as
 * they were read, half of the transit, so that the other half can be read into. */
static int most_units(struct fb_stream *s)
{
    uint64_t most;
    if (weight_in_use(s)->unpack == FB_UNPACK_DIRECT) {
        most = fb_transit_bytes(s->transit) / 2 / fb_weight_envelope(s->weights, s->sets->weight);
    } else {
        fb_loads_staging(&s->loads); /* loads finish now, not between acquiring and unpacking */
        most = fb_loads_staging_bytes(&s->loads) / weight_in_use(s)->stride;
    }
    return (int)fb_min(fb_max(most, 1), MAX_UNITS);
}

enum forebay_status fb_stream_sets_next(
    struct fb_stream *s, int weight, struct fb_set *set, struct forebay_error *err)
{
    struct fb_sets *b = s->sets;
    FB_ASSERT(b->group == s->weights->weights[weight].group);
    fb_stream_adapt(s, false);
    *set = (struct fb_set){0};
    if (b->in_use || weight != b->weight) {
        release_units(s);
    }
    if (weight != b->weight) {
        b->weight = weight;
        int n = list_hits(s);
        if (n > 0) {
            give_slots(s, set, n);
            return FOREBAY_OK;
        }
    }
    if (b->n_units == 0) {
        struct forebay_error error;
        int n = fb_transit_acquire(s->transit, weight, b->units, most_units(s), &error);
        if (n < 0) {
            if (err) {
                *err = error;
            }
            return error.status;
        }
        b->n_units = n;
        n = unpack_into_slots(s);
        if (n > 0) {
            give_slots(s, set, n);
            return FOREBAY_OK;
        }
    }
    if (b->n_units > 0 && weight_in_use(s)->unpack == FB_UNPACK_DIRECT) {
        give_units(s, set);
    } else if (b->n_units > 0) {
        unpack_into_staging(s, set);
    }
    return FOREBAY_OK;
}

void fb_stream_sets_end(struct fb_stream *s)
{
    struct fb_sets *b = s->sets;
    if (!b || b->group < 0) {
        return;
    }
    release_units(s);
    for (int i = 0; i < b->n_pinned; i++) {
        fb_cache_unpin(s->slots.cache, pool_of(s), b->pinned[i]);
    }
    b->n_pinned = 0;
    s->slots.pools[pool_of(s)].n_users--;
    b->group = b->weight = -1;
}
