/*
 * elastic.h - which of the resident dense weights are present now. Bookkeeping only.
 *
 * A resident weight can be streamed instead while memory is short, if the ring (and scratch) is
 * large enough for it. Such weights are ranked; the first n_wanted of the ranking are to be
 * streamed. Pieces of some MiB are given back together; neighbouring pieces are far apart in the
 * ranking, so that the disk has work all through a pass, whatever n_wanted is.
 *
 *      present --(drop: rank < n_wanted)--> streamed
 *         ^------(restore, when used: rank >= n_wanted)--'
 *
 * When the plan has no ring, address space is reserved for one, which costs memory while it is
 * used.
 */
#ifndef FB_STREAM_ELASTIC_H
#define FB_STREAM_ELASTIC_H

#include "model/weights.h"

struct fb_elastic {
    const struct fb_weights *weights;
    bool *present; /* [n_weights] in memory now; false for weights that are never resident */
    int *rank;     /* [n_weights] -1: never given back */
    int *ranked;   /* [n_ranked] weights by rank */
    int n_ranked, n_wanted, n_streamed;
    uint64_t most_bytes;    /* of all ranked weights */
    uint64_t least_bytes;   /* held when none is present: ring and scratch that are not planned */
    uint64_t present_bytes; /* of the ranked weights that are present */
    uint64_t ring_bytes, scratch_bytes; /* not planned, needed for streaming; 0: none */
    bool ring_used;
};

/* `resident` [n_weights], `ring_bytes` and `scratch_bytes` are those of the plan. */
void fb_elastic_init(struct fb_elastic *e, const struct fb_weights *weights, const bool *resident,
    uint64_t ring_bytes, uint64_t scratch_bytes);
void fb_elastic_release(struct fb_elastic *e);

bool fb_elastic_present(const struct fb_elastic *e, int weight);

/* Memory of the ranked weights now, with the ring and scratch that are not planned. */
uint64_t fb_elastic_held(const struct fb_elastic *e);

/* Chooses the weights for `bytes` of memory. Returns the memory held once drop and restore have
 * been called for all of them; may be more than `bytes`. */
uint64_t fb_elastic_plan(struct fb_elastic *e, uint64_t bytes);

/* Marks one weight that is to be streamed from now on as not present, and returns it; -1: none. */
int fb_elastic_drop(struct fb_elastic *e);

/* The weight was just read. True when it is to be resident again; it is then marked as present. */
bool fb_elastic_restore(struct fb_elastic *e, int weight);

#endif
