/*
 * sets.h - the experts of one layer for a batch that needs more of them than there are slots, or
 * many that are absent: used set by set, each read once. Hits are used in their slots, misses pass
 * through the transit.
 *
 *      begin ---> set: hits in their slots ---> set: misses in the transit ---> set ... ---> end
 *                 (again for each part: gate, up, down)
 *
 * Meanwhile the slots receive the experts that the batch's last tokens used most, since the next
 * tokens will use them again. Such a miss is unpacked into a slot instead of a place beside the
 * transit. The slot's old expert, if the batch needs it, was computed with before that: a slot's
 * parts are replaced one by one.
 *
 *      schedule ---> begin (ids are known) ---> next(part): a set ---> ... compute ... ---> next
 *                                               no more: next(the next part) ... ---> end
 */
#ifndef FB_STREAM_SETS_H
#define FB_STREAM_SETS_H

#include "stream/transit.h"

struct fb_stream;

/* The experts that a layer's router chose for some tokens. */
struct fb_routes {
    const int *experts; /* [tokens][picks]; negative: one that is not wanted */
    int tokens, picks;
    const int *needed, *uses; /* [n_needed] the distinct experts in ascending order; their uses */
    int n_needed;
};

/* One part of some experts, in memory: that of experts[i] begins at base + index[i] * stride. */
struct fb_set {
    int n; /* 0: no more */
    const int *experts, *index;
    void *base;
    uint64_t stride;
    int n_index; /* larger than any index */
};

/* Opens the layer of the matrix `weight`, which must be the layer's first matrix to be used. One
 * layer at a time, and no lease of the group is open. `routes` is not used after the call. */
void fb_stream_sets_begin(struct fb_stream *s, int weight, const struct fb_routes *routes);

/* The next set of experts of the matrix, until all that are needed have been in one; then set->n is
 * 0. Valid until the next call. Each matrix is gone through once. Blocks while it is read. */
enum forebay_status fb_stream_sets_next(
    struct fb_stream *s, int weight, struct fb_set *set, struct forebay_error *err);

void fb_stream_sets_end(struct fb_stream *s); /* closes the layer, if one is open */

/* --- For stream.c ---------------------------------------------------------------------------- */

struct fb_sets *fb_sets_new(const struct fb_weights *weights);
void fb_sets_free(struct fb_sets *sets); /* NULL is fine */

#endif
