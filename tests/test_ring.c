/*
 * test_ring.c - the ring of streamed dense weights over every method and fault: bytes against the
 * file's, reads against a count of what a pass needs.
 */
#include "weights_fixture.h"

#include "stream/ring.h"

#define N_WEIGHTS 24

static struct model sized;
static struct model *model = &sized;
static struct fb_io_engine *io;
static struct fb_unpacker unpacker;
static struct fb_ring *ring;
static int order[MAX_TENSORS];

/* --- Rig -------------------------------------------------------------------------------------- */

/* Weights of 1 byte .. 64 KiB at odd offsets, and one of 200 KiB: several chunks. */
static int set_up(void **state)
{
    make_contents(state);
    model_init(model, 777);
    for (int i = 0; i < N_WEIGHTS; i++) {
        add_dense(model, i == 9 ? 200000 : 1 + rnd_below(rnd() % 2 ? 65536 : 3000), false);
        order[i] = i;
    }
    model_open(model);
    return 0;
}

static int tear_down(void **state)
{
    model_close(model);
    return free_contents(state);
}

static void close_ring(void)
{
    fb_ring_free(ring);
    fb_io_free(io);
    ring = NULL;
    io = NULL;
}

static int close_after(void **state)
{
    (void)state;
    close_ring();
    return 0;
}

static void open_ring(const char *method, uint64_t bytes)
{
    close_ring();
    io = open_small_engine(method);
    unpacker = (struct fb_unpacker){.io = io, .weights = model->weights};
    ring = fb_ring_new(&unpacker, bytes, true);
    assert_non_null(ring);
}

static uint64_t smallest_ring(void)
{
    return largest_unit(model);
}

static uint64_t pass_bytes(void)
{
    uint64_t sum = 0;
    for (int i = 0; i < N_WEIGHTS; i++) {
        sum += model->weights->weights[i].file_bytes;
    }
    return sum;
}

/* Acquires the weight; while it is used, all prefetches that fit are read (S1). */
static enum forebay_status use(int weight, struct forebay_error *err)
{
    const void *raw = NULL;
    enum forebay_status status = fb_ring_acquire(ring, weight, &raw, err);
    if (status != FOREBAY_OK) {
        assert_null(raw);
        return status;
    }
    assert_true(form_is_right(model, weight, 0, raw));
    fb_ring_pump(ring);
    fb_io_wait_any(io);
    assert_true(form_is_right(model, weight, 0, raw));
    fb_ring_release(ring);
    return FOREBAY_OK;
}

static void use_all(const int *weights, int n)
{
    struct forebay_error err;
    fb_ring_schedule(ring, weights, n);
    for (int i = 0; i < n; i++) {
        if (use(weights[i], &err)) {
            fail_msg("weight %d: %s", weights[i], err.message);
        }
    }
}

static const char *const methods[] = {"sync", "threads", "fault:sync,reorder=5,short=3",
    "fault:threads,eintr=2,eagain=5", "fault:threads,reorder=9,short=2,eintr=3"};
#define N_METHODS (sizeof methods / sizeof *methods)

/* --- Bytes and order -------------------------------------------------------------------------- */

static void test_every_pass_has_the_bytes_of_the_file(void **state)
{
    (void)state;
    const uint64_t sizes[] = {smallest_ring(), smallest_ring() + FB_BLOCK_BYTES,
        2 * smallest_ring() + 3 * FB_BLOCK_BYTES, 8 * FB_MIB};
    for (size_t m = 0; m < N_METHODS; m++) {
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            open_ring(methods[m], sizes[s]);
            for (int pass = 0; pass < 6; pass++) {
                use_all(order, N_WEIGHTS);
            }
        }
    }
}

/* Each size of the ring wraps around at other positions. */
static void test_the_ring_wraps_anywhere(void **state)
{
    (void)state;
    for (uint64_t pages = 0; pages < 60; pages += 3) {
        open_ring("sync", smallest_ring() + pages * FB_BLOCK_BYTES);
        for (int pass = 0; pass < 4; pass++) {
            use_all(order, N_WEIGHTS);
        }
    }
}

static void test_a_weight_in_use_stays_while_the_ring_prefetches(void **state)
{
    (void)state;
    open_ring("fault:threads,late_ms=1", 2 * smallest_ring());
    for (int pass = 0; pass < 2; pass++) {
        use_all(order, N_WEIGHTS);
    }
    struct fb_stream_stats stats = *fb_ring_stats(ring);
    assert_true(stats.prefetch_used_bytes > pass_bytes() / 2);
    assert_true(stats.stall_ns > 0);
}

/* Proves that the comparison above detects a wrong byte. */
static void test_a_corrupted_read_would_be_noticed(void **state)
{
    (void)state;
    const void *raw;
    open_ring("fault:sync,corrupt_at=1", smallest_ring());
    assert_int_equal(fb_ring_acquire(ring, 0, &raw, NULL), FOREBAY_OK);
    assert_false(form_is_right(model, 0, 0, raw));
    fb_ring_release(ring);
}

/* More weights than the ring has entries. */
static void test_many_tiny_weights(void **state)
{
    (void)state;
    static struct model tiny;
    int all[MAX_TENSORS];
    model_init(&tiny, 1);
    for (int i = 0; i < MAX_TENSORS; i++) {
        all[i] = add_dense(&tiny, 1 + rnd_below(40), false);
    }
    model_open(&tiny);
    model = &tiny;
    open_ring("threads", 8 * FB_MIB);
    for (int pass = 0; pass < 3; pass++) {
        use_all(all, MAX_TENSORS);
    }
    close_ring();
    model_close(&tiny);
    model = &sized;
}

/* --- Reads ------------------------------------------------------------------------------------ */

static uint64_t moved_bytes(void)
{
    struct fb_io_counters c;
    fb_io_counters(io, &c);
    return c.read_bytes;
}

/* Envelopes of the weights at [from, to) of the endless sequence of passes. */
static uint64_t envelopes(int from, int to)
{
    uint64_t sum = 0;
    for (int i = from; i < to; i++) {
        uint64_t offset = fb_weight_offset(model->weights, i % N_WEIGHTS, 0);
        sum += fb_io_envelope(offset, model->weights->weights[i % N_WEIGHTS].file_bytes);
    }
    return sum;
}

/* The first pass learns the order. All weights are prefetched, except the first one of the first
 * pass, and that of the second, because its order was not known yet. */
static void test_each_byte_is_read_once_per_pass(void **state)
{
    (void)state;
    const int n_passes = 7;
    for (uint64_t bytes = 2 * smallest_ring(); bytes < 3 * FB_MIB; bytes *= 2) {
        open_ring("sync", bytes);
        for (int pass = 0; pass < n_passes; pass++) {
            use_all(order, N_WEIGHTS);
        }
        const struct fb_stream_stats *stats = fb_ring_stats(ring);
        uint64_t first = model->weights->weights[0].file_bytes;
        assert_int_equal(stats->demand_bytes, 2 * first);
        assert_int_equal(stats->prefetch_used_bytes, n_passes * pass_bytes() - 2 * first);
        assert_in_range(stats->prefetch_bytes - stats->prefetch_used_bytes, 1, bytes);
        int used = n_passes * N_WEIGHTS,
            read = used; /* reads of the file: no more than weights used */
        while (envelopes(0, read) < moved_bytes()) {
            read++;
        }
        if (model->file->fd_direct >= 0) {
            assert_int_equal(moved_bytes(), envelopes(0, read));
        }
        assert_true(envelopes(used, read) <= bytes);
    }
}

static void test_prefetching_continues_across_the_end_of_a_pass(void **state)
{
    (void)state;
    open_ring("sync", 8 * FB_MIB);
    use_all(order, N_WEIGHTS);
    use_all(order, N_WEIGHTS);
    uint64_t demand = fb_ring_stats(ring)->demand_bytes;
    use_all(order, N_WEIGHTS);
    use_all(order, N_WEIGHTS);
    assert_int_equal(fb_ring_stats(ring)->demand_bytes, demand);
}

static void test_the_first_pass_reads_nothing_needlessly(void **state)
{
    (void)state;
    open_ring("sync", 8 * FB_MIB);
    use_all(order, N_WEIGHTS);
    const struct fb_stream_stats *stats = fb_ring_stats(ring);
    assert_int_equal(stats->demand_bytes + stats->prefetch_bytes, pass_bytes());
    assert_int_equal(stats->prefetch_used_bytes, stats->prefetch_bytes);
}

/* --- Other orders ----------------------------------------------------------------------------- */

static void test_a_pass_may_stop_anywhere(void **state)
{
    (void)state;
    for (size_t m = 0; m < N_METHODS; m++) {
        open_ring(methods[m], 3 * smallest_ring());
        for (int n = 1; n < N_WEIGHTS; n++) {
            fb_ring_schedule(ring, order, N_WEIGHTS);
            for (int i = 0; i < n; i++) {
                assert_int_equal(use(i, NULL), FOREBAY_OK);
            }
        }
        use_all(order, N_WEIGHTS);
    }
}

static void test_any_weight_may_be_next(void **state)
{
    (void)state;
    for (size_t m = 0; m < N_METHODS; m++) {
        open_ring(methods[m], 2 * smallest_ring());
        fb_ring_schedule(ring, order, N_WEIGHTS);
        for (int i = 0; i < 150; i++) {
            assert_int_equal(use((int)rnd_below(N_WEIGHTS), NULL), FOREBAY_OK);
        }
        const struct fb_stream_stats *stats = fb_ring_stats(ring);
        assert_true(stats->prefetch_used_bytes < stats->prefetch_bytes);
    }
}

/* A skipped weight was read needlessly; those after it are still used. */
static void test_skipping_keeps_later_prefetches(void **state)
{
    (void)state;
    open_ring("sync", 8 * FB_MIB);
    fb_ring_schedule(ring, order, N_WEIGHTS);
    for (int i = 0; i < N_WEIGHTS; i += 2) {
        assert_int_equal(use(i, NULL), FOREBAY_OK);
    }
    assert_int_equal(fb_ring_stats(ring)->demand_bytes, model->weights->weights[0].file_bytes);
}

static void test_a_new_order_is_learned(void **state)
{
    (void)state;
    int backwards[N_WEIGHTS];
    for (int i = 0; i < N_WEIGHTS; i++) {
        backwards[i] = N_WEIGHTS - 1 - i;
    }
    open_ring("sync", 8 * FB_MIB);
    use_all(order, N_WEIGHTS);
    use_all(order, N_WEIGHTS);
    use_all(backwards, N_WEIGHTS);
    use_all(backwards, N_WEIGHTS);
    uint64_t demand = fb_ring_stats(ring)->demand_bytes;
    use_all(backwards, N_WEIGHTS);
    assert_int_equal(fb_ring_stats(ring)->demand_bytes, demand);
}

/* --- Failures --------------------------------------------------------------------------------- */

/* Counts failures in passes over all weights; weights that do not fail are right (use). */
static int failures_in(int n_passes)
{
    int failures = 0;
    for (int pass = 0; pass < n_passes; pass++) {
        fb_ring_schedule(ring, order, N_WEIGHTS);
        for (int i = 0; i < N_WEIGHTS; i++) {
            struct forebay_error err = {0};
            if (use(i, &err)) {
                assert_int_equal(err.status, FOREBAY_E_IO);
                assert_non_null(strstr(err.message, model->path));
                failures++;
            }
        }
    }
    return failures;
}

/* Whichever read fails, prefetch or demand, one acquire reports it and all others are right. */
static void test_one_failed_read_fails_one_acquire(void **state)
{
    (void)state;
    static const char *const inners[] = {"sync", "threads"};
    for (int nth = 1; nth <= 2 * N_WEIGHTS; nth += 3) {
        char spec[64];
        snprintf(spec, sizeof spec, "fault:%s,eio_at=%d", inners[nth % 2], nth);
        open_ring(spec, 3 * smallest_ring());
        assert_int_equal(failures_in(3), 1);
        use_all(order, N_WEIGHTS);
    }
}

static void test_a_failing_disk_never_hangs_the_ring(void **state)
{
    (void)state;
    static const char *const specs[] = {"fault:sync,eio_every=3", "fault:threads,eio_every=5",
        "fault:threads,eio_every=2,reorder=3,short=3"};
    for (size_t s = 0; s < sizeof specs / sizeof *specs; s++) {
        open_ring(specs[s], 3 * smallest_ring());
        assert_in_range(failures_in(4), 4, 4 * N_WEIGHTS);
    }
    open_ring("fault:threads,eio_every=1", 3 * smallest_ring());
    assert_int_equal(failures_in(2), 2 * N_WEIGHTS);
}

/* The file is shorter than the catalogue says. */
static void test_a_weight_beyond_the_end_of_the_file_fails(void **state)
{
    (void)state;
    struct fb_weight *last = &model->weights->weights[N_WEIGHTS - 1];
    struct fb_weight saved = *last;
    last->offset = FILE_BYTES - last->file_bytes + 1;
    open_ring("sync", 8 * FB_MIB);
    struct forebay_error err = {0};
    for (int pass = 0; pass < 2; pass++) {
        fb_ring_schedule(ring, order, N_WEIGHTS);
        for (int i = 0; i < N_WEIGHTS - 1; i++) {
            assert_int_equal(use(i, NULL), FOREBAY_OK);
        }
        assert_int_equal(use(N_WEIGHTS - 1, &err), FOREBAY_E_FORMAT);
        assert_non_null(strstr(err.message, model->path));
    }
    *last = saved;
    use_all(order, N_WEIGHTS);
}

/* No read writes to memory that was freed. */
static void test_freeing_waits_for_reads_in_flight(void **state)
{
    (void)state;
    for (int taken = 0; taken < 2; taken++) {
        const void *raw;
        open_ring("fault:threads,late_ms=2", 8 * FB_MIB);
        fb_ring_schedule(ring, order, N_WEIGHTS);
        assert_int_equal(fb_ring_acquire(ring, 0, &raw, NULL), FOREBAY_OK);
        if (!taken) {
            fb_ring_release(ring);
        }
        fb_ring_free(ring);
        ring = NULL;
        uint64_t moved = moved_bytes();
        fb_io_wait_any(io);
        assert_int_equal(moved_bytes(), moved);
    }
    fb_ring_free(NULL);
}

#define TEST(name) cmocka_unit_test_teardown(name, close_after)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_every_pass_has_the_bytes_of_the_file),
        TEST(test_the_ring_wraps_anywhere),
        TEST(test_a_weight_in_use_stays_while_the_ring_prefetches),
        TEST(test_a_corrupted_read_would_be_noticed),
        TEST(test_many_tiny_weights),
        TEST(test_each_byte_is_read_once_per_pass),
        TEST(test_prefetching_continues_across_the_end_of_a_pass),
        TEST(test_the_first_pass_reads_nothing_needlessly),
        TEST(test_a_pass_may_stop_anywhere),
        TEST(test_any_weight_may_be_next),
        TEST(test_skipping_keeps_later_prefetches),
        TEST(test_a_new_order_is_learned),
        TEST(test_one_failed_read_fails_one_acquire),
        TEST(test_a_failing_disk_never_hangs_the_ring),
        TEST(test_a_weight_beyond_the_end_of_the_file_fails),
        TEST(test_freeing_waits_for_reads_in_flight),
    };
    return cmocka_run_group_tests_name("ring", tests, set_up, tear_down);
}
