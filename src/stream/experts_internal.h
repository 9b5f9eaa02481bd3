/*
 * experts_internal.h - what the files behind experts.h share:
 *
 *      experts.c   pools, staging buffers, and how much memory the slots have
 *      loads.c     reads in flight, from a slot that misses a part to the part in place
 *      prefetch.c     what is foreseen for passes to come
 *      leases.c    passes
 */
#ifndef FB_STREAM_EXPERTS_INTERNAL_H
#define FB_STREAM_EXPERTS_INTERNAL_H

#include "stream/experts.h"
#include "stream/pool.h"

/* Reads open at once. More would only queue in the engine. */
#define MAX_PASSES 2 /* open at once */
#define MAX_LOADS  256
#define MAX_AHEAD  64

struct load {
    struct fb_io_request request;
    bool arrived; /* read, waiting to be put into place */
    bool ahead;   /* asked for before it was needed */
    int pool, slot, part, weight, expert;
    int stage; /* staging buffer, -1: read in place */
};

/* What a group's next pass will probably need, until it begins. */
struct ahead {
    int n, next_load; /* as in fb_pass */
    int experts[MAX_AHEAD];
};

struct fb_experts {
    struct fb_unpacker *unpacker;
    struct fb_io_engine *io;
    const struct fb_weights *weights;

    int n_pools;
    struct fb_pool *pools;
    int *pool_of;  /* [n_groups] */
    int *first_id; /* [n_groups] */
    struct fb_cache *cache;

    struct load loads[MAX_LOADS];
    int order[MAX_LOADS]; /* of them: the n_open open ones, oldest first, then the free */
    int n_open;
    struct fb_lease *passes[MAX_PASSES]; /* the n_passes open ones, oldest first */
    int n_passes;
    uint64_t most_bytes; /* of slots, as planned */
    char *staging;
    uint64_t staging_bytes, stage_size;
    int n_stages;
    bool *stage_busy;
    struct ahead *ahead;            /* [n_groups] */
    struct fb_populator *populator; /* while the model loads */

    bool failed; /* a read failed, and no wait has reported it yet */
    struct forebay_error error;
    struct fb_stream_stats stats;
};

/* --- Loads --------------------------------------------------------------------------------- */

/* The open load of the part for the slot, or NULL. */
struct load *fb_loads_find(struct fb_experts *x, int pool, int slot, int part);

/* Whether the part is neither in the slot nor on its way there. */
bool fb_loads_missing(struct fb_experts *x, int pool, int slot, int part);

/* Starts reading one part of the expert in the slot. False when that must wait. */
bool fb_loads_issue(
    struct fb_experts *x, int group, int part, int expert, int slot, enum fb_io_priority priority);

/* Looks at every open load: what was read in place is done, what failed is reported (unless nobody
 * has asked for it yet), the rest is marked as arrived. */
void fb_loads_collect(struct fb_experts *x);

/* Puts arrived loads of `part` (-1: any) into place. Returns how many. */
int fb_loads_settle(struct fb_experts *x, int part);

/* Waits for any read. `ahead`: all that is waited for was asked for before it was needed. */
void fb_loads_block(struct fb_experts *x, bool ahead);

/* Waits until no load is open. What arrived late is thrown away only if its read failed. */
void fb_loads_drain(struct fb_experts *x);

/* Takes back what nobody has asked for yet and can still be cancelled. */
void fb_loads_cancel_prefetch(struct fb_experts *x, int pool);

/* --- Ahead of need ------------------------------------------------------------------------- */

/* Issues reads of what is foreseen, as far as there is room, the layers after `group` first. */
void fb_prefetch_pump(struct fb_experts *x, int group);

/* An expert of a pass that begins is in the slot, or on its way there. Returns whether it is there
 * because it was foreseen for this pass. */
bool fb_prefetch_claim(struct fb_experts *x, int group, int slot, uint32_t parts);

/* The group's pass has begun: reads for it that it turned out not to need are not made any more. */
void fb_prefetch_cancel(struct fb_experts *x, int group);

#endif
