/*
 * test_io.c - the read engine with its methods: the same tests over every method (also spoilt by
 * faults) and every kind of file: direct, through the page cache, on tmpfs.
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
    rig->memory_bytes = 24 * ST_MIB;
    rig->memory = st_vm_reserve(rig->memory_bytes, false);
    assert_non_null(rig->memory);
    open_engine(rig, 0);
    return 0;
}

static int tear_down(void **state)
{
    struct rig *rig = *state;
    st_io_free(rig->io);
    if (rig->file) {
        st_vm_release(rig->memory, rig->memory_bytes);
        unlink(rig->path);
        st_file_close(rig->file);
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
    struct strata_error err;
    for (int i = 0; i < 120; i++) {
        uint64_t most = i % 3 == 0 ? 5 * CHUNK_BYTES : i % 3 == 1 ? 9000 : 200;
        uint64_t length = 1 + rnd() % most;
        struct st_io_request r;
        prepare(rig, &r, rnd() % 2 ? 0 : 20 * ST_MIB, rnd() % (FILE_BYTES - length + 1), length);
        r.priority = rnd() % 2 ? ST_IO_DEMAND : ST_IO_PREFETCH;
        st_io_submit(rig->io, &r);
        assert_int_equal(st_io_wait(rig->io, &r, &err), STRATA_OK);
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
        struct st_io_request r;
        prepare(rig, &r, 0, ranges[i][0], ranges[i][1]);
        st_io_submit(rig->io, &r);
        assert_int_equal(st_io_wait(rig->io, &r, NULL), STRATA_OK);
        check_done(&r);
    }
}

#define MANY 48

/* Many requests at once, of both priorities, taken by poll and wait_any as they come; each is used
 * again at once. */
static void test_many_at_once(void **state)
{
    struct rig *rig = rig_of(state);
    static struct st_io_request r[MANY];
    enum { N = 200 };
    uint64_t room = st_round_down(rig->memory_bytes / MANY, ST_IO_ALIGN);
    int submitted = 0, finished = 0, counted = 0;
    memset(r, 0, sizeof r);
    while (finished < N) {
        for (int i = 0; i < MANY; i++) {
            if (r[i].state == ST_IO_DONE || r[i].state == ST_IO_FAILED) {
                check_done(&r[i]);
                finished++;
                r[i].state = ST_IO_IDLE;
            }
            if (r[i].state == ST_IO_IDLE && submitted < N) {
                uint64_t length = 1 + rnd() % (room - 3 * 4096);
                prepare(rig, &r[i], room * (uint64_t)i, rnd() % (FILE_BYTES - length + 1), length);
                r[i].priority = rnd() % 3 ? ST_IO_PREFETCH : ST_IO_DEMAND;
                st_io_submit(rig->io, &r[i]);
                submitted++;
            }
        }
        int i = (int)(rnd() % MANY);
        if (rnd() % 4 == 0 && (r[i].state == ST_IO_QUEUED || r[i].state == ST_IO_ACTIVE)) {
            st_io_promote(rig->io, &r[i]);
        }
        counted += st_io_poll(rig->io);
        if (rnd() % 2) {
            st_io_wait_any(rig->io);
        }
    }
    assert_int_equal(finished, N);
    assert_in_range(counted, 0, N);
    assert_int_equal(st_io_poll(rig->io), 0);
    st_io_wait_any(rig->io); /* nothing is on its way: returns at once */
    struct st_io_counters c;
    st_io_counters(rig->io, &c);
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
    static struct st_io_request r[N];
    for (int i = 0; i < N; i++) {
        uint64_t length = 1 + rnd() % 3000;
        prepare(rig, &r[i], 16384u * (uint64_t)i, rnd() % (FILE_BYTES - length + 1), length);
        r[i].priority = i % 2 ? ST_IO_DEMAND : ST_IO_PREFETCH;
        st_io_submit(rig->io, &r[i]);
    }
    for (int i = N - 1; i >= 0; i--) {
        assert_int_equal(st_io_wait(rig->io, &r[i], NULL), STRATA_OK);
    }
    for (int i = 0; i < N; i++) {
        check_done(&r[i]);
    }
}

static void check_past_end(struct rig *rig, uint64_t offset, uint64_t length)
{
    struct strata_error err = {0};
    struct st_io_request r = {
        .file = rig->file, .offset = offset, .length = length, .buffer = rig->memory};
    st_io_submit(rig->io, &r);
    assert_int_equal(r.state, ST_IO_FAILED);
    assert_int_equal(st_io_wait(rig->io, &r, &err), STRATA_E_FORMAT);
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

/* IO2, with a file that loses its end after it was opened. */
static void test_truncated_while_open(void **state)
{
    struct rig *rig = rig_of(state);
    static const uint64_t ends[] = {ST_MIB + 5000, ST_MIB, 4096 * 3, 100, 0};
    for (size_t k = 0; k < sizeof ends / sizeof *ends; k++) {
        assert_int_equal(truncate(rig->path, (off_t)ends[k]), 0);
        struct st_io_request in, over, out;
        struct strata_error err = {0};
        prepare(rig, &in, 0, 0, ends[k] ? ends[k] : 1);
        prepare(rig, &over, 8 * ST_MIB, ends[k] / 2, ends[k] / 2 + 2);
        prepare(rig, &out, 16 * ST_MIB, 2 * ST_MIB, 100000);
        st_io_submit(rig->io, &over);
        st_io_submit(rig->io, &out);
        st_io_submit(rig->io, &in);
        assert_int_equal(st_io_wait(rig->io, &out, &err), STRATA_E_FORMAT);
        assert_non_null(strstr(err.message, rig->path));
        assert_int_equal(st_io_wait(rig->io, &over, &err), STRATA_E_FORMAT);
        assert_int_equal(over.state, ST_IO_FAILED);
        if (ends[k]) {
            assert_int_equal(st_io_wait(rig->io, &in, &err), STRATA_OK);
            check_done(&in);
        } else {
            assert_int_equal(st_io_wait(rig->io, &in, &err), STRATA_E_FORMAT);
        }
    }
}

static void test_cancel(void **state)
{
    struct rig *rig = rig_of(state);
    static struct st_io_request r[40];
    st_io_free(rig->io);
    open_engine(rig, 2);
    for (int i = 0; i < 40; i++) {
        prepare(
            rig, &r[i], 200000u * (unsigned)i / 4096 * 4096, 70000u * (unsigned)i % ST_MIB, 150000);
        r[i].priority = i % 2 ? ST_IO_DEMAND : ST_IO_PREFETCH;
        st_io_submit(rig->io, &r[i]);
    }
    for (int i = 39; i >= 0; i -= 3) {
        bool was_queued = r[i].state == ST_IO_QUEUED;
        assert_int_equal(st_io_cancel(rig->io, &r[i]), was_queued);
        if (was_queued) {
            assert_int_equal(r[i].state, ST_IO_IDLE);
            assert_false(st_io_cancel(rig->io, &r[i]));
            memset(r[i].buffer, 0x22, 150000); /* ours again */
        }
    }
    for (int i = 0; i < 40; i++) {
        if (r[i].state == ST_IO_IDLE) {
            continue;
        }
        assert_int_equal(st_io_wait(rig->io, &r[i], NULL), STRATA_OK);
        check_done(&r[i]);
        assert_false(st_io_cancel(rig->io, &r[i]));
    }
    for (int i = 0; i < 40; i++) {
        if (r[i].state == ST_IO_IDLE) {
            for (unsigned k = 0; k < 150000; k++) {
                assert_int_equal(((unsigned char *)r[i].buffer)[k], 0x22);
            }
            st_io_submit(rig->io, &r[i]); /* and may be used again */
            assert_int_equal(st_io_wait(rig->io, &r[i], NULL), STRATA_OK);
            check_bytes(&r[i]);
        }
    }
}

/* IO1, IO4: after free nothing is touched, and no request is left half-way. */
static void test_free_with_requests_in_flight(void **state)
{
    struct rig *rig = rig_of(state);
    static struct st_io_request r[30];
    for (uint32_t depth = 0; depth < 4; depth += 3) {
        st_io_free(rig->io);
        open_engine(rig, depth);
        for (int i = 0; i < 30; i++) {
            prepare(rig, &r[i], 300000u * (unsigned)i / 4096 * 4096, 50000u * (unsigned)i, 250000);
            r[i].priority = i % 2 ? ST_IO_DEMAND : ST_IO_PREFETCH;
            st_io_submit(rig->io, &r[i]);
        }
        st_io_free(rig->io);
        rig->io = NULL;
        int n[5] = {0};
        for (int i = 0; i < 30; i++) {
            n[r[i].state]++;
            if (r[i].state == ST_IO_DONE) {
                check_done(&r[i]);
            } else if (r[i].state == ST_IO_FAILED) {
                assert_int_equal(r[i].error.status, STRATA_E_CANCELLED);
            }
        }
        assert_int_equal(n[ST_IO_QUEUED] + n[ST_IO_ACTIVE], 0);
        if (depth) {
            assert_true(n[ST_IO_IDLE] > 0);
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
    struct strata_error err;
    char path[300];
    struct st_file *file = NULL;
    const uint64_t at = 5 * ST_GIB + 4321;
    snprintf(path, sizeof path, "%s.large", rig->path);
    assert_int_equal(st_file_make_sparse(path, 6 * ST_GIB, &err), STRATA_OK);
    int fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, contents, 100000, (off_t)at), 100000);
    close(fd);
    assert_int_equal(st_file_open(path, true, &file, &err), STRATA_OK);
    struct st_io_request r = {
        .file = file, .offset = at - 1000, .length = 101000, .buffer = rig->memory};
    st_io_submit(rig->io, &r);
    assert_int_equal(st_io_wait(rig->io, &r, &err), STRATA_OK);
    unsigned char *got = rig->memory + st_io_delta(r.offset);
    assert_int_equal(got[999], 0);
    assert_memory_equal(got + 1000, contents, 100000);
    unlink(path);
    st_file_close(file);
}

/* What the system says about a read comes through: here the memory cannot be written. */
static void test_error_of_the_system(void **state)
{
    struct rig *rig = rig_of(state);
    struct strata_error err = {0};
    void *forbidden = st_vm_reserve(CHUNK_BYTES, false);
    st_vm_forbid(forbidden, CHUNK_BYTES);
    static struct st_io_request bad, good;
    bad = (struct st_io_request){
        .file = rig->file, .offset = 8192, .length = 5000, .buffer = forbidden};
    prepare(rig, &good, 0, 8192, 5000);
    st_io_submit(rig->io, &bad);
    st_io_submit(rig->io, &good);
    assert_int_equal(st_io_wait(rig->io, &bad, &err), STRATA_E_IO);
    assert_non_null(strstr(err.message, strerror(EFAULT)));
    assert_non_null(strstr(err.message, "8192"));
    assert_int_equal(st_io_wait(rig->io, &good, NULL), STRATA_OK);
    check_done(&good);
    st_vm_release(forbidden, CHUNK_BYTES);
}

static const char *const methods[] = {
#ifdef ST_HAVE_LIBURING
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
    bool unspoilt; /* not for the fault method, which writes to buffers itself */
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

/* Every method with every kind of file, and direct reads into registered memory where there is
 * such a thing. */
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
            if (suite[t].unspoilt && strchr(method, ',')) {
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
