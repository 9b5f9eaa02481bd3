/*
 * ring.h - streamed dense weights: reads in the order of their use, into a ring of memory.
 *
 * Every pass over a dense model uses its weights in the same order, so the ring prefetches along
 * that order, across the end of a pass into the next, as far as its memory allows. (A cache would
 * do worse: a cyclic scan defeats LRU.)
 *
 *        release          acquire                          pump
 *      ... freed | [ head: in use ][ read ][ being read ][ being read ] free ... |
 *
 * The order is learned from fb_ring_schedule. When another weight is acquired than the next one in
 * that order, the prefetched ones before it are dropped: that costs time, never correctness.
 *
 * Threads: belongs to the stream's thread. Reads are issued only in calls of this interface.
 */
#ifndef FB_STREAM_RING_H
#define FB_STREAM_RING_H

#include "stream/stats.h"
#include "stream/unpack.h"

struct fb_ring;

/* `bytes` is at least the largest envelope (fb_weight_envelope) of any weight that will be
 * acquired. Its memory is allocated now if `populate`, else as it is used. NULL: the address space
 * is refused. The unpacker must outlive the ring. */
struct fb_ring *fb_ring_new(struct fb_unpacker *unpacker, uint64_t bytes, bool populate);
void fb_ring_free(struct fb_ring *ring); /* waits for what is in flight; NULL is fine */

/* The weights will be used in this order, after those scheduled before. */
void fb_ring_schedule(struct fb_ring *ring, const int *weights, int n);

/* Blocks until the weight is read and verified; *raw are the file's bytes, valid until release. At
 * most one weight is acquired at a time. On failure there is nothing to release. */
enum forebay_status fb_ring_acquire(
    struct fb_ring *ring, int weight, const void **raw, struct forebay_error *err);
void fb_ring_release(struct fb_ring *ring);

/* Drops what was prefetched and gives the memory back until the ring is used again. Not while a
 * weight is acquired. */
void fb_ring_discard(struct fb_ring *ring);

/* Issues prefetches as far as there is room. Never blocks. */
void fb_ring_pump(struct fb_ring *ring);

const struct fb_stream_stats *fb_ring_stats(const struct fb_ring *ring);

#endif
