/*
 * levels.h - a faster memory above the stream: the slots of a GPU. Joins its bookkeeping
 * (cache/tier.h) with the stream's. Runs and simulations use this interface, and so move the same
 * experts.
 *
 *      open (a layer's experts)
 *        fits:           fill ---> all are in slots above
 *        does not fit:   ask ---> next: a set ---> next: a set ...     the missing ones pass by;
 *                        some get slots and are copied there by next (admitted)
 *      close
 *
 * The two levels are nearly one cache, because hardly any expert stays in both:
 *
 *      copied up     its copy in RAM is worth next to nothing there (fb_cache_set_above)
 *      lost above    copied down again, if RAM does not have it any more and it is worth more than
 *                    what RAM would evict for it; a copy is faster than a read
 *
 * The cache in RAM is told of all uses, also of those that hit above, so that it knows the worth of
 * what comes down. bench/TIERS.md has the figures.
 *
 * Threads: belongs to the stream's thread.
 */
#ifndef FB_STREAM_LEVELS_H
#define FB_STREAM_LEVELS_H

#include "cache/tier.h"
#include "model/weights.h"
#include "stream/stream.h"

/* Copies of one unit, complete when the call returns. */
struct fb_levels_device {
    void (*up)(void *user, int weight, int slot, const void *unit);
    void (*down)(void *user, int weight, int slot, void *unit);
    void *user;
};

struct fb_levels {
    /* Set by the caller while no layer is open, and the caller's; all else zero at first. */
    const struct fb_weights *weights;
    struct fb_stream *stream;
    struct fb_tier *tier;
    struct fb_levels_device device;

    /* The open layer: */
    bool open;
    bool fits;    /* all needed experts have slots above */
    int *slot_of; /* [experts] their slots above, else -1 */
    int n_missing;
    int *admitted; /* [experts] if not all fit, by missing expert: the slot that it gets, or -1 */

    /* Private: */
    int group, cap;
    int *missing, *uses, *slots, *lost; /* [n_missing] */
    bool in_sets;
    struct fb_lease lease; /* on missing experts */
    int handed;            /* the matrix of which the lease's experts were the last set */
    int *rows, cap_rows;
};

void fb_levels_release(struct fb_levels *l); /* no layer is open */

/* Opens a layer for the tokens of `routes`, which need at least one expert. */
void fb_levels_open(struct fb_levels *l, int group, const struct fb_routes *routes);

/* Fills the slots of the missing experts of a layer that fits. Blocks while they are read. On
 * failure, only close is left to be called. */
enum forebay_status fb_levels_fill(struct fb_levels *l, struct forebay_error *err);

/* Asks the stream for the missing experts (n_missing > 0) of a layer that does not fit. `weight`:
 * its first matrix to be used; `routes` as given to open. */
void fb_levels_ask(struct fb_levels *l, int weight, const struct fb_routes *routes);

/* The next set of missing experts of the matrix; n is 0 when there are no more. Valid until the
 * next call. Blocks while it is read. Those that are admitted are in their slots then. */
enum forebay_status fb_levels_next(
    struct fb_levels *l, int weight, struct fb_set *set, struct forebay_error *err);

void fb_levels_close(struct fb_levels *l); /* the layer, if one is open */

/* Gives a group n slots above (fb_tier_resize), while no layer is open. Call it before the memory
 * of slots from n on is given up: what they hold is copied down if that is worth it. */
void fb_levels_resize(struct fb_levels *l, int group, int n);

#endif
