/*
 * test_io_faults.c - the fault method, errors, invalid options, and the fallback when the system
 * refuses io_uring.
 */
#include "io_fixture.h"

#include <errno.h>
#include <sys/resource.h>
#include <sys/wait.h>

#ifdef __linux__
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

static struct rig fault_rig;

static int fault_set_up(void **state)
{
    (void)state;
    fault_rig = (struct rig){.memory_bytes = 8 * FB_MIB};
    fault_rig.file = make_file(disk_dir(), true, fault_rig.path, sizeof fault_rig.path);
    fault_rig.memory = fb_vm_reserve(fault_rig.memory_bytes, false);
    n_warnings = 0;
    return 0;
}

static int fault_tear_down(void **state)
{
    (void)state;
    fb_io_free(fault_rig.io);
    fb_vm_release(fault_rig.memory, fault_rig.memory_bytes);
    unlink(fault_rig.path);
    fb_file_close(fault_rig.file);
    return 0;
}

static void fault_engine(const char *method)
{
    static struct variant v;
    v = (struct variant){method, DIRECT, false};
    fault_rig.variant = &v;
    fb_io_free(fault_rig.io);
    fault_rig.io = NULL;
    open_engine(&fault_rig, 0);
}

/* Reads half a MiB (8 chunks) and returns the status; leaves the request in *r. */
static enum forebay_status read_some(struct fb_io_request *r, struct forebay_error *err)
{
    prepare(&fault_rig, r, 0, 1000, 8 * CHUNK_BYTES - 1000);
    fb_io_submit(fault_rig.io, r);
    return fb_io_wait(fault_rig.io, r, err);
}

static const char *const inners[] = {
    "threads",
    "sync",
#ifdef FB_HAVE_LIBURING
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
    struct fb_io_request r;
    for (size_t k = 0; k < N_INNERS; k++) {
        struct forebay_error err = {0};
        fault_engine(spec(k, ",eio_at=3"));
        assert_non_null(strstr(fb_io_method_name(fault_rig.io), "fault:"));
        assert_int_equal(read_some(&r, &err), FOREBAY_E_IO);
        assert_non_null(strstr(err.message, fault_rig.path));
        assert_non_null(strstr(err.message, "131072")); /* the third chunk */
        assert_non_null(strstr(err.message, strerror(EIO)));
        assert_true(err.hint[0]);
        assert_int_equal(read_some(&r, &err), FOREBAY_OK); /* only the third */
        check_done(&r);
        fault_engine(spec(k, ",eio_every=8"));
        assert_int_equal(read_some(&r, &err), FOREBAY_E_IO);
        assert_int_equal(read_some(&r, &err), FOREBAY_E_IO);
    }
}

static void test_retried_faults(void **state)
{
    (void)state;
    static const char *const keys[] = {
        ",short=2", ",short=1", ",eintr=2", ",eagain=3", ",eintr=2,eagain=3,short=2", ",short=5"};
    struct fb_io_request r;
    for (size_t k = 0; k < N_INNERS; k++) {
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
            struct forebay_error err = {0};
            struct fb_io_counters c;
            fault_engine(spec(k, keys[i]));
            assert_int_equal(read_some(&r, &err), FOREBAY_OK);
            check_done(&r);
            fb_io_counters(fault_rig.io, &c);
            assert_true(c.retries > 0);
        }
    }
    assert_int_equal(n_warnings, 0);
}

/* A read that never succeeds ends in an error, not in a hang. */
static void test_endless_eagain(void **state)
{
    (void)state;
    struct fb_io_request r;
    for (size_t k = 0; k < N_INNERS; k++) {
        struct forebay_error err = {0};
        fault_engine(spec(k, k % 2 ? ",eagain=1" : ",eintr=1"));
        prepare(&fault_rig, &r, 0, 70, 7);
        fb_io_submit(fault_rig.io, &r);
        assert_int_equal(fb_io_wait(fault_rig.io, &r, &err), FOREBAY_E_IO);
        assert_non_null(strstr(err.message, strerror(k % 2 ? EAGAIN : EINTR)));
    }
}

/* A corrupted read is detected by comparison with the file, in that chunk only. */
static void test_corruption_shows(void **state)
{
    (void)state;
    struct fb_io_request r;
    for (size_t k = 0; k < N_INNERS; k++) {
        fault_engine(spec(k, ",corrupt_at=2"));
        assert_int_equal(read_some(&r, NULL), FOREBAY_OK);
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
    struct fb_io_request r;
    if (fault_rig.file->fd_direct < 0) {
        skip();
    }
    for (size_t k = 0; k < N_INNERS; k++) {
        n_warnings = 0;
        fault_rig.file->direct_refused = false;
        fault_engine(spec(k, ",einval_at=2"));
        assert_int_equal(read_some(&r, NULL), FOREBAY_OK);
        check_done(&r);
        assert_true(fault_rig.file->direct_refused);
        assert_int_equal(n_warnings, 1);
    }
}

static void test_late(void **state)
{
    (void)state;
    struct fb_io_request r;
    for (size_t k = 0; k < N_INNERS; k++) {
        fault_engine(spec(k, ",late_ms=30"));
        prepare(&fault_rig, &r, 0, 0, 1000);
        uint64_t start = fb_now_ns();
        fb_io_submit(fault_rig.io, &r);
        assert_int_equal(fb_io_poll(fault_rig.io), 0);
        assert_true(fb_now_ns() - start > 30000000 || r.state == FB_IO_ACTIVE);
        assert_int_equal(fb_io_wait(fault_rig.io, &r, NULL), FOREBAY_OK);
        assert_true(fb_now_ns() - start >= 30000000);
        check_done(&r);
    }
}

static void test_reorder(void **state)
{
    (void)state;
    static struct fb_io_request r[16];
    int descents = 0;
    for (int seed = 1; seed <= 5; seed++) {
        char keys[32];
        int order[16], n = 0;
        bool seen[16] = {false};
        snprintf(keys, sizeof keys, ",late_ms=20,reorder=%d", seed);
        fault_rig.file->direct_refused = true; /* from the page cache: the workers keep the order */
        fault_engine(spec(0, keys));
        for (int i = 0; i < 16; i++) {
            prepare(&fault_rig, &r[i], 16384u * (unsigned)i, 8192u * (unsigned)i, 4096);
            fb_io_submit(fault_rig.io, &r[i]);
        }
        /* None has finished yet; after this, all have. */
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        while (n < 16) {
            int before = n;
            fb_io_wait_any(fault_rig.io);
            for (int i = 0; i < 16; i++) {
                if (r[i].state == FB_IO_DONE && !seen[i]) {
                    check_done(&r[i]);
                    seen[i] = true;
                    order[n++] = i;
                }
            }
            assert_int_equal(n, before + 1); /* one by one */
            descents += n > 1 && order[n - 1] < order[n - 2];
        }
    }
    /* Of 75 neighbours half are swapped in a random order, few in that of the workers. */
    assert_in_range(descents, 25, 50);
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
        struct forebay_error err = {0};
        struct fb_io_options options;
        struct fb_io_engine *io = (struct fb_io_engine *)&err;
        fb_io_options_init(&options);
        options.method = bad[i];
        enum forebay_status status = fb_io_open(&options, &io, &err);
        assert_int_equal(status, FOREBAY_E_USAGE);
        assert_ptr_equal(io, &err);
        assert_true(err.message[0] && err.hint[0]);
    }
    struct fb_io_options options;
    struct fb_io_engine *io;
    struct forebay_error err;
    fb_io_options_init(&options);
    options.chunk_bytes = 5000;
    assert_int_equal(fb_io_open(&options, &io, &err), FOREBAY_E_USAGE);
    options.chunk_bytes = 1u << 31;
    assert_int_equal(fb_io_open(&options, &io, &err), FOREBAY_E_USAGE);
    options.chunk_bytes = 0;
    options.queue_depth = 100000;
    assert_int_equal(fb_io_open(&options, &io, &err), FOREBAY_E_USAGE);
    options.queue_depth = 4096;
    assert_int_equal(fb_io_open(&options, &io, &err), FOREBAY_OK);
    fb_io_free(io);
    fb_io_free(NULL);
}

#if defined(__linux__) && defined(FB_HAVE_LIBURING)

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

/* In a child: 0 when the engine fell back to threads with one warning and reads correctly. */
static int fall_back(const char *method, int syscall_number, int errnum)
{
    struct forebay_error err;
    struct fb_io_options options;
    struct fb_io_engine *io;
    forbid_uring(syscall_number, errnum);
    fb_io_options_init(&options);
    options.method = method;
    for (int i = 0; i < 2; i++) {
        if (fb_io_open(&options, &io, &err) != FOREBAY_OK) {
            return 1;
        }
        if (strcmp(fb_io_method_name(io), "threads")) {
            return 2;
        }
        struct fb_io_request r = {
            .file = fault_rig.file, .offset = 5000, .length = 300000, .buffer = fault_rig.memory};
        fb_io_submit(io, &r);
        if (fb_io_wait(io, &r, &err) != FOREBAY_OK ||
            memcmp(fault_rig.memory + fb_io_delta(5000), contents + 5000, 300000)) {
            return 3;
        }
        fb_io_free(io);
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
    struct fb_io_options options;
    struct fb_io_engine *io;
    fb_io_options_init(&options);
    options.method = "uring";
    assert_int_equal(fb_io_open(&options, &io, NULL), FOREBAY_OK);
    bool works = !strcmp(fb_io_method_name(io), "uring");
    fb_io_free(io);
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
        skip(); /* really refused here; the one warning has been given */
    }
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            _exit(fall_back(cases[i].method, cases[i].syscall_number, cases[i].errnum));
        }
        check_child(pid);
    }
}

/* Without the right to lock memory the arena is not registered, without a warning. */
static int no_locked_memory(void)
{
    struct rlimit none = {65536, 65536};
    struct fb_io_options options;
    struct fb_io_engine *io;
    if (setrlimit(RLIMIT_MEMLOCK, &none) || (geteuid() == 0 && setuid(65534))) {
        return 77;
    }
    fb_io_options_init(&options);
    options.method = "uring";
    options.arena = fault_rig.memory;
    options.arena_bytes = fault_rig.memory_bytes;
    if (fb_io_open(&options, &io, NULL) != FOREBAY_OK || strcmp(fb_io_method_name(io), "uring")) {
        return 1;
    }
    struct fb_io_request r = {
        .file = fault_rig.file, .offset = 1, .length = 500000, .buffer = fault_rig.memory};
    fb_io_submit(io, &r);
    if (fb_io_wait(io, &r, NULL) != FOREBAY_OK ||
        memcmp(fault_rig.memory + 1, contents + 1, 500000)) {
        return 2;
    }
    fb_io_free(io);
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

#define FAULT_TEST(f) cmocka_unit_test_setup_teardown(f, fault_set_up, fault_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FAULT_TEST(test_eio),
        FAULT_TEST(test_retried_faults),
        FAULT_TEST(test_endless_eagain),
        FAULT_TEST(test_corruption_shows),
        FAULT_TEST(test_einval_on_a_real_file),
        FAULT_TEST(test_late),
        FAULT_TEST(test_reorder),
        FAULT_TEST(test_unusable_options),
#if defined(__linux__) && defined(FB_HAVE_LIBURING)
        FAULT_TEST(test_uring_refused),
        FAULT_TEST(test_no_locked_memory),
#endif
    };
    return cmocka_run_group_tests_name("io faults", tests, make_contents, free_contents);
}
