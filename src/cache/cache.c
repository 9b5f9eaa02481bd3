/*
 * cache.c - slots, pins and parts of each layer, and the search for a victim.
 *
 * Per layer, two arrays that point at each other (rule C1), and one clock that only touches move:
 *
 *                          0   1   2   3   4   5
 *      slot_of[expert]     1  -1  -1   0  -1  -1        -1: not resident
 *      slots[slot].expert  3   0  -1                    -1: FREE
 *
 *      last_touch[expert]   value of the layer's clock at its last touch, 0: never touched
 *      guarded[expert]      step of the layer with which its protection ends, 0: it has none
 *
 * `least` is about what the layer would lose with one slot less: what it lost last, fading like a
 * rate nobody adds to. It only says where to look; fb_cache_trade asks the policy before it answers.
 *
 * Invariants (fb_cache_check):
 *   - slot_of[e] == s exactly when slots[s].expert == e.
 *   - A free slot has no pins and no parts. Slots from n_slots on are free, n_free not counting them.
 *
 * All arrays have room for n_experts slots, so that a resize moves and allocates nothing.
 * find, touch, pin and parts are O(1); acquire is O(1) for a resident expert, else O(n_slots).
 * Arguments are checked in release builds too: expert numbers come from a computed tensor.
 */
#include "cache/cache.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cache/policy.h"

/* A slot moves for a gain of so many times the loss: moving costs time, and what the policy says of
 * two layers is not exact. 1 to 16 tried: bench/LOG.md. */
#define TRADE_MARGIN 8

struct slot {
    int32_t expert;
    uint32_t pins;
    uint32_t parts;
};

struct layer {
    int n_experts;
    int n_slots;
    int n_free;
    int floor;            /* of n_slots, when others take from it */
    int32_t *slot_of;     /* [n_experts] */
    struct slot *slots;   /* [n_experts], n_slots in use */
    uint64_t clock;       /* touches so far */
    uint64_t *last_touch; /* [n_experts] */
    uint64_t steps;       /* begun so far */
    uint64_t *guarded;    /* [n_experts] */
    uint64_t least;
};

struct fb_cache {
    const struct fb_cache_policy *policy;
    void *state; /* the policy's; NULL when it needs none */
    int n_layers;
    struct layer *layers;
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

static void layer_init(struct layer *layer, int n_experts, int n_slots)
{
    FB_ASSERT(n_slots >= 1 && n_slots <= n_experts);
    size_t n = (size_t)n_experts;
    layer->n_experts = n_experts;
    layer->n_slots = n_slots;
    layer->n_free = n_slots;
    layer->floor = n_slots;
    layer->slot_of = fb_xcalloc(n, sizeof *layer->slot_of);
    layer->slots = fb_xcalloc(n, sizeof *layer->slots);
    layer->last_touch = fb_xcalloc(n, sizeof *layer->last_touch);
    layer->guarded = fb_xcalloc(n, sizeof *layer->guarded);
    for (size_t i = 0; i < n; i++) {
        layer->slot_of[i] = -1;
        layer->slots[i].expert = -1;
    }
}

struct fb_cache *fb_cache_new(
    int n_layers, const int *n_experts, const int *n_slots, const struct fb_cache_policy *policy)
{
    FB_ASSERT(n_layers >= 0 && policy);
    struct fb_cache *cache = fb_xcalloc(1, sizeof *cache);
    cache->policy = policy;
    cache->n_layers = n_layers;
    cache->layers = fb_xcalloc((size_t)n_layers, sizeof *cache->layers);
    int most = 0;
    for (int i = 0; i < n_layers; i++) {
        layer_init(&cache->layers[i], n_experts[i], n_slots[i]);
        most = n_experts[i] > most ? n_experts[i] : most;
    }
    cache->state = policy->make ? policy->make(n_layers, most) : NULL;
    return cache;
}

void fb_cache_free(struct fb_cache *cache)
{
    if (!cache) {
        return;
    }
    for (int i = 0; i < cache->n_layers; i++) {
        free(cache->layers[i].slot_of);
        free(cache->layers[i].slots);
        free(cache->layers[i].last_touch);
        free(cache->layers[i].guarded);
    }
    if (cache->policy->free) {
        cache->policy->free(cache->state);
    }
    free(cache->layers);
    free(cache);
}

static struct layer *layer_at(const struct fb_cache *cache, int layer)
{
    FB_ASSERT(layer >= 0 && layer < cache->n_layers);
    return &cache->layers[layer];
}

static struct layer *layer_of_expert(const struct fb_cache *cache, int layer, int expert)
{
    struct layer *l = layer_at(cache, layer);
    FB_ASSERT(expert >= 0 && expert < l->n_experts);
    return l;
}

static struct slot *slot_at(const struct fb_cache *cache, int layer, int slot)
{
    struct layer *l = layer_at(cache, layer);
    FB_ASSERT(slot >= 0 && slot < l->n_slots);
    return &l->slots[slot];
}

int fb_cache_find(const struct fb_cache *cache, int layer, int expert)
{
    return layer_of_expert(cache, layer, expert)->slot_of[expert];
}

void fb_cache_touch(struct fb_cache *cache, int layer, int expert)
{
    struct layer *l = layer_of_expert(cache, layer, expert);
    l->last_touch[expert] = ++l->clock;
    l->guarded[expert] = 0;
    if (cache->policy->touch) {
        cache->policy->touch(cache->state, layer, expert);
    }
}

void fb_cache_step(struct fb_cache *cache, int layer)
{
    struct layer *l = layer_at(cache, layer);
    l->steps++;
    l->least -= l->least >> 4;
    if (cache->policy->step) {
        cache->policy->step(cache->state, layer);
    }
}

static int lowest_free(const struct layer *l)
{
    int slot = 0;
    while (l->slots[slot].expert >= 0) {
        slot++;
    }
    return slot;
}

void fb_cache_protect(struct fb_cache *cache, int layer, int expert, int steps)
{
    struct layer *l = layer_of_expert(cache, layer, expert);
    FB_ASSERT(steps >= 0);
    l->guarded[expert] = steps ? l->steps + (uint64_t)steps : 0;
}

static bool is_protected(const struct layer *l, int expert)
{
    return l->steps < l->guarded[expert];
}

bool fb_cache_protected(const struct fb_cache *cache, int layer, int expert)
{
    return is_protected(layer_of_expert(cache, layer, expert), expert);
}

/* The unpinned slot worth least, and what it is worth: protected experts more than all others.
 * Ties by recency, then by number. -1 when all are pinned. */
static int victim(const struct fb_cache *cache, int layer, uint64_t *out)
{
    const struct layer *l = &cache->layers[layer];
    const uint64_t *worths =
        cache->policy->worth ? cache->policy->worth(cache->state, layer) : NULL;
    int best = -1;
    bool best_guarded = false;
    uint64_t best_worth = 0, best_touch = 0;
    for (int i = 0; i < l->n_slots; i++) {
        int expert = l->slots[i].expert;
        if (expert < 0 || l->slots[i].pins) {
            continue;
        }
        bool guarded = is_protected(l, expert);
        uint64_t worth = worths ? worths[expert] : 0;
        uint64_t touch = l->last_touch[expert];
        bool less = guarded != best_guarded ? best_guarded
                    : worth != best_worth   ? worth < best_worth
                                            : touch < best_touch;
        if (best < 0 || less) {
            best = i;
            best_guarded = guarded;
            best_worth = worth;
            best_touch = touch;
        }
    }
    *out = best_guarded ? UINT64_MAX : best_worth;
    return best;
}

/* Makes the slot free; returns the expert it held, or -1. */
static int vacate(struct layer *l, int slot)
{
    struct slot *s = &l->slots[slot];
    int expert = s->expert;
    FB_ASSERT(s->pins == 0);
    if (expert >= 0) {
        l->slot_of[expert] = -1;
        s->expert = -1;
        s->parts = 0;
        l->n_free++;
    }
    return expert;
}

int fb_cache_acquire(struct fb_cache *cache, int layer, int expert, int *evicted)
{
    struct layer *l = layer_of_expert(cache, layer, expert);
    *evicted = -1;
    int slot = l->slot_of[expert];
    if (slot >= 0) {
        return slot;
    }
    if (l->n_free > 0) {
        slot = lowest_free(l);
    } else {
        slot = victim(cache, layer, &l->least);
        if (slot < 0) {
            return -1;
        }
        *evicted = vacate(l, slot);
    }
    l->slots[slot].expert = expert;
    l->slot_of[expert] = slot;
    l->n_free--;
    return slot;
}

void fb_cache_pin(struct fb_cache *cache, int layer, int slot)
{
    struct slot *s = slot_at(cache, layer, slot);
    FB_ASSERT(s->expert >= 0 && s->pins < UINT32_MAX);
    s->pins++;
}

void fb_cache_unpin(struct fb_cache *cache, int layer, int slot)
{
    struct slot *s = slot_at(cache, layer, slot);
    FB_ASSERT(s->pins > 0);
    s->pins--;
}

uint32_t fb_cache_parts(const struct fb_cache *cache, int layer, int slot)
{
    return slot_at(cache, layer, slot)->parts;
}

void fb_cache_set_parts(struct fb_cache *cache, int layer, int slot, uint32_t parts)
{
    struct slot *s = slot_at(cache, layer, slot);
    FB_ASSERT(s->expert >= 0);
    s->parts = parts;
}

void fb_cache_drop(struct fb_cache *cache, int layer, int slot)
{
    struct layer *l = layer_at(cache, layer);
    FB_ASSERT(slot >= 0 && slot < l->n_slots);
    vacate(l, slot);
}

int fb_cache_expert(const struct fb_cache *cache, int layer, int slot)
{
    return slot_at(cache, layer, slot)->expert;
}

bool fb_cache_pinned(const struct fb_cache *cache, int layer, int slot)
{
    return slot_at(cache, layer, slot)->pins > 0;
}

int fb_cache_slots(const struct fb_cache *cache, int layer)
{
    return layer_at(cache, layer)->n_slots;
}

void fb_cache_resize(struct fb_cache *cache, int layer, int n)
{
    struct layer *l = layer_at(cache, layer);
    FB_ASSERT(n >= 1 && n <= l->n_experts);
    for (int i = n; i < l->n_slots; i++) {
        vacate(l, i);
    }
    l->n_free += n - l->n_slots;
    l->n_slots = n;
}

/* --- Slots that move between layers --------------------------------------------------------- */

void fb_cache_set_floor(struct fb_cache *cache, int layer, int n)
{
    FB_ASSERT(n >= 1);
    layer_at(cache, layer)->floor = n;
}

/* Of the layers that may give a slot, the one that seems to lose least; -1: none may. */
static int lender(const struct fb_cache *cache, int layer)
{
    int best = -1;
    for (int i = 0; i < cache->n_layers; i++) {
        const struct layer *l = &cache->layers[i];
        if (i != layer && l->n_slots > l->floor &&
            (best < 0 || l->least < cache->layers[best].least)) {
            best = i;
        }
    }
    return best;
}

bool fb_cache_trade(struct fb_cache *cache, int layer, int *from, int *slot)
{
    struct layer *l = layer_at(cache, layer);
    uint64_t loss;
    if (!cache->policy->comparable || l->n_free > 0 || l->n_slots == l->n_experts ||
        victim(cache, layer, &loss) < 0) {
        return false;
    }
    int other = lender(cache, layer);
    if (other < 0 || cache->layers[other].least >= loss / TRADE_MARGIN) {
        return false;
    }
    struct layer *o = &cache->layers[other];
    o->least = 0;
    int offer = o->n_free > 0 ? lowest_free(o) : victim(cache, other, &o->least);
    if (offer < 0 || o->least >= loss / TRADE_MARGIN) {
        return false;
    }
    *from = other;
    *slot = offer;
    return true;
}

void fb_cache_move(struct fb_cache *cache, int layer, int from, int to)
{
    struct layer *l = layer_at(cache, layer);
    struct slot *a = slot_at(cache, layer, from), *b = slot_at(cache, layer, to);
    FB_ASSERT(b->expert < 0 && a->pins == 0);
    if (a->expert >= 0) {
        l->slot_of[a->expert] = to;
    }
    *b = *a;
    *a = (struct slot){.expert = -1};
}

static void check_layer(const struct layer *l)
{
    int resident = 0, n_free = 0;
    FB_ASSERT(l->n_slots >= 1 && l->n_slots <= l->n_experts);
    for (int i = 0; i < l->n_experts; i++) {
        const struct slot *s = &l->slots[i];
        FB_ASSERT(s->expert >= -1 && s->expert < l->n_experts);
        if (s->expert < 0) {
            FB_ASSERT(s->pins == 0 && s->parts == 0);
            n_free += i < l->n_slots;
        } else {
            FB_ASSERT(i < l->n_slots && l->slot_of[s->expert] == i);
        }
        FB_ASSERT(l->slot_of[i] >= -1 && l->slot_of[i] < l->n_slots);
        resident += l->slot_of[i] >= 0;
        FB_ASSERT(l->last_touch[i] <= l->clock);
    }
    FB_ASSERT(n_free == l->n_free && resident == l->n_slots - n_free);
}

void fb_cache_check(const struct fb_cache *cache)
{
    for (int i = 0; i < cache->n_layers; i++) {
        check_layer(&cache->layers[i]);
    }
}
