/*
 * test_io.c - the I/O engine with its methods: the same tests over every method, with and without
 * injected faults, and every kind of file: direct, through the page cache, on tmpfs.
 */
#include "io_fixture.h"

#include <errno.h>

static int set_up(void **state)
{
    const struct variant *v = *state;
    const char *dir = v->place == SHM ? "/dev/shm" : disk_dir();
    struct rig *rig = calloc(1, sizeof *rig);
    *state = rig;
    rig->variant = v;
    random_state = 42;
    if (access(dir, W_OK)) {
        return 0; /* no tmpfs here: the tests skip */
    }
    rig->file = make_file(dir, true, rig->path, sizeof rig->path);
    rig->memory_bytes = 24 * FB_MIB;
    rig->memory = fb_vm_reserve(rig->memory_bytes, false);
    assert_non_null(rig->memory);
    open_engine(rig, 0);
    return 0;
}

static int tear_down(void **state)
{
    struct rig *rig = *state;
    fb_io_free(rig->io);
    if (rig->file) {
        fb_vm_release(rig->memory, rig->memory_bytes);
        unlink(rig->path);
        fb_file_close(rig->file);
    }
    free(rig);
    return 0;
}

static struct rig *rig_of(void **state)
{
    struct rig *rig = *state;
    if (!rig->file) {
        skip();
    }
    return rig;
}

static void test_random_ranges(void **state)
{
    struct rig *rig = rig_of(state);
    struct forebay_error err;
    for (int i = 0; i < 120; i++) {
        uint64_t most = i % 3 == 0 ? 5 * CHUNK_BYTES : i % 3 == 1 ? 9000 : 200;
        uint64_t length = 1 + rnd() % most;
        struct fb_io_request r;
        prepare(rig, &r, rnd() % 2 ? 0 : 20 * FB_MIB, rnd() % (FILE_BYTES - length + 1), length);
        r.priority = rnd() % 2 ? FB_IO_DEMAND : FB_IO_PREFETCH;
        fb_io_submit(rig->io, &r);
        assert_int_equal(fb_io_wait(rig->io, &r, &err), FOREBAY_OK);
        check_done(&r);
    }
}

static void test_edges(void **state)
{
    struct rig *rig = rig_of(state);
    const uint64_t c = CHUNK_BYTES, f = FILE_BYTES;
    const uint64_t ranges[][2] = {{0, 1}, {0, 4096}, {1, 4095}, {1, 4096}, {4095, 1}, {4095, 2},
        {4096, 1}, {0, c}, {0, c + 1}, {1, c}, {c - 1, 2}, {c, c}, {4095, c + 2}, {f - 1, 1},
        {f - 4097, 4097}, {f - c, c}, {f / 4096 * 4096, f % 4096}, {f / 4096 * 4096 - 1, 2}, {0, f},
        {1, f - 1}, {5000, f - 5000}};
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        struct fb_io_request r;
        prepare(rig, &r, 0, ranges[i][0], ranges[i][1]);
        fb_io_submit(rig->io, &r);
        assert_int_equal(fb_io_wait(rig->io, &r, NULL), FOREBAY_OK);
        check_done(&r);
    }
}

#define MANY 48

/* Many requests at once, of both priorities, collected by poll and wait_any; each is reused at
 * once. */
static void test_many_at_once(void **state)
{
    struct rig *rig = rig_of(state);
    static struct fb_io_request r[MANY];
    enum { N = 200 };
    uint64_t room = fb_round_down(rig->memory_bytes / MANY, FB_BLOCK_BYTES);
    int submitted = 0, finished = 0, counted = 0;
    memset(r, 0, sizeof r);
    while (finished < N) {
        for (int i = 0; i < MANY; i++) {
            if (r[i].state == FB_IO_DONE || r[i].state == FB_IO_FAILED) {
                check_done(&r[i]);
                finished++;
                r[i].state = FB_IO_IDLE;
            }
            if (r[i].state == FB_IO_IDLE && submitted < N) {
                uint64_t length = 1 + rnd() % (room - 3 * 4096);
                prepare(rig, &r[i], room * (uint64_t)i, rnd() % (FILE_BYTES - length + 1), length);
                r[i].priority = rnd() % 3 ? FB_IO_PREFETCH : FB_IO_DEMAND;
                fb_io_submit(rig->io, &r[i]);
                submitted++;
            }
        }
        int i = (int)(rnd() % MANY);
        if (rnd() % 4 == 0 && (r[i].state == FB_IO_QUEUED || r[i].state == FB_IO_ACTIVE)) {
            fb_io_promote(rig->io, &r[i]);
        }
        counted += fb_io_poll(rig->io);
        if (rnd() % 2) {
            fb_io_wait_any(rig->io);
        }
    }
    assert_int_equal(finished, N);
    assert_in_range(counted, 0, N);
    assert_int_equal(fb_io_poll(rig->io), 0);
    fb_io_wait_any(rig->io); /* nothing is in flight: returns at once */
    struct fb_io_counters c;
    fb_io_counters(rig->io, &c);
    assert_int_equal(c.requests, N);
    assert_true(c.chunks > N && c.read_bytes > 0 && c.busy_ns > 0);
    if (!strchr(rig->variant->method, ',')) {
        assert_int_equal(c.retries, 0);
    }
}

static void test_thousands_of_small_ones(void **state)
{
    struct rig *rig = rig_of(state);
    enum { N = 1200 };
    static struct fb_io_request r[N];
    for (int i = 0; i < N; i++) {
        uint64_t length = 1 + rnd() % 3000;
        prepare(rig, &r[i], 16384u * (uint64_t)i, rnd() % (FILE_BYTES - length + 1), length);
        r[i].priority = i % 2 ? FB_IO_DEMAND : FB_IO_PREFETCH;
        fb_io_submit(rig->io, &r[i]);
    }
    for (int i = N - 1; i >= 0; i--) {
        assert_int_equal(fb_io_wait(rig->io, &r[i], NULL), FOREBAY_OK);
    }
    for (int i = 0; i < N; i++) {
        check_done(&r[i]);
    }
}

static void check_past_end(struct rig *rig, uint64_t offset, uint64_t length)
{
    struct forebay_error err = {0};
    struct fb_io_request r = {
        .file = rig->file, .offset = offset, .length = length, .buffer = rig->memory};
    fb_io_submit(rig->io, &r);
    assert_int_equal(r.state, FB_IO_FAILED);
    assert_int_equal(fb_io_wait(rig->io, &r, &err), FOREBAY_E_FORMAT);
    assert_non_null(strstr(err.message, rig->path));
    assert_non_null(strstr(err.message, "truncated"));
    assert_true(err.hint[0]);
}

static void test_past_the_end(void **state)
{
    struct rig *rig = rig_of(state);
    check_past_end(rig, FILE_BYTES, 1);
    check_past_end(rig, FILE_BYTES - 1, 2);
    check_past_end(rig, 0, FILE_BYTES + 1);
    check_past_end(rig, UINT64_MAX - 5000, 4000);
    check_past_end(rig, 4096, UINT64_MAX - 4000);
}

/* IO2, with a file that is truncated after it was opened. */
static void test_truncated_while_open(void **state)
{
    struct rig *rig = rig_of(state);
    static const uint64_t ends[] = {FB_MIB + 5000, FB_MIB, 4096 * 3, 100, 0};
    for (size_t k = 0; k < sizeof ends / sizeof *ends; k++) {
        assert_int_equal(truncate(rig->path, (off_t)ends[k]), 0);
        struct fb_io_request in, over, out;
        struct forebay_error err = {0};
        prepare(rig, &in, 0, 0, ends[k] ? ends[k] : 1);
        prepare(rig, &over, 8 * FB_MIB, ends[k] / 2, ends[k] / 2 + 2);
        prepare(rig, &out, 16 * FB_MIB, 2 * FB_MIB, 100000);
        fb_io_submit(rig->io, &over);
        fb_io_submit(rig->io, &out);
        fb_io_submit(rig->io, &in);
        assert_int_equal(fb_io_wait(rig->io, &out, &err), FOREBAY_E_FORMAT);
        assert_non_null(strstr(err.message, rig->path));
        assert_int_equal(fb_io_wait(rig->io, &over, &err), FOREBAY_E_FORMAT);
        assert_int_equal(over.state, FB_IO_FAILED);
        if (ends[k]) {
            assert_int_equal(fb_io_wait(rig->io, &in, &err), FOREBAY_OK);
            check_done(&in);
        } else {
            assert_int_equal(fb_io_wait(rig->io, &in, &err), FOREBAY_E_FORMAT);
        }
    }
}

static void test_cancel(void **state)
{
    struct rig *rig = rig_of(state);
    static struct fb_io_request r[40];
    fb_io_free(rig->io);
    open_engine(rig, 2);
    for (int i = 0; i < 40; i++) {
        prepare(
            rig, &r[i], 200000u * (unsigned)i / 4096 * 4096, 70000u * (unsigned)i % FB_MIB, 150000);
        r[i].priority = i % 2 ? FB_IO_DEMAND : FB_IO_PREFETCH;
        fb_io_submit(rig->io, &r[i]);
    }
    for (int i = 39; i >= 0; i -= 3) {
        bool was_queued = r[i].state == FB_IO_QUEUED;
        assert_int_equal(fb_io_cancel(rig->io, &r[i]), was_queued);
        if (was_queued) {
            assert_int_equal(r[i].state, FB_IO_IDLE);
            assert_false(fb_io_cancel(rig->io, &r[i]));
            memset(r[i].buffer, 0x22, 150000); /* ours again */
        }
    }
    for (int i = 0; i < 40; i++) {
        if (r[i].state == FB_IO_IDLE) {
            continue;
        }
        assert_int_equal(fb_io_wait(rig->io, &r[i], NULL), FOREBAY_OK);
        check_done(&r[i]);
        assert_false(fb_io_cancel(rig->io, &r[i]));
    }
    for (int i = 0; i < 40; i++) {
        if (r[i].state == FB_IO_IDLE) {
            for (unsigned k = 0; k < 150000; k++) {
                assert_int_equal(((unsigned char *)r[i].buffer)[k], 0x22);
            }
            fb_io_submit(rig->io, &r[i]); /* and may be reused */
            assert_int_equal(fb_io_wait(rig->io, &r[i], NULL), FOREBAY_OK);
            check_bytes(&r[i]);
        }
    }
}

/* IO1, IO4: after free no buffer is touched, and every request is in a final state. */
static void test_free_with_requests_in_flight(void **state)
{
    struct rig *rig = rig_of(state);
    static struct fb_io_request r[30];
    for (uint32_t depth = 0; depth < 4; depth += 3) {
        fb_io_free(rig->io);
        open_engine(rig, depth);
        for (int i = 0; i < 30; i++) {
            prepare(rig, &r[i], 300000u * (unsigned)i / 4096 * 4096, 50000u * (unsigned)i, 250000);
            r[i].priority = i % 2 ? FB_IO_DEMAND : FB_IO_PREFETCH;
            fb_io_submit(rig->io, &r[i]);
        }
        fb_io_free(rig->io);
        rig->io = NULL;
        int n[5] = {0};
        for (int i = 0; i < 30; i++) {
            n[r[i].state]++;
            if (r[i].state == FB_IO_DONE) {
                check_done(&r[i]);
            } else if (r[i].state == FB_IO_FAILED) {
                assert_int_equal(r[i].error.status, FOREBAY_E_CANCELLED);
            }
        }
        assert_int_equal(n[FB_IO_QUEUED] + n[FB_IO_ACTIVE], 0);
        if (depth) {
            assert_true(n[FB_IO_IDLE] > 0);
        }
        memset(rig->memory, 0x33, rig->memory_bytes);
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        for (uint64_t k = 0; k < rig->memory_bytes; k += 512) {
            assert_int_equal(rig->memory[k], 0x33);
        }
    }
}

/* Offsets beyond 32 bits, in a sparse file. */
static void test_large_offsets(void **state)
{
    struct rig *rig = rig_of(state);
    struct forebay_error err;
    char path[300];
    struct fb_file *file = NULL;
    const uint64_t at = 5 * FB_GIB + 4321;
    snprintf(path, sizeof path, "%s.large", rig->path);
    assert_int_equal(fb_file_make_sparse(path, 6 * FB_GIB, &err), FOREBAY_OK);
    int fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, contents, 100000, (off_t)at), 100000);
    close(fd);
    assert_int_equal(fb_file_open(path, true, &file, &err), FOREBAY_OK);
    struct fb_io_request r = {
        .file = file, .offset = at - 1000, .length = 101000, .buffer = rig->memory};
    fb_io_submit(rig->io, &r);
    assert_int_equal(fb_io_wait(rig->io, &r, &err), FOREBAY_OK);
    unsigned char *got = rig->memory + fb_io_delta(r.offset);
    assert_int_equal(got[999], 0);
    assert_memory_equal(got + 1000, contents, 100000);
    unlink(path);
    fb_file_close(file);
}

/* The system's error of a read is reported: here the memory cannot be written. */
static void test_error_of_the_system(void **state)
{
    struct rig *rig = rig_of(state);
    struct forebay_error err = {0};
    void *forbidden = fb_vm_reserve(CHUNK_BYTES, false);
    fb_vm_forbid(forbidden, CHUNK_BYTES);
    static struct fb_io_request bad, good;
    bad = (struct fb_io_request){
        .file = rig->file, .offset = 8192, .length = 5000, .buffer = forbidden};
    prepare(rig, &good, 0, 8192, 5000);
    fb_io_submit(rig->io, &bad);
    fb_io_submit(rig->io, &good);
    assert_int_equal(fb_io_wait(rig->io, &bad, &err), FOREBAY_E_IO);
    assert_non_null(strstr(err.message, strerror(EFAULT)));
    assert_non_null(strstr(err.message, "8192"));
    assert_int_equal(fb_io_wait(rig->io, &good, NULL), FOREBAY_OK);
    check_done(&good);
    fb_vm_release(forbidden, CHUNK_BYTES);
}

static const char *const methods[] = {
#ifdef FB_HAVE_LIBURING
    "uring",
    "fault:uring,reorder=3,short=4",
#endif
    "threads",
    "sync",
    "fault:threads,reorder=5,short=3,eintr=7,eagain=5",
};
#define N_METHODS (sizeof methods / sizeof *methods)

static const struct {
    const char *name;
    CMUnitTestFunction test;
    bool no_faults; /* not for the fault method, which writes to buffers itself */
} suite[] = {
    {"random ranges", test_random_ranges, false},
    {"edges", test_edges, false},
    {"many at once", test_many_at_once, false},
    {"thousands of small ones", test_thousands_of_small_ones, false},
    {"past the end", test_past_the_end, false},
    {"truncated while open", test_truncated_while_open, false},
    {"cancel", test_cancel, false},
    {"free with requests in flight", test_free_with_requests_in_flight, false},
    {"large offsets", test_large_offsets, false},
    {"error of the system", test_error_of_the_system, true},
};
#define N_SUITE (sizeof suite / sizeof *suite)

/* Every method with every kind of file, and direct reads into registered memory where the method
 * supports it. */
int main(void)
{
    static const char *const place_name[] = {"direct", "buffered", "tmpfs", "direct, arena"};
    static struct variant variants[N_METHODS * 4];
    static char names[N_METHODS * 4][N_SUITE][96];
    static struct CMUnitTest tests[N_METHODS * 4 * N_SUITE];
    size_t n = 0;
    for (size_t v = 0; v < N_METHODS * 4; v++) {
        const char *method = methods[v / 4];
        bool arena = v % 4 == 3;
        if (arena && !strstr(method, "uring")) {
            continue;
        }
        variants[v] = (struct variant){method, arena ? DIRECT : (enum place)(v % 4), arena};
        for (size_t t = 0; t < N_SUITE; t++) {
            if (suite[t].no_faults && strchr(method, ',')) {
                continue;
            }
            snprintf(names[v][t], sizeof names[v][t], "%s [%s, %s]", suite[t].name, method,
                place_name[v % 4]);
            tests[n++] =
                (struct CMUnitTest){names[v][t], suite[t].test, set_up, tear_down, &variants[v]};
        }
    }
    return _cmocka_run_group_tests("io", tests, n, make_contents, free_contents);
}
