/*
 * test_curve.c - hit curves: rules V1 and V2 over random histograms, the prior against what LRU did
 * on real traces, and how the two are mixed.
 */
#include "weights_fixture.h"

#include <math.h>

#include "plan/curve.h"

#define N_MODELS 400
#define MAX_USED 8
/* The prior counts as much as this many tokens of requests (curve.c). */
#define PRIOR_TOKENS 8
/* Share of LRU's misses that the cache's policy saves (curve.c). */
#define SAVED 0.18
/* Error of rounding in sums of shares of 1. */
#define ROUNDING 1e-12

/* --- Made-up histograms ----------------------------------------------------------------------- */

static void make_layers(struct model *m, int n_layers, int n_expert, int n_used)
{
    model_init(m, 0);
    m->catalog.n_expert_used = n_used;
    for (int l = 0; l < n_layers; l++) {
        add_weight(m, FB_ROLE_EXPERT_UP, l, n_expert ? n_expert : 2 + (int)rnd_below(63), 64, 0);
    }
    claim_all(m);
}

/* Counts from 0 to those of a year of use. */
static double random_count(void)
{
    return rnd() % 3 ? (double)(rnd_below((uint64_t)1 << rnd_below(40))) : 0;
}

static void fill(struct fb_reuse *seen, const struct model *m)
{
    for (int g = 0; g < m->weights->n_groups; g++) {
        int n = m->weights->groups[g].n_expert;
        seen[g] = (struct fb_reuse){n, calloc((size_t)n + 1, sizeof(double))};
        for (int d = 0; d <= n; d++) {
            seen[g].count[d] = random_count();
        }
    }
}

static void release(struct fb_reuse *seen, int n)
{
    for (int g = 0; g < n; g++) {
        free(seen[g].count);
    }
}

/* --- Rules ------------------------------------------------------------------------------------ */

static void check_v1(const struct fb_curve *c)
{
    assert_true(c->hit[0] == 0);
    assert_true(c->hit[c->n_expert] == 1);
    for (int s = 0; s < c->n_expert; s++) {
        assert_true(c->hit[s] <= c->hit[s + 1]);
    }
}

/* The sum of the gains is nowhere below the hits and meets them where the gain falls, and the gain
 * never rises: hence it is concave, above the curve, and the lowest such curve. */
static void check_v2(const struct fb_curve *c)
{
    double sum = 0;
    for (int s = 0; s < c->n_expert; s++) {
        assert_true(c->gain[s] >= 0);
        sum += c->gain[s];
        assert_true(sum >= c->hit[s + 1] - ROUNDING);
        bool last = s + 1 == c->n_expert;
        if (!last) {
            assert_true(c->gain[s + 1] <= c->gain[s] + ROUNDING);
        }
        if (last || c->gain[s + 1] < c->gain[s] - ROUNDING) {
            assert_true(fabs(sum - c->hit[s + 1]) < ROUNDING); /* a corner of the hull */
        }
    }
}

static void check_rules(const struct model *m, const struct fb_reuse *seen)
{
    struct fb_curves *curves = fb_curves_new(m->weights, seen);
    assert_int_equal(curves->n_groups, m->weights->n_groups);
    for (int g = 0; g < curves->n_groups; g++) {
        assert_int_equal(curves->groups[g].n_expert, m->weights->groups[g].n_expert);
        check_v1(&curves->groups[g]);
        check_v2(&curves->groups[g]);
    }
    fb_curves_free(curves);
}

static void test_v1_and_v2_hold_for_any_histogram(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= N_MODELS; seed++) {
        struct model m;
        struct fb_reuse seen[4];
        random_state = seed;
        make_layers(&m, 1 + (int)rnd_below(4), 0, 1 + (int)rnd_below(MAX_USED));
        fill(seen, &m);
        check_rules(&m, seen);
        release(seen, m.weights->n_groups);
        model_close(&m);
    }
}

static void test_v1_and_v2_hold_for_the_prior(void **state)
{
    (void)state;
    for (int n_expert = 2; n_expert <= 300; n_expert += 1 + n_expert / 8) {
        for (int n_used = 0; n_used <= MAX_USED; n_used++) {
            struct model m;
            make_layers(&m, 2, n_expert, n_used);
            check_rules(&m, NULL);
            model_close(&m);
        }
    }
}

/* When a layer requests all its experts in turn, LRU hits only with a slot for each: the curve is
 * almost flat and then rises steeply. The gains replace it by a line. */
/* Two levels hit no less than the larger one, no more than one cache of both, and more slots never
 * hurt. */
static void test_two_levels_are_between_one_and_both(void **state)
{
    (void)state;
    struct model m;
    random_state = 1;
    make_layers(&m, 1, 24, 4);
    struct fb_curves *curves = fb_curves_new(m.weights, NULL);
    const struct fb_curve *c = &curves->groups[0];
    for (int upper = 0; upper <= 24; upper++) {
        for (int lower = 0; lower <= 24; lower++) {
            double both = fb_curve_both(c, upper, lower);
            int sum = upper + lower < 24 ? upper + lower : 24;
            assert_true(both >= c->hit[upper > lower ? upper : lower]);
            assert_true(both <= c->hit[sum]);
            assert_true(upper == 0 || both >= fb_curve_both(c, upper - 1, lower) - ROUNDING);
            assert_true(lower == 0 || both >= fb_curve_both(c, upper, lower - 1) - ROUNDING);
            assert_true(upper > 0 || both == c->hit[lower]);
        }
    }
    fb_curves_free(curves);
    fb_weights_free(m.weights);
}

static void test_a_cliff_is_replaced_by_a_line(void **state)
{
    (void)state;
    struct model m;
    double count[9] = {0, 0, 0, 0, 0, 0, 0, 1e12, 0};
    struct fb_reuse seen = {8, count};
    make_layers(&m, 1, 8, 2);
    struct fb_curves *curves = fb_curves_new(m.weights, &seen);
    assert_true(fabs(curves->groups[0].hit[2] - SAVED / 2) < 1e-9); /* one token's slots */
    assert_true(fabs(curves->groups[0].hit[7] - SAVED) < 1e-9);
    for (int s = 0; s < 8; s++) {
        assert_true(fabs(curves->groups[0].gain[s] - 0.125) < 1e-9);
    }
    fb_curves_free(curves);
    model_close(&m);
}

/* --- The prior -------------------------------------------------------------------------------- */

/* Hit rates of LRU on recorded routing, after warm-up: ../shared/traces/README.md. */
static const struct {
    const char *model;
    int slots, n_expert, n_used;
    double hit;
} lru[] = {
    {"OLMoE", 16, 64, 8, 0.611},
    {"OLMoE", 32, 64, 8, 0.810},
    {"Qwen3", 16, 128, 6, 0.616},
    {"Qwen3", 32, 128, 6, 0.832},
    {"gpt-oss", 8, 128, 2, 0.551},
    {"gpt-oss", 16, 128, 2, 0.697},
};

/* The largest error: OLMoE with half of its experts, 10.4 points too high. Others are within 8. */
#define PRIOR_OFF      0.08
#define PRIOR_OFF_HALF 0.105

static void test_the_prior_is_near_what_lru_did(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof lru / sizeof *lru; i++) {
        double hit = fb_curve_prior(lru[i].slots, lru[i].n_expert, lru[i].n_used);
        double off = 2 * lru[i].slots < lru[i].n_expert ? PRIOR_OFF : PRIOR_OFF_HALF;
        if (fabs(hit - lru[i].hit) > off) {
            fail_msg(
                "%s, %d slots: %.3f, LRU had %.3f", lru[i].model, lru[i].slots, hit, lru[i].hit);
        }
    }
}

static void test_the_prior_is_uniform_where_all_experts_are_used(void **state)
{
    (void)state;
    for (int s = 0; s <= 16; s++) {
        /* p = 1.25 sqrt(16 / 16) = 1.25: a little better than s / 16, and 1 at the end. */
        assert_true(fabs(fb_curve_prior(s, 16, 16) - (1 - pow(1 - s / 16.0, 1.25))) < ROUNDING);
        /* More experts used than exist: p would be below 1. */
        assert_true(fabs(fb_curve_prior(s, 16, 64) - s / 16.0) < ROUNDING);
    }
}

/* --- Mixing ----------------------------------------------------------------------------------- */

/* With as many requests as the prior weighs, half of each; with a thousand times as many, the
 * histogram. */
static void test_the_prior_weighs_as_much_as_8_tokens(void **state)
{
    (void)state;
    const int n = 16, used = 2;
    static const double times[] = {0, 1, 1000};
    for (int i = 0; i < 3; i++) {
        struct model m;
        double count[17] = {0}, requests = times[i] * PRIOR_TOKENS * used;
        count[2] = requests; /* all at distance 3 */
        struct fb_reuse seen = {n, count};
        make_layers(&m, 1, n, used);
        struct fb_curves *curves = fb_curves_new(m.weights, &seen);
        for (int s = 0; s <= n; s++) {
            double prior = fb_curve_prior(s, n, used), own = s >= 3 ? 1 : SAVED * s / 4;
            double want = (prior + times[i] * own) / (1 + times[i]);
            assert_true(fabs(curves->groups[0].hit[s] - (s == n ? 1 : want)) < ROUNDING);
        }
        assert_int_equal(curves->requests, (uint64_t)requests);
        fb_curves_free(curves);
        model_close(&m);
    }
}

static void test_first_uses_count_as_misses_unless_all_have_slots(void **state)
{
    (void)state;
    struct model m;
    double count[5] = {0, 0, 0, 0, 1e12};
    struct fb_reuse seen = {4, count};
    make_layers(&m, 1, 4, 1);
    struct fb_curves *curves = fb_curves_new(m.weights, &seen);
    assert_true(curves->groups[0].hit[3] < 1e-9);
    assert_true(curves->groups[0].hit[4] == 1);
    fb_curves_free(curves);
    fb_curves_free(NULL);
    model_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_v1_and_v2_hold_for_any_histogram),
        cmocka_unit_test(test_v1_and_v2_hold_for_the_prior),
        cmocka_unit_test(test_two_levels_are_between_one_and_both),
        cmocka_unit_test(test_a_cliff_is_replaced_by_a_line),
        cmocka_unit_test(test_the_prior_is_near_what_lru_did),
        cmocka_unit_test(test_the_prior_is_uniform_where_all_experts_are_used),
        cmocka_unit_test(test_the_prior_weighs_as_much_as_8_tokens),
        cmocka_unit_test(test_first_uses_count_as_misses_unless_all_have_slots),
    };
    return cmocka_run_group_tests_name("curve", tests, NULL, NULL);
}
