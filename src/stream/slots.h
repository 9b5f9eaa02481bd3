/*
 * slots.h - the slots of all pools: their memory, and which expert is in which of them.
 *
 * The plan gives each group a pool of its own, or all groups one shared pool. Pool i is pool i of
 * the cache; expert e of group g is key first_key[g] + e of pool pool_of[g]:
 *
 *      own pools     pool_of   0  1  2        shared pool   pool_of   0  0   0
 *      (8 experts)   first_key 0  0  0                      first_key 0  8  16
 *
 * Threads: belongs to the stream's thread.
 */
#ifndef FB_STREAM_SLOTS_H
#define FB_STREAM_SLOTS_H

#include "plan/plan.h"
#include "os/populate.h"
#include "stream/pool.h"

struct fb_slots {
    const struct fb_weights *weights;
    int n_pools; /* 0: the model has no experts */
    struct fb_pool *pools;
    int *pool_of;   /* [n_groups] */
    int *first_key; /* [n_groups] */
    int *wanted;    /* [n_pools] slots; for resizing */
    struct fb_cache *cache;
    uint64_t planned_bytes;
    struct fb_populator *populator; /* NULL, except while the model loads */
};

/* Reserves the slots of the plan. False when the address space is refused; *s may then only be
 * released. `hollow`: for a simulation, no memory is touched. */
bool fb_slots_init(struct fb_slots *s, const struct fb_weights *weights, const struct fb_plan *plan,
    const struct fb_cache_policy *policy, bool hollow);
void fb_slots_release(struct fb_slots *s);

/* Allocates the memory of all slots, so that no page is zeroed while generating: starts a thread
 * for it; helps that thread with one piece (os/populate.h; *done: bytes allocated); ends it. */
void fb_slots_populate_start(struct fb_slots *s);
enum fb_populated fb_slots_populate_help(struct fb_slots *s, uint64_t *done);
void fb_slots_populate_end(struct fb_slots *s);

/* True when all groups share one pool. */
bool fb_slots_shared(const struct fb_slots *s);

/* Slot k of the pool that serves the weight begins at the result + k * *stride; *n_slots of them.
 * */
void *fb_slots_base(const struct fb_slots *s, int weight, uint64_t *stride, int *n_slots);

/* Whether the expert has all of `parts` present. */
bool fb_slots_has(const struct fb_slots *s, int group, int expert, uint32_t parts);

/* Slot of the expert, or -1. */
int fb_slots_find(const struct fb_slots *s, int group, int expert);

/* The expert's slot, or one given to it (its parts are then absent); -1: all are pinned. */
int fb_slots_acquire(struct fb_slots *s, int group, int expert);

/* The same for an expert that nobody needs now: -1 also when the victim is worth as much. */
int fb_slots_offer(struct fb_slots *s, int group, int expert);

/* Call before the group evicts: borrows a slot of another pool where the cache advises it. */
void fb_slots_borrow(struct fb_slots *s, int group);

/* Memory of the slots in use now, as planned, and when every pool has the fewest that work. */
uint64_t fb_slots_held(const struct fb_slots *s);
uint64_t fb_slots_most(const struct fb_slots *s);
uint64_t fb_slots_least(const struct fb_slots *s);
int fb_slots_count(const struct fb_slots *s); /* in use now, of all pools */

/* Gives slots back, or regains them, so that they hold `bytes`, or a little less. Pools with users
 * keep their size; a pool whose last slots are pinned keeps these and all before them. True when
 * there was no such pool: every one has the size that it is to have. */
bool fb_slots_resize(struct fb_slots *s, uint64_t bytes);

#endif
