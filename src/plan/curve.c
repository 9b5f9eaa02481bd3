#include "plan/curve.h"

#include <math.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"

/* The prior counts as much as this many tokens of requests. */
#define PRIOR_TOKENS 8

/* The share of LRU's misses, among those that more slots would serve, that the cache's policy
 * (echo) saves with slots for two tokens' experts or more: 0.01 to 0.27 by bench/eviction.sh. With
 * fewer slots it falls linearly to 0, which keeps a concave curve concave. */
#define SAVED 0.18

double fb_curve_prior(int n_slots, int n_expert, int n_used)
{
    if (n_slots >= n_expert) {
        return 1;
    }
    double p = fmax(1, 1.25 * sqrt((double)n_expert / fmax(1, n_used)));
    return 1 - pow(1 - (double)n_slots / n_expert, p);
}

/* Of the hits that one cache of both sizes has more than the larger level, those that two levels
 * have as well. In the replays of bench/TIERS.md they hit 0 to 7 points less than one cache. */
#define DISTINCT 0.9

double fb_curve_both(const struct fb_curve *curve, int n_upper, int n_lower)
{
    int larger = n_upper > n_lower ? n_upper : n_lower;
    int both = n_upper < curve->n_expert - n_lower ? n_upper + n_lower : curve->n_expert;
    return curve->hit[larger] + DISTINCT * (curve->hit[both] - curve->hit[larger]);
}

static double saved(int n_slots, int n_used)
{
    return SAVED * fmin(1, n_slots / (2 * fmax(1, n_used)));
}

static void fill_hits(struct fb_curve *curve, int n_used, const struct fb_reuse *seen)
{
    int n = curve->n_expert;
    double total = 0, reused = 0, hits = 0, weight = (double)PRIOR_TOKENS * n_used;
    for (int d = 0; seen && d <= n; d++) {
        total += seen->count[d];
        reused += d < n ? seen->count[d] : 0;
    }
    for (int s = 1; s <= n; s++) {
        hits += seen ? seen->count[s - 1] : 0;
        double prior = fb_curve_prior(s, n, n_used);
        double served = hits + saved(s, n_used) * (reused - hits);
        curve->hit[s] = fmax((weight * prior + served) / (weight + total), curve->hit[s - 1]);
    }
    curve->hit[n] = 1; /* each expert's first use is a miss, but only once */
}

/* Slopes of the least concave curve above the hits: blocks of slots that share their gain. A block
 * is merged into the one before it while it gains more per slot. */
static void fill_gains(struct fb_curve *curve)
{
    int n = curve->n_expert, n_blocks = 0;
    int *length = fb_xcalloc((size_t)n, sizeof *length);
    double *sum = fb_xcalloc((size_t)n, sizeof *sum);
    for (int s = 0; s < n; s++) {
        length[n_blocks] = 1;
        sum[n_blocks++] = curve->hit[s + 1] - curve->hit[s];
        while (n_blocks > 1 && sum[n_blocks - 1] * length[n_blocks - 2] >
                                   sum[n_blocks - 2] * length[n_blocks - 1]) {
            sum[n_blocks - 2] += sum[n_blocks - 1];
            length[n_blocks - 2] += length[n_blocks - 1];
            n_blocks--;
        }
    }
    for (int b = 0, s = 0; b < n_blocks; b++) {
        for (int i = 0; i < length[b]; i++) {
            curve->gain[s++] = sum[b] / length[b];
        }
    }
    free(length);
    free(sum);
}

struct fb_curves *fb_curves_new(const struct fb_weights *ws, const struct fb_reuse *seen)
{
    struct fb_curves *curves = fb_xcalloc(1, sizeof *curves);
    curves->n_groups = ws->n_groups;
    curves->groups = fb_xcalloc((size_t)ws->n_groups + 1, sizeof *curves->groups);
    for (int g = 0; g < ws->n_groups; g++) {
        struct fb_curve *curve = &curves->groups[g];
        int n = ws->groups[g].n_expert;
        FB_ASSERT(!seen || seen[g].n_expert == n);
        curve->n_expert = n;
        curve->hit = fb_xcalloc((size_t)n + 1, sizeof *curve->hit);
        curve->gain = fb_xcalloc((size_t)n + 1, sizeof *curve->gain);
        fill_hits(curve, ws->catalog->n_expert_used, seen ? &seen[g] : NULL);
        fill_gains(curve);
        for (int d = 0; seen && d <= n; d++) {
            curves->requests += (uint64_t)seen[g].count[d];
        }
    }
    return curves;
}

void fb_curves_free(struct fb_curves *curves)
{
    for (int g = 0; curves && g < curves->n_groups; g++) {
        free(curves->groups[g].hit);
        free(curves->groups[g].gain);
    }
    if (curves) {
        free(curves->groups);
        free(curves);
    }
}
