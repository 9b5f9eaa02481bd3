/*
 * test_io_engine.c - the I/O engine alone, on a method that finishes reads when the test tells it
 * to: order, priorities, retries, states.
 */
#include "io_fixture.h"

#include "io/method.h"

#include <errno.h>

#define SCRIPT_DEPTH 8u

/* Reads started, in order; the test finishes them by hand. */
static struct script {
    struct fb_io_queue base;
    struct fb_io_read *started[64]; /* NULL when finished */
    uint64_t offset[64];            /* of every read ever started */
    uint32_t length[64];
    bool direct[64];
    int n, n_lent, n_flushed;
    bool last_first; /* a wait with nothing finished finishes the read started last */
    struct fb_io_read *done;
} script;

static void script_free(struct fb_io_queue *queue)
{
    (void)queue;
    assert_int_equal(script.n_lent, 0);
}

static void script_start(struct fb_io_queue *queue, struct fb_io_read *read)
{
    assert_ptr_equal(queue, &script.base);
    assert_in_range(script.n, 0, 63);
    script.started[script.n] = read;
    script.offset[script.n] = read->offset;
    script.length[script.n] = read->length;
    script.direct[script.n] = read->direct;
    script.n++;
    script.n_lent++;
    assert_in_range(script.n_lent, 1, queue->depth);
}

static void script_flush(struct fb_io_queue *queue)
{
    (void)queue;
    script.n_flushed = script.n;
}

/* Finishes the i-th read ever started. */
static void finish(int i, int64_t result)
{
    struct fb_io_read *read = script.started[i];
    assert_non_null(read);
    script.started[i] = NULL;
    read->result = result;
    read->next = script.done;
    script.done = read;
}

static struct fb_io_read *script_reap(struct fb_io_queue *queue, bool wait)
{
    (void)queue;
    assert_true(script.n_lent > 0);
    assert_int_equal(script.n_flushed, script.n); /* no started read is unflushed */
    if (wait && !script.done && script.last_first) {
        finish(script.n - 1, script.length[script.n - 1]);
    }
    struct fb_io_read *list = script.done;
    script.done = NULL;
    assert_true(list || !wait); /* the test would hang */
    for (struct fb_io_read *r = list; r; r = r->next) {
        script.n_lent--;
    }
    return list;
}

static const struct fb_io_method script_method = {.name = "script",
    .free = script_free,
    .start = script_start,
    .flush = script_flush,
    .reap = script_reap};

static struct rig script_rig;

/* An engine on the script, with a plain file that pretends to have a direct descriptor. */
static struct fb_io_engine *script_engine(uint32_t depth, uint32_t chunk_bytes)
{
    struct fb_io_options options;
    fb_io_options_init(&options);
    options.chunk_bytes = chunk_bytes;
    script = (struct script){.base = {&script_method, depth, "script"}};
    script_rig.file->direct_refused = false;
    n_warnings = 0;
    return fb_io_engine_new(&options, &script.base);
}

static int script_set_up(void **state)
{
    (void)state;
    script_rig = (struct rig){.memory_bytes = 8 * FB_MIB};
    script_rig.file = make_file(disk_dir(), false, script_rig.path, sizeof script_rig.path);
    script_rig.file->fd_direct = dup(script_rig.file->fd);
    script_rig.memory = fb_vm_reserve(script_rig.memory_bytes, false);
    return 0;
}

static int script_tear_down(void **state)
{
    (void)state;
    fb_vm_release(script_rig.memory, script_rig.memory_bytes);
    unlink(script_rig.path);
    fb_file_close(script_rig.file);
    return 0;
}

static struct fb_io_request script_request(
    uint64_t offset, uint64_t length, enum fb_io_priority priority)
{
    return (struct fb_io_request){.file = script_rig.file,
        .offset = offset,
        .length = length,
        .buffer = script_rig.memory,
        .priority = priority};
}

static void check_started(int i, uint64_t offset, uint64_t length, bool direct)
{
    assert_true(i < script.n);
    assert_int_equal(script.offset[i], offset);
    assert_int_equal(script.length[i], length);
    assert_int_equal(script.direct[i], direct);
}

/* 4 KiB chunks; prefetch at file offset 0, demand at 1 MiB: the offset identifies the request. */
static void test_demand_overtakes(void **state)
{
    (void)state;
    struct fb_io_engine *io = script_engine(4, 4096);
    struct fb_io_request p = script_request(0, 8 * 4096, FB_IO_PREFETCH);
    struct fb_io_request d = script_request(FB_MIB, 3 * 4096, FB_IO_DEMAND);
    fb_io_submit(io, &p);
    assert_int_equal(script.n, 2); /* half the depth stays free for demand */
    assert_int_equal(p.state, FB_IO_ACTIVE);
    fb_io_submit(io, &d);
    check_started(2, FB_MIB, 4096, true);
    check_started(3, FB_MIB + 4096, 4096, true);
    assert_int_equal(script.n, 4);
    finish(0, 4096); /* a prefetch is back: demand gets its place */
    assert_int_equal(fb_io_poll(io), 0);
    check_started(4, FB_MIB + 8192, 4096, true);
    finish(2, 4096);
    fb_io_poll(io);
    check_started(5, 8192, 4096, true); /* all demand is in flight: prefetch continues */
    finish(3, 4096);
    finish(4, 4096);
    assert_int_equal(fb_io_poll(io), 1);
    assert_int_equal(d.state, FB_IO_DONE);
    assert_int_equal(p.state, FB_IO_ACTIVE);
    for (int i = 1; i < script.n; i++) {
        if (script.started[i]) {
            finish(i, 4096);
            fb_io_poll(io);
        }
    }
    assert_int_equal(p.state, FB_IO_DONE);
    assert_int_equal(script.n, 11);
    fb_io_free(io);
}

static void test_demand_in_order(void **state)
{
    (void)state;
    struct fb_io_engine *io = script_engine(2, 4096);
    struct fb_io_request r[4];
    for (int i = 0; i < 4; i++) {
        r[i] = script_request(FB_MIB * (3 - (unsigned)i) / 2, 2 * 4096, FB_IO_DEMAND);
        fb_io_submit(io, &r[i]);
    }
    for (int i = 0; i < 8; i++) {
        check_started(
            i, FB_MIB * (3 - (unsigned)i / 2) / 2 + 4096u * ((unsigned)i % 2), 4096, true);
        finish(i, 4096);
        assert_int_equal(fb_io_poll(io), i % 2);
    }
    fb_io_free(io);
}

static void test_promote(void **state)
{
    (void)state;
    struct fb_io_engine *io = script_engine(4, 4096);
    struct fb_io_request a = script_request(0, 8 * 4096, FB_IO_PREFETCH);
    struct fb_io_request b = script_request(FB_MIB, 8 * 4096, FB_IO_PREFETCH);
    struct fb_io_request c = script_request(2 * FB_MIB, 4096, FB_IO_PREFETCH);
    fb_io_submit(io, &a);
    fb_io_submit(io, &b);
    fb_io_submit(io, &c);
    assert_int_equal(script.n, 2);
    fb_io_promote(io, &c); /* queued: overtakes both, and the prefetch limit no longer applies */
    assert_int_equal(c.priority, FB_IO_DEMAND);
    check_started(2, 2 * FB_MIB, 4096, true);
    fb_io_promote(io, &a); /* active: only its remaining chunks */
    check_started(3, 8192, 4096, true);
    finish(0, 4096);
    fb_io_poll(io);
    check_started(4, 3 * 4096, 4096, true);
    assert_int_equal(b.state, FB_IO_QUEUED);
    fb_io_promote(io, &c); /* all in flight, and already demand: no effect */
    finish(2, 4096);
    assert_int_equal(fb_io_poll(io), 1);
    fb_io_promote(io, &c);
    assert_int_equal(c.state, FB_IO_DONE);
    assert_true(fb_io_cancel(io, &b));
    while (a.state != FB_IO_DONE) {
        for (int i = 0; i < script.n; i++) {
            if (script.started[i]) {
                finish(i, 4096);
            }
        }
        fb_io_poll(io);
    }
    fb_io_free(io);
}

/* Waiting for a prefetch promotes it; otherwise it would stay behind all other prefetches. */
static void test_wait_promotes(void **state)
{
    (void)state;
    struct fb_io_engine *io = script_engine(4, 4096);
    struct fb_io_request a = script_request(0, 2 * 4096, FB_IO_PREFETCH);
    struct fb_io_request b = script_request(FB_MIB, 4096, FB_IO_PREFETCH);
    fb_io_submit(io, &a);
    fb_io_submit(io, &b);
    assert_int_equal(script.n, 2);
    script.last_first = true;
    assert_int_equal(fb_io_wait(io, &b, NULL), FOREBAY_OK);
    assert_int_equal(a.in_flight, 2);
    finish(0, 4096);
    finish(1, 4096);
    assert_int_equal(fb_io_wait(io, &a, NULL), FOREBAY_OK);
    fb_io_free(io);
}

static void test_buffered_reads_only_what_is_wanted(void **state)
{
    (void)state;
    struct fb_io_engine *io = script_engine(4, 4096);
    script_rig.file->direct_refused = true;
    struct fb_io_request r = script_request(5000, 5000, FB_IO_DEMAND); /* 5000 .. 10000 */
    fb_io_submit(io, &r);
    check_started(0, 5000, 3192, false);
    check_started(1, 8192, 1808, false);
    assert_int_equal(script.n, 2);
    finish(1, 1808);
    finish(0, 192); /* short: continues where it stopped */
    fb_io_poll(io);
    check_started(2, 5192, 3000, false);
    finish(2, 3000);
    assert_int_equal(fb_io_poll(io), 1);
    fb_io_free(io);
}

static void test_direct_short_reads(void **state)
{
    (void)state;
    struct fb_io_engine *io = script_engine(4, 16384);
    struct fb_io_request r = script_request(100, 16000, FB_IO_DEMAND); /* 100 .. 16100 */
    struct fb_io_counters c;
    fb_io_submit(io, &r);
    check_started(0, 0, 16384, true);
    finish(0, 5000);
    fb_io_poll(io);
    check_started(1, 4096, 12288, true); /* from the aligned point below */
    finish(1, 8192);
    fb_io_poll(io);
    check_started(2, 12288, 4096, true);
    finish(2, 100); /* less than a block: the rest is read through the page cache */
    fb_io_poll(io);
    check_started(3, 12388, 3712, false);
    finish(3, 3712);
    assert_int_equal(fb_io_poll(io), 1);
    assert_int_equal(r.state, FB_IO_DONE);
    fb_io_counters(io, &c);
    assert_int_equal(c.retries, 3);
    assert_int_equal(c.chunks, 1);
    assert_int_equal(c.read_bytes, 5000 + 8192 + 100 + 3712);

    /* A short read that ends after the wanted bytes is complete. */
    r = script_request(100, 16000, FB_IO_DEMAND);
    fb_io_submit(io, &r);
    finish(4, 16100);
    assert_int_equal(fb_io_poll(io), 1);
    assert_int_equal(r.state, FB_IO_DONE);

    /* The end of the file, in a direct read that returned some bytes and in one that returned
     * none. */
    static const int64_t came[] = {3 * 4096 + 5, 0};
    for (int k = 0; k < 2; k++) {
        r = script_request(100, 16000, FB_IO_DEMAND);
        fb_io_submit(io, &r);
        finish(script.n - 1, came[k]);
        if (came[k]) {
            fb_io_poll(io);
            check_started(script.n - 1, 12288, 4096, true);
            finish(script.n - 1, 5);
            fb_io_poll(io);
            check_started(script.n - 1, 12293, 3807, false);
            finish(script.n - 1, 0);
        }
        assert_int_equal(fb_io_poll(io), 1);
        assert_int_equal(r.state, FB_IO_FAILED);
        assert_int_equal(r.error.status, FOREBAY_E_FORMAT);
    }
    fb_io_free(io);
}

/* A failed request keeps its memory until its last chunk is back (IO1), and issues no more. */
static void test_error_waits_for_the_rest(void **state)
{
    (void)state;
    struct fb_io_engine *io = script_engine(2, 4096);
    struct forebay_error err;
    struct fb_io_request r = script_request(8192, 8 * 4096, FB_IO_DEMAND);
    struct fb_io_request other = script_request(FB_MIB, 4096, FB_IO_DEMAND);
    fb_io_submit(io, &r);
    fb_io_submit(io, &other);
    finish(1, -EIO);
    assert_int_equal(fb_io_poll(io), 0);
    assert_int_equal(r.state, FB_IO_ACTIVE);
    assert_false(fb_io_cancel(io, &r));
    check_started(2, FB_MIB, 4096, true); /* the other request is next */
    finish(2, 4096);
    assert_int_equal(fb_io_poll(io), 1);
    assert_int_equal(script.n, 3);
    finish(0, -EINTR); /* not retried: the request has failed */
    assert_int_equal(fb_io_poll(io), 1);
    assert_int_equal(r.state, FB_IO_FAILED);
    assert_int_equal(fb_io_wait(io, &r, &err), FOREBAY_E_IO);
    assert_non_null(strstr(err.message, script_rig.path));
    assert_non_null(strstr(err.message, "12288")); /* the offset of the chunk */
    assert_int_equal(script.n, 3);
    fb_io_submit(io, &r); /* and can be reused */
    for (int i = 3; i < script.n; i++) {
        finish(i, 4096);
        fb_io_poll(io);
    }
    assert_int_equal(r.state, FB_IO_DONE);
    fb_io_free(io);
}

static void test_einval_falls_back(void **state)
{
    (void)state;
    struct fb_io_engine *io = script_engine(4, 4096);
    struct fb_io_request r = script_request(100, 3 * 4096, FB_IO_DEMAND); /* 4 chunks */
    fb_io_submit(io, &r);
    assert_int_equal(script.n, 4);
    for (int i = 0; i < 4; i++) {
        assert_true(script.direct[i]);
        finish(i, -EINVAL);
    }
    fb_io_poll(io);
    assert_int_equal(n_warnings, 1);
    assert_non_null(strstr(last_warning, script_rig.path));
    assert_true(script_rig.file->direct_refused);
    assert_int_equal(script.n, 8);
    bool seen[4] = {false};
    for (int i = 4; i < 8; i++) {
        assert_false(script.direct[i]);
        seen[script.offset[i] / 4096] = true;
        assert_int_equal(script.length[i], script.offset[i] == 100     ? 3996
                                           : script.offset[i] == 12288 ? 100
                                                                       : 4096);
        finish(i, script.length[i]);
    }
    assert_true(seen[0] && seen[1] && seen[2] && seen[3]);
    assert_int_equal(fb_io_poll(io), 1);
    assert_int_equal(r.state, FB_IO_DONE);
    /* Later requests use the page cache at once; there EINVAL is an error. */
    r = script_request(0, 4096, FB_IO_DEMAND);
    fb_io_submit(io, &r);
    check_started(8, 0, 4096, false);
    finish(8, -EINVAL);
    assert_int_equal(fb_io_poll(io), 1);
    assert_int_equal(r.error.status, FOREBAY_E_IO);
    assert_int_equal(n_warnings, 1);
    fb_io_free(io);
}

/* The effect of free on requests of each state. */
static void test_free_states(void **state)
{
    (void)state;
    struct fb_io_engine *io = script_engine(2, 4096);
    struct fb_io_request half = script_request(0, 8 * 4096, FB_IO_DEMAND);
    struct fb_io_request queued = script_request(0, 4096, FB_IO_DEMAND);
    struct fb_io_request guess = script_request(0, 4096, FB_IO_PREFETCH);
    fb_io_submit(io, &half);
    fb_io_submit(io, &queued);
    fb_io_submit(io, &guess);
    finish(0, 4096);
    finish(1, 100); /* would be retried without the free */
    fb_io_free(io);
    assert_int_equal(half.state, FB_IO_FAILED);
    assert_int_equal(half.error.status, FOREBAY_E_CANCELLED);
    assert_int_equal(queued.state, FB_IO_IDLE);
    assert_int_equal(guess.state, FB_IO_IDLE);
    assert_int_equal(script.n, 2);
}

static void test_busy_time(void **state)
{
    (void)state;
    struct fb_io_engine *io = script_engine(2, 4096);
    struct fb_io_request r = script_request(0, 4096, FB_IO_DEMAND);
    struct fb_io_counters c;
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    fb_io_counters(io, &c);
    assert_int_equal(c.busy_ns, 0);
    fb_io_submit(io, &r);
    nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
    fb_io_counters(io, &c);
    assert_true(c.busy_ns >= 3000000);
    finish(0, 4096);
    fb_io_poll(io);
    fb_io_counters(io, &c);
    uint64_t busy = c.busy_ns;
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    fb_io_counters(io, &c);
    assert_int_equal(c.busy_ns, busy);
    fb_io_free(io);
}

#define SCRIPT_TEST(f) cmocka_unit_test_setup_teardown(f, script_set_up, script_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCRIPT_TEST(test_demand_overtakes),
        SCRIPT_TEST(test_demand_in_order),
        SCRIPT_TEST(test_promote),
        SCRIPT_TEST(test_wait_promotes),
        SCRIPT_TEST(test_buffered_reads_only_what_is_wanted),
        SCRIPT_TEST(test_direct_short_reads),
        SCRIPT_TEST(test_error_waits_for_the_rest),
        SCRIPT_TEST(test_einval_falls_back),
        SCRIPT_TEST(test_free_states),
        SCRIPT_TEST(test_busy_time),
    };
    return cmocka_run_group_tests_name("io engine", tests, make_contents, free_contents);
}
