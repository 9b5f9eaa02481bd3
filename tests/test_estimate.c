/*
 * test_estimate.c - estimates worked by hand, properties of those of made-up models, and the
 * planner's expert slots against all possible assignments.
 */
#include "weights_fixture.h"

#include <math.h>

#include "plan/estimate.h"

#define N_MODELS   150
#define N_CASES    300
#define MAX_GROUPS 32

static const char *type_name(int type)
{
    static const char *const names[] = {"t0", "t1", "t2"};
    return names[type];
}

static void add_rate(
    struct fb_profile *p, int type, bool repacked, double decode, double batch, double arrive)
{
    struct fb_profile_rate rate = {
        .repacked = repacked, .threads = 1, .decode = decode, .batch = batch, .unpack = arrive};
    snprintf(rate.type, sizeof rate.type, "%s", type_name(type));
    fb_profile_put_rate(p, &rate);
}

static bool near(double got, double want)
{
    return fabs(got - want) <= 1e-9 * fabs(want);
}

/* --- Worked by hand --------------------------------------------------------------------------- */

/* One layer: a matrix of 8000 bytes and 100 elements that is repacked, and 4 experts of 1000 bytes
 * and 300 elements, 2 of them used. The machine: 1 s to compute with the matrix, 1 s per expert. */
struct example {
    struct model m;
    struct fb_profile profile;
    struct fb_plan plan;
    bool resident[2];
    int slots[1];
    struct fb_curves *curves;
    struct fb_speed_inputs in;
};

static void example_init(struct example *e)
{
    *e = (struct example){.slots = {2}};
    model_init(&e->m, 0);
    e->m.catalog.n_expert_used = 2;
    e->m.catalog.n_layer = 1;
    int dense = add_dense(&e->m, 8000, true);
    int expert = add_weight(&e->m, FB_ROLE_EXPERT_UP, 0, 4, 1000, false);
    const int64_t shape[4] = {10, 10, 1, 1}, stack[4] = {10, 30, 4, 1};
    memcpy(e->m.tensors[dense].ne, shape, sizeof shape);
    memcpy(e->m.tensors[expert].ne, stack, sizeof stack);
    e->m.tensors[expert].type = 1;
    claim_all(&e->m);
    add_rate(&e->profile, 0, true, 8000, 1000, 16000);
    add_rate(&e->profile, 1, false, 1000, 1000, 0);
    e->profile.op_s = 0.001;
    e->plan =
        (struct fb_plan){.n_weights = 2, .n_groups = 1, .resident = e->resident, .slots = e->slots};
    e->curves = fb_curves_new(e->m.weights, NULL);
    e->in = (struct fb_speed_inputs){.weights = e->m.weights,
        .plan = &e->plan,
        .curves = e->curves,
        .profile = &e->profile,
        .type_name = type_name,
        .threads = 1,
        .repack = true,
        .disk_bytes_per_s = 4000,
        .disk_latency_s = 0.01,
        .other_bytes = 800000000, /* 0.1 s */
        .batch = 4};
}

static void example_release(struct example *e)
{
    fb_curves_free(e->curves);
    model_close(&e->m);
}

static void test_a_token_worked_by_hand(void **state)
{
    (void)state;
    struct example e;
    struct fb_speed s;
    example_init(&e);
    /* 1.25 sqrt(4 / 2) = 1.7678; half of the slots: 1 - 0.5^1.7678 */
    double hit = 1 - pow(0.5, 1.25 * sqrt(2)), missing = 2 * (1 - hit);
    double waited = missing * 1000 / 4000 + missing * 0.01;
    fb_estimate(&e.in, &s);
    assert_true(near(s.hit_rate, hit));
    /* matrix 1, experts 2, the rest 0.1, 40 operations 0.04 */
    assert_true(near(s.compute_s, 3.14));
    assert_true(near(s.unpack_s, 0.5));
    assert_true(near(s.read_s, 2 + waited));
    /* The matrix is read (2 s) during the rest of the work; experts are waited for. */
    assert_true(near(s.decode_tok_per_s, 1 / (3.64 + waited)));
    assert_string_equal(s.limit, "computing");
    e.in.disk_bytes_per_s = 1000; /* now it is not: 8 s */
    fb_estimate(&e.in, &s);
    assert_true(near(s.decode_tok_per_s, 1 / (8 + missing * 1 + missing * 0.01)));
    assert_string_equal(s.limit, "the disk");
    example_release(&e);
}

/* Lookahead guesses half of the missing experts: they are read during the work, as is the matrix.
 * The other half is waited for, at twice the speed. All reads together take the sustained speed. */
static void test_lookahead_and_bursts_worked_by_hand(void **state)
{
    (void)state;
    struct example e;
    struct fb_speed s;
    example_init(&e);
    double missing = 2 * pow(0.5, 1.25 * sqrt(2));
    e.in.lookahead = 0.5;
    e.in.disk_burst = 2;
    fb_estimate(&e.in, &s);
    double waited = missing * 1000 / 4000 + missing * 0.01;
    assert_true(near(s.decode_tok_per_s, 1 / (3.64 + waited / 4)));
    e.in.disk_bytes_per_s = 1000;
    fb_estimate(&e.in, &s);
    assert_true(near(s.decode_tok_per_s, 1 / (8 + missing * 1 + missing * 0.01)));
    example_release(&e);
}

static void test_a_prompt_worked_by_hand(void **state)
{
    (void)state;
    struct example e;
    struct fb_speed s;
    example_init(&e);
    /* 4 tokens use 4 (1 - 0.5^4) = 3.75 of the experts; half of those are present. 8 rows of 300
     * elements take 2.4 s, less than the weights' 3.75; sqrt(4) times the operations. Only a third
     * of the layer's reading is waited for. */
    double seconds = 1.1 + 0.5 + 3.75 + 0.08 + (1.875 * 1000 / 4000 + 0.01) / 3;
    fb_estimate(&e.in, &s);
    assert_true(near(s.prompt_tok_per_s, 4 / seconds));
    e.in.batch = 100; /* 100 rows of the matrix: 10 s; all experts: 200 rows, 60 s */
    fb_estimate(&e.in, &s);
    seconds = 10.1 + 0.5 + 60 + 0.4 + (2 * 1000.0 / 4000 + 0.01) / 3;
    assert_true(fabs(s.prompt_tok_per_s - 100 / seconds) < 1e-6);
    /* Experts that each row chooses are computed with at half the rate. */
    e.profile.rates[1].experts = 500;
    seconds += 60;
    fb_estimate(&e.in, &s);
    assert_true(fabs(s.prompt_tok_per_s - 100 / seconds) < 1e-6);
    e.in.prompt_attention_s = 0.1; /* of each of 100 */
    seconds += 10;
    fb_estimate(&e.in, &s);
    assert_true(fabs(s.prompt_tok_per_s - 100 / seconds) < 1e-6);
    e.in.prompt_compute_s = 0.2; /* a measurement replaces the model */
    seconds = 20 + 0.5 + (2 * 1000.0 / 4000 + 0.01) / 3;
    fb_estimate(&e.in, &s);
    assert_true(fabs(s.prompt_tok_per_s - 100 / seconds) < 1e-6);
    e.in.disk_bytes_per_s = 10; /* so slow that only reading counts */
    fb_estimate(&e.in, &s);
    assert_true(s.prompt_tok_per_s < 100 / (2 * 1000.0 / 10));
    example_release(&e);
}

static void test_measured_compute_time_replaces_the_profile(void **state)
{
    (void)state;
    struct example e;
    struct fb_speed worked_out, seen;
    example_init(&e);
    fb_estimate(&e.in, &worked_out);
    e.in.compute_s = 6.28;
    fb_estimate(&e.in, &seen);
    assert_true(near(seen.compute_s, 6.28));
    assert_true(near(seen.unpack_s, worked_out.unpack_s));
    assert_true(near(1 / seen.decode_tok_per_s - 1 / worked_out.decode_tok_per_s, 6.28 - 3.14));
    assert_true(near(seen.prompt_tok_per_s, worked_out.prompt_tok_per_s));
    example_release(&e);
}

/* Small matrices are slower than large ones: each size of experts has its own rate. */
static void test_experts_of_a_size_have_their_own_rate(void **state)
{
    (void)state;
    struct example e;
    struct fb_speed s;
    example_init(&e);
    struct fb_profile_rate rate = {.type = "t1",
        .columns = 10,
        .rows = 30,
        .used = 2,
        .threads = 1,
        .decode = 500,
        .experts = 200};
    fb_profile_put_rate(&e.profile, &rate);
    fb_estimate(&e.in, &s);
    assert_true(near(s.compute_s, 3.14 + 2));
    e.in.disk_bytes_per_s = 1e12;
    e.in.disk_latency_s = 0;
    e.in.batch = 100; /* 100 rows of the matrix: 10 s; 200 rows of experts: 300 s */
    fb_estimate(&e.in, &s);
    assert_true(fabs(s.prompt_tok_per_s - 100 / (10.1 + 0.5 + 300 + 0.4)) < 1e-6);
    e.profile.rates[2].used = 3; /* those of another model */
    fb_estimate(&e.in, &s);
    assert_true(near(s.compute_s, 3.14));
    example_release(&e);
}

/* Both are added to the measured time of computing with weights. */
static void test_attention_and_reading_use_processor_time(void **state)
{
    (void)state;
    struct example e;
    struct fb_speed before, after;
    example_init(&e);
    for (e.in.compute_s = 0; e.in.compute_s < 10; e.in.compute_s += 6.28) {
        e.in.attention_s = e.in.read_cpu_s = 0;
        fb_estimate(&e.in, &before);
        e.in.attention_s = 0.25;
        e.in.read_cpu_s = 1e-4;
        fb_estimate(&e.in, &after);
        double more = 0.25 + 8000 * 1e-4; /* the matrix; experts are waited for in any case */
        assert_true(near(after.compute_s, before.compute_s + more));
        assert_true(near(1 / after.decode_tok_per_s, 1 / before.decode_tok_per_s + more));
    }
    example_release(&e);
}

/* Latency is time, not bytes. */
static void test_bytes_read_do_not_depend_on_the_disk(void **state)
{
    (void)state;
    struct example e;
    struct fb_speed s;
    example_init(&e);
    double missing = 2 * pow(0.5, 1.25 * sqrt(2));
    for (e.in.disk_bytes_per_s = 100; e.in.disk_bytes_per_s < 1e9; e.in.disk_bytes_per_s *= 10) {
        fb_estimate(&e.in, &s);
        assert_true(near(s.read_bytes, 8000 + missing * 1000));
    }
    example_release(&e);
}

static void test_a_pool_that_one_token_empties_never_hits(void **state)
{
    (void)state;
    struct example e;
    struct fb_speed s;
    example_init(&e);
    e.plan.slots = NULL;
    e.plan.shared_slots = 1;
    fb_estimate(&e.in, &s);
    assert_true(s.hit_rate == 0);
    e.plan.shared_slots = 2;
    fb_estimate(&e.in, &s);
    assert_true(near(s.hit_rate, 1 - pow(0.5, 1.25 * sqrt(2))));
    example_release(&e);
}

static void test_weights_in_memory_are_not_read(void **state)
{
    (void)state;
    struct example e;
    struct fb_speed plain, kept;
    example_init(&e);
    e.in.plan = NULL;
    e.plan.preload = true;
    fb_estimate(&e.in, &plain);
    e.in.plan = &e.plan;
    e.resident[0] = true;
    e.slots[0] = 4;
    fb_estimate(&e.in, &kept);
    assert_true(plain.read_s == 0 && plain.read_bytes == 0 && plain.unpack_s == 0);
    assert_true(plain.hit_rate == 1);
    assert_true(near(plain.decode_tok_per_s, 1 / 3.14));
    assert_memory_equal(&plain, &kept, sizeof plain);
    example_release(&e);
}

/* --- Made-up models --------------------------------------------------------------------------- */

struct made_up {
    struct model m;
    struct fb_profile profile;
    struct fb_reuse seen[MAX_GROUPS];
    struct fb_curves *curves;
    struct fb_speed_inputs in;
};

/* Requests by distance, falling: then a curve equals its hull. */
static void concave_reuse(struct fb_reuse *seen, int n_expert)
{
    *seen = (struct fb_reuse){n_expert, calloc((size_t)n_expert + 1, sizeof(double))};
    double count = (double)rnd_below(100000);
    for (int d = 0; d < n_expert; d++) {
        seen->count[d] = count;
        count = floor(count * (double)rnd_below(1001) / 1000);
    }
}

/* Inputs for the model: with a history if `seen`, with a measured machine if `measured`. */
static void finish(struct made_up *u, bool seen, bool measured)
{
    for (int i = 0; i < u->m.catalog.n_tensors; i++) {
        struct fb_tensor *t = &u->m.tensors[i];
        t->type = (int)rnd_below(3);
        t->ne[0] = (int64_t)t->bytes;
        t->ne[1] = 1 + (int64_t)rnd_below(2);
        t->ne[2] = t->ne[3] = 1;
    }
    for (int i = 0; measured && i < 6; i++) {
        double decode = 1e8 + (double)rnd_below(1000) * 1e7;
        double batch = 3e9 + (double)rnd_below(100) * 1e9;
        add_rate(&u->profile, i / 2, i % 2, decode, batch, i % 2 ? decode / 2 : 0);
        u->profile.op_s = (double)rnd_below(1000) * 1e-8;
    }
    for (int g = 0; g < u->m.weights->n_groups; g++) {
        concave_reuse(&u->seen[g], u->m.weights->groups[g].n_expert);
    }
    u->curves = fb_curves_new(u->m.weights, seen ? u->seen : NULL);
    u->in = (struct fb_speed_inputs){.weights = u->m.weights,
        .curves = u->curves,
        .profile = &u->profile,
        .type_name = type_name,
        .threads = 1,
        .repack = true,
        .disk_bytes_per_s = 1e7 * (double)(1 + rnd_below(1000)),
        .disk_latency_s = (double)rnd_below(1000) * 1e-6,
        .other_bytes = 4096,
        .batch = 1 + (uint32_t)rnd_below(600)};
}

static void made_up_init(struct made_up *u, uint64_t seed, bool seen, bool measured)
{
    *u = (struct made_up){0};
    random_model(&u->m, seed, 32);
    u->m.catalog.n_layer = u->m.weights->n_groups + 1;
    finish(u, seen, measured);
}

static void made_up_release(struct made_up *u)
{
    for (int g = 0; g < MAX_GROUPS; g++) {
        free(u->seen[g].count);
    }
    fb_curves_free(u->curves);
    model_close(&u->m);
}

static struct fb_plan *plan_for(const struct made_up *u, uint64_t budget)
{
    struct fb_plan *plan = NULL;
    assert_int_equal(fb_plan_make(u->m.weights, budget, 0, u->curves, &plan, NULL), FOREBAY_OK);
    return plan;
}

/* The i-th of n budgets from the minimum to all weights. */
static uint64_t budget_at(const struct model *m, int i, int n)
{
    const uint64_t enough = 256 * FB_MIB; /* for ring and staging */
    uint64_t minimum = fb_plan_minimum(m->weights);
    uint64_t all = m->weights->dense_bytes + m->weights->expert_bytes + minimum + enough;
    return minimum + (uint64_t)((double)(all - minimum) * i / (n - 1));
}

static bool sane(double x)
{
    return isfinite(x) && x >= 0;
}

static void check_sane(const struct fb_speed *s)
{
    assert_true(sane(s->decode_tok_per_s) && s->decode_tok_per_s > 0);
    assert_true(sane(s->prompt_tok_per_s) && s->prompt_tok_per_s > 0);
    assert_true(sane(s->hit_rate) && s->hit_rate <= 1);
    assert_true(sane(s->read_bytes) && sane(s->read_s));
    assert_true(sane(s->compute_s) && sane(s->unpack_s));
    assert_non_null(s->limit);
}

static void test_every_estimate_is_sane(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= N_MODELS; seed++) {
        struct made_up u;
        struct fb_speed s;
        made_up_init(&u, seed, seed % 2, seed / 2 % 2);
        u.in.compute_s = seed / 4 % 2 ? 0.5 : 0;
        fb_estimate(&u.in, &s);
        check_sane(&s);
        for (int i = 0; i < 10; i++) {
            struct fb_plan *plan = plan_for(&u, budget_at(&u.m, i, 10));
            u.in.plan = plan;
            fb_estimate(&u.in, &s);
            check_sane(&s);
            assert_true(!plan->everything_fits || s.read_bytes == 0);
            fb_plan_free(plan);
        }
        made_up_release(&u);
    }
}

static void test_a_faster_disk_never_estimates_slower(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= N_MODELS; seed++) {
        struct made_up u;
        made_up_init(&u, seed, seed % 2, true);
        for (int i = 0; i < 10; i++) {
            struct fb_plan *plan = plan_for(&u, budget_at(&u.m, i, 10));
            struct fb_speed before = {0}, s;
            u.in.plan = plan;
            for (u.in.disk_bytes_per_s = 1e6; u.in.disk_bytes_per_s < 1e12;
                 u.in.disk_bytes_per_s *= 3) {
                fb_estimate(&u.in, &s);
                assert_true(s.decode_tok_per_s >= before.decode_tok_per_s);
                assert_true(s.prompt_tok_per_s >= before.prompt_tok_per_s);
                before = s;
            }
            fb_plan_free(plan);
        }
        made_up_release(&u);
    }
}

/* How much slower, at most, 40 growing budgets make the estimate: 0.1 is 10 %. */
static double largest_fall(struct made_up *u)
{
    double fastest = 0, worst = 0;
    for (int i = 0; i < 40; i++) {
        struct fb_plan *plan = plan_for(u, budget_at(&u->m, i, 40));
        struct fb_speed s;
        u->in.plan = plan;
        fb_estimate(&u->in, &s);
        worst = fmax(worst, 1 - s.decode_tok_per_s / fastest);
        fastest = fmax(fastest, s.decode_tok_per_s);
        fb_plan_free(plan);
    }
    return worst;
}

static void test_more_slots_never_estimate_slower(void **state)
{
    (void)state;
    int n_models = 0;
    for (uint64_t seed = 1; seed <= 4 * N_MODELS; seed++) {
        struct made_up u;
        made_up_init(&u, seed, seed % 2, true);
        if (u.m.weights->dense_bytes == 0) {
            n_models++;
            assert_true(largest_fall(&u) < 1e-9);
        }
        made_up_release(&u);
    }
    assert_true(n_models > N_MODELS / 2);
}

static void test_nothing_is_faster_than_everything_in_memory(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= N_MODELS; seed++) {
        struct made_up u;
        struct fb_speed all, s;
        made_up_init(&u, seed, seed % 2, true);
        fb_estimate(&u.in, &all);
        for (int i = 0; i < 40; i++) {
            struct fb_plan *plan = plan_for(&u, budget_at(&u.m, i, 40));
            u.in.plan = plan;
            fb_estimate(&u.in, &s);
            assert_true(s.decode_tok_per_s <= all.decode_tok_per_s * (1 + 1e-9));
            fb_plan_free(plan);
        }
        made_up_release(&u);
    }
}

/* As in real models, every layer has the same matrices, and equally many experts of the same
 * size. */
static void alike_init(struct made_up *u, uint64_t seed, bool experts)
{
    uint64_t dense[2], expert;
    *u = (struct made_up){0};
    random_state = seed;
    model_init(&u->m, 0);
    u->m.catalog.n_expert_used = 1 + (int)rnd_below(8);
    dense[0] = FB_MIB * (1 + rnd_below(32));
    dense[1] = FB_MIB * (1 + rnd_below(32));
    expert = 4096 * (1 + rnd_below(2000));
    int n_expert = 8 << rnd_below(5);
    int n_layers = u->m.catalog.n_layer = 2 + (int)rnd_below(22);
    bool repacked = rnd() % 2;
    for (int l = 0; l < n_layers; l++) {
        add_weight(&u->m, FB_ROLE_ATTENTION, l, 0, dense[0], repacked);
        add_weight(&u->m, FB_ROLE_ATTENTION, l, 0, dense[1], repacked);
        for (int p = 0; experts && p < 3; p++) {
            add_weight(
                &u->m, (enum fb_role)(FB_ROLE_EXPERT_GATE + p), l, n_expert, expert, repacked);
        }
    }
    claim_all(&u->m);
    finish(u, seed % 2, true);
    for (int i = 0; i < u->m.weights->n_weights; i++) {
        u->m.tensors[u->m.weights->weights[i].tensor].type = u->m.weights->weights[i].group >= 0;
    }
}

/* A dense weight that just fits may use the room of the ring, of slots that saved more, or of a
 * pool that hit: in fewer than one of ten such models, and by no more than this. */
#define WORST_FALL       0.2
#define WORST_FALL_DENSE 0.06

static void test_more_memory_for_layers_alike_hardly_ever_estimates_slower(void **state)
{
    (void)state;
    for (int experts = 0; experts <= 1; experts++) {
        int n_falls = 0;
        for (uint64_t seed = 1; seed <= 4 * N_MODELS; seed++) {
            struct made_up u;
            alike_init(&u, seed, experts);
            double fall = largest_fall(&u);
            if (fall > (experts ? WORST_FALL : WORST_FALL_DENSE)) {
                fail_msg("model %d, experts %d: %.1f %%", (int)seed, experts, fall * 100);
            }
            n_falls += fall > 1e-9;
            made_up_release(&u);
        }
        assert_true(n_falls <= 4 * N_MODELS / 10);
    }
}

/* --- Slots against all assignments ------------------------------------------------------------ */

/* 2 or 3 layers of 2 to 5 experts, with concave curves; slots of one size or of several. */
static void few_experts_init(struct made_up *u, uint64_t seed, bool alike)
{
    *u = (struct made_up){0};
    random_state = seed;
    model_init(&u->m, 0);
    u->m.catalog.n_expert_used = 1 + (int)rnd_below(3);
    int n_groups = 2 + (int)rnd_below(2);
    for (int g = 0; g < n_groups; g++) {
        int n_expert = 2 + (int)rnd_below(4);
        int i = add_weight(&u->m, FB_ROLE_EXPERT_UP, g, n_expert, 64 + rnd_below(4096), true);
        u->m.claims[i].unit_bytes = alike ? 4096 : 64 * (1 + rnd_below(100));
        concave_reuse(&u->seen[g], n_expert);
    }
    claim_all(&u->m);
    u->curves = fb_curves_new(u->m.weights, u->seen);
    u->in = (struct fb_speed_inputs){.weights = u->m.weights,
        .curves = u->curves,
        .profile = &u->profile,
        .type_name = type_name,
        .threads = 1,
        .disk_bytes_per_s = 1, /* seconds are bytes */
        .batch = 1};
}

static double reading(const struct made_up *u, const struct fb_plan *plan)
{
    struct fb_speed_inputs in = u->in;
    struct fb_speed s;
    in.plan = plan;
    fb_estimate(&in, &s);
    return s.read_s;
}

/* The least reading over all assignments that use at most `room` and give each group the slots that
 * a token needs; groups before g are as in `plan`. */
static double least_reading(const struct made_up *u, struct fb_plan *plan, int g, uint64_t room)
{
    if (g == plan->n_groups) {
        return reading(u, plan);
    }
    const struct fb_group *group = &u->m.weights->groups[g];
    int k = u->m.catalog.n_expert_used > 2 ? u->m.catalog.n_expert_used : 2;
    double least = INFINITY;
    for (int n = k < group->n_expert ? k : group->n_expert; n <= group->n_expert; n++) {
        if ((uint64_t)n * group->slot_bytes <= room) {
            plan->slots[g] = n;
            least =
                fmin(least, least_reading(u, plan, g + 1, room - (uint64_t)n * group->slot_bytes));
        }
    }
    return least;
}

/* The reading that one more slot saves in the group where it saves most. */
static double next_slot(const struct made_up *u, const struct fb_plan *plan)
{
    double most = 0;
    for (int g = 0; g < plan->n_groups; g++) {
        if (plan->slots[g] < u->m.weights->groups[g].n_expert) {
            double before = reading(u, plan);
            plan->slots[g]++;
            most = fmax(most, before - reading(u, plan));
            plan->slots[g]--;
        }
    }
    return most;
}

/* Returns how many plans were compared. */
static int compare_with_all(const struct made_up *u, bool alike)
{
    int compared = 0;
    for (int i = 0; i < 25; i++) {
        uint64_t minimum = fb_plan_minimum(u->m.weights);
        uint64_t budget = minimum + u->m.weights->expert_bytes * (uint64_t)i / 24;
        struct fb_plan *plan = plan_for(u, budget);
        if (plan->slots) {
            double got = reading(u, plan), spare = alike ? 0 : next_slot(u, plan);
            double best =
                least_reading(u, plan, 0, budget - plan->staging_bytes - plan->transit_bytes);
            if (got > best + spare + 1e-6) {
                fail_msg("budget %d: %g bytes are read, %g would do", i, got, best);
            }
            compared++;
        }
        fb_plan_free(plan);
    }
    return compared;
}

static void test_slots_that_cost_the_same_are_where_they_save_most(void **state)
{
    (void)state;
    int compared = 0;
    for (uint64_t seed = 1; seed <= N_CASES; seed++) {
        struct made_up u;
        few_experts_init(&u, seed, true);
        compared += compare_with_all(&u, true);
        made_up_release(&u);
    }
    assert_true(compared > 5 * N_CASES);
}

static void test_slots_of_any_cost_are_within_one_of_the_best(void **state)
{
    (void)state;
    int compared = 0;
    for (uint64_t seed = 1; seed <= N_CASES; seed++) {
        struct made_up u;
        few_experts_init(&u, seed, false);
        compared += compare_with_all(&u, false);
        made_up_release(&u);
    }
    assert_true(compared > 5 * N_CASES);
}

static void test_the_time_of_loading_worked_by_hand(void **state)
{
    (void)state;
    struct example e;
    struct fb_speed s;
    example_init(&e);
    e.in.unclaimed_bytes = 2000;
    e.in.context_bytes = 5000000000; /* zeroed in 2 s */
    fb_estimate(&e.in, &s);          /* the matrix is streamed, experts are empty slots */
    assert_true(fabs(s.load_s - (2000 / 4000.0 + 2 + 0.4)) < 1e-5);
    e.resident[0] = true;
    fb_estimate(&e.in, &s); /* read in 2 s, repacked in 0.5 s meanwhile */
    assert_true(fabs(s.load_s - (0.5 + 2 + 2 + 0.4)) < 1e-5);
    e.plan.preload = true;
    fb_estimate(&e.in, &s); /* and four experts of 1000 bytes */
    assert_true(fabs(s.load_s - (0.5 + 2 + 1 + 2 + 0.4)) < 1e-5);
    e.plan.total_bytes = 2500000000;
    fb_estimate(&e.in, &s);
    assert_true(fabs(s.load_s - (0.5 + 2 + 1 + 2 + 1 + 0.4)) < 1e-5);
    example_release(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_token_worked_by_hand),
        cmocka_unit_test(test_lookahead_and_bursts_worked_by_hand),
        cmocka_unit_test(test_a_prompt_worked_by_hand),
        cmocka_unit_test(test_measured_compute_time_replaces_the_profile),
        cmocka_unit_test(test_experts_of_a_size_have_their_own_rate),
        cmocka_unit_test(test_attention_and_reading_use_processor_time),
        cmocka_unit_test(test_bytes_read_do_not_depend_on_the_disk),
        cmocka_unit_test(test_a_pool_that_one_token_empties_never_hits),
        cmocka_unit_test(test_weights_in_memory_are_not_read),
        cmocka_unit_test(test_the_time_of_loading_worked_by_hand),
        cmocka_unit_test(test_every_estimate_is_sane),
        cmocka_unit_test(test_a_faster_disk_never_estimates_slower),
        cmocka_unit_test(test_more_slots_never_estimate_slower),
        cmocka_unit_test(test_nothing_is_faster_than_everything_in_memory),
        cmocka_unit_test(test_more_memory_for_layers_alike_hardly_ever_estimates_slower),
        cmocka_unit_test(test_slots_that_cost_the_same_are_where_they_save_most),
        cmocka_unit_test(test_slots_of_any_cost_are_within_one_of_the_best),
    };
    return cmocka_run_group_tests_name("estimate", tests, NULL, NULL);
}
