/*
 * test_stream.c - residency against a naive model: bytes against the file's, hits and reads against
 * lists that are searched from end to end. S1-S4 are the invariants of stream.h.
 */
#include "weights_fixture.h"

#include <unistd.h>

#include "base/error.h"
#include "plan/plan.h"
#include "stream/stream.h"

#define N_LAYERS  3
#define N_EXPERTS 10
#define N_DENSE   (2 * N_LAYERS + 1)
#define ALL_PARTS 7u
#define MAX_IDS   (N_LAYERS * N_EXPERTS)

static struct model mixed;
static struct model *model = &mixed;
static struct fb_stream *stream;
static struct fb_lease leases[2];

/* --- Rig -------------------------------------------------------------------------------------- */

/* Dense weights of both kinds and three layers in which each part is unpacked differently: read in
 * place (whole blocks), copied, repacked. */
static int set_up(void **state)
{
    static const uint64_t sizes[N_LAYERS][3] = {
        {8192, 5000, 1700}, {3333, 4096, 12288}, {64, 12288, 700}};
    make_contents(state);
    model_init(model, 999);
    model->catalog.n_expert_used = 3;
    for (int l = 0; l < N_LAYERS; l++) {
        add_dense(model, 1 + rnd_below(70000), false);
        add_expert_layer(model, l, N_EXPERTS, sizes[l]);
        add_dense(model, l == 0 ? 25000 : 1 + rnd_below(20000), true);
    }
    add_weight(model, FB_ROLE_OUTPUT, -1, 0, 150001, false);
    model_open(model);
    return 0;
}

static int tear_down(void **state)
{
    model_close(model);
    return free_contents(state);
}

static void close_stream(void)
{
    fb_stream_free(stream);
    stream = NULL;
    fb_lease_clear(&leases[0]);
    fb_lease_clear(&leases[1]);
}

static int close_after(void **state)
{
    (void)state;
    close_stream();
    return 0;
}

static fb_check_fn check; /* of the next stream */

static struct fb_stream_options options_with(const char *method)
{
    struct fb_stream_options options = {.policy = "lru", /* the naive model's */
        .cold = true,
        .unpack = unpack_units,
        .check = check,
        .user = &model->weights};
    small_io_options(&options.io, method);
    return options;
}

static void start(const struct fb_plan *plan, const struct fb_stream_options *options)
{
    struct forebay_error err;
    close_stream();
    if (fb_stream_new(model->weights, plan, options, &stream, &err)) {
        fail_msg("%s: %s", options->io.method, err.message);
    }
}

static void load(void)
{
    struct forebay_error err;
    if (fb_stream_load(stream, NULL, NULL, &err)) {
        fail_msg("loading: %s", err.message);
    }
}

/* With the plan for the budget. */
static void start_with_budget(uint64_t budget, const char *method)
{
    struct fb_plan *plan;
    assert_int_equal(fb_plan_make(model->weights, budget, 0, NULL, &plan, NULL), FOREBAY_OK);
    struct fb_stream_options options = options_with(method);
    start(plan, &options);
    fb_plan_free(plan);
}

static uint64_t stage_bytes(void)
{
    uint64_t bytes = 0;
    for (int i = 0; i < model->weights->n_weights; i++) {
        bytes = fb_max(bytes,
            model->weights->weights[i].group >= 0 ? fb_weight_envelope(model->weights, i) : 0);
    }
    return bytes;
}

/* Slots for experts only: `own` in each of the layers, or one pool of `shared`. */
static void start_with_slots(int own, int shared, int n_stages, const char *method)
{
    bool resident[MAX_TENSORS] = {false};
    int slots[N_LAYERS] = {own, own, own};
    struct fb_plan plan = {.resident = resident,
        .slots = shared ? NULL : slots,
        .shared_slots = shared,
        .staging_bytes = (uint64_t)n_stages * stage_bytes()};
    struct fb_stream_options options = options_with(method);
    start(&plan, &options);
    load();
}

static struct fb_stream_stats stats(void)
{
    struct fb_stream_stats s;
    fb_stream_stats(stream, &s);
    return s;
}

/* --- The naive model of the cache: least recently used, parts always complete ----------------- */

struct naive {
    bool shared;
    int n_slots;       /* of each pool */
    int held[MAX_IDS]; /* ids, longest unused first */
    int n_held;
    uint64_t requests, hits, read_bytes;
};

static int id_of(int group, int expert)
{
    return group * N_EXPERTS + expert;
}

static int naive_find(const struct naive *n, int id)
{
    for (int i = 0; i < n->n_held; i++) {
        if (n->held[i] == id) {
            return i;
        }
    }
    return -1;
}

static void naive_remove(struct naive *n, int at)
{
    n->n_held--;
    memmove(n->held + at, n->held + at + 1, (size_t)(n->n_held - at) * sizeof *n->held);
}

/* If the pool of `group` is full, evicts an id that is not in use. */
static void naive_make_room(struct naive *n, int group, const int *experts, int n_experts)
{
    int victim = -1, in_pool = 0;
    for (int i = n->n_held - 1; i >= 0; i--) {
        bool used = false;
        if (!n->shared && n->held[i] / N_EXPERTS != group) {
            continue;
        }
        for (int k = 0; k < n_experts; k++) {
            used |= n->held[i] == id_of(group, experts[k]);
        }
        victim = used ? victim : i;
        in_pool++;
    }
    if (in_pool == n->n_slots) {
        assert_true(victim >= 0);
        naive_remove(n, victim);
    }
}

static void naive_lease(
    struct naive *n, int group, const int *experts, const int *uses, int n_experts)
{
    const struct fb_group *g = &model->weights->groups[group];
    int missing[N_EXPERTS], n_missing = 0;
    for (int i = 0; i < n_experts; i++) {
        int at = naive_find(n, id_of(group, experts[i]));
        n->requests += (uint64_t)uses[i];
        if (at >= 0) {
            n->hits += (uint64_t)uses[i];
        } else {
            missing[n_missing++] = experts[i];
        }
    }
    for (int i = 0; i < n_missing; i++) {
        naive_make_room(n, group, experts, n_experts);
        n->held[n->n_held++] = id_of(group, missing[i]);
        for (int p = 0; p < g->n_parts; p++) {
            n->read_bytes += model->weights->weights[g->weight[p]].file_bytes;
        }
    }
    for (int i = 0; i < n_experts; i++) { /* used last, in this order */
        int at = naive_find(n, id_of(group, experts[i]));
        naive_remove(n, at);
        n->held[n->n_held++] = id_of(group, experts[i]);
    }
}

static void compare(const struct naive *n)
{
    struct fb_stream_stats s = stats();
    assert_int_equal(s.expert_requests, n->requests);
    assert_int_equal(s.expert_hits, n->hits);
    assert_int_equal(s.demand_bytes, n->read_bytes);
    for (int id = 0; id < MAX_IDS; id++) {
        bool has = fb_stream_has(stream, id / N_EXPERTS, id % N_EXPERTS, ALL_PARTS);
        assert_int_equal(has, naive_find(n, id) >= 0);
    }
}

/* --- Leases ----------------------------------------------------------------------------------- */

/* Fills `experts` with n distinct ones. */
static void choose(int *experts, int n)
{
    for (int i = 0; i < n; i++) {
        bool again = true;
        while (again) {
            experts[i] = (int)rnd_below(N_EXPERTS);
            again = false;
            for (int k = 0; k < i; k++) {
                again |= experts[k] == experts[i];
            }
        }
    }
}

/* S1: the part is in the slots of the lease, and each expert has a slot of its own. */
static void check_part(const struct fb_lease *lease, int part)
{
    int weight = model->weights->groups[lease->group].weight[part];
    uint64_t stride;
    int n_slots;
    const char *base = fb_stream_slots(stream, weight, &stride, &n_slots);
    assert_true(fb_stream_lease_ready(stream, lease, part));
    for (int i = 0; i < lease->n; i++) {
        assert_in_range(lease->slots[i], 0, n_slots - 1);
        for (int k = 0; k < i; k++) {
            assert_int_not_equal(lease->slots[i], lease->slots[k]);
        }
        const char *unit = base + (uint64_t)lease->slots[i] * stride;
        if (!form_is_right(model, weight, lease->experts[i], unit)) {
            fail_msg("group %d part %d expert %d is wrong", lease->group, part, lease->experts[i]);
        }
    }
}

static void begin(
    struct fb_lease *lease, int group, const int *experts, const int *uses, int n, uint32_t parts)
{
    fb_stream_lease_begin(stream, lease, group, experts, uses, n, parts);
    assert_int_equal(lease->n, n);
    assert_memory_equal(lease->experts, experts, (size_t)n * sizeof *experts);
}

/* Waits for the parts of `parts` in order; all stay until the end. The first failure ends it. */
static enum forebay_status wait_parts(
    struct fb_lease *lease, uint32_t parts, struct forebay_error *err)
{
    for (int p = 0; p < 3; p++) {
        enum forebay_status status =
            parts & 1u << p ? fb_stream_lease_wait(stream, lease, p, err) : FOREBAY_OK;
        if (status != FOREBAY_OK) {
            return status;
        }
        for (int q = 0; q <= p; q++) {
            if (parts & 1u << q) {
                check_part(lease, q);
            }
        }
    }
    return FOREBAY_OK;
}

static enum forebay_status run_lease(
    int group, const int *experts, const int *uses, int n, struct forebay_error *err)
{
    begin(&leases[0], group, experts, uses, n, ALL_PARTS);
    enum forebay_status status = wait_parts(&leases[0], ALL_PARTS, err);
    fb_stream_lease_end(stream, &leases[0]);
    return status;
}

/* One random lease of the stream. */
static enum forebay_status run_random(int most, struct forebay_error *err)
{
    int experts[N_EXPERTS];
    int n = 1 + (int)rnd_below((uint64_t)most);
    choose(experts, n);
    return run_lease((int)rnd_below(N_LAYERS), experts, NULL, n, err);
}

/* A random lease of stream and model. */
static void pass_against_model(struct naive *naive, int most)
{
    int experts[N_EXPERTS], uses[N_EXPERTS];
    int group = (int)rnd_below(N_LAYERS), n = 1 + (int)rnd_below((uint64_t)most);
    choose(experts, n);
    for (int i = 0; i < n; i++) {
        uses[i] = 1 + (int)rnd_below(4);
    }
    naive_lease(naive, group, experts, uses, n);
    assert_int_equal(run_lease(group, experts, uses, n, NULL), FOREBAY_OK);
}

static void run_against_model(struct naive *naive, int n_leases, int most)
{
    for (int k = 0; k < n_leases; k++) {
        pass_against_model(naive, most);
        compare(naive);
    }
}

static const char *const methods[] = {"sync", "threads", "fault:sync,reorder=5,short=3",
    "fault:threads,reorder=9,short=2,eintr=3,eagain=5"};
#define N_METHODS (sizeof methods / sizeof *methods)

/* --- Experts and slots ------------------------------------------------------------------------ */

static void test_random_leases_with_own_pools_equal_the_model(void **state)
{
    (void)state;
    for (size_t m = 0; m < N_METHODS; m++) {
        for (int slots = 2; slots <= N_EXPERTS; slots += 4) {
            struct naive naive = {.n_slots = slots};
            start_with_slots(slots, 0, 1 + (int)m, methods[m]);
            run_against_model(&naive, 40, slots);
            assert_true(naive.hits > 0 && naive.hits < naive.requests);
        }
    }
}

static void test_random_leases_with_a_shared_pool_equal_the_model(void **state)
{
    (void)state;
    for (size_t m = 0; m < N_METHODS; m++) {
        for (int slots = 4; slots < MAX_IDS; slots += 9) {
            struct naive naive = {.shared = true, .n_slots = slots};
            start_with_slots(0, slots, 1 + (int)m, methods[m]);
            run_against_model(&naive, 40, slots < N_EXPERTS ? slots : N_EXPERTS);
            assert_true(naive.hits > 0 && naive.hits < naive.requests);
        }
    }
}

/* With room for all, every expert is read once, whatever is leased. */
static void test_with_room_for_all_each_expert_is_read_once(void **state)
{
    (void)state;
    static const int all[N_EXPERTS] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    uint64_t bytes = 0;
    for (int i = 0; i < model->weights->n_weights; i++) {
        const struct fb_weight *w = &model->weights->weights[i];
        bytes += w->group >= 0 ? w->file_bytes * N_EXPERTS : 0;
    }
    for (int shared = 0; shared < 2; shared++) {
        start_with_slots(N_EXPERTS, shared ? MAX_IDS : 0, 2, "threads");
        for (int k = 0; k < 3 * N_LAYERS; k++) {
            assert_int_equal(run_lease(k % N_LAYERS, all, NULL, N_EXPERTS, NULL), FOREBAY_OK);
        }
        assert_int_equal(stats().demand_bytes, bytes);
        assert_int_equal(stats().expert_requests, 0); /* uses were not given */
    }
}

static void test_a_lease_reads_only_its_parts(void **state)
{
    (void)state;
    static const int experts[] = {4, 1}, uses[] = {1, 1};
    for (int group = 0; group < N_LAYERS; group++) {
        const int *weight = model->weights->groups[group].weight;
        uint64_t read = 0;
        start_with_slots(4, 0, 2, "threads");
        for (int p = 0; p < 3; p++) { /* part by part: each of these leases misses */
            begin(&leases[0], group, experts, uses, 2, 1u << p);
            assert_int_equal(wait_parts(&leases[0], 1u << p, NULL), FOREBAY_OK);
            fb_stream_lease_end(stream, &leases[0]);
            read += 2 * model->weights->weights[weight[p]].file_bytes;
            assert_int_equal(stats().demand_bytes, read);
            assert_true(fb_stream_has(stream, group, 4, (2u << p) - 1));
            assert_int_equal(fb_stream_has(stream, group, 4, ALL_PARTS), p == 2);
            assert_int_equal(stats().expert_hits, 0);
        }
        assert_int_equal(run_lease(group, experts, uses, 2, NULL), FOREBAY_OK);
        assert_int_equal(stats().demand_bytes, read);
        assert_int_equal(stats().expert_hits, 2);
    }
}

/* --- Two leases at once ----------------------------------------------------------------------- */

/* The first lease stays right while the second uses all remaining slots. */
static void check_two_leases(int group)
{
    int experts[N_EXPERTS];
    int n = fb_stream_lease_limit(stream, group) / 2;
    choose(experts, n + n);
    begin(&leases[0], group, experts, NULL, n, ALL_PARTS);
    begin(&leases[1], group, experts + n, NULL, n, ALL_PARTS);
    if (rnd() % 2) {
        assert_int_equal(wait_parts(&leases[0], ALL_PARTS, NULL), FOREBAY_OK);
    }
    assert_int_equal(wait_parts(&leases[1], ALL_PARTS, NULL), FOREBAY_OK);
    assert_int_equal(wait_parts(&leases[0], ALL_PARTS, NULL), FOREBAY_OK);
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < n; k++) {
            assert_int_not_equal(leases[0].slots[i], leases[1].slots[k]);
        }
    }
    fb_stream_lease_end(stream, &leases[rnd() % 2]);
    fb_stream_lease_end(stream, &leases[leases[0].group < 0]);
}

static void test_experts_of_an_open_lease_are_never_evicted(void **state)
{
    (void)state;
    for (size_t m = 0; m < N_METHODS; m++) {
        for (int slots = 2; slots <= N_EXPERTS; slots += 3) {
            start_with_slots(slots, m % 2 ? slots : 0, 2, methods[m]);
            for (int k = 0; k < 20; k++) {
                check_two_leases((int)rnd_below(N_LAYERS));
            }
        }
    }
}

/* File bytes of all parts of one expert. */
static uint64_t unit_bytes(int group)
{
    const struct fb_group *g = &model->weights->groups[group];
    uint64_t sum = 0;
    for (int p = 0; p < g->n_parts; p++) {
        sum += model->weights->weights[g->weight[p]].file_bytes;
    }
    return sum;
}

/* Slots of each layer; returns the sum. */
static int count_slots(int *slots)
{
    int sum = 0;
    for (int g = 0; g < N_LAYERS; g++) {
        uint64_t stride;
        fb_stream_slots(stream, model->weights->groups[g].weight[0], &stride, &slots[g]);
        sum += slots[g];
    }
    return sum;
}

/* A layer that needs all its experts borrows slots of layers that need few: slots still hold the
 * right bytes (S1), and together they hold no more memory than before (S4). */
static void test_slots_move_to_the_layer_that_needs_them(void **state)
{
    (void)state;
    for (size_t m = 0; m < N_METHODS; m++) {
        bool resident[MAX_TENSORS] = {false};
        int slots[N_LAYERS] = {8, 8, 8}, experts[3];
        const int uses[3] = {1, 1, 1};
        struct fb_plan plan = {
            .resident = resident, .slots = slots, .staging_bytes = 2 * stage_bytes()};
        struct fb_stream_options options = options_with(methods[m]);
        options.policy = "echo";
        start(&plan, &options);
        load();
        uint64_t most = fb_stream_most(stream);
        int greedy = 0;
        for (int g = 1; g < N_LAYERS;
             g++) { /* the one whose slots cost least may always take one */
            greedy = unit_bytes(g) < unit_bytes(greedy) ? g : greedy;
        }
        for (int k = 0; k < 600; k++) {
            int group = k % N_LAYERS, few = group == greedy ? N_EXPERTS : 4;
            experts[0] = (int)rnd_below((uint64_t)few);
            experts[1] = (experts[0] + 1) % few;
            experts[2] = (experts[0] + 2) % few;
            assert_int_equal(run_lease(group, experts, uses, 3, NULL), FOREBAY_OK);
            assert_true(fb_stream_most(stream) <= most);
        }
        assert_int_equal(count_slots(slots), 3 * 8);
        assert_int_equal(slots[greedy], N_EXPERTS);
        for (int g = 0; g < N_LAYERS; g++) {
            assert_true(g == greedy || slots[g] >= 6); /* twice what a token uses */
        }
    }
}

static void test_two_leases_may_share_experts(void **state)
{
    (void)state;
    static const int one[] = {0, 1, 2}, two[] = {2, 3, 0};
    for (size_t m = 0; m < N_METHODS; m++) {
        start_with_slots(6, 0, 12, methods[m]);
        begin(&leases[0], 1, one, NULL, 3, ALL_PARTS);
        begin(&leases[1], 1, two, NULL, 3, ALL_PARTS);
        assert_int_equal(wait_parts(&leases[1], ALL_PARTS, NULL), FOREBAY_OK);
        assert_int_equal(wait_parts(&leases[0], ALL_PARTS, NULL), FOREBAY_OK);
        assert_int_equal(leases[0].slots[0], leases[1].slots[2]);
        assert_int_equal(leases[0].slots[2], leases[1].slots[0]);
        assert_int_equal(stats().demand_bytes, 4 * unit_bytes(1)); /* and none is read twice */
        fb_stream_lease_end(stream, &leases[0]);
        check_part(&leases[1], 0);
        fb_stream_lease_end(stream, &leases[1]);
    }
}

/* S2: the reads of an ended lease go on; their slots are not given to others meanwhile. */
static void test_a_lease_may_end_before_its_reads(void **state)
{
    (void)state;
    for (int shared = 0; shared < 2; shared++) {
        start_with_slots(4, shared ? 4 : 0, 2, "fault:threads,late_ms=1");
        for (int k = 0; k < 20; k++) {
            int experts[N_EXPERTS];
            choose(experts, 8);
            begin(&leases[0], k % N_LAYERS, experts, NULL, 4, ALL_PARTS);
            fb_stream_lease_end(stream, &leases[0]);
            assert_int_equal(run_lease(k % N_LAYERS, experts + 4, NULL, 4, NULL), FOREBAY_OK);
        }
    }
}

/* --- Many reads ------------------------------------------------------------------------------- */

/* 100 experts of 3 parts: more reads than may be open, and one buffer for those that need one. */
static void test_a_lease_of_more_reads_than_may_be_open(void **state)
{
    (void)state;
    static struct model wide;
    int experts[100], slots[] = {100};
    model_init(&wide, 5);
    for (int p = 0; p < 3; p++) {
        add_weight(&wide, FB_ROLE_EXPERT_UP, 0, 100, p == 1 ? 50 : 4096, p == 2);
    }
    model_open(&wide);
    for (int i = 0; i < 100; i++) {
        experts[i] = (i * 37 + 11) % 100;
    }
    struct fb_plan plan = {.slots = slots, .staging_bytes = 2 * 4096};
    model = &wide;
    struct fb_stream_options options = options_with("threads");
    for (int n_stages = 1; n_stages <= 300; n_stages += 299) {
        plan.staging_bytes = (uint64_t)n_stages * 2 * 4096;
        start(&plan, &options);
        load();
        assert_int_equal(run_lease(0, experts, NULL, 100, NULL), FOREBAY_OK);
    }
    close_stream();
    model_close(&wide);
    model = &mixed;
}

/* --- Prefetching ------------------------------------------------------------------------------ */

static uint64_t expert_bytes(int group)
{
    uint64_t bytes = 0;
    for (int p = 0; p < model->weights->groups[group].n_parts; p++) {
        bytes += model->weights->weights[model->weights->groups[group].weight[p]].file_bytes;
    }
    return bytes;
}

static void prefetch_random(void)
{
    int experts[N_EXPERTS], n = (int)rnd_below(6);
    choose(experts, n);
    fb_stream_prefetch(stream, (int)rnd_below(N_LAYERS), experts, n);
}

/* Whatever is prefetched, leases have the right bytes (check_part). Where nothing is evicted, each
 * expert is read once and counts as a hit from its second use on, as without prefetching. */
static void test_prefetching_changes_neither_bytes_nor_hits(void **state)
{
    (void)state;
    for (size_t m = 0; m < N_METHODS; m++) {
        struct naive naive = {.n_slots = N_EXPERTS};
        start_with_slots(N_EXPERTS, 0, 2 + (int)m % 3, methods[m]);
        for (int k = 0; k < 60; k++) {
            prefetch_random();
            pass_against_model(&naive, 6);
        }
        struct fb_stream_stats s = stats();
        assert_int_equal(s.expert_hits, naive.hits);
        assert_true(s.prefetch_used_bytes > 0 && s.prefetch_used_bytes <= s.prefetch_bytes);
        assert_int_equal(s.demand_bytes + s.prefetch_used_bytes, naive.read_bytes);
    }
}

/* The same in pools that are too small: prefetched experts evict, and are evicted. */
static void test_prefetching_in_small_pools(void **state)
{
    (void)state;
    for (int slots = 2; slots <= 6; slots++) {
        start_with_slots(slots, 0, 1 + slots % 3, slots % 2 ? "threads" : "auto");
        for (int k = 0; k < 150; k++) {
            prefetch_random();
            assert_int_equal(run_random(slots, NULL), FOREBAY_OK);
        }
        struct fb_stream_stats s = stats();
        assert_true(s.prefetch_used_bytes <= s.prefetch_bytes);
    }
}

static void prefetch_all(uint64_t bytes)
{
    for (int i = 0; i < 2000 && stats().io.read_bytes < bytes; i++) {
        fb_stream_poll(stream);
        usleep(1000);
    }
}

static void test_prefetched_experts_are_present(void **state)
{
    (void)state;
    static const int prefetched[] = {3, 8, 1}, needed[] = {8, 3, 5};
    static const int uses[] = {1, 1, 1};
    start_with_slots(4, 0, 12, "threads");
    fb_stream_prefetch(stream, 1, prefetched, 3);
    assert_int_equal(stats().prefetch_bytes, 3 * expert_bytes(1));
    prefetch_all(3 * expert_bytes(1));
    assert_int_equal(run_lease(1, needed, uses, 3, NULL), FOREBAY_OK);
    struct fb_stream_stats s = stats();
    assert_int_equal(s.demand_bytes, expert_bytes(1));
    assert_int_equal(s.prefetch_used_bytes, 2 * expert_bytes(1));
    assert_int_equal(s.expert_hits, 0); /* they were read for this request */
    assert_int_equal(run_lease(1, needed, uses, 3, NULL), FOREBAY_OK);
    assert_int_equal(stats().expert_hits, 3);
}

/* Stalls for prefetches that were late are counted apart from stalls for demand reads. */
static void test_stalls_for_prefetches_are_counted_apart(void **state)
{
    (void)state;
    static const int prefetched[] = {3, 8}, other[] = {0, 1};
    start_with_slots(4, 0, 12, "fault:threads,late_ms=10");
    fb_stream_prefetch(stream, 1, prefetched, 2);
    assert_int_equal(run_lease(1, prefetched, NULL, 2, NULL), FOREBAY_OK);
    uint64_t late = stats().prefetch_stall_ns;
    assert_true(late > 0);
    assert_int_equal(late, stats().stall_ns);
    assert_int_equal(run_lease(0, other, NULL, 2, NULL), FOREBAY_OK);
    assert_int_equal(stats().prefetch_stall_ns, late);
    assert_true(stats().stall_ns > late);
}

static void test_one_prefetched_expert_is_not_evicted_for_another(void **state)
{
    (void)state;
    static const int before[] = {0, 1, 2, 3}, prefetched[] = {7, 0, 8, 1};
    start_with_slots(4, 0, 12, "sync");
    assert_int_equal(run_lease(0, before, NULL, 4, NULL), FOREBAY_OK);
    fb_stream_prefetch(stream, 0, prefetched, 4);
    assert_true(fb_stream_has(stream, 0, 0, ALL_PARTS) && fb_stream_has(stream, 0, 1, ALL_PARTS));
    assert_int_equal(run_lease(0, prefetched, NULL, 4, NULL), FOREBAY_OK);
    assert_int_equal(stats().prefetch_used_bytes, 2 * expert_bytes(0));
}

/* A prefetch that fails is not reported; its expert is read again when it is needed. */
static void test_a_failed_prefetch_is_read_again(void **state)
{
    (void)state;
    static const int prefetched[] = {3, 8}, other[] = {0, 1};
    for (int nth = 1; nth <= 6; nth++) {
        char spec[64];
        snprintf(spec, sizeof spec, "fault:threads,eio_at=%d", nth);
        start_with_slots(4, 0, 12, spec);
        fb_stream_prefetch(stream, 1, prefetched, 2);
        prefetch_all(2 * expert_bytes(1));
        assert_int_equal(run_lease(0, other, NULL, 2, NULL), FOREBAY_OK);
        assert_int_equal(run_lease(1, prefetched, NULL, 2, NULL), FOREBAY_OK);
    }
}

/* fb_check_fn: refuses two experts of every layer. */
static enum forebay_status refuse_some(void *user, int weight, int unit, void *data,
    const struct forebay_error *failed, struct forebay_error *err)
{
    (void)user;
    (void)weight;
    (void)data;
    (void)failed;
    if (unit == 3 || unit == 7) {
        return fb_fail(err, FOREBAY_E_IO, "", "expert %d is damaged", unit);
    }
    return FOREBAY_OK;
}

/* The error of a lease is that of its own read, not of a prefetch that fails the check as well. */
static void test_a_failed_prefetch_lends_no_message(void **state)
{
    (void)state;
    static const int prefetched = 3, needed = 7;
    struct forebay_error err;
    check = refuse_some;
    start_with_slots(4, 0, 12, "fault:threads,late_ms=100");
    check = NULL;
    begin(&leases[0], 1, &needed, NULL, 1, ALL_PARTS);
    usleep(50000);
    fb_stream_prefetch(stream, 2, &prefetched, 1); /* fails after the read that is needed */
    assert_int_equal(wait_parts(&leases[0], ALL_PARTS, &err), FOREBAY_E_IO);
    fb_stream_lease_end(stream, &leases[0]);
    assert_string_equal(err.message, "expert 7 is damaged");
    assert_int_equal(run_lease(2, &prefetched, NULL, 1, &err), FOREBAY_E_IO);
    assert_string_equal(err.message, "expert 3 is damaged");
}

/* --- Failed reads ----------------------------------------------------------------------------- */

/* S3: one wait reports the failure, no lease has wrong bytes (check_part), and the next is
 * clean. */
static void test_one_failed_read_fails_one_lease(void **state)
{
    (void)state;
    static const char *const inners[] = {"sync", "threads"};
    for (int nth = 1; nth <= 60; nth++) {
        char spec[64];
        int failures = 0;
        snprintf(spec, sizeof spec, "fault:%s,eio_at=%d", inners[nth % 2], nth);
        start_with_slots(4, nth % 3 ? 0 : 6, 2, spec);
        for (int k = 0; k < 40; k++) {
            struct forebay_error err = {0};
            if (run_random(4, &err)) {
                assert_int_equal(err.status, FOREBAY_E_IO);
                assert_non_null(strstr(err.message, model->path));
                failures++;
            }
        }
        assert_int_equal(failures, 1);
    }
}

/* The same lease again is right: the failed read left no part marked as present. */
static void test_a_failed_lease_can_be_repeated(void **state)
{
    (void)state;
    static const int experts[] = {7, 2, 9};
    for (int nth = 1; nth <= 9; nth++) {
        char spec[64];
        struct forebay_error err = {0};
        snprintf(spec, sizeof spec, "fault:threads,eio_at=%d", nth);
        start_with_slots(3, 0, 1, spec);
        assert_int_equal(run_lease(0, experts, NULL, 3, &err), FOREBAY_E_IO);
        assert_false(fb_stream_has(stream, 0, 7, ALL_PARTS) &&
                     fb_stream_has(stream, 0, 2, ALL_PARTS) &&
                     fb_stream_has(stream, 0, 9, ALL_PARTS));
        assert_int_equal(run_lease(0, experts, NULL, 3, &err), FOREBAY_OK);
    }
}

/* Parts that were read successfully are present when the failure is reported, and not read
 * again. */
static void test_only_the_failed_read_is_repeated(void **state)
{
    (void)state;
    static const int experts[] = {7, 2, 9};
    start_with_slots(3, 0, 12, "fault:threads,eio_at=1,late_ms=1");
    assert_int_equal(run_lease(0, experts, NULL, 3, NULL), FOREBAY_E_IO);
    assert_false(fb_stream_has(stream, 0, 7, 1u));
    assert_true(fb_stream_has(stream, 0, 7, 6u));
    assert_true(fb_stream_has(stream, 0, 2, ALL_PARTS));
    assert_true(fb_stream_has(stream, 0, 9, ALL_PARTS));
    uint64_t before = stats().demand_bytes;
    int weight = model->weights->groups[0].weight[0];
    assert_int_equal(run_lease(0, experts, NULL, 3, NULL), FOREBAY_OK);
    assert_int_equal(stats().demand_bytes - before, model->weights->weights[weight].file_bytes);
}

/* Also when it was noticed while acquiring a slot, for a lease that nobody waited for either. */
static void test_a_failure_that_nobody_waited_for_is_forgotten(void **state)
{
    (void)state;
    static const int experts[] = {0, 1, 2, 3, 4, 5, 6, 7};
    start_with_slots(4, 0, 12, "fault:sync,eio_at=1");
    begin(&leases[0], 0, experts, NULL, 4, ALL_PARTS);
    fb_stream_lease_end(stream, &leases[0]);
    begin(&leases[0], 0, experts + 4, NULL, 4, ALL_PARTS);
    fb_stream_lease_end(stream, &leases[0]);
    assert_int_equal(run_lease(0, experts, NULL, 4, NULL), FOREBAY_OK);

    start_with_slots(4, 0, 12, "fault:sync,eio_at=1");
    begin(&leases[0], 0, experts, NULL, 4, ALL_PARTS);
    fb_stream_lease_end(stream, &leases[0]);
    assert_int_equal(run_lease(1, experts, NULL, 4, NULL), FOREBAY_OK);
}

/* Whichever of two leases a failed read was for, the evaluation has failed and both end. */
static void test_after_a_failure_with_two_leases_open_the_next_is_clean(void **state)
{
    (void)state;
    static const int experts[] = {1, 2, 3, 4};
    for (int waited = 0; waited < 2; waited++) {
        start_with_slots(4, 0, 2, "fault:sync,eio_at=1");
        begin(&leases[0], 0, experts, NULL, 2, ALL_PARTS);
        begin(&leases[1], 0, experts + 2, NULL, 2, ALL_PARTS);
        assert_int_equal(fb_stream_lease_wait(stream, &leases[waited], 0, NULL), FOREBAY_E_IO);
        fb_stream_lease_end(stream, &leases[0]);
        fb_stream_lease_end(stream, &leases[1]);
        assert_int_equal(run_lease(0, experts, NULL, 4, NULL), FOREBAY_OK);
    }
}

static void test_a_failing_disk_never_hangs_a_lease(void **state)
{
    (void)state;
    static const char *const specs[] = {"fault:sync,eio_every=7", "fault:threads,eio_every=7",
        "fault:threads,eio_every=5,reorder=3,short=2"};
    for (size_t s = 0; s < sizeof specs / sizeof *specs; s++) {
        int failures = 0;
        start_with_slots(4, s == 2 ? 5 : 0, 2, specs[s]);
        for (int k = 0; k < 60; k++) {
            failures += run_random(4, NULL) != FOREBAY_OK;
        }
        assert_in_range(failures, 1, 59);
    }
    start_with_slots(4, 0, 2, "fault:threads,eio_every=1");
    for (int k = 0; k < 20; k++) {
        assert_int_equal(run_random(4, NULL), FOREBAY_E_IO);
    }
}

/* Proves that the comparison detects a wrong byte. */
static void test_a_corrupted_read_would_be_noticed(void **state)
{
    (void)state;
    static const int expert = 3;
    uint64_t stride;
    int n_slots;
    start_with_slots(4, 0, 2, "fault:sync,corrupt_at=1");
    begin(&leases[0], 0, &expert, NULL, 1, 1u);
    assert_int_equal(fb_stream_lease_wait(stream, &leases[0], 0, NULL), FOREBAY_OK);
    int weight = model->weights->groups[0].weight[0];
    char *base = fb_stream_slots(stream, weight, &stride, &n_slots);
    assert_false(
        form_is_right(model, weight, expert, base + (uint64_t)leases[0].slots[0] * stride));
    fb_stream_lease_end(stream, &leases[0]);
}

static void test_freeing_waits_for_reads_in_flight(void **state)
{
    (void)state;
    static const int experts[] = {0, 1, 2, 3};
    for (int open = 0; open < 2; open++) {
        start_with_slots(4, 0, 4, "fault:threads,late_ms=2");
        begin(&leases[0], 0, experts, NULL, 4, ALL_PARTS);
        if (!open) {
            fb_stream_lease_end(stream, &leases[0]);
        }
        assert_false(fb_stream_has(stream, 0, 0, ALL_PARTS));
        close_stream();
    }
}

/* --- Dense weights ---------------------------------------------------------------------------- */

static void check_resident(void)
{
    for (int i = 0; i < model->weights->n_weights; i++) {
        if (model->weights->weights[i].group < 0 && fb_stream_is_resident(stream, i)) {
            assert_true(form_is_right(model, i, 0, fb_stream_resident(stream, i)));
        }
    }
}

static enum forebay_status use_streamed(int n_passes, struct forebay_error *err)
{
    int order[MAX_TENSORS], n = 0;
    for (int i = 0; i < model->weights->n_weights; i++) {
        if (model->weights->weights[i].group < 0 && !fb_stream_is_resident(stream, i)) {
            order[n++] = i;
        }
    }
    for (int k = 0; k < n_passes * n; k++) {
        const void *form;
        if (k % n == 0) {
            fb_stream_schedule_dense(stream, order, n);
        }
        enum forebay_status status = fb_stream_dense_acquire(stream, order[k % n], &form, err);
        if (status != FOREBAY_OK) {
            return status;
        }
        fb_stream_poll(stream);
        assert_true(form_is_right(model, order[k % n], 0, form));
        fb_stream_dense_release(stream);
    }
    return FOREBAY_OK;
}

static uint64_t all_bytes(void)
{
    return model->weights->dense_bytes + model->weights->expert_bytes;
}

/* Experts that a lease of any group may have. */
static int smallest_limit(void)
{
    int smallest = N_EXPERTS;
    for (int g = 0; g < N_LAYERS; g++) {
        int limit = fb_stream_lease_limit(stream, g);
        smallest = limit < smallest ? limit : smallest;
    }
    return smallest;
}

/* S4, and all of a stream at once, with plans from the least budget to one for everything. */
static void test_every_plan_runs_in_its_memory(void **state)
{
    (void)state;
    uint64_t minimum = fb_plan_minimum(model->weights);
    for (int i = 0; i <= 12; i++) {
        uint64_t budget = minimum + (all_bytes() + stage_bytes() * 24 - minimum) * (uint64_t)i / 12;
        start_with_budget(budget, methods[i % (int)N_METHODS]);
        assert_true(stats().memory_bytes <= budget);
        load();
        check_resident();
        for (int k = 0; k < 10; k++) {
            assert_int_equal(use_streamed(1, NULL), FOREBAY_OK);
            assert_int_equal(run_random(smallest_limit(), NULL), FOREBAY_OK);
        }
        check_resident();
    }
}

/* Files read through the page cache count wanted bytes only: the sum is exact. */
static void test_loading_reads_each_resident_byte_once(void **state)
{
    (void)state;
    uint64_t minimum = fb_plan_minimum(model->weights);
    for (int i = 0; i <= 12; i++) {
        struct fb_plan *plan;
        uint64_t resident_bytes = 0, budget = minimum + (all_bytes() - minimum) * (uint64_t)i / 12;
        assert_int_equal(fb_plan_make(model->weights, budget, 0, NULL, &plan, NULL), FOREBAY_OK);
        struct fb_stream_options options = options_with("sync");
        options.io.direct = false;
        start(plan, &options);
        load();
        for (int w = 0; w < model->weights->n_weights; w++) {
            resident_bytes += plan->resident[w] ? model->weights->weights[w].file_bytes : 0;
        }
        assert_int_equal(stats().io.read_bytes, resident_bytes);
        fb_plan_free(plan);
    }
}

/* Also where the ring is too small for some of them. */
static void test_loading_through_a_ring_of_any_size(void **state)
{
    (void)state;
    bool resident[MAX_TENSORS];
    uint64_t resident_bytes = 0;
    for (int i = 0; i < model->weights->n_weights; i++) {
        resident[i] = model->weights->weights[i].group < 0;
        resident_bytes += resident[i] ? model->weights->weights[i].file_bytes : 0;
    }
    for (int i = 0; i < model->weights->n_weights; i++) {
        struct fb_plan plan = {.resident = resident,
            .shared_slots = 4,
            .staging_bytes = stage_bytes(),
            .ring_bytes = fb_weight_envelope(model->weights, i)};
        struct fb_stream_options options = options_with("sync");
        options.io.direct = false;
        start(&plan, &options);
        load();
        check_resident();
        assert_int_equal(stats().io.read_bytes, resident_bytes);
    }
}

/* What is lent is not held, comes back, and changes no byte. */
static void test_slots_lend_memory_and_get_it_back(void **state)
{
    (void)state;
    uint64_t minimum = fb_plan_minimum(model->weights), batch = all_bytes() / 4;
    for (int i = 0; i <= 6; i++) {
        struct fb_plan *plan;
        uint64_t budget = minimum + batch + (all_bytes() - minimum) * (uint64_t)i / 6;
        struct fb_stream_options options = options_with(methods[i % (int)N_METHODS]);
        assert_int_equal(
            fb_plan_make(model->weights, budget, batch, NULL, &plan, NULL), FOREBAY_OK);
        start(plan, &options);
        load();
        uint64_t most = fb_stream_held(stream), spare = budget - plan->total_bytes;
        int n_slots = fb_stream_n_slots(stream);
        for (int k = 0; k < 20; k++) {
            uint64_t bytes = batch * (rnd() % 5) / 4;
            fb_stream_lend(stream, bytes);
            fb_stream_adapt(stream, true);
            uint64_t lent = bytes - fb_min(bytes, spare);
            assert_int_equal(fb_stream_lends(stream), lent > 0);
            assert_true(fb_stream_held(stream) <= most); /* with what is lent */
            assert_true(lent > 0 || fb_stream_n_slots(stream) == n_slots);
            assert_true(lent < batch / 2 || fb_stream_n_slots(stream) < n_slots);
            assert_int_equal(run_random(smallest_limit(), NULL), FOREBAY_OK);
        }
        check_resident();
        fb_plan_free(plan);
    }
}

/* A batch takes the transit's memory from the slots; some passes without one return it. */
static void test_the_transit_is_lent_while_batches_need_it(void **state)
{
    (void)state;
    const struct fb_expert_use batch = {model->weights->groups[0].weight[0], 100, 4};
    const struct fb_expert_use token = {model->weights->groups[0].weight[0], 1, 1};
    struct fb_plan *plan;
    uint64_t budget = fb_plan_minimum(model->weights) + all_bytes() / 2;
    struct fb_stream_options options = options_with("sync");
    assert_int_equal(fb_plan_make(model->weights, budget, 0, NULL, &plan, NULL), FOREBAY_OK);
    assert_true(plan->lent_bytes > 0);
    start(plan, &options);
    load();
    int n_slots = fb_stream_n_slots(stream);
    for (int round = 0; round < 3; round++) {
        assert_false(fb_stream_lends(stream));
        fb_stream_schedule_experts(stream, &batch, 1);
        assert_true(fb_stream_lends(stream));
        assert_true(fb_stream_n_slots(stream) < n_slots);
        int passes = 0;
        while (fb_stream_lends(stream)) {
            fb_stream_schedule_experts(stream, &token, 1);
            passes++;
        }
        assert_in_range(passes, 2, 10); /* not at once: batches may alternate with tokens */
        assert_int_equal(fb_stream_n_slots(stream), n_slots);
    }
    fb_plan_free(plan);
}

static bool stop_at(const char *what, uint64_t done, uint64_t total, void *user)
{
    (void)what;
    assert_true(done <= total);
    return --*(int *)user != 0;
}

/* With room for everything, which is read before the first token if `preload`. */
static void start_with_all(const char *method, bool preload)
{
    struct fb_plan *plan;
    uint64_t budget = all_bytes() + 64 * FB_MIB;
    assert_int_equal(fb_plan_make(model->weights, budget, 0, NULL, &plan, NULL), FOREBAY_OK);
    struct fb_stream_options options = options_with(method);
    options.cold = !preload;
    start(plan, &options);
    fb_plan_free(plan);
}

static void test_loading_can_be_cancelled_at_every_report(void **state)
{
    (void)state;
    for (int preload = 0; preload < 2; preload++) {
        int n_cancelled = 0;
        for (int after = 1;; after++) {
            struct forebay_error err = {0};
            int left = after;
            start_with_all("threads", preload);
            enum forebay_status status = fb_stream_load(stream, stop_at, &left, &err);
            if (status == FOREBAY_OK) {
                break;
            }
            assert_int_equal(status, FOREBAY_E_CANCELLED);
            n_cancelled++;
        }
        /* At each dense weight, each layer of experts, and when memory is waited for. */
        assert_in_range(n_cancelled, N_DENSE + (preload ? N_LAYERS : 0) + 1, 100);
    }
}

static void test_a_failed_read_fails_the_load(void **state)
{
    (void)state;
    for (int preload = 0; preload < 2; preload++) {
        int n_units = N_DENSE + (preload ? 3 * N_LAYERS * N_EXPERTS : 0), n_failed = 0;
        for (int nth = 1;; nth++) {
            char spec[64];
            struct forebay_error err = {0};
            snprintf(spec, sizeof spec, "fault:threads,eio_at=%d", nth);
            start_with_all(spec, preload);
            enum forebay_status status = fb_stream_load(stream, NULL, NULL, &err);
            if (status == FOREBAY_OK) { /* there are fewer reads */
                break;
            }
            assert_int_equal(status, FOREBAY_E_IO);
            assert_non_null(strstr(err.message, model->path));
            n_failed++;
        }
        assert_in_range(n_failed, n_units, 3 * n_units); /* large ones are read in pieces */
    }
}

static void test_preloaded_experts_are_not_read_again(void **state)
{
    (void)state;
    static const char *const ways[] = {"sync", "threads", "fault:threads,reorder=1,late_ms=1"};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        start_with_all(ways[i], true);
        load();
        uint64_t before = stats().io.read_bytes;
        for (int group = 0; group < N_LAYERS; group++) {
            for (int expert = 0; expert < N_EXPERTS; expert++) {
                assert_true(fb_stream_has(stream, group, expert, ALL_PARTS));
                assert_int_equal(run_lease(group, &expert, NULL, 1, NULL), FOREBAY_OK);
            }
        }
        check_resident();
        assert_int_equal(stats().io.read_bytes, before);
        assert_int_equal(stats().expert_requests, 0); /* preloading is not counted */
    }
}

/* Nothing is preloaded where there are fewer slots than experts. */
static void test_no_preload_without_room(void **state)
{
    (void)state;
    bool resident[MAX_TENSORS] = {false};
    int slots[N_LAYERS] = {N_EXPERTS, N_EXPERTS - 1, N_EXPERTS};
    struct fb_plan plan = {
        .resident = resident, .slots = slots, .staging_bytes = 4 * stage_bytes()};
    struct fb_stream_options options = options_with("sync");
    options.cold = false;
    start(&plan, &options);
    load();
    assert_int_equal(stats().io.read_bytes, 0);
}

static void test_a_failed_read_of_a_streamed_weight_is_reported(void **state)
{
    (void)state;
    struct forebay_error err = {0};
    start_with_budget(fb_plan_minimum(model->weights), "fault:threads,eio_every=4");
    if (fb_stream_load(stream, NULL, NULL, &err) == FOREBAY_OK) {
        assert_int_equal(use_streamed(4, &err), FOREBAY_E_IO);
    }
    assert_non_null(strstr(err.message, model->path));
}

static void test_an_unknown_policy_is_refused(void **state)
{
    (void)state;
    bool resident[MAX_TENSORS] = {false};
    struct forebay_error err = {0};
    struct fb_plan plan = {
        .resident = resident, .shared_slots = 4, .staging_bytes = 2 * stage_bytes()};
    struct fb_stream_options options = options_with("sync");
    options.policy = "fifo";
    assert_int_equal(
        fb_stream_new(model->weights, &plan, &options, &stream, &err), FOREBAY_E_USAGE);
    assert_null(stream);
    assert_non_null(strstr(err.message, "fifo"));
    assert_non_null(strstr(err.hint, "lru"));
}

#define TEST(name) cmocka_unit_test_teardown(name, close_after)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_random_leases_with_own_pools_equal_the_model),
        TEST(test_random_leases_with_a_shared_pool_equal_the_model),
        TEST(test_with_room_for_all_each_expert_is_read_once),
        TEST(test_a_lease_reads_only_its_parts),
        TEST(test_experts_of_an_open_lease_are_never_evicted),
        TEST(test_two_leases_may_share_experts),
        TEST(test_a_lease_may_end_before_its_reads),
        TEST(test_a_lease_of_more_reads_than_may_be_open),
        TEST(test_prefetching_changes_neither_bytes_nor_hits),
        TEST(test_prefetching_in_small_pools),
        TEST(test_prefetched_experts_are_present),
        TEST(test_a_failed_prefetch_lends_no_message),
        TEST(test_stalls_for_prefetches_are_counted_apart),
        TEST(test_one_prefetched_expert_is_not_evicted_for_another),
        TEST(test_a_failed_prefetch_is_read_again),
        TEST(test_one_failed_read_fails_one_lease),
        TEST(test_a_failed_lease_can_be_repeated),
        TEST(test_only_the_failed_read_is_repeated),
        TEST(test_a_failure_that_nobody_waited_for_is_forgotten),
        TEST(test_after_a_failure_with_two_leases_open_the_next_is_clean),
        TEST(test_a_failing_disk_never_hangs_a_lease),
        TEST(test_a_corrupted_read_would_be_noticed),
        TEST(test_freeing_waits_for_reads_in_flight),
        TEST(test_every_plan_runs_in_its_memory),
        TEST(test_loading_reads_each_resident_byte_once),
        TEST(test_loading_through_a_ring_of_any_size),
        TEST(test_slots_lend_memory_and_get_it_back),
        TEST(test_the_transit_is_lent_while_batches_need_it),
        TEST(test_loading_can_be_cancelled_at_every_report),
        TEST(test_a_failed_read_fails_the_load),
        TEST(test_preloaded_experts_are_not_read_again),
        TEST(test_no_preload_without_room),
        TEST(test_a_failed_read_of_a_streamed_weight_is_reported),
        TEST(test_slots_move_to_the_layer_that_needs_them),
        TEST(test_an_unknown_policy_is_refused),
    };
    return cmocka_run_group_tests_name("stream", tests, set_up, tear_down);
}
