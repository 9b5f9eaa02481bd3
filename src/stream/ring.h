/*
 * ring.h - streamed dense weights: a queue of reads in the order of their use, in a ring of memory.
 *
 * A pass over a dense model uses its weights in the same order every time, so the ring reads ahead
 * along that order, across the end of a pass into the next, as far as its memory allows. (A cache
 * would do worse: a cyclic scan defeats LRU.)
 *
 *        release            take                          pump
 *      ... freed | [ head: in use ][ read ][ being read ][ being read ] free ... |
 *
 * The order is learned: `ring_schedule` says which weight follows which. A weight that is not the
 * next one after all drops what was read ahead in vain; that costs time, never correctness.
 */
#ifndef FB_STREAM_RING_H
#define FB_STREAM_RING_H

#include "stream/unpack.h"

struct fb_ring;

/* `bytes` is at least the largest envelope (fb_weight_envelope) of any weight that will be taken.
 * Takes the memory now if `populate`, else as it is used. NULL if the address space is refused. */
struct fb_ring *fb_ring_new(struct fb_unpacker *unpacker, uint64_t bytes, bool populate);
void fb_ring_free(struct fb_ring *ring); /* waits for what is in flight */

/* The weights will be taken in this order, after those expected before. */
void fb_ring_schedule(struct fb_ring *ring, const int *weights, int n);

/* Blocks until the weight has been read, and judged; *raw are the file's bytes, valid until release.
 * At most one weight is taken at a time. */
enum forebay_status fb_ring_take(
    struct fb_ring *ring, int weight, const void **raw, struct forebay_error *err);
void fb_ring_release(struct fb_ring *ring);

/* Drops what was read ahead and gives the memory back until the ring is used again. Not while a
 * weight is taken. */
void fb_ring_discard(struct fb_ring *ring);

/* Issues reads ahead as far as there is room. Never blocks. */
void fb_ring_pump(struct fb_ring *ring);

struct fb_ring_stats {
    uint64_t demand_bytes;
    uint64_t prefetch_bytes;
    uint64_t prefetch_used_bytes;
    uint64_t stall_ns, prefetch_stall_ns;
};
const struct fb_ring_stats *fb_ring_stats(const struct fb_ring *ring);

#endif
