/*
 * elastic.h - which of the kept dense weights are in memory now. Bookkeeping only.
 *
 * A kept weight can be streamed instead if the ring (and scratch) is large enough for it. Those that
 * can are ranked; the first n_wanted of the ranking are to be streamed. Pieces of some MiB go
 * together; neighbouring pieces are far apart in the ranking, so that the disk has work all through
 * a pass, whatever n_wanted is.
 *
 *      kept --(drop: rank < n_wanted)--> streamed --(restore, when used: rank >= n_wanted)--> kept
 *
 * When the plan has no ring, there is address space for one, which costs memory while it is used.
 */
#ifndef FB_STREAM_ELASTIC_H
#define FB_STREAM_ELASTIC_H

#include "model/weights.h"

struct fb_elastic {
    const struct fb_weights *weights;
    bool *kept;  /* [n_weights] in memory now */
    int *rank;   /* [n_weights] -1: never given back */
    int *ranked; /* [n_ranked] weights by rank */
    int n_ranked, n_wanted, n_streamed;
    uint64_t most_bytes;  /* all that can be given back */
    uint64_t least_bytes; /* what that needs in their place: the ring that is not in the plan */
    uint64_t kept_bytes;  /* of the ranked ones, now */
    uint64_t ring_bytes, scratch_bytes; /* not in the plan; 0: there is no need */
    bool ring_used;
};

/* `resident` says which weights the plan keeps, `ring_bytes` and `scratch_bytes` what it has. */
void fb_elastic_init(struct fb_elastic *e, const struct fb_weights *weights, const bool *resident,
    uint64_t ring_bytes, uint64_t scratch_bytes);
void fb_elastic_release(struct fb_elastic *e);

bool fb_elastic_kept(const struct fb_elastic *e, int weight);
uint64_t fb_elastic_held(const struct fb_elastic *e);

/* Decides for `bytes` of memory. Returns what will be held when all has been done. */
uint64_t fb_elastic_plan(struct fb_elastic *e, uint64_t bytes);

/* A weight that is to be streamed from now on, one after the other; -1: no more. */
int fb_elastic_drop(struct fb_elastic *e);

/* True when the weight, just read, is to be kept again. */
bool fb_elastic_restore(struct fb_elastic *e, int weight);

#endif
