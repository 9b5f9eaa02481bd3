/*
 * plan.h - which weights stay in memory, how many expert slots, how big the ring: pure functions.
 *
 * Order of claims on a budget of weights memory:
 *   1. what the model cannot run without: slots for one layer's experts, room to read the largest
 *      dense weight that is streamed;
 *   2. dense weights: every token needs every byte of them, an expert's bytes only sometimes;
 *   3. expert slots: one token's needs for every layer, then each slot where it saves most reading
 *      by the hit curves (the same share for all, while nothing is known of the model). When there
 *      is not even room for one token's needs, all layers share one pool instead.
 */
#ifndef FB_PLAN_PLAN_H
#define FB_PLAN_PLAN_H

#include "model/weights.h"
#include "plan/curve.h"

struct fb_plan {
    int n_weights;
    int n_groups;
    bool *resident;   /* [n_weights] dense weights that are kept; false for experts */
    int *slots;       /* [n_groups] slots of each group's own pool; NULL when shared_slots > 0 */
    int shared_slots; /* slots of the one pool of all groups; 0: each has its own */
    uint64_t resident_bytes; /* dense weights kept */
    uint64_t streamed_bytes; /* dense weights read on every pass */
    uint64_t ring_bytes;     /* where streamed dense weights arrive */
    uint64_t scratch_bytes;  /* one dense weight in its computed form */
    uint64_t staging_bytes;  /* where experts arrive that are not read in place */
    uint64_t transit_bytes;  /* where the experts of a batch pass through */
    uint64_t cache_bytes;    /* expert slots */
    uint64_t total_bytes;    /* all of the above that takes memory */
    uint64_t budget_bytes;   /* what it was made for */
    bool everything_fits;    /* all weights are kept: nothing is read while generating */
};

/* Smallest weights budget fb_plan_make accepts. */
uint64_t fb_plan_minimum(const struct fb_weights *weights);

/* Places the weights in at most `budget_bytes`. `curves` may be NULL: the prior. E_NOFIT, naming the minimum, when that is too
 * little. The plan's total never exceeds the budget, and more budget never means fewer kept bytes
 * of a kind without more of another. Freed with fb_plan_free. */
enum forebay_status fb_plan_make(const struct fb_weights *weights, uint64_t budget_bytes,
    const struct fb_curves *curves, struct fb_plan **out, struct forebay_error *err);
void fb_plan_free(struct fb_plan *plan);

/* The most memory that helps the experts of a batch to pass through: one layer's, within bounds. */
uint64_t fb_plan_most_transit(const struct fb_weights *weights);

/* Memory one slot of the pool that all groups share takes: for each part the widest. */
uint64_t fb_plan_shared_slot_bytes(const struct fb_weights *weights);

#endif
