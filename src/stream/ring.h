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
 * The order is learned: `ring_expect` says which weight follows which. A weight that is not the
 * next one after all drops what was read ahead in vain; that costs time, never correctness.
 */
#ifndef ST_STREAM_RING_H
#define ST_STREAM_RING_H

#include "stream/arrival.h"

struct st_ring;

/* `bytes` is at least the largest envelope (st_weight_envelope) of any weight that will be taken.
 * Takes the memory now if `populate`, else as it is used. NULL if the address space is refused. */
struct st_ring *st_ring_new(struct st_arriver *arriver, uint64_t bytes, bool populate);
void st_ring_free(struct st_ring *ring); /* waits for what is in flight */

/* The weights will be taken in this order, after those expected before. */
void st_ring_expect(struct st_ring *ring, const int *weights, int n);

/* Blocks until the weight has been read, and judged; *raw are the file's bytes, valid until release.
 * At most one weight is taken at a time. */
enum strata_status st_ring_take(
    struct st_ring *ring, int weight, const void **raw, struct strata_error *err);
void st_ring_release(struct st_ring *ring);

/* Drops what was read ahead and gives the memory back until the ring is used again. Not while a
 * weight is taken. */
void st_ring_discard(struct st_ring *ring);

/* Issues reads ahead as far as there is room. Never blocks. */
void st_ring_pump(struct st_ring *ring);

struct st_ring_stats {
    uint64_t demand_bytes;
    uint64_t prefetch_bytes;
    uint64_t prefetch_used_bytes;
    uint64_t stall_ns, prefetch_stall_ns;
};
const struct st_ring_stats *st_ring_stats(const struct st_ring *ring);

#endif
