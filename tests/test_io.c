/*
 * test_io.c - the read engine.
 *
 * Three parts:
 *   suite    the same tests over every method (also spoilt by faults) and every kind of file:
 *            direct, through the page cache, on tmpfs. The oracle is what was written to the file.
 *   script   the engine alone, on a method of ours that finishes what and when the test says:
 *            order, priorities, retries, states.
 *   faults   the fault method itself, fallbacks, and option errors.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "io/io.h"
#include "io/method.h"
#include "os/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

#define FILE_BYTES  (3 * ST_MIB + 12345) /* not a multiple of any block */
#define CHUNK_BYTES (64u * 1024)
#define GUARD_BYTES 4096u
#define GUARD       0xa7

/* --- Fixtures ------------------------------------------------------------------------------- */

static unsigned char *contents; /* of every test file */
static uint64_t random_state;
static int n_warnings;
static char last_warning[1024];

/* SplitMix64 (Steele, Lea, Flood). */
static uint64_t rnd(void)
{
    uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void note_log(enum strata_log_level level, const char *line, void *user)
{
    (void)user;
    if (level <= STRATA_LOG_WARN) {
        n_warnings++;
        snprintf(last_warning, sizeof last_warning, "%s", line);
    }
}

static int make_contents(void **state)
{
    (void)state;
    strata_log_set_sink(note_log, NULL);
    random_state = 1;
    contents = malloc(FILE_BYTES);
    for (uint64_t i = 0; i < FILE_BYTES; i++) {
        contents[i] = (unsigned char)rnd();
    }
    return 0;
}

static int free_contents(void **state)
{
    (void)state;
    free(contents);
    return 0;
}

static const char *disk_dir(void)
{
    const char *tmp = getenv("TMPDIR");
    return tmp ? tmp : "/tmp";
}

/* A new file in `dir` with `contents`, opened; `path` gets its name, the caller unlinks it. */
static struct st_file *make_file(const char *dir, bool direct, char *path, size_t cap)
{
    struct strata_error err;
    struct st_file *file = NULL;
    snprintf(path, cap, "%s/strata-io-XXXXXX", dir);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    for (uint64_t at = 0; at < FILE_BYTES;) {
        ssize_t n = write(fd, contents + at, FILE_BYTES - at);
        assert_true(n > 0);
        at += (uint64_t)n;
    }
    close(fd);
    assert_int_equal(st_file_open(path, direct, &file, &err), STRATA_OK);
    return file;
}

enum place { DIRECT, BUFFERED, SHM };

struct variant {
    const char *method;
    enum place place;
    bool arena; /* buffers come from memory that the engine was told about */
};

/* What one test of the suite works with. */
struct rig {
    const struct variant *variant;
    char path[256];
    struct st_file *file;
    struct st_io_engine *io;
    unsigned char *memory; /* buffers are cut from here */
    uint64_t memory_bytes;
};

static void open_engine(struct rig *rig, uint32_t depth)
{
    struct strata_error err = {0};
    struct st_io_options options;
    st_io_options_init(&options);
    options.method = rig->variant->method;
    options.chunk_bytes = CHUNK_BYTES;
    options.queue_depth = depth;
    options.direct = rig->variant->place != BUFFERED;
    if (rig->variant->arena) {
        options.arena = rig->memory;
        options.arena_bytes = rig->memory_bytes / 2; /* some buffers lie outside */
    }
    if (st_io_open(&options, &rig->io, &err)) {
        fail_msg("%s: %s", options.method, err.message);
    }
}

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

/* Prepares a request on a buffer at `memory + place`, with guard bytes behind its envelope. */
static void prepare(
    struct rig *rig, struct st_io_request *r, uint64_t place, uint64_t offset, uint64_t length)
{
    *r = (struct st_io_request){
        .file = rig->file, .offset = offset, .length = length, .buffer = rig->memory + place};
    uint64_t size = st_io_envelope(offset, length);
    assert_true(place + size + GUARD_BYTES <= rig->memory_bytes);
    memset(r->buffer, 0x11, size);
    memset((char *)r->buffer + size, GUARD, GUARD_BYTES);
}

/* The bytes are the file's, and nothing was written behind the envelope. */
static void check_bytes(const struct st_io_request *r)
{
    const unsigned char *got = (unsigned char *)r->buffer + st_io_delta(r->offset);
    const unsigned char *end = (unsigned char *)r->buffer + st_io_envelope(r->offset, r->length);
    if (memcmp(got, contents + r->offset, r->length)) {
        uint64_t i = 0;
        while (got[i] == contents[r->offset + i]) {
            i++;
        }
        fail_msg("byte %llu of %llu at offset %llu is wrong", (unsigned long long)i,
            (unsigned long long)r->length, (unsigned long long)r->offset);
    }
    for (unsigned i = 0; i < GUARD_BYTES; i++) {
        assert_int_equal(end[i], GUARD);
    }
}

static void check_done(const struct st_io_request *r)
{
    if (r->state == ST_IO_FAILED) {
        fail_msg("FAILED: %s", r->error.message);
    }
    assert_int_equal(r->state, ST_IO_DONE);
    check_bytes(r);
}

/* --- Suite ---------------------------------------------------------------------------------- */

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

/* --- Script: the engine on a method of ours --------------------------------------------------- */

#define SCRIPT_DEPTH 8u

/* Reads started, in order; the test finishes them by hand. */
static struct script {
    struct st_io_queue base;
    struct st_io_read *started[64]; /* not finished yet: others NULL */
    uint64_t offset[64];            /* of every read ever started */
    uint32_t length[64];
    bool direct[64];
    int n, n_lent, n_flushed;
    struct st_io_read *done;
} script;

static void script_free(struct st_io_queue *queue)
{
    (void)queue;
    assert_int_equal(script.n_lent, 0);
}

static void script_start(struct st_io_queue *queue, struct st_io_read *read)
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

static void script_flush(struct st_io_queue *queue)
{
    (void)queue;
    script.n_flushed = script.n;
}

static struct st_io_read *script_reap(struct st_io_queue *queue, bool wait)
{
    (void)queue;
    assert_true(script.n_lent > 0);
    assert_int_equal(script.n_flushed, script.n); /* nothing lies unissued */
    struct st_io_read *list = script.done;
    script.done = NULL;
    assert_true(list || !wait); /* would sleep for ever */
    for (struct st_io_read *r = list; r; r = r->next) {
        script.n_lent--;
    }
    return list;
}

static const struct st_io_method script_method = {.name = "script",
    .free = script_free,
    .start = script_start,
    .flush = script_flush,
    .reap = script_reap};

/* Finishes the i-th read ever started. */
static void finish(int i, int64_t result)
{
    struct st_io_read *read = script.started[i];
    assert_non_null(read);
    script.started[i] = NULL;
    read->result = result;
    read->next = script.done;
    script.done = read;
}

static struct rig script_rig;

/* An engine on the script, over a plain file that pretends to have a direct descriptor. */
static struct st_io_engine *script_engine(uint32_t depth, uint32_t chunk_bytes)
{
    struct st_io_options options;
    st_io_options_init(&options);
    options.chunk_bytes = chunk_bytes;
    script = (struct script){.base = {&script_method, depth, "script"}};
    script_rig.file->direct_refused = false;
    n_warnings = 0;
    return st_io_engine_new(&options, &script.base);
}

static int script_set_up(void **state)
{
    (void)state;
    script_rig = (struct rig){.memory_bytes = 8 * ST_MIB};
    script_rig.file = make_file(disk_dir(), false, script_rig.path, sizeof script_rig.path);
    script_rig.file->fd_direct = dup(script_rig.file->fd);
    script_rig.memory = st_vm_reserve(script_rig.memory_bytes, false);
    return 0;
}

static int script_tear_down(void **state)
{
    (void)state;
    st_vm_release(script_rig.memory, script_rig.memory_bytes);
    unlink(script_rig.path);
    st_file_close(script_rig.file);
    return 0;
}

static struct st_io_request script_request(
    uint64_t offset, uint64_t length, enum st_io_priority priority)
{
    return (struct st_io_request){.file = script_rig.file,
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

/* 4 KiB chunks; prefetch at file offset 0, demand at 1 MiB: the offset tells whose a read is. */
static void test_demand_overtakes(void **state)
{
    (void)state;
    struct st_io_engine *io = script_engine(4, 4096);
    struct st_io_request p = script_request(0, 8 * 4096, ST_IO_PREFETCH);
    struct st_io_request d = script_request(ST_MIB, 3 * 4096, ST_IO_DEMAND);
    st_io_submit(io, &p);
    assert_int_equal(script.n, 2); /* half the depth stays free for demand */
    assert_int_equal(p.state, ST_IO_ACTIVE);
    st_io_submit(io, &d);
    check_started(2, ST_MIB, 4096, true);
    check_started(3, ST_MIB + 4096, 4096, true);
    assert_int_equal(script.n, 4);
    finish(0, 4096); /* a prefetch comes back: the room goes to demand */
    assert_int_equal(st_io_poll(io), 0);
    check_started(4, ST_MIB + 8192, 4096, true);
    finish(2, 4096);
    st_io_poll(io);
    check_started(5, 8192, 4096, true); /* demand is all under way: prefetch goes on */
    finish(3, 4096);
    finish(4, 4096);
    assert_int_equal(st_io_poll(io), 1);
    assert_int_equal(d.state, ST_IO_DONE);
    assert_int_equal(p.state, ST_IO_ACTIVE);
    for (int i = 1; i < script.n; i++) {
        if (script.started[i]) {
            finish(i, 4096);
            st_io_poll(io);
        }
    }
    assert_int_equal(p.state, ST_IO_DONE);
    assert_int_equal(script.n, 11);
    st_io_free(io);
}

static void test_demand_in_order(void **state)
{
    (void)state;
    struct st_io_engine *io = script_engine(2, 4096);
    struct st_io_request r[4];
    for (int i = 0; i < 4; i++) {
        r[i] = script_request(ST_MIB * (3 - (unsigned)i) / 2, 2 * 4096, ST_IO_DEMAND);
        st_io_submit(io, &r[i]);
    }
    for (int i = 0; i < 8; i++) {
        check_started(
            i, ST_MIB * (3 - (unsigned)i / 2) / 2 + 4096u * ((unsigned)i % 2), 4096, true);
        finish(i, 4096);
        assert_int_equal(st_io_poll(io), i % 2);
    }
    st_io_free(io);
}

static void test_promote(void **state)
{
    (void)state;
    struct st_io_engine *io = script_engine(4, 4096);
    struct st_io_request a = script_request(0, 8 * 4096, ST_IO_PREFETCH);
    struct st_io_request b = script_request(ST_MIB, 8 * 4096, ST_IO_PREFETCH);
    struct st_io_request c = script_request(2 * ST_MIB, 4096, ST_IO_PREFETCH);
    st_io_submit(io, &a);
    st_io_submit(io, &b);
    st_io_submit(io, &c);
    assert_int_equal(script.n, 2);
    st_io_promote(io, &c); /* a queued one: overtakes both, and the prefetch limit is not its own */
    assert_int_equal(c.priority, ST_IO_DEMAND);
    check_started(2, 2 * ST_MIB, 4096, true);
    st_io_promote(io, &a); /* an active one: the rest of it */
    check_started(3, 8192, 4096, true);
    finish(0, 4096);
    st_io_poll(io);
    check_started(4, 3 * 4096, 4096, true);
    assert_int_equal(b.state, ST_IO_QUEUED);
    st_io_promote(io, &c); /* all under way, and demand already: nothing */
    finish(2, 4096);
    assert_int_equal(st_io_poll(io), 1);
    st_io_promote(io, &c);
    assert_int_equal(c.state, ST_IO_DONE);
    assert_true(st_io_cancel(io, &b));
    while (a.state != ST_IO_DONE) {
        for (int i = 0; i < script.n; i++) {
            if (script.started[i]) {
                finish(i, 4096);
            }
        }
        st_io_poll(io);
    }
    st_io_free(io);
}

/* Waiting for a prefetch makes it demand: it would otherwise wait behind all other prefetches. */
static void test_wait_promotes(void **state)
{
    (void)state;
    struct st_io_engine *io = script_engine(4, 4096);
    struct st_io_request a = script_request(0, 2 * 4096, ST_IO_PREFETCH);
    struct st_io_request b = script_request(ST_MIB, 4096, ST_IO_PREFETCH);
    st_io_submit(io, &a);
    st_io_submit(io, &b);
    assert_int_equal(script.n, 2);
    finish(0, 4096);
    finish(1, 4096);
    st_io_promote(io, &b);
    assert_int_equal(script.n, 3);
    finish(2, 4096);
    assert_int_equal(st_io_wait(io, &b, NULL), STRATA_OK);
    assert_int_equal(a.state, ST_IO_DONE);
    st_io_free(io);
}

static void test_buffered_reads_only_what_is_wanted(void **state)
{
    (void)state;
    struct st_io_engine *io = script_engine(4, 4096);
    script_rig.file->direct_refused = true;
    struct st_io_request r = script_request(5000, 5000, ST_IO_DEMAND); /* 5000 .. 10000 */
    st_io_submit(io, &r);
    check_started(0, 5000, 3192, false);
    check_started(1, 8192, 1808, false);
    assert_int_equal(script.n, 2);
    finish(1, 1808);
    finish(0, 192); /* short: goes on where it stopped */
    st_io_poll(io);
    check_started(2, 5192, 3000, false);
    finish(2, 3000);
    assert_int_equal(st_io_poll(io), 1);
    st_io_free(io);
}

static void test_direct_short_reads(void **state)
{
    (void)state;
    struct st_io_engine *io = script_engine(4, 16384);
    struct st_io_request r = script_request(100, 16000, ST_IO_DEMAND); /* 100 .. 16100 */
    struct st_io_counters c;
    st_io_submit(io, &r);
    check_started(0, 0, 16384, true);
    finish(0, 5000);
    st_io_poll(io);
    check_started(1, 4096, 12288, true); /* from the aligned point below */
    finish(1, 8192);
    st_io_poll(io);
    check_started(2, 12288, 4096, true);
    finish(2, 100); /* not a block further: the rest goes through the page cache */
    st_io_poll(io);
    check_started(3, 12388, 3712, false);
    finish(3, 3712);
    assert_int_equal(st_io_poll(io), 1);
    assert_int_equal(r.state, ST_IO_DONE);
    st_io_counters(io, &c);
    assert_int_equal(c.retries, 3);
    assert_int_equal(c.chunks, 1);
    assert_int_equal(c.read_bytes, 5000 + 8192 + 100 + 3712);

    /* A read that ends short of its length but behind the wanted bytes is complete. */
    r = script_request(100, 16000, ST_IO_DEMAND);
    st_io_submit(io, &r);
    finish(4, 16100);
    assert_int_equal(st_io_poll(io), 1);
    assert_int_equal(r.state, ST_IO_DONE);

    /* The end of the file, in a direct read that has come some way and in one that has not. */
    static const int64_t came[] = {3 * 4096 + 5, 0};
    for (int k = 0; k < 2; k++) {
        r = script_request(100, 16000, ST_IO_DEMAND);
        st_io_submit(io, &r);
        finish(script.n - 1, came[k]);
        if (came[k]) {
            st_io_poll(io);
            check_started(script.n - 1, 12288, 4096, true);
            finish(script.n - 1, 5);
            st_io_poll(io);
            check_started(script.n - 1, 12293, 3807, false);
            finish(script.n - 1, 0);
        }
        assert_int_equal(st_io_poll(io), 1);
        assert_int_equal(r.state, ST_IO_FAILED);
        assert_int_equal(r.error.status, STRATA_E_FORMAT);
    }
    st_io_free(io);
}

/* A failed request keeps its memory until its last chunk is back (IO1), and issues no more. */
static void test_error_waits_for_the_rest(void **state)
{
    (void)state;
    struct st_io_engine *io = script_engine(2, 4096);
    struct strata_error err;
    struct st_io_request r = script_request(8192, 8 * 4096, ST_IO_DEMAND);
    struct st_io_request other = script_request(ST_MIB, 4096, ST_IO_DEMAND);
    st_io_submit(io, &r);
    st_io_submit(io, &other);
    finish(1, -EIO);
    assert_int_equal(st_io_poll(io), 0);
    assert_int_equal(r.state, ST_IO_ACTIVE);
    assert_false(st_io_cancel(io, &r));
    check_started(2, ST_MIB, 4096, true); /* the other's turn */
    finish(2, 4096);
    assert_int_equal(st_io_poll(io), 1);
    assert_int_equal(script.n, 3);
    finish(0, -EINTR); /* not worth a retry any more */
    assert_int_equal(st_io_poll(io), 1);
    assert_int_equal(r.state, ST_IO_FAILED);
    assert_int_equal(st_io_wait(io, &r, &err), STRATA_E_IO);
    assert_non_null(strstr(err.message, script_rig.path));
    assert_non_null(strstr(err.message, "12288")); /* the offset of the chunk */
    assert_int_equal(script.n, 3);
    st_io_submit(io, &r); /* and can be used again */
    for (int i = 3; i < script.n; i++) {
        finish(i, 4096);
        st_io_poll(io);
    }
    assert_int_equal(r.state, ST_IO_DONE);
    st_io_free(io);
}

static void test_einval_falls_back(void **state)
{
    (void)state;
    struct st_io_engine *io = script_engine(4, 4096);
    struct st_io_request r = script_request(100, 3 * 4096, ST_IO_DEMAND); /* 4 chunks */
    st_io_submit(io, &r);
    assert_int_equal(script.n, 4);
    for (int i = 0; i < 4; i++) {
        assert_true(script.direct[i]);
        finish(i, -EINVAL);
    }
    st_io_poll(io);
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
    assert_int_equal(st_io_poll(io), 1);
    assert_int_equal(r.state, ST_IO_DONE);
    /* Later requests go there at once; EINVAL through the page cache is an error. */
    r = script_request(0, 4096, ST_IO_DEMAND);
    st_io_submit(io, &r);
    check_started(8, 0, 4096, false);
    finish(8, -EINVAL);
    assert_int_equal(st_io_poll(io), 1);
    assert_int_equal(r.error.status, STRATA_E_IO);
    assert_int_equal(n_warnings, 1);
    st_io_free(io);
}

/* What free does to each state. */
static void test_free_states(void **state)
{
    (void)state;
    struct st_io_engine *io = script_engine(2, 4096);
    struct st_io_request half = script_request(0, 8 * 4096, ST_IO_DEMAND);
    struct st_io_request queued = script_request(0, 4096, ST_IO_DEMAND);
    struct st_io_request guess = script_request(0, 4096, ST_IO_PREFETCH);
    st_io_submit(io, &half);
    st_io_submit(io, &queued);
    st_io_submit(io, &guess);
    finish(0, 4096);
    finish(1, 100); /* would have been retried */
    st_io_free(io);
    assert_int_equal(half.state, ST_IO_FAILED);
    assert_int_equal(half.error.status, STRATA_E_CANCELLED);
    assert_int_equal(queued.state, ST_IO_IDLE);
    assert_int_equal(guess.state, ST_IO_IDLE);
    assert_int_equal(script.n, 2);
}

static void test_busy_time(void **state)
{
    (void)state;
    struct st_io_engine *io = script_engine(2, 4096);
    struct st_io_request r = script_request(0, 4096, ST_IO_DEMAND);
    struct st_io_counters c;
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    st_io_counters(io, &c);
    assert_int_equal(c.busy_ns, 0);
    st_io_submit(io, &r);
    nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
    st_io_counters(io, &c);
    assert_true(c.busy_ns >= 3000000);
    finish(0, 4096);
    st_io_poll(io);
    st_io_counters(io, &c);
    uint64_t busy = c.busy_ns;
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    st_io_counters(io, &c);
    assert_int_equal(c.busy_ns, busy);
    st_io_free(io);
}

/* --- Faults, options, fallbacks --------------------------------------------------------------- */

static struct rig fault_rig;

static int fault_set_up(void **state)
{
    (void)state;
    fault_rig = (struct rig){.memory_bytes = 8 * ST_MIB};
    fault_rig.file = make_file(disk_dir(), true, fault_rig.path, sizeof fault_rig.path);
    fault_rig.memory = st_vm_reserve(fault_rig.memory_bytes, false);
    n_warnings = 0;
    return 0;
}

static int fault_tear_down(void **state)
{
    (void)state;
    st_io_free(fault_rig.io);
    st_vm_release(fault_rig.memory, fault_rig.memory_bytes);
    unlink(fault_rig.path);
    st_file_close(fault_rig.file);
    return 0;
}

static void fault_engine(const char *method)
{
    static struct variant v;
    v = (struct variant){method, DIRECT, false};
    fault_rig.variant = &v;
    st_io_free(fault_rig.io);
    fault_rig.io = NULL;
    open_engine(&fault_rig, 0);
}

/* Reads half a MiB (8 chunks) and returns the status; leaves the request in *r. */
static enum strata_status read_some(struct st_io_request *r, struct strata_error *err)
{
    prepare(&fault_rig, r, 0, 1000, 8 * CHUNK_BYTES - 1000);
    st_io_submit(fault_rig.io, r);
    return st_io_wait(fault_rig.io, r, err);
}

static const char *const inners[] = {
    "threads",
    "sync",
#ifdef ST_HAVE_LIBURING
    "uring",
#endif
};
#define N_INNERS (sizeof inners / sizeof *inners)

static const char *spec(size_t inner, const char *keys)
{
    static char text[128];
    snprintf(text, sizeof text, "fault:%s%s", inners[inner], keys);
    return text;
}

static void test_eio(void **state)
{
    (void)state;
    struct st_io_request r;
    for (size_t k = 0; k < N_INNERS; k++) {
        struct strata_error err = {0};
        fault_engine(spec(k, ",eio_at=3"));
        assert_non_null(strstr(st_io_method_name(fault_rig.io), "fault:"));
        assert_int_equal(read_some(&r, &err), STRATA_E_IO);
        assert_non_null(strstr(err.message, fault_rig.path));
        assert_non_null(strstr(err.message, "131072")); /* the third chunk */
        assert_non_null(strstr(err.message, strerror(EIO)));
        assert_true(err.hint[0]);
        assert_int_equal(read_some(&r, &err), STRATA_OK); /* only the third */
        check_done(&r);
        fault_engine(spec(k, ",eio_every=8"));
        assert_int_equal(read_some(&r, &err), STRATA_E_IO);
        assert_int_equal(read_some(&r, &err), STRATA_E_IO);
    }
}

static void test_retried_faults(void **state)
{
    (void)state;
    static const char *const keys[] = {
        ",short=2", ",short=1", ",eintr=2", ",eagain=3", ",eintr=2,eagain=3,short=2", ",short=5"};
    struct st_io_request r;
    for (size_t k = 0; k < N_INNERS; k++) {
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
            struct strata_error err = {0};
            struct st_io_counters c;
            fault_engine(spec(k, keys[i]));
            assert_int_equal(read_some(&r, &err), STRATA_OK);
            check_done(&r);
            st_io_counters(fault_rig.io, &c);
            assert_true(c.retries > 0);
        }
    }
    assert_int_equal(n_warnings, 0);
}

/* A read that never succeeds ends in an error, not in a hang. */
static void test_endless_eagain(void **state)
{
    (void)state;
    struct st_io_request r;
    for (size_t k = 0; k < N_INNERS; k++) {
        struct strata_error err = {0};
        fault_engine(spec(k, k % 2 ? ",eagain=1" : ",eintr=1"));
        prepare(&fault_rig, &r, 0, 70, 7);
        st_io_submit(fault_rig.io, &r);
        assert_int_equal(st_io_wait(fault_rig.io, &r, &err), STRATA_E_IO);
        assert_non_null(strstr(err.message, strerror(k % 2 ? EAGAIN : EINTR)));
    }
}

/* The exactness checks above can fail: with one corrupted read they do, in that chunk only. */
static void test_corruption_shows(void **state)
{
    (void)state;
    struct st_io_request r;
    for (size_t k = 0; k < N_INNERS; k++) {
        fault_engine(spec(k, ",corrupt_at=2"));
        assert_int_equal(read_some(&r, NULL), STRATA_OK);
        const unsigned char *got = (unsigned char *)r.buffer; /* envelope begins at offset 0 */
        assert_memory_equal(got + 1000, contents + 1000, CHUNK_BYTES - 1000);
        for (uint64_t i = CHUNK_BYTES; i < 2 * CHUNK_BYTES; i++) {
            assert_int_equal(got[i], (unsigned char)~contents[i]);
        }
        assert_memory_equal(got + 2 * CHUNK_BYTES, contents + 2 * CHUNK_BYTES, 6 * CHUNK_BYTES);
    }
}

static void test_einval_on_a_real_file(void **state)
{
    (void)state;
    struct st_io_request r;
    if (fault_rig.file->fd_direct < 0) {
        skip();
    }
    for (size_t k = 0; k < N_INNERS; k++) {
        n_warnings = 0;
        fault_rig.file->direct_refused = false;
        fault_engine(spec(k, ",einval_at=2"));
        assert_int_equal(read_some(&r, NULL), STRATA_OK);
        check_done(&r);
        assert_true(fault_rig.file->direct_refused);
        assert_int_equal(n_warnings, 1);
    }
}

static void test_late(void **state)
{
    (void)state;
    struct st_io_request r;
    for (size_t k = 0; k < N_INNERS; k++) {
        fault_engine(spec(k, ",late_ms=30"));
        prepare(&fault_rig, &r, 0, 0, 1000);
        uint64_t start = st_now_ns();
        st_io_submit(fault_rig.io, &r);
        assert_int_equal(st_io_poll(fault_rig.io), 0);
        assert_true(st_now_ns() - start > 30000000 || r.state == ST_IO_ACTIVE);
        assert_int_equal(st_io_wait(fault_rig.io, &r, NULL), STRATA_OK);
        assert_true(st_now_ns() - start >= 30000000);
        check_done(&r);
    }
}

static void test_reorder(void **state)
{
    (void)state;
    static struct st_io_request r[16];
    bool disorder = false;
    for (int seed = 1; seed <= 5; seed++) {
        char keys[32];
        int order[16], n = 0;
        bool seen[16] = {false};
        snprintf(keys, sizeof keys, ",late_ms=1,reorder=%d", seed);
        fault_engine(spec(0, keys));
        for (int i = 0; i < 16; i++) {
            prepare(&fault_rig, &r[i], 16384u * (unsigned)i, 8192u * (unsigned)i, 4096);
            st_io_submit(fault_rig.io, &r[i]);
        }
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL); /* all are back */
        while (n < 16) {
            int before = n;
            st_io_wait_any(fault_rig.io);
            for (int i = 0; i < 16; i++) {
                if (r[i].state == ST_IO_DONE && !seen[i]) {
                    check_done(&r[i]);
                    seen[i] = true;
                    order[n++] = i;
                }
            }
            assert_int_equal(n, before + 1); /* one by one */
            disorder |= n > 1 && order[n - 1] < order[n - 2];
        }
    }
    assert_true(disorder);
}

static void test_unusable_options(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "aio", "Uring", "uring ", "fault", "fault:", "fault:nope",
        "fault:sync,", "fault:sync,,short=3", "fault:sync,short=3,", "fault:sync,eio_at",
        "fault:sync,eio_at=", "fault:sync,eio_at=0", "fault:sync,eio_at=-1", "fault:sync,eio_at=1x",
        "fault:sync,eio_at=99999999999", "fault:sync,eio=1", "fault:sync,=1",
        "fault:sync,short=3,bogus=1", "sync,short=3"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct strata_error err = {0};
        struct st_io_options options;
        struct st_io_engine *io = (struct st_io_engine *)&err;
        st_io_options_init(&options);
        options.method = bad[i];
        enum strata_status status = st_io_open(&options, &io, &err);
        assert_int_equal(status, STRATA_E_USAGE);
        assert_ptr_equal(io, &err);
        assert_true(err.message[0] && err.hint[0]);
    }
    struct st_io_options options;
    struct st_io_engine *io;
    struct strata_error err;
    st_io_options_init(&options);
    options.chunk_bytes = 5000;
    assert_int_equal(st_io_open(&options, &io, &err), STRATA_E_USAGE);
    options.chunk_bytes = 1u << 31;
    assert_int_equal(st_io_open(&options, &io, &err), STRATA_E_USAGE);
    options.chunk_bytes = 0;
    options.queue_depth = 100000;
    assert_int_equal(st_io_open(&options, &io, &err), STRATA_E_USAGE);
    options.queue_depth = 4096;
    assert_int_equal(st_io_open(&options, &io, &err), STRATA_OK);
    st_io_free(io);
    st_io_free(NULL);
}

#if defined(__linux__) && defined(ST_HAVE_LIBURING)

/* Makes io_uring_setup, or only its use, fail with `errnum` in this process from now on. */
static void forbid_uring(int syscall_number, int errnum)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)syscall_number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)errnum),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
        _exit(77);
    }
}

/* In a child: 0 when the engine fell back to threads with one warning and reads right. */
static int fall_back(const char *method, int syscall_number, int errnum)
{
    struct strata_error err;
    struct st_io_options options;
    struct st_io_engine *io;
    forbid_uring(syscall_number, errnum);
    st_io_options_init(&options);
    options.method = method;
    for (int i = 0; i < 2; i++) {
        if (st_io_open(&options, &io, &err)) {
            return 1;
        }
        if (strcmp(st_io_method_name(io), "threads")) {
            return 2;
        }
        struct st_io_request r = {
            .file = fault_rig.file, .offset = 5000, .length = 300000, .buffer = fault_rig.memory};
        st_io_submit(io, &r);
        if (st_io_wait(io, &r, &err) ||
            memcmp(fault_rig.memory + st_io_delta(5000), contents + 5000, 300000)) {
            return 3;
        }
        st_io_free(io);
    }
    if (n_warnings != 1) {
        return 4;
    }
    return strstr(last_warning, "io_uring") && strstr(last_warning, "threads") ? 0 : 5;
}

static void check_child(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

static bool uring_works(void)
{
    struct st_io_options options;
    struct st_io_engine *io;
    st_io_options_init(&options);
    options.method = "uring";
    assert_int_equal(st_io_open(&options, &io, NULL), STRATA_OK);
    bool works = !strcmp(st_io_method_name(io), "uring");
    st_io_free(io);
    n_warnings = 0;
    return works;
}

static void test_uring_refused(void **state)
{
    (void)state;
    static const struct {
        const char *method;
        int syscall_number, errnum;
    } cases[] = {
        {"auto", SYS_io_uring_setup, EPERM},
        {"uring", SYS_io_uring_setup, ENOSYS},
        {"auto", SYS_io_uring_setup, ENOMEM},
        {"uring", SYS_io_uring_enter, EPERM},
        {"auto", SYS_io_uring_register, EACCES},
    };
    if (!uring_works()) {
        skip(); /* it is refused here in earnest; the warning has been given */
    }
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            _exit(fall_back(cases[i].method, cases[i].syscall_number, cases[i].errnum));
        }
        check_child(pid);
    }
}

/* Without the right to lock memory the arena is not registered; nobody needs to know. */
static int no_locked_memory(void)
{
    struct rlimit none = {65536, 65536};
    struct st_io_options options;
    struct st_io_engine *io;
    if (setrlimit(RLIMIT_MEMLOCK, &none) || (geteuid() == 0 && setuid(65534))) {
        return 77;
    }
    st_io_options_init(&options);
    options.method = "uring";
    options.arena = fault_rig.memory;
    options.arena_bytes = fault_rig.memory_bytes;
    if (st_io_open(&options, &io, NULL) || strcmp(st_io_method_name(io), "uring")) {
        return 1;
    }
    struct st_io_request r = {
        .file = fault_rig.file, .offset = 1, .length = 500000, .buffer = fault_rig.memory};
    st_io_submit(io, &r);
    if (st_io_wait(io, &r, NULL) || memcmp(fault_rig.memory + 1, contents + 1, 500000)) {
        return 2;
    }
    st_io_free(io);
    return n_warnings ? 3 : 0;
}

static void test_no_locked_memory(void **state)
{
    (void)state;
    if (!uring_works()) {
        skip();
    }
    pid_t pid = fork();
    if (pid == 0) {
        _exit(no_locked_memory());
    }
    check_child(pid);
}
#endif

/* --- Running --------------------------------------------------------------------------------- */

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
} suite[] = {
    {"random ranges", test_random_ranges},
    {"edges", test_edges},
    {"many at once", test_many_at_once},
    {"thousands of small ones", test_thousands_of_small_ones},
    {"past the end", test_past_the_end},
    {"truncated while open", test_truncated_while_open},
    {"cancel", test_cancel},
    {"free with requests in flight", test_free_with_requests_in_flight},
    {"large offsets", test_large_offsets},
};
#define N_SUITE (sizeof suite / sizeof *suite)

/* Every method with every kind of file, and direct reads into registered memory where there is
 * such a thing. */
static int run_suite(void)
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
            snprintf(names[v][t], sizeof names[v][t], "%s [%s, %s]", suite[t].name, method,
                place_name[v % 4]);
            tests[n++] =
                (struct CMUnitTest){names[v][t], suite[t].test, set_up, tear_down, &variants[v]};
        }
    }
    return _cmocka_run_group_tests("io suite", tests, n, make_contents, free_contents);
}

#define SCRIPT_TEST(f) cmocka_unit_test_setup_teardown(f, script_set_up, script_tear_down)
#define FAULT_TEST(f)  cmocka_unit_test_setup_teardown(f, fault_set_up, fault_tear_down)

int main(void)
{
    const struct CMUnitTest script_tests[] = {
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
    const struct CMUnitTest fault_tests[] = {
        FAULT_TEST(test_eio),
        FAULT_TEST(test_retried_faults),
        FAULT_TEST(test_endless_eagain),
        FAULT_TEST(test_corruption_shows),
        FAULT_TEST(test_einval_on_a_real_file),
        FAULT_TEST(test_late),
        FAULT_TEST(test_reorder),
        FAULT_TEST(test_unusable_options),
#if defined(__linux__) && defined(ST_HAVE_LIBURING)
        FAULT_TEST(test_uring_refused),
        FAULT_TEST(test_no_locked_memory),
#endif
    };
    int failed =
        cmocka_run_group_tests_name("io script", script_tests, make_contents, free_contents);
    failed += cmocka_run_group_tests_name("io faults", fault_tests, make_contents, free_contents);
    failed += run_suite();
    return failed != 0;
}
