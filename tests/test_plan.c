/*
 * test_plan.c - plans of many made-up models over many budgets: properties of all of them, and a
 * few worked by hand.
 */
#include "weights_fixture.h"

#include <math.h>

#include "plan/batch_size.h"
#include "plan/context.h"
#include "plan/plan.h"

#define N_MODELS 300
/* Most staging memory, unless two buffers need more (plan.c). */
#define STAGING_MAX (64 * FB_MIB)

/* Of the budget, a batch needs `batch` bytes. */
static struct fb_plan *plan_with_batch(const struct model *m, uint64_t budget, uint64_t batch)
{
    struct fb_plan *plan = NULL;
    struct forebay_error err;
    if (fb_plan_make(m->weights, budget, batch, NULL, &plan, &err)) {
        fail_msg("a budget of %llu: %s", (unsigned long long)budget, err.message);
    }
    return plan;
}

static struct fb_plan *plan_for(const struct model *m, uint64_t budget)
{
    return plan_with_batch(m, budget, 0);
}

/* Memory of all weights. */
static uint64_t all_bytes(const struct model *m)
{
    return m->weights->dense_bytes + m->weights->expert_bytes;
}

/* The i-th of n budgets from the minimum to more than the model needs, closer together below. */
static uint64_t budget_at(const struct model *m, int i, int n)
{
    uint64_t minimum = fb_plan_minimum(m->weights);
    uint64_t all = fb_max(all_bytes(m), minimum) + 2 * STAGING_MAX;
    double part = (double)i / (n - 1);
    return minimum + (uint64_t)((double)(all - minimum) * part * part);
}

/* --- Properties of every plan ----------------------------------------------------------------- */

static void check_dense(const struct fb_weights *ws, const struct fb_plan *plan)
{
    uint64_t kept = 0, streamed = 0;
    for (int i = 0; i < ws->n_weights; i++) {
        const struct fb_weight *w = &ws->weights[i];
        if (w->group >= 0) {
            assert_false(plan->resident[i]);
            continue;
        }
        kept += plan->resident[i] ? w->stride : 0;
        streamed += plan->resident[i] ? 0 : w->stride;
        if (!plan->resident[i]) {
            assert_true(plan->ring_bytes >= fb_weight_envelope(ws, i));
            assert_true(w->unpack == FB_UNPACK_DIRECT || plan->scratch_bytes >= w->stride);
        }
    }
    assert_int_equal(plan->resident_bytes, kept);
    assert_int_equal(plan->streamed_bytes, streamed);
    assert_int_equal(plan->ring_bytes % FB_BLOCK_BYTES, 0);
    assert_true(streamed > 0 || (plan->ring_bytes == 0 && plan->scratch_bytes == 0));
}

static int tokens_need(const struct model *m)
{
    return m->catalog.n_expert_used > 2 ? m->catalog.n_expert_used : 2;
}

static void check_own_pools(const struct model *m, const struct fb_plan *plan)
{
    uint64_t cache = 0;
    for (int g = 0; g < plan->n_groups; g++) {
        const struct fb_group *group = &m->weights->groups[g];
        assert_true(plan->slots[g] <= group->n_expert);
        assert_true(plan->slots[g] >= tokens_need(m) || plan->slots[g] == group->n_expert);
        cache += (uint64_t)plan->slots[g] * group->slot_bytes;
    }
    assert_int_equal(plan->cache_bytes, cache);
}

static void check_experts(const struct model *m, const struct fb_plan *plan)
{
    const struct fb_weights *ws = m->weights;
    int all = 0, widest = 0;
    uint64_t buffer = 0;
    for (int g = 0; g < ws->n_groups; g++) {
        all += ws->groups[g].n_expert;
        widest = widest > ws->groups[g].n_expert ? widest : ws->groups[g].n_expert;
    }
    for (int i = 0; i < ws->n_weights; i++) {
        if (ws->weights[i].group >= 0 && ws->weights[i].unpack != FB_UNPACK_DIRECT) {
            buffer = fb_max(buffer, fb_weight_envelope(ws, i));
            buffer = fb_max(buffer, fb_round_up(ws->weights[i].stride, FB_BLOCK_BYTES));
        }
        if (ws->weights[i].group >= 0 && widest > 2) {
            assert_true(plan->transit_bytes >= 2 * fb_weight_envelope(ws, i));
        }
    }
    assert_int_equal(plan->transit_bytes % FB_BLOCK_BYTES, 0);
    assert_true(widest > 2 || plan->transit_bytes == 0);
    assert_true(buffer ? plan->staging_bytes >= 2 * buffer : plan->staging_bytes == 0);
    if (plan->shared_slots > 0) {
        assert_null(plan->slots);
        assert_true(plan->shared_slots <= all);
        assert_true(plan->shared_slots >= tokens_need(m) || plan->shared_slots >= widest);
        assert_int_equal(
            plan->cache_bytes, (uint64_t)plan->shared_slots * fb_plan_shared_slot_bytes(ws));
    } else if (ws->n_groups > 0) {
        check_own_pools(m, plan);
    } else {
        assert_int_equal(plan->cache_bytes, 0);
    }
}

static bool every_expert_has_a_slot(const struct model *m, const struct fb_plan *plan)
{
    for (int g = 0; g < plan->n_groups; g++) {
        if (!plan->slots || plan->slots[g] < m->weights->groups[g].n_expert) {
            return false;
        }
    }
    return true;
}

/* What is spare and what slots lend suffice for a batch, exactly; and the slots that remain do for
 * a token. */
static void check_batch(const struct model *m, const struct fb_plan *plan, uint64_t budget)
{
    const struct fb_weights *ws = m->weights;
    uint64_t spare = budget - plan->total_bytes, needed = plan->batch_bytes + plan->transit_bytes;
    uint64_t left = plan->cache_bytes - plan->lent_bytes, token = 0;
    if (ws->n_groups == 0) {
        assert_true(needed <= spare && plan->lent_bytes == 0);
        return;
    }
    assert_int_equal(plan->lent_bytes, needed - fb_min(needed, spare));
    assert_true(plan->lent_bytes <= plan->cache_bytes);
    for (int g = 0; plan->slots && g < ws->n_groups; g++) {
        token += fb_min((uint64_t)tokens_need(m), (uint64_t)ws->groups[g].n_expert) *
                 ws->groups[g].slot_bytes;
    }
    int widest = 0;
    for (int g = 0; g < ws->n_groups; g++) {
        widest = widest > ws->groups[g].n_expert ? widest : ws->groups[g].n_expert;
    }
    if (!plan->slots) {
        token = fb_min((uint64_t)tokens_need(m), (uint64_t)widest) * fb_plan_shared_slot_bytes(ws);
    }
    assert_true(left >= fb_min(fb_min(token, ws->expert_bytes), plan->cache_bytes));
}

static void check_plan(const struct model *m, const struct fb_plan *plan, uint64_t budget)
{
    assert_int_equal(plan->n_weights, m->weights->n_weights);
    assert_int_equal(plan->n_groups, m->weights->n_groups);
    assert_true(plan->total_bytes <= budget);
    assert_int_equal(plan->total_bytes, plan->resident_bytes + plan->ring_bytes +
                                            plan->scratch_bytes + plan->staging_bytes +
                                            plan->cache_bytes);
    check_dense(m->weights, plan);
    check_experts(m, plan);
    check_batch(m, plan, budget);
    assert_int_equal(plan->preload, plan->streamed_bytes == 0 && every_expert_has_a_slot(m, plan));
    assert_int_equal(plan->everything_fits, plan->preload && plan->lent_bytes == 0);
}

/* --- Properties over made-up models ----------------------------------------------------------- */

static void test_no_plan_takes_more_than_its_budget(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= N_MODELS; seed++) {
        struct model m;
        random_model(&m, seed, 32);
        for (int i = 0; i < 60; i++) {
            uint64_t budget = budget_at(&m, i, 60);
            struct fb_plan *plan = plan_for(&m, budget);
            check_plan(&m, plan, budget);
            fb_plan_free(plan);
            uint64_t batch = all_bytes(&m) / 16 * (uint64_t)(i % 7);
            plan = plan_with_batch(&m, budget + batch, batch);
            check_plan(&m, plan, budget + batch);
            fb_plan_free(plan);
        }
        model_close(&m);
    }
}

static void test_the_minimum_is_enough_and_a_byte_less_is_not(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= N_MODELS; seed++) {
        struct model m;
        struct forebay_error err = {0};
        struct fb_plan *none = NULL;
        random_model(&m, seed, 32);
        uint64_t minimum = fb_plan_minimum(m.weights);
        struct fb_plan *plan = plan_for(&m, minimum);
        check_plan(&m, plan, minimum);
        assert_int_equal(
            fb_plan_make(m.weights, minimum - 1, 0, NULL, &none, &err), FOREBAY_E_NOFIT);
        assert_null(none);
        assert_true(err.hint[0]);
        assert_int_equal(fb_plan_make(m.weights, 0, 0, NULL, &none, &err), FOREBAY_E_NOFIT);
        assert_int_equal(
            fb_plan_make(m.weights, minimum + 9, 10, NULL, &none, NULL), FOREBAY_E_NOFIT);
        char least[32];
        snprintf(least, sizeof least, "%lluK ",
            (unsigned long long)(fb_round_up(minimum, FB_KIB) / FB_KIB));
        assert_non_null(strstr(err.hint, least));
        fb_plan_free(plan);
        model_close(&m);
    }
}

/* With room for all weights (and for staging and transit) nothing is read while generating. */
static void test_everything_fits_when_it_can(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= N_MODELS; seed++) {
        struct model m;
        random_model(&m, seed, 32);
        uint64_t buffer = 0;  /* staging, at most */
        uint64_t transit = 0; /* two parts of an expert */
        uint64_t loading = 0; /* the largest dense weight as it is read */
        for (int i = 0; i < m.weights->n_weights; i++) {
            const struct fb_weight *w = &m.weights->weights[i];
            if (w->group >= 0 && w->unpack != FB_UNPACK_DIRECT) {
                uint64_t one = fb_max(fb_weight_envelope(m.weights, i), w->stride);
                buffer = fb_max(buffer, fb_max(STAGING_MAX, 2 * fb_round_up(one, FB_BLOCK_BYTES)));
            }
            if (w->group >= 0) {
                transit = fb_max(transit, 2 * fb_weight_envelope(m.weights, i));
            }
            if (w->group < 0) {
                loading = fb_max(loading, fb_weight_envelope(m.weights, i));
            }
        }
        uint64_t all = all_bytes(&m) + buffer + transit + loading;
        assert_true(fb_plan_minimum(m.weights) <= all);
        struct fb_plan *plan = plan_for(&m, all);
        assert_true(plan->everything_fits);
        assert_int_equal(plan->resident_bytes + plan->cache_bytes, all_bytes(&m));
        fb_plan_free(plan);
        if (all_bytes(&m) - 1 >= fb_plan_minimum(m.weights)) {
            plan = plan_for(&m, all_bytes(&m) - 1);
            assert_false(plan->everything_fits);
            fb_plan_free(plan);
        }
        model_close(&m);
    }
}

/* The rest of the budget is too small for one more dense weight or slot. */
static void test_no_room_is_wasted(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= N_MODELS; seed++) {
        struct model m;
        random_model(&m, seed, 32);
        const struct fb_weights *ws = m.weights;
        for (int i = 0; i < 60; i++) {
            uint64_t budget = budget_at(&m, i, 60);
            struct fb_plan *plan = plan_for(&m, budget);
            uint64_t left = budget - plan->total_bytes;
            for (int w = 0; ws->n_groups == 0 && w < ws->n_weights; w++) {
                assert_true(plan->resident[w] || ws->weights[w].stride > left);
            }
            for (int g = 0; plan->slots && g < ws->n_groups; g++) {
                assert_true(
                    plan->slots[g] == ws->groups[g].n_expert || ws->groups[g].slot_bytes > left);
            }
            assert_true(plan->shared_slots == 0 || left < fb_plan_shared_slot_bytes(ws) ||
                        plan->cache_bytes >= ws->expert_bytes);
            fb_plan_free(plan);
        }
        model_close(&m);
    }
}

/* Bytes of weights in memory: resident, and as much as the slots can hold. */
static uint64_t present_bytes(const struct model *m, const struct fb_plan *plan)
{
    return plan->resident_bytes + fb_min(plan->cache_bytes, m->weights->expert_bytes);
}

/* The largest step in which a plan can grow: a dense weight, a slot, and their buffers. */
static uint64_t granule(const struct model *m)
{
    uint64_t dense = 0, buffer = 0;
    for (int i = 0; i < m->weights->n_weights; i++) {
        const struct fb_weight *w = &m->weights->weights[i];
        dense = fb_max(dense, w->group < 0 ? w->stride : 0);
        buffer = fb_max(buffer, w->group < 0 ? 0 : fb_weight_envelope(m->weights, i));
    }
    return dense + fb_plan_shared_slot_bytes(m->weights) + 2 * buffer + FB_BLOCK_BYTES;
}

static void test_more_budget_never_holds_less(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= N_MODELS; seed++) {
        struct model m;
        random_model(&m, seed, 32);
        uint64_t most = 0, slack = granule(&m);
        for (int i = 0; i < 200; i++) {
            struct fb_plan *plan = plan_for(&m, budget_at(&m, i, 200));
            uint64_t kept = present_bytes(&m, plan);
            if (kept + slack < most) {
                fail_msg("model %d, budget %d: %llu held, before %llu, step %llu", (int)seed, i,
                    (unsigned long long)kept, (unsigned long long)most, (unsigned long long)slack);
            }
            most = fb_max(most, kept);
            fb_plan_free(plan);
        }
        model_close(&m);
    }
}

static void test_equal_inputs_give_equal_plans(void **state)
{
    (void)state;
    struct model m;
    random_model(&m, 7, 32);
    struct fb_plan *a = plan_for(&m, budget_at(&m, 3, 9)), *b = plan_for(&m, budget_at(&m, 3, 9));
    assert_memory_equal(a->resident, b->resident, (size_t)a->n_weights * sizeof *a->resident);
    assert_int_equal(a->cache_bytes, b->cache_bytes);
    assert_int_equal(a->total_bytes, b->total_bytes);
    fb_plan_free(a);
    fb_plan_free(b);
    model_close(&m);
}

/* Weights of up to 2^48 bytes: sums stay below 2^64, and so must products. */
static void test_huge_sizes_do_not_overflow(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= N_MODELS; seed++) {
        struct model m;
        random_model(&m, seed, 48);
        uint64_t minimum = fb_plan_minimum(m.weights);
        uint64_t budgets[] = {minimum, minimum + (UINT64_MAX - minimum) / 1000, UINT64_MAX};
        for (int i = 0; i < 3; i++) {
            struct fb_plan *plan = plan_for(&m, budgets[i]);
            check_plan(&m, plan, budgets[i]);
            assert_true(plan->everything_fits || i < 2);
            fb_plan_free(plan);
        }
        model_close(&m);
    }
}

/* --- Worked by hand --------------------------------------------------------------------------- */

static void test_a_model_without_weights_needs_nothing(void **state)
{
    (void)state;
    struct model m;
    model_init(&m, 0);
    claim_all(&m);
    assert_int_equal(fb_plan_minimum(m.weights), 0);
    struct fb_plan *plan = plan_for(&m, 0);
    assert_int_equal(plan->total_bytes, 0);
    assert_true(plan->everything_fits);
    fb_plan_free(plan);
    fb_plan_free(NULL);
    model_close(&m);
}

/* 64 matrices of 1 MiB and 32 MiB for them: a quarter for the ring, the rest resident, and the
 * streamed ones are spread over the pass. */
static void test_streamed_weights_are_spread_over_the_pass(void **state)
{
    (void)state;
    struct model m;
    model_init(&m, 0);
    for (int i = 0; i < 64; i++) {
        add_dense(&m, FB_MIB, false);
    }
    claim_all(&m);
    assert_int_equal(fb_plan_minimum(m.weights), FB_MIB + 4096);
    struct fb_plan *plan = plan_for(&m, 32 * FB_MIB);
    assert_int_equal(plan->ring_bytes, 8 * FB_MIB);
    assert_int_equal(plan->resident_bytes, 24 * FB_MIB);
    for (int first = 0; first + 8 <= 64; first++) {
        int resident = 0;
        for (int i = first; i < first + 8; i++) {
            resident += plan->resident[i];
        }
        assert_in_range(resident, 2, 4); /* 24 of 64 are 3 of 8 */
    }
    fb_plan_free(plan);
    model_close(&m);
}

/* Streaming both would need a ring of 100 MiB, so the output matrix is resident: it fits. */
static void test_a_large_output_matrix_is_resident(void **state)
{
    (void)state;
    struct model m;
    model_init(&m, 0);
    for (int i = 0; i < 50; i++) {
        add_dense(&m, 10 * FB_MIB, false);
    }
    int output = add_weight(&m, FB_ROLE_OUTPUT, -1, 0, 100 * FB_MIB, false);
    int norm = add_dense(&m, 1000, false);
    claim_all(&m);
    struct fb_plan *plan = plan_for(&m, 450 * FB_MIB);
    assert_true(plan->resident[output]);
    assert_true(plan->resident[norm]);
    assert_in_range(plan->ring_bytes, 10 * FB_MIB, 32 * FB_MIB);
    fb_plan_free(plan);
    model_close(&m);
}

/* 4 layers of 8 experts, each expert 3 parts of 4 KiB, 2 experts per token. */
static void four_layers(struct model *m)
{
    model_init(m, 0);
    m->catalog.n_expert_used = 2;
    for (int l = 0; l < 4; l++) {
        add_weight(m, FB_ROLE_EXPERT_GATE, l, 8, 4096, false);
        add_weight(m, FB_ROLE_EXPERT_UP, l, 8, 4096, false);
        add_weight(m, FB_ROLE_EXPERT_DOWN, l, 8, 4096, false);
    }
    claim_all(m);
}

static void test_layers_share_a_pool_until_each_has_slots_for_a_token(void **state)
{
    (void)state;
    const uint64_t slot = 3 * 4096, transit = 2 * 2 * 4096; /* two parts, in envelopes */
    struct model m;
    four_layers(&m);
    assert_int_equal(fb_plan_minimum(m.weights), 2 * slot + transit);
    struct fb_plan *plan = plan_for(&m, 8 * slot + transit - 1);
    assert_int_equal(plan->shared_slots, 9); /* the transit's memory holds one more */
    fb_plan_free(plan);
    plan = plan_for(&m, 8 * slot + transit);
    static const int least[] = {3, 2, 2, 2};
    assert_memory_equal(plan->slots, least, sizeof least);
    assert_int_equal(plan->lent_bytes, slot);
    fb_plan_free(plan);
    plan = plan_for(&m, 14 * slot + transit); /* 3 each, and the rest to the first */
    static const int want[] = {4, 4, 4, 3};
    assert_memory_equal(plan->slots, want, sizeof want);
    assert_false(plan->everything_fits);
    fb_plan_free(plan);
    plan = plan_for(&m, 32 * slot + transit);
    assert_true(plan->everything_fits);
    fb_plan_free(plan);
    model_close(&m);
}

/* One layer has fewer experts than a token needs of the other layer, and larger ones: a shared pool
 * would waste most of its memory, and equal shares are not possible. */
static void test_a_layer_of_few_experts_gets_them_all(void **state)
{
    (void)state;
    struct model m;
    model_init(&m, 0);
    m.catalog.n_expert_used = 8;
    add_weight(&m, FB_ROLE_EXPERT_UP, 0, 16, 4096, false);
    add_weight(&m, FB_ROLE_EXPERT_UP, 1, 2, 64 * 4096, false);
    claim_all(&m);
    struct fb_plan *plan = plan_for(&m, (16 + 2 * 64 + 2 * 65) * 4096);
    assert_true(plan->everything_fits);
    fb_plan_free(plan);
    model_close(&m);
}

/* --- The context ---------------------------------------------------------------------------- */

static void test_the_default_context_follows_from_memory(void **state)
{
    (void)state;
    struct fb_context_inputs in = {.budget_bytes = 16 * FB_GIB,
        .fits_bytes = 30 * FB_GIB,
        .least_bytes = 384 * FB_MIB, /* 96 KiB per token */
        .least = 4096,
        .trained = 262144};
    assert_int_equal(fb_context_default(&in), 21760); /* of 2 GiB: 21845 */
    in.trained = 8192;
    assert_int_equal(fb_context_default(&in), 8192);
    in.trained = 262144;
    in.budget_bytes = FB_GIB; /* an eighth is not enough for the least */
    assert_int_equal(fb_context_default(&in), 4096);
    in.budget_bytes = 16 * FB_GIB;
    in.fits_bytes = 16 * FB_GIB - 96 * FB_MIB; /* a model that fits stays in memory */
    assert_int_equal(fb_context_default(&in), 5120);
    in.fits_bytes = 8 * FB_GIB;
    assert_int_equal(fb_context_default(&in), 21760);
    in.least_bytes = 0; /* no memory of the past */
    assert_int_equal(fb_context_default(&in), 262144);
    in.trained = 0; /* unknown */
    assert_int_equal(fb_context_default(&in), 4096);
}

/* --- The batch ------------------------------------------------------------------------------ */

static void test_the_batch_follows_from_memory(void **state)
{
    (void)state;
    struct fb_batch_inputs in = {.least_bytes = 200 * FB_MIB,
        .token_bytes = FB_MIB,
        .n_expert = 64,
        .n_used = 4,
        .lent = true,
        .ctx = 4096};
    static const struct {
        uint64_t mib;
        uint32_t batch;
    } cases[] = {{0, 32}, {200, 32}, {263, 32}, {264, 64}, {600, 224}, {4096, 768}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        in.budget_bytes = cases[i].mib * FB_MIB;
        assert_int_equal(fb_batch_size(&in), cases[i].batch);
    }
    in.n_expert = 512; /* 48 rows each would take 6144 tokens */
    assert_int_equal(fb_batch_size(&in), 1952);
    in.lent = false;
    assert_int_equal(fb_batch_size(&in), 992);
    in.n_expert = in.n_used = 0;
    assert_int_equal(fb_batch_size(&in), 512);
    in.ctx = 100;
    assert_int_equal(fb_batch_size(&in), 96);
    in.ctx = 7;
    assert_int_equal(fb_batch_size(&in), 7);
}

static void test_more_memory_leaves_more_for_weights_too(void **state)
{
    (void)state;
    for (int i = 0; i < 2000; i++) {
        struct fb_batch_inputs in = {.least_bytes = rnd() % (4 * FB_GIB),
            .token_bytes = (double)(rnd() % (4 * FB_MIB)),
            .n_expert = (int)(rnd() % 300),
            .n_used = (int)(rnd() % 9),
            .lent = rnd() % 2,
            .ctx = 1 + (uint32_t)(rnd() % 10000)};
        double left = -1;
        uint32_t batch = 0;
        for (int k = 0; k < 50; k++) {
            in.budget_bytes = in.least_bytes + (uint64_t)k * 97 * FB_MIB;
            uint32_t now = fb_batch_size(&in);
            uint32_t more = now - (uint32_t)fb_min(now, FB_BATCH_LEAST);
            double rest = (double)(in.budget_bytes - in.least_bytes) - more * in.token_bytes;
            assert_true(now >= batch && now <= in.ctx && rest >= left);
            batch = now;
            left = fmax(0, rest - FB_BATCH_LEAST * in.token_bytes); /* the size of a step */
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_plan_takes_more_than_its_budget),
        cmocka_unit_test(test_the_minimum_is_enough_and_a_byte_less_is_not),
        cmocka_unit_test(test_everything_fits_when_it_can),
        cmocka_unit_test(test_no_room_is_wasted),
        cmocka_unit_test(test_more_budget_never_holds_less),
        cmocka_unit_test(test_equal_inputs_give_equal_plans),
        cmocka_unit_test(test_huge_sizes_do_not_overflow),
        cmocka_unit_test(test_a_model_without_weights_needs_nothing),
        cmocka_unit_test(test_streamed_weights_are_spread_over_the_pass),
        cmocka_unit_test(test_a_large_output_matrix_is_resident),
        cmocka_unit_test(test_layers_share_a_pool_until_each_has_slots_for_a_token),
        cmocka_unit_test(test_a_layer_of_few_experts_gets_them_all),
        cmocka_unit_test(test_the_default_context_follows_from_memory),
        cmocka_unit_test(test_the_batch_follows_from_memory),
        cmocka_unit_test(test_more_memory_leaves_more_for_weights_too),
    };
    return cmocka_run_group_tests_name("plan", tests, NULL, NULL);
}
