/*
 * pool.h - the slots of one pool in memory, and how many of them are in use.
 *
 *      part 0  [slot 0][slot 1] ... [slot n_slots - 1]   (given back)   ... max_slots   (room)
 *      part 1  [slot 0][slot 1] ...
 *
 * Address space is there for `room` slots; what lies beyond n_slots costs no memory. A slot can move
 * to another pool (fb_pool_lend): max_slots of the one falls, of the other rises.
 */
#ifndef FB_STREAM_POOL_H
#define FB_STREAM_POOL_H

#include "cache/cache.h"
#include "model/weights.h"

struct fb_pool {
    int n_slots;   /* in use */
    int max_slots; /* as planned, and traded since */
    int room;
    bool hollow;  /* of a simulation: no byte of it is touched */
    int n_passes; /* open: whoever computes with the pool counts on its size */
    int n_parts;
    uint64_t stride[FB_MAX_PARTS];
    char *memory[FB_MAX_PARTS];
    uint64_t memory_bytes[FB_MAX_PARTS];
    int16_t *load_of; /* [room][FB_MAX_PARTS] open load, or -1 */
    uint8_t *ahead;   /* [room] parts that were read ahead and not asked for yet, as bits */
};

uint64_t fb_pool_slot_bytes(const struct fb_pool *pool);

/* The fewest slots that any pass works with: one that is computed with, one that is read into. */
int fb_pool_fewest(const struct fb_pool *pool);

/* How many slots the pool has when of what it can give back (beyond the fewest) it keeps `share`. */
int fb_pool_share(const struct fb_pool *pool, double share);

/* Makes it n slots, of which the cache (layer `layer` of it) then knows; nothing while a pass is
 * open, and more than n when slots from n on are being read into. */
void fb_pool_resize(struct fb_pool *pool, struct fb_cache *cache, int layer, int n);

/* Moves the memory of one slot to another pool. What is in `slot` is forgotten, the last slot of the
 * pool takes its place, and the other pool has one more, which is free. False, and nothing happened,
 * when the one has that last slot in use, the other no room, or either an open pass or not all of
 * its slots. */
bool fb_pool_lend(struct fb_pool *from, int from_layer, int slot, struct fb_pool *to, int to_layer,
    struct fb_cache *cache);

#endif
