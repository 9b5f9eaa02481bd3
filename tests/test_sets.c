/*
 * test_sets.c - batches through a stream, between leases and prefetches: the sets hold the file's
 * bytes and each needed expert once, and the statistics are right.
 */
#include "weights_fixture.h"

#include "stream/transit.h"

#define N_LAYERS  2
#define N_EXPERTS 10
#define N_SLOTS   4
#define ALL_PARTS 7u
#define PICKS     3
#define MOST      20 /* tokens of a batch */

static struct model own;
static struct model *model = &own;
static struct fb_stream *stream;
static struct fb_lease lease;

/* Each part is unpacked differently: read in place (whole blocks), copied, repacked. */
static int set_up(void **state)
{
    static const uint64_t sizes[N_LAYERS][3] = {{8192, 5000, 1700}, {3333, 4096, 12288}};
    make_contents(state);
    model_init(model, 999);
    model->catalog.n_expert_used = PICKS;
    for (int l = 0; l < N_LAYERS; l++) {
        add_expert_layer(model, l, N_EXPERTS, sizes[l]);
    }
    model_open(model);
    return 0;
}

static int tear_down(void **state)
{
    model_close(model);
    return free_contents(state);
}

static int close_after(void **state)
{
    (void)state;
    fb_stream_free(stream);
    fb_lease_clear(&lease);
    stream = NULL;
    return 0;
}

static bool lends; /* the next stream has no other memory for the transit than its slots' */

/* `places`: units that fit into the transit, and staging buffers. */
static void start(int places, const char *method)
{
    static bool resident[MAX_TENSORS];
    static int slots[N_LAYERS] = {N_SLOTS, N_SLOTS};
    const struct fb_plan plan = {.resident = resident,
        .slots = slots,
        .staging_bytes = (uint64_t)places * largest_unit(model),
        .transit_bytes = (uint64_t)places * largest_unit(model),
        .budget_bytes = lends ? 0 : (uint64_t)places * largest_unit(model)};
    struct fb_stream_options options = {.unpack = unpack_units, .user = &model->weights};
    small_io_options(&options.io, method);
    close_after(NULL);
    assert_int_equal(fb_stream_new(model->weights, &plan, &options, &stream, NULL), FOREBAY_OK);
    assert_int_equal(fb_stream_load(stream, NULL, NULL, NULL), FOREBAY_OK);
}

static struct fb_stream_stats stats(void)
{
    struct fb_stream_stats s;
    fb_stream_stats(stream, &s);
    return s;
}

static void run_lease(int group, const int *experts, int n)
{
    int uses[N_EXPERTS];
    for (int i = 0; i < n; i++) {
        uses[i] = 1;
    }
    fb_stream_lease_begin(stream, &lease, group, experts, uses, n, ALL_PARTS);
    for (int p = 0; p < 3; p++) {
        int weight = model->weights->groups[group].weight[p], n_slots;
        uint64_t stride;
        assert_int_equal(fb_stream_lease_wait(stream, &lease, p, NULL), FOREBAY_OK);
        const char *base = fb_stream_slots(stream, weight, &stride, &n_slots);
        for (int i = 0; i < n; i++) {
            assert_true(
                form_is_right(model, weight, experts[i], base + (uint64_t)lease.slots[i] * stride));
        }
    }
    fb_stream_lease_end(stream, &lease);
}

/* Uses all sets of one matrix, and checks them. */
static void check_sets(int weight, const bool *needed)
{
    bool had[N_EXPERTS] = {false};
    struct forebay_error err;
    struct fb_set set = {.n = 1};
    while (set.n > 0) {
        assert_int_equal(fb_stream_sets_next(stream, weight, &set, &err), FOREBAY_OK);
        for (int i = 0; i < set.n; i++) {
            int e = set.experts[i];
            assert_true(needed[e] && !had[e] && set.index[i] < set.n_index);
            had[e] = true;
            assert_true(form_is_right(
                model, weight, e, (const char *)set.base + (uint64_t)set.index[i] * set.stride));
        }
    }
    assert_memory_equal(had, needed, sizeof had);
}

static void run_batch(int group, const int *experts, int tokens, int picks)
{
    const int *weights = model->weights->groups[group].weight;
    struct fb_expert_use uses[3];
    struct fb_routes routes = {.experts = experts, .tokens = tokens, .picks = picks};
    bool needed[N_EXPERTS] = {false};
    for (int i = 0; i < tokens * picks; i++) {
        needed[experts[i]] = true;
    }
    for (int p = 0; p < 3; p++) {
        uses[p] = (struct fb_expert_use){weights[p], tokens, picks};
    }
    fb_stream_schedule_experts(stream, uses, 3);
    fb_stream_sets_begin(stream, weights[0], &routes);
    for (int p = 0; p < 3; p++) {
        check_sets(weights[p], needed);
    }
    fb_stream_sets_end(stream);
}

static uint64_t expert_bytes(int group)
{
    uint64_t bytes = 0;
    for (int p = 0; p < 3; p++) {
        bytes += model->weights->weights[model->weights->groups[group].weight[p]].file_bytes;
    }
    return bytes;
}

/* Polls until all prefetches have been read. */
static void finish_prefetches(void)
{
    uint64_t before;
    do {
        before = stats().io.read_bytes;
        fb_stream_poll(stream);
    } while (stats().io.read_bytes > before);
}

/* --- Tests ------------------------------------------------------------------------------------ */

/* n distinct experts. */
static void choose(int *experts, int n)
{
    int all[N_EXPERTS];
    for (int e = 0; e < N_EXPERTS; e++) {
        all[e] = e;
    }
    for (int i = 0; i < n; i++) {
        int k = i + (int)rnd_below((uint64_t)(N_EXPERTS - i));
        experts[i] = all[k];
        all[k] = all[i];
    }
}

static void run_random(void)
{
    int experts[MOST * PICKS], group = (int)rnd_below(N_LAYERS);
    if (rnd_below(2)) {
        int n = (int)rnd_below(N_SLOTS + 3);
        choose(experts, n);
        fb_stream_prefetch(stream, group, experts, n);
    }
    if (rnd_below(2)) {
        int n = 1 + (int)rnd_below((uint64_t)fb_stream_lease_limit(stream, group));
        choose(experts, n);
        run_lease(group, experts, n);
        return;
    }
    int tokens = 2 + (int)rnd_below(MOST - 1);
    for (int t = 0; t < tokens; t++) {
        choose(experts + t * PICKS, PICKS);
    }
    run_batch(group, experts, tokens, PICKS);
}

static void test_random_batches_between_leases(void **state)
{
    static const char *const methods[] = {
        "sync", "threads", "fault:sync,reorder=5,short=3", "fault:threads,reorder=9,eintr=3"};
    (void)state;
    for (size_t m = 0; m < 2 * sizeof methods / sizeof *methods; m++) {
        lends = m % 2;
        start(2 + (int)m, methods[m / 2]);
        lends = false;
        for (int k = 0; k < 100; k++) {
            run_random();
            struct fb_stream_stats s = stats();
            assert_true(s.prefetch_used_bytes <= s.prefetch_bytes);
            assert_true(s.expert_hits <= s.expert_requests);
        }
    }
}

/* When a batch gives a slot to another expert, that slot no longer counts as prefetched. */
static void test_a_batch_may_evict_prefetched_experts(void **state)
{
    static const int prefetched[] = {3, 8, 7, 9}, needed[N_SLOTS] = {0, 1, 2, 4};
    (void)state;
    start(24, "sync");
    fb_stream_prefetch(stream, 1, prefetched, 4);
    finish_prefetches();
    run_batch(1, needed, N_SLOTS, 1);
    for (int i = 0; i < N_SLOTS; i++) {
        assert_true(fb_stream_has(stream, 1, needed[i], ALL_PARTS));
    }
    assert_int_equal(stats().expert_hits, 0);
    run_lease(1, needed, N_SLOTS);
    struct fb_stream_stats s = stats();
    assert_int_equal(s.expert_hits, N_SLOTS);
    assert_int_equal(s.prefetch_used_bytes, 0);
    assert_int_equal(s.expert_bytes, N_SLOTS * expert_bytes(1));
}

/* A prefetched expert that a batch uses is not a hit. */
static void test_a_batch_may_use_prefetched_experts(void **state)
{
    static const int prefetched[] = {3, 8};
    (void)state;
    start(24, "sync");
    fb_stream_prefetch(stream, 1, prefetched, 2);
    finish_prefetches();
    run_batch(1, prefetched, 2, 1);
    assert_int_equal(stats().expert_hits, 0);
    assert_int_equal(stats().prefetch_used_bytes, 2 * expert_bytes(1));
    run_lease(1, prefetched, 2);
    assert_int_equal(stats().expert_hits, 2);
    assert_int_equal(stats().prefetch_used_bytes, 2 * expert_bytes(1));
}

/* S3: a failed read fails the batch, with or without an error struct; the next one is clean. */
static void test_a_failed_read_fails_one_batch(void **state)
{
    static const int experts[] = {0, 1, 2, 3, 4, 5, 6, 7};
    struct fb_routes routes = {.experts = experts, .tokens = 8, .picks = 1};
    (void)state;
    for (int nth = 1; nth <= 8; nth++) {
        const int *weights = model->weights->groups[1].weight;
        char spec[64];
        struct forebay_error err;
        struct fb_set set = {.n = 1};
        snprintf(spec, sizeof spec, "fault:threads,eio_at=%d", nth);
        start(6, spec);
        fb_stream_sets_begin(stream, weights[0], &routes);
        enum forebay_status status = FOREBAY_OK;
        while (set.n > 0 && !status) {
            status = fb_stream_sets_next(stream, weights[0], &set, nth % 2 ? &err : NULL);
        }
        assert_int_equal(status, FOREBAY_E_IO);
        fb_stream_sets_end(stream);
        run_batch(1, experts, 8, 1);
        run_batch(1, experts, 8, 1);
    }
}

#define TEST(name) cmocka_unit_test_teardown(name, close_after)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_random_batches_between_leases),
        TEST(test_a_batch_may_evict_prefetched_experts),
        TEST(test_a_batch_may_use_prefetched_experts),
        TEST(test_a_failed_read_fails_one_batch),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
