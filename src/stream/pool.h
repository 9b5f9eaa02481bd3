/*
 * pool.h - the slots of one pool in memory, and how many of them are in use.
 *
 *      part 0  [slot 0][slot 1] ... [slot n_slots - 1]   (given back)   ... max_slots   (room)
 *      part 1  [slot 0][slot 1] ...
 *
 * Address space is reserved for `room` slots; what lies beyond n_slots costs no memory, and what no
 * slot has ever used is inaccessible. A slot can
 * move to another pool (fb_pool_lend): then max_slots falls in the one and rises in the other.
 *
 * The memory may have a holder, such as a device that maps it. Pages that are given back while they
 * are held stay with the holder, and the pool would get others in their place; so the holder is
 * asked to let go before the pool changes its size, and finds it at its new size afterwards. Slots
 * of a pool with a holder are not lent.
 */
#ifndef FB_STREAM_POOL_H
#define FB_STREAM_POOL_H

#include "cache/cache.h"
#include "model/weights.h"

struct fb_populator;

/* Whoever holds pages of pools besides the stream. */
struct fb_pool_holder {
    /* Lets go of the memory of pool `index`, which has no users: no lease and no set of it is open.
     * Called on the thread that adapts the stream (stream/adapt.h), before the change. */
    void (*let_go)(void *user, int index);
    void *user;
};

struct fb_pool {
    int n_slots;   /* in use */
    int max_slots; /* as planned, corrected by those lent and borrowed */
    int room;
    bool hollow; /* of a simulation: its memory is never touched */
    int n_users; /* leases and sets that are open: they rely on the pool's size */
    const struct fb_pool_holder *holder; /* NULL: none */
    int n_parts;
    uint64_t stride[FB_MAX_PARTS];
    char *memory[FB_MAX_PARTS];
    struct fb_populator *populator; /* of the stream while it loads, else NULL */
    uint64_t memory_bytes[FB_MAX_PARTS];
    int16_t *load_of;    /* [room][FB_MAX_PARTS] open load, or -1 */
    uint8_t *prefetched; /* [room] parts that were prefetched and not used yet, as bits */
};

/* Memory of one slot: strides of all parts. */
uint64_t fb_pool_slot_bytes(const struct fb_pool *pool);

/* The fewest slots that a lease can work with: one that is computed with, one that is read into. */
int fb_pool_fewest(const struct fb_pool *pool);

/* Number of slots when the pool keeps the fraction `share` of what it can give back (0..1). */
int fb_pool_share(const struct fb_pool *pool, double share);

/* Resizes the pool, and with it pool `index` of the cache, to n slots. Stays larger when a slot >=
 * n is pinned; does nothing while the pool has users. */
void fb_pool_resize(struct fb_pool *pool, struct fb_cache *cache, int index, int n);

/* Moves the memory of one slot to another pool. The content of `slot` is dropped, the last slot of
 * `from` takes its place, and `to` has one more slot, which is free. Returns false and changes
 * nothing when the last slot is pinned, `to` has no room or gets no memory, or either pool has
 * users, a holder or fewer than max_slots. */
bool fb_pool_lend(struct fb_pool *from, int from_index, int slot, struct fb_pool *to, int to_index,
    struct fb_cache *cache);

#endif
