/*
 * plan.h - which weights are resident, how many expert slots there are, how large the ring is: pure
 * functions.
 *
 * A budget for weights is spent in this order:
 *   1. the minimum to run: slots for one layer's experts, room to read the largest streamed dense
 *      weight;
 *   2. dense weights, because every token needs every byte of them, and an expert's bytes only
 *      sometimes;
 *   3. expert slots: those of one token for every layer, then each further slot where it saves most
 *      reading by the hit curves (the same share for all, while nothing is known of the model). If
 *      there is no room for one token's slots, all layers share one pool instead.
 *
 *      while generating   [resident dense][ring][scratch][staging] [slots ...................]
 *      with a batch       [resident dense][ring][scratch][staging] [slots ......][lent .......]
 *
 * A batch needs memory that single tokens do not need: intermediate results, and the transit. It is
 * lent by the slots (stream/adapt.h), so that the whole budget is used at all times.
 */
#ifndef FB_PLAN_PLAN_H
#define FB_PLAN_PLAN_H

#include "model/weights.h"
#include "plan/curve.h"

struct fb_plan {
    int n_weights;
    int n_groups;
    bool *resident;   /* [n_weights] dense weights in memory for good; false for experts */
    int *slots;       /* [n_groups] slots of each group's own pool; NULL when shared_slots > 0 */
    int shared_slots; /* slots of the one pool of all groups; 0: each has its own */
    uint64_t resident_bytes; /* resident dense weights */
    uint64_t streamed_bytes; /* dense weights read in every pass */
    uint64_t ring_bytes;     /* that streamed dense weights are read into */
    uint64_t scratch_bytes;  /* one dense weight in its computed form */
    uint64_t staging_bytes;  /* buffers for experts that are not read in place */
    uint64_t cache_bytes;    /* expert slots */
    uint64_t total_bytes;    /* all of the above but streamed_bytes */
    uint64_t budget_bytes;   /* that the plan was made for */
    uint64_t batch_bytes;    /* of it, what a batch needs for other things */
    uint64_t transit_bytes;  /* that the absent experts of a batch pass through: spare or lent */
    uint64_t lent_bytes;     /* of the slots, at most, while a batch is computed */
    bool preload;            /* all weights have memory between batches: they are read at once */
    bool everything_fits;    /* and with batches, too: nothing is read later */
};

/* Smallest weights budget fb_plan_make accepts. */
uint64_t fb_plan_minimum(const struct fb_weights *weights);

/* Places the weights in at most `budget_bytes`, of which a batch needs `batch_bytes` for other
 * things; E_NOFIT, naming the minimum, when that is too little. `curves` NULL: the prior. More
 * budget never reduces the resident bytes without adding slots, nor the other way round. *out is
 * the caller's; it does not refer to its arguments. */
enum forebay_status fb_plan_make(const struct fb_weights *weights, uint64_t budget_bytes,
    uint64_t batch_bytes, const struct fb_curves *curves, struct fb_plan **out,
    struct forebay_error *err);
void fb_plan_free(struct fb_plan *plan);

/* The largest transit that is useful: memory for the experts of one layer, within fixed bounds. */
uint64_t fb_plan_most_transit(const struct fb_weights *weights);

/* Memory of one slot in a pool that all groups share: the sum of the widest strides of each
 * part. */
uint64_t fb_plan_shared_slot_bytes(const struct fb_weights *weights);

#endif
