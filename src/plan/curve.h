/*
 * curve.h - hit curves: the share of expert requests that hit, by the number of slots of the layer.
 *
 * For a model that has not run yet there is a prior: with x = slots / experts, of E experts in a
 * layer of which a token uses k,
 *
 *      hit(x) = 1 - (1 - x)^p,   p = 1.25 sqrt(E / k), at least 1
 *
 * which is x when routing is uniform (p = 1). Checked against LRU on three public traces at two
 * sizes each (OLMoE E/k 8, Qwen3 21, gpt-oss 64): with slots for up to a quarter of the experts it
 * is 8 points too low to 4 too high, with half of them 10 too high (OLMoE).
 *
 * Earlier runs leave a histogram of LRU stack distances per layer: a request at distance d (for the
 * d-th most recently used expert of the layer) hits if there are d slots or more. One histogram
 * therefore gives LRU's hits for every number of slots (Mattson et al. 1970); a part of the misses
 * is saved by the cache's policy. The histogram is mixed with the prior in proportion to the
 * requests seen, so that a short run does not dominate.
 *
 * Rules (cited by the tests):
 *   V1  hit is 0 at 0 slots, 1 with a slot for each expert, and never falls.
 *   V2  gain never rises: it is the slope of the least concave curve above the hit curve.
 */
#ifndef FB_PLAN_CURVE_H
#define FB_PLAN_CURVE_H

#include "model/weights.h"

struct fb_curve {
    int n_expert;
    double *hit;  /* [n_expert + 1] by slots */
    double *gain; /* [n_expert] hits that slot s + 1 adds, for the planner */
};

struct fb_curves {
    int n_groups;
    struct fb_curve *groups;
    uint64_t requests; /* seen in earlier runs; 0: all curves are the prior */
};

/* Requests by stack distance: count[d - 1], d = 1..n_expert; count[n_expert]: never used before. */
struct fb_reuse {
    int n_expert;
    double *count;
};

/* The prior's share of requests that hit with n_slots slots, where a token uses n_used experts. */
double fb_curve_prior(int n_slots, int n_expert, int n_used);

/* The share of requests that hit in one of two levels (stream/levels.h), where requests that miss
 * in n_upper slots are asked of n_lower slots. At least that of the larger level alone, and at most
 * that of one cache of both. */
double fb_curve_both(const struct fb_curve *curve, int n_upper, int n_lower);

/* Curves for all groups, the caller's to free. `seen` is [n_groups] with the groups' n_expert, or
 * NULL: the prior. */
struct fb_curves *fb_curves_new(const struct fb_weights *weights, const struct fb_reuse *seen);
void fb_curves_free(struct fb_curves *curves);

#endif
