/*
 * cache.c - slots, pins and parts of each pool, and the search for a victim.
 *
 * A pool has two arrays that point at each other (rule C1), and one clock that only touches
 * advance:
 *
 *                          0   1   2   3   4   5
 *      slot_of[key]        1  -1  -1   0  -1  -1        -1: not present
 *      slots[slot].key     3   0  -1                    -1: free
 *
 *      last_touch[key]     value of the pool's clock at its last touch, 0: never touched
 *      guarded[key]        the step of the pool at which its protection ends, 0: not protected
 *      above[key]          whether it is also in a faster memory
 *
 * `least` approximates the loss if the pool had one slot less: the worth of its last victim, fading
 * by 1/16 in each step. It only selects the pool to borrow from; fb_cache_trade asks the policy
 * before it answers.
 *
 * Invariants (fb_cache_check):
 *   - slot_of[k] == s exactly when slots[s].key == k.
 *   - A free slot has no pins and no parts.
 *   - Slots from n_slots on are free; n_free does not count them.
 *
 * All arrays have room for n_keys slots, so a resize allocates nothing.
 * find, touch, pin and parts are O(1); acquire is O(1) for a key that is present, else O(n_slots).
 * Arguments are checked in release builds too: keys come from a computed tensor.
 */
#include "cache/cache.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cache/policy.h"

/* A slot moves only for a gain of this many times the loss: a move costs time, and the worths of
 * two pools are not exactly comparable. 1 to 16 tried: bench/LOG.md. */
#define TRADE_MARGIN 8

/* A key that is also above loses this share of its worth here: it would be copied back instead of
 * read. 1/8 to none at all were tried (bench/LOG.md). */
#define ABOVE_SHARE 128

struct cache_slot {
    int32_t key;
    uint32_t pins;
    uint32_t parts;
};

struct cache_pool {
    int n_keys;
    int n_slots;
    int n_free;
    int floor;                /* of n_slots, when others borrow from it */
    int32_t *slot_of;         /* [n_keys] */
    struct cache_slot *slots; /* [n_keys], n_slots in use */
    uint64_t clock;           /* touches so far */
    uint64_t *last_touch;     /* [n_keys] */
    uint64_t steps;           /* begun so far */
    uint64_t *guarded;        /* [n_keys] */
    bool *above;              /* [n_keys] also in a faster memory */
    uint64_t least;
};

struct fb_cache {
    const struct fb_cache_policy *policy;
    void *state; /* the policy's; NULL when it needs none */
    int n_pools;
    struct cache_pool *pools;
};

#define POLICY_ENTRY(name, separator) &fb_cache_##name,
#define POLICY_NAME(name, separator)  separator #name

static const struct fb_cache_policy *const policies[] = {FB_CACHE_POLICY_LIST(POLICY_ENTRY)};

const struct fb_cache_policy *fb_cache_policy(const char *name)
{
    for (size_t i = 0; i < sizeof policies / sizeof policies[0]; i++) {
        if (strcmp(policies[i]->name, name) == 0) {
            return policies[i];
        }
    }
    return NULL;
}

const char *fb_cache_policy_names(void)
{
    return FB_CACHE_POLICY_LIST(POLICY_NAME);
}

static void pool_init(struct cache_pool *pool, int n_keys, int n_slots)
{
    FB_ASSERT(n_slots >= 1 && n_slots <= n_keys);
    size_t n = (size_t)n_keys;
    pool->n_keys = n_keys;
    pool->n_slots = n_slots;
    pool->n_free = n_slots;
    pool->floor = n_slots;
    pool->slot_of = fb_xcalloc(n, sizeof *pool->slot_of);
    pool->slots = fb_xcalloc(n, sizeof *pool->slots);
    pool->last_touch = fb_xcalloc(n, sizeof *pool->last_touch);
    pool->guarded = fb_xcalloc(n, sizeof *pool->guarded);
    pool->above = fb_xcalloc(n, sizeof *pool->above);
    for (size_t i = 0; i < n; i++) {
        pool->slot_of[i] = -1;
        pool->slots[i].key = -1;
    }
}

struct fb_cache *fb_cache_new(
    int n_pools, const int *n_keys, const int *n_slots, const struct fb_cache_policy *policy)
{
    FB_ASSERT(n_pools >= 0 && policy);
    struct fb_cache *cache = fb_xcalloc(1, sizeof *cache);
    cache->policy = policy;
    cache->n_pools = n_pools;
    cache->pools = fb_xcalloc((size_t)n_pools, sizeof *cache->pools);
    int most = 0;
    for (int i = 0; i < n_pools; i++) {
        pool_init(&cache->pools[i], n_keys[i], n_slots[i]);
        most = n_keys[i] > most ? n_keys[i] : most;
    }
    cache->state = policy->make ? policy->make(n_pools, most) : NULL;
    return cache;
}

void fb_cache_free(struct fb_cache *cache)
{
    if (!cache) {
        return;
    }
    for (int i = 0; i < cache->n_pools; i++) {
        free(cache->pools[i].slot_of);
        free(cache->pools[i].slots);
        free(cache->pools[i].last_touch);
        free(cache->pools[i].guarded);
        free(cache->pools[i].above);
    }
    if (cache->policy->free) {
        cache->policy->free(cache->state);
    }
    free(cache->pools);
    free(cache);
}

static struct cache_pool *pool_at(const struct fb_cache *cache, int pool)
{
    FB_ASSERT(pool >= 0 && pool < cache->n_pools);
    return &cache->pools[pool];
}

static struct cache_pool *pool_of_key(const struct fb_cache *cache, int pool, int key)
{
    struct cache_pool *p = pool_at(cache, pool);
    FB_ASSERT(key >= 0 && key < p->n_keys);
    return p;
}

static struct cache_slot *slot_at(const struct fb_cache *cache, int pool, int slot)
{
    struct cache_pool *p = pool_at(cache, pool);
    FB_ASSERT(slot >= 0 && slot < p->n_slots);
    return &p->slots[slot];
}

int fb_cache_find(const struct fb_cache *cache, int pool, int key)
{
    return pool_of_key(cache, pool, key)->slot_of[key];
}

void fb_cache_touch(struct fb_cache *cache, int pool, int key)
{
    struct cache_pool *p = pool_of_key(cache, pool, key);
    p->last_touch[key] = ++p->clock;
    p->guarded[key] = 0;
    if (cache->policy->touch) {
        cache->policy->touch(cache->state, pool, key);
    }
}

void fb_cache_step(struct fb_cache *cache, int pool)
{
    struct cache_pool *p = pool_at(cache, pool);
    p->steps++;
    p->least -= p->least >> 4;
    if (cache->policy->step) {
        cache->policy->step(cache->state, pool);
    }
}

static int lowest_free(const struct cache_pool *p)
{
    int slot = 0;
    while (p->slots[slot].key >= 0) {
        slot++;
    }
    return slot;
}

void fb_cache_protect(struct fb_cache *cache, int pool, int key, int steps)
{
    struct cache_pool *p = pool_of_key(cache, pool, key);
    FB_ASSERT(steps >= 0);
    p->guarded[key] = steps ? p->steps + (uint64_t)steps : 0;
}

static bool is_protected(const struct cache_pool *p, int key)
{
    return p->steps < p->guarded[key];
}

bool fb_cache_protected(const struct fb_cache *cache, int pool, int key)
{
    return is_protected(pool_of_key(cache, pool, key), key);
}

void fb_cache_set_above(struct fb_cache *cache, int pool, int key, bool above)
{
    pool_of_key(cache, pool, key)->above[key] = above;
}

bool fb_cache_above(const struct fb_cache *cache, int pool, int key)
{
    return pool_of_key(cache, pool, key)->above[key];
}

/* Which of two keys is evicted first: the first field that differs decides. */
struct rank {
    int class; /* 2: protected; 0: above, if the policy has no worths; else 1 */
    uint64_t worth, touch;
};

static struct rank rank_of(const struct cache_pool *p, const uint64_t *worths, int key)
{
    uint64_t worth = worths ? worths[key] : 0;
    return (struct rank){.class = is_protected(p, key) ? 2 : worths || !p->above[key],
        .worth = p->above[key] ? worth / ABOVE_SHARE : worth,
        .touch = p->last_touch[key]};
}

static bool ranks_below(const struct rank *a, const struct rank *b)
{
    return a->class != b->class   ? a->class < b->class
           : a->worth != b->worth ? a->worth < b->worth
                                  : a->touch < b->touch;
}

static const uint64_t *worths_of(const struct fb_cache *cache, int pool)
{
    return cache->policy->worth ? cache->policy->worth(cache->state, pool) : NULL;
}

/* The unpinned slot worth least, or -1 when all are pinned; *out is its rank. Ties by slot. */
static int victim(const struct fb_cache *cache, int pool, struct rank *out)
{
    const struct cache_pool *p = &cache->pools[pool];
    const uint64_t *worths = worths_of(cache, pool);
    int best = -1;
    *out = (struct rank){0};
    for (int i = 0; i < p->n_slots; i++) {
        int key = p->slots[i].key;
        if (key < 0 || p->slots[i].pins) {
            continue;
        }
        struct rank rank = rank_of(p, worths, key);
        if (best < 0 || ranks_below(&rank, out)) {
            best = i;
            *out = rank;
        }
    }
    return best;
}

/* What is lost with the victim. */
static uint64_t loss_of(const struct rank *victim)
{
    return victim->class == 2 ? UINT64_MAX : victim->worth;
}

/* Makes the slot free; returns the key it held, or -1. */
static int vacate(struct cache_pool *p, int slot)
{
    struct cache_slot *s = &p->slots[slot];
    int key = s->key;
    FB_ASSERT(s->pins == 0);
    if (key >= 0) {
        p->slot_of[key] = -1;
        s->key = -1;
        s->parts = 0;
        p->n_free++;
    }
    return key;
}

/* Slot for a key that has none. -1: all are pinned, or it is an offer and the victim does not rank
 * below the key. */
static int give_slot(struct fb_cache *cache, int pool, int key, bool offer, int *evicted)
{
    struct cache_pool *p = &cache->pools[pool];
    int slot;
    if (p->n_free > 0) {
        slot = lowest_free(p);
    } else {
        struct rank least, own = rank_of(p, worths_of(cache, pool), key);
        slot = victim(cache, pool, &least);
        if (slot < 0 || (offer && !ranks_below(&least, &own))) {
            return -1;
        }
        p->least = loss_of(&least);
        *evicted = vacate(p, slot);
    }
    p->slots[slot].key = key;
    p->slot_of[key] = slot;
    p->n_free--;
    return slot;
}

int fb_cache_acquire(struct fb_cache *cache, int pool, int key, int *evicted)
{
    int slot = pool_of_key(cache, pool, key)->slot_of[key];
    *evicted = -1;
    return slot >= 0 ? slot : give_slot(cache, pool, key, false, evicted);
}

int fb_cache_offer(struct fb_cache *cache, int pool, int key, int *evicted)
{
    int slot = pool_of_key(cache, pool, key)->slot_of[key];
    *evicted = -1;
    return slot >= 0 ? slot : give_slot(cache, pool, key, true, evicted);
}

void fb_cache_pin(struct fb_cache *cache, int pool, int slot)
{
    struct cache_slot *s = slot_at(cache, pool, slot);
    FB_ASSERT(s->key >= 0 && s->pins < UINT32_MAX);
    s->pins++;
}

void fb_cache_unpin(struct fb_cache *cache, int pool, int slot)
{
    struct cache_slot *s = slot_at(cache, pool, slot);
    FB_ASSERT(s->pins > 0);
    s->pins--;
}

uint32_t fb_cache_parts(const struct fb_cache *cache, int pool, int slot)
{
    return slot_at(cache, pool, slot)->parts;
}

void fb_cache_set_parts(struct fb_cache *cache, int pool, int slot, uint32_t parts)
{
    struct cache_slot *s = slot_at(cache, pool, slot);
    FB_ASSERT(s->key >= 0);
    s->parts = parts;
}

void fb_cache_drop(struct fb_cache *cache, int pool, int slot)
{
    struct cache_pool *p = pool_at(cache, pool);
    FB_ASSERT(slot >= 0 && slot < p->n_slots);
    vacate(p, slot);
}

int fb_cache_key(const struct fb_cache *cache, int pool, int slot)
{
    return slot_at(cache, pool, slot)->key;
}

bool fb_cache_pinned(const struct fb_cache *cache, int pool, int slot)
{
    return slot_at(cache, pool, slot)->pins > 0;
}

int fb_cache_slots(const struct fb_cache *cache, int pool)
{
    return pool_at(cache, pool)->n_slots;
}

void fb_cache_resize(struct fb_cache *cache, int pool, int n)
{
    struct cache_pool *p = pool_at(cache, pool);
    FB_ASSERT(n >= 1 && n <= p->n_keys);
    for (int i = n; i < p->n_slots; i++) {
        vacate(p, i);
    }
    p->n_free += n - p->n_slots;
    p->n_slots = n;
}

/* --- Slots that move between pools ------------------------------------------------------------ */

void fb_cache_set_floor(struct fb_cache *cache, int pool, int n)
{
    FB_ASSERT(n >= 1);
    pool_at(cache, pool)->floor = n;
}

/* The pool that seems to lose least among those that may lend a slot; -1: none may. */
static int lender(const struct fb_cache *cache, int pool)
{
    int best = -1;
    for (int i = 0; i < cache->n_pools; i++) {
        const struct cache_pool *p = &cache->pools[i];
        if (i != pool && p->n_slots > p->floor &&
            (best < 0 || p->least < cache->pools[best].least)) {
            best = i;
        }
    }
    return best;
}

bool fb_cache_trade(struct fb_cache *cache, int pool, int *from, int *slot)
{
    struct cache_pool *p = pool_at(cache, pool);
    struct rank least;
    if (!cache->policy->comparable || p->n_free > 0 || p->n_slots == p->n_keys ||
        victim(cache, pool, &least) < 0) {
        return false;
    }
    uint64_t loss = loss_of(&least);
    int other = lender(cache, pool);
    if (other < 0 || cache->pools[other].least >= loss / TRADE_MARGIN) {
        return false;
    }
    struct cache_pool *o = &cache->pools[other];
    int offer = o->n_free > 0 ? lowest_free(o) : victim(cache, other, &least);
    o->least = o->n_free > 0 ? 0 : loss_of(&least);
    if (offer < 0 || o->least >= loss / TRADE_MARGIN) {
        return false;
    }
    *from = other;
    *slot = offer;
    return true;
}

void fb_cache_move(struct fb_cache *cache, int pool, int from, int to)
{
    struct cache_pool *p = pool_at(cache, pool);
    struct cache_slot *a = slot_at(cache, pool, from), *b = slot_at(cache, pool, to);
    FB_ASSERT(b->key < 0 && a->pins == 0);
    if (a->key >= 0) {
        p->slot_of[a->key] = to;
    }
    *b = *a;
    *a = (struct cache_slot){.key = -1};
}

static void check_pool(const struct cache_pool *p)
{
    int present = 0, n_free = 0;
    FB_ASSERT(p->n_slots >= 1 && p->n_slots <= p->n_keys);
    for (int i = 0; i < p->n_keys; i++) {
        const struct cache_slot *s = &p->slots[i];
        FB_ASSERT(s->key >= -1 && s->key < p->n_keys);
        if (s->key < 0) {
            FB_ASSERT(s->pins == 0 && s->parts == 0);
            n_free += i < p->n_slots;
        } else {
            FB_ASSERT(i < p->n_slots && p->slot_of[s->key] == i);
        }
        FB_ASSERT(p->slot_of[i] >= -1 && p->slot_of[i] < p->n_slots);
        present += p->slot_of[i] >= 0;
        FB_ASSERT(p->last_touch[i] <= p->clock);
    }
    FB_ASSERT(n_free == p->n_free && present == p->n_slots - n_free);
}

void fb_cache_check(const struct fb_cache *cache)
{
    for (int i = 0; i < cache->n_pools; i++) {
        check_pool(&cache->pools[i]);
    }
}
