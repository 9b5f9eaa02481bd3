/*
 * test_transit.c - experts passing through memory, over every method and fault: bytes against the
 * file's, each needed one exactly once, reads against a count of what is needed.
 */
#include "weights_fixture.h"

#include "stream/transit.h"

#define N_LAYERS  5
#define N_EXPERTS 12

static struct model sized;
static struct model *model = &sized;
static struct fb_io_engine *io;
static struct fb_unpacker unpacker;
static struct fb_transit *transit;
static bool present[N_LAYERS][N_EXPERTS]; /* in slots, according to is_absent */

static bool is_absent(void *user, int group, int expert)
{
    (void)user;
    return !present[group][expert];
}

/* Parts of 1 byte .. 32 KiB at odd offsets, three to a layer. */
static int set_up(void **state)
{
    make_contents(state);
    model_init(model, 777);
    for (int l = 0; l < N_LAYERS; l++) {
        add_random_layer(model, l, N_EXPERTS, 14);
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
    fb_transit_free(transit);
    fb_io_free(io);
    transit = NULL;
    io = NULL;
    return 0;
}

static void open_transit(const char *method, uint64_t bytes)
{
    close_after(NULL);
    io = open_small_engine(method);
    unpacker = (struct fb_unpacker){.io = io, .weights = model->weights};
    transit = fb_transit_new(&unpacker, bytes, is_absent, NULL);
    assert_non_null(transit);
}

static const char *const methods[] = {"sync", "threads", "fault:sync,reorder=5,short=3",
    "fault:threads,eintr=2,eagain=5", "fault:threads,reorder=9,short=2,eintr=3"};
#define N_METHODS (sizeof methods / sizeof *methods)

/* --- Passes ----------------------------------------------------------------------------------- */

static void schedule_all(int tokens)
{
    struct fb_expert_use uses[N_LAYERS * 3];
    int n = 0;
    for (int g = 0; g < N_LAYERS; g++) {
        for (int p = 0; p < 3; p++) {
            uses[n++] = (struct fb_expert_use){model->weights->groups[g].weight[p], tokens, 2};
        }
    }
    fb_transit_schedule(transit, uses, n, tokens > 1);
}

/* Acquires all units of a matrix: each needed one once, and no other. */
static enum forebay_status take_all(int weight, const bool *needed, struct forebay_error *err)
{
    bool had[N_EXPERTS] = {false};
    struct fb_unit units[4];
    for (int n;
         (n = fb_transit_acquire(transit, weight, units, 1 + (int)rnd_below(4), err)) != 0;) {
        if (n < 0) {
            return err->status;
        }
        for (int i = 0; i < n; i++) {
            uint64_t distance = (uint64_t)((const char *)units[i].raw - (const char *)units[0].raw);
            bool same_delta = model->weights->weights[weight].unpack == FB_UNPACK_DIRECT;
            assert_true(needed[units[i].expert] && !had[units[i].expert]);
            assert_true(!same_delta || distance % fb_weight_envelope(model->weights, weight) == 0);
            had[units[i].expert] = true;
        }
        fb_io_wait_any(io); /* reads in flight do not overwrite acquired units */
        for (int i = 0; i < n; i++) {
            const struct fb_weight *w = &model->weights->weights[weight];
            const unsigned char *file = contents + model->tensors[w->tensor].offset +
                                        (uint64_t)units[i].expert * w->file_bytes;
            assert_memory_equal(units[i].raw, file, w->file_bytes);
        }
        for (int i = n - 1; i >= 0; i--) {
            fb_transit_release(transit, &units[i]);
        }
    }
    assert_memory_equal(had, needed, sizeof had);
    return FOREBAY_OK;
}

/* One layer that needs a random part of the absent experts. */
static enum forebay_status use_layer(int group, int percent, struct forebay_error *err)
{
    const struct fb_group *info = &model->weights->groups[group];
    bool needed[N_EXPERTS];
    int list[N_EXPERTS], n = 0, first = 0;
    for (int e = 0; e < N_EXPERTS; e++) {
        needed[e] = !present[group][e] && (int)rnd_below(100) < percent;
        if (needed[e]) {
            list[n++] = e;
        }
    }
    fb_transit_need(transit, info->weight[first], list, n, n);
    enum forebay_status status = FOREBAY_OK;
    for (int p = 0; p < info->n_parts && status == FOREBAY_OK; p++) {
        status = take_all(info->weight[p], needed, err);
    }
    return status;
}

static uint64_t demand(void)
{
    return fb_transit_stats(transit)->demand_bytes;
}

static uint64_t wasted(void)
{
    const struct fb_stream_stats *s = fb_transit_stats(transit);
    return s->prefetch_bytes - s->prefetch_used_bytes;
}

static void test_every_needed_unit_is_read_once(void **state)
{
    (void)state;
    static const int percents[] = {100, 60, 5, 0};
    for (size_t m = 0; m < N_METHODS; m++) {
        for (uint64_t room = 1; room <= 64; room *= 4) {
            struct forebay_error err;
            open_transit(methods[m], room * largest_unit(model));
            for (int pass = 0; pass < 8; pass++) {
                random_state = (m + 1) * 1000 + room * 10 + (uint64_t)pass;
                memset(present, 0, sizeof present);
                for (int i = 0; i < 20; i++) {
                    present[rnd_below(N_LAYERS)][rnd_below(N_EXPERTS)] = true;
                }
                schedule_all(pass % 2 ? 100 : 2);
                for (int g = 0; g < N_LAYERS; g++) {
                    present[rnd_below(N_LAYERS)][rnd_below(N_EXPERTS)] ^= true; /* memory moves */
                    assert_int_equal(use_layer(g, percents[pass % 4], &err), FOREBAY_OK);
                }
            }
        }
    }
}

/* A large batch needs all: each unit is read once, and all but the first layer are prefetched. */
static void test_a_large_batch_prefetches_all_once(void **state)
{
    (void)state;
    struct forebay_error err;
    uint64_t all = 0;
    memset(present, 0, sizeof present);
    for (int i = 0; i < model->weights->n_weights; i++) {
        all += model->weights->weights[i].file_bytes * N_EXPERTS;
    }
    open_transit("threads", 40 * largest_unit(model));
    schedule_all(1000);
    for (int g = 0; g < N_LAYERS; g++) {
        assert_int_equal(use_layer(g, 100, &err), FOREBAY_OK);
    }
    assert_int_equal(demand() + fb_transit_stats(transit)->prefetch_used_bytes, all);
    assert_int_equal(wasted(), 0);
    assert_true(fb_transit_stats(transit)->prefetch_used_bytes > all / 2);
}

/* With so few tokens, most experts are not needed: nothing is read before the ids are known. */
static void test_a_small_batch_reads_nothing_needlessly(void **state)
{
    (void)state;
    struct forebay_error err;
    memset(present, 0, sizeof present);
    open_transit("sync", 40 * largest_unit(model));
    schedule_all(3);
    for (int g = 0; g < N_LAYERS; g++) {
        assert_int_equal(use_layer(g, 30, &err), FOREBAY_OK);
    }
    assert_int_equal(fb_transit_stats(transit)->prefetch_bytes, 0);
}

/* A matrix that was not scheduled, and one that is used in another order. */
static void test_unscheduled_matrices_are_read_too(void **state)
{
    (void)state;
    struct forebay_error err;
    const bool all[N_EXPERTS] = {
        true, true, true, true, true, true, true, true, true, true, true, true};
    const int list[N_EXPERTS] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    memset(present, 0, sizeof present);
    for (int expected = 0; expected < 2; expected++) {
        open_transit("threads", 3 * largest_unit(model));
        if (expected) {
            schedule_all(100);
        }
        for (int g = N_LAYERS - 1; g >= 0; g--) {
            const struct fb_group *info = &model->weights->groups[g];
            fb_transit_need(transit, info->weight[0], list, N_EXPERTS, N_EXPERTS);
            for (int p = 2; p >= 0; p--) {
                assert_int_equal(take_all(info->weight[p], all, &err), FOREBAY_OK);
            }
        }
    }
}

/* A failed read fails the pass that needs it, and the next pass starts clean. */
static void test_after_a_failed_read_all_is_read_again(void **state)
{
    (void)state;
    memset(present, 0, sizeof present);
    for (int at = 1; at < 60; at += 7) {
        struct forebay_error err;
        char method[64];
        int failures = 0;
        snprintf(method, sizeof method, "fault:threads,eio_at=%d", at);
        open_transit(method, 8 * largest_unit(model));
        for (int pass = 0; pass < 3; pass++) {
            enum forebay_status status = FOREBAY_OK;
            schedule_all(100);
            for (int g = 0; g < N_LAYERS && status == FOREBAY_OK; g++) {
                status = use_layer(g, 100, &err);
            }
            failures += status != FOREBAY_OK;
            assert_true(status == FOREBAY_OK || status == FOREBAY_E_IO);
        }
        assert_int_equal(failures, 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_every_needed_unit_is_read_once, close_after),
        cmocka_unit_test_teardown(test_a_large_batch_prefetches_all_once, close_after),
        cmocka_unit_test_teardown(test_a_small_batch_reads_nothing_needlessly, close_after),
        cmocka_unit_test_teardown(test_unscheduled_matrices_are_read_too, close_after),
        cmocka_unit_test_teardown(test_after_a_failed_read_all_is_read_again, close_after),
    };
    return cmocka_run_group_tests_name("transit", tests, set_up, tear_down);
}
