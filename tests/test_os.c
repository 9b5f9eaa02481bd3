/*
 * test_os.c - files, memory figures, address space and processors.
 *
 * Results are compared with the system's own interfaces (stat, mincore, rusage); the container
 * readers run on directories that imitate /proc and /sys.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/log.h"
#include "base/units.h"
#include "os/cpu.h"
#include "os/file.h"
#include "os/memory.h"
#include "os/populate.h"
#include "os/timed_wait.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __linux__
#include "os/cgroup_linux.h"
#include "os/cpu_linux.h"
#include "os/memory_linux.h"
#include "os/proc_linux.h"
#include <sched.h>
#endif

static char scratch[256]; /* a directory of our own, removed afterwards */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static int make_scratch(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(scratch, sizeof scratch, "%s/forebay-os-XXXXXX", tmp ? tmp : "/tmp");
    return mkdtemp(scratch) ? 0 : -1;
}

static int remove_scratch(void **state)
{
    (void)state;
    return nftw(scratch, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static const char *in_scratch(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", scratch, name);
    return path;
}

static void write_file(const char *path, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* A file whose byte i is a function of i, so that reading at a wrong offset is detected. */
static unsigned char pattern(uint64_t i)
{
    return (unsigned char)(i * 2654435761u >> 13);
}

static const char *pattern_file(const char *name, size_t size)
{
    const char *path = in_scratch(name);
    unsigned char *bytes = malloc(size + 1);
    for (size_t i = 0; i < size; i++) {
        bytes[i] = pattern(i);
    }
    write_file(path, bytes, size);
    free(bytes);
    return path;
}

/* --- Files ---------------------------------------------------------------------------------- */

static void test_open_and_read(void **state)
{
    (void)state;
    struct forebay_error err;
    struct fb_file *file = NULL;
    struct stat st;
    const char *path = pattern_file("plain", 100001);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(fb_file_open(path, false, &file, &err), FOREBAY_OK);
    assert_string_equal(file->path, path);
    assert_int_equal(file->size, 100001);
    assert_int_equal(file->fd_direct, -1);
    assert_int_equal(file->identity[0], st.st_dev);
    assert_int_equal(file->identity[1], st.st_ino);
    unsigned char bytes[5000];
    static const uint64_t at[] = {0, 1, 4095, 4096, 50000, 95001};
    for (size_t k = 0; k < sizeof at / sizeof *at; k++) {
        assert_int_equal(fb_file_read(file, bytes, sizeof bytes, at[k], &err), FOREBAY_OK);
        for (size_t i = 0; i < sizeof bytes; i++) {
            assert_int_equal(bytes[i], pattern(at[k] + i));
        }
    }
    assert_int_equal(fb_file_read(file, bytes, 0, 100001, &err), FOREBAY_OK);
    fb_file_drop_cache(file, 0, file->size);
    assert_int_equal(fb_file_read(file, bytes, 100, 7, &err), FOREBAY_OK);
    assert_int_equal(bytes[0], pattern(7));
    fb_file_close(file);
    fb_file_close(NULL);
}

static void test_read_past_the_end(void **state)
{
    (void)state;
    struct forebay_error err;
    struct fb_file *file = NULL;
    char bytes[100];
    assert_int_equal(fb_file_open(pattern_file("short", 1000), false, &file, &err), FOREBAY_OK);
    assert_int_equal(fb_file_read(file, bytes, 100, 901, &err), FOREBAY_E_FORMAT);
    assert_non_null(strstr(err.message, file->path));
    assert_non_null(strstr(err.message, "901"));
    assert_true(err.hint[0]);
    assert_int_equal(fb_file_read(file, bytes, 1, 1000, &err), FOREBAY_E_FORMAT);
    assert_int_equal(fb_file_read(file, bytes, 1, 1u << 30, NULL), FOREBAY_E_FORMAT);
    fb_file_close(file);
}

static void check_refused(const char *path, const char *word)
{
    struct forebay_error err = {0};
    struct fb_file *file = (struct fb_file *)&err; /* must stay untouched */
    assert_int_equal(fb_file_open(path, true, &file, &err), FOREBAY_E_IO);
    assert_ptr_equal(file, &err);
    assert_int_equal(err.status, FOREBAY_E_IO);
    assert_non_null(strstr(err.message, path));
    assert_non_null(strstr(err.message, word));
    assert_true(err.hint[0]);
    assert_int_equal(fb_file_open(path, true, &file, NULL), FOREBAY_E_IO);
}

static void test_open_refuses(void **state)
{
    (void)state;
    check_refused(in_scratch("missing"), "No such file");
    check_refused(scratch, "directory");
    check_refused("/dev/null", "device");
    const char *fifo = in_scratch("fifo");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    check_refused(fifo, "pipe"); /* and does not hang */
    if (geteuid() != 0) {
        const char *path = pattern_file("secret", 10);
        assert_int_equal(chmod(path, 0), 0);
        check_refused(path, "ermission");
    }
}

static void test_direct_descriptor(void **state)
{
    (void)state;
    struct forebay_error err;
    struct fb_file *file = NULL;
    static const size_t sizes[] = {0, 1, 4095, 4096, 4097, 70000};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        assert_int_equal(
            fb_file_open(pattern_file("direct", sizes[k]), true, &file, &err), FOREBAY_OK);
        if (file->fd_direct >= 0) {
            uint32_t a = file->alignment;
            assert_true(a > 0 && a <= 4096 && (a & (a - 1)) == 0);
            void *block = NULL;
            assert_int_equal(posix_memalign(&block, 4096, 8192), 0);
            ssize_t n = pread(file->fd_direct, block, 8192, 0);
            assert_int_equal(n, sizes[k] < 8192 ? sizes[k] : 8192);
            for (ssize_t i = 0; i < n; i++) {
                assert_int_equal(((unsigned char *)block)[i], pattern((uint64_t)i));
            }
            free(block);
        }
        fb_file_close(file);
    }
}

static void test_check_notices_changes(void **state)
{
    (void)state;
    struct forebay_error err;
    struct fb_file *file = NULL;
    char path[512];
    snprintf(path, sizeof path, "%s", pattern_file("watched", 9000));
    assert_int_equal(fb_file_open(path, false, &file, &err), FOREBAY_OK);
    assert_int_equal(fb_file_check(file, &err), FOREBAY_OK);

    /* Replaced by rename, even removed: the descriptor still reads the old file. */
    char other[512];
    snprintf(other, sizeof other, "%s", pattern_file("other", 5));
    assert_int_equal(rename(other, path), 0);
    assert_int_equal(fb_file_check(file, &err), FOREBAY_OK);
    fb_file_close(file);

    snprintf(path, sizeof path, "%s", pattern_file("watched", 9000));
    assert_int_equal(fb_file_open(path, false, &file, &err), FOREBAY_OK);
    assert_int_equal(truncate(path, 8999), 0);
    assert_int_equal(fb_file_check(file, &err), FOREBAY_E_IO);
    assert_non_null(strstr(err.message, path));
    fb_file_close(file);

    assert_int_equal(fb_file_open(path, false, &file, &err), FOREBAY_OK);
    int fd = open(path, O_WRONLY);
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1000000000}};
    assert_int_equal(pwrite(fd, "x", 1, 0), 1);
    assert_int_equal(futimens(fd, times), 0); /* same size, another time */
    close(fd);
    assert_int_equal(fb_file_check(file, &err), FOREBAY_E_IO);
    fb_file_close(file);
}

static void set_time(const char *path, time_t seconds)
{
    struct timespec times[2] = {{.tv_sec = seconds}, {.tv_sec = seconds}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

/* As touch -m does, which inotify reports as a write. */
static void set_modification_time(const char *path, time_t seconds)
{
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = seconds}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

/* Of a file that is remembered, a new time alone is no change; new content is, however it comes. */
static void test_check_tells_time_from_content(void **state)
{
    (void)state;
    struct forebay_error err;
    char path[512];
    static const size_t sizes[] = {9000, 100 << 20};
    for (size_t i = 0; i < 2; i++) {
        struct fb_file *file = NULL;
        snprintf(path, sizeof path, "%s", pattern_file("touched", 9000));
        assert_int_equal(truncate(path, (off_t)sizes[i]), 0);
        assert_int_equal(fb_file_open(path, false, &file, &err), FOREBAY_OK);
        assert_int_equal(fb_file_remember(file, &err), FOREBAY_OK);
        set_time(path, 1000000000);
        assert_int_equal(fb_file_check(file, &err), FOREBAY_OK);
        set_modification_time(path, 1100000000);
        assert_int_equal(fb_file_check(file, &err), FOREBAY_OK);
        assert_int_equal(fb_file_check(file, &err), FOREBAY_OK);

        /* Through a mapping, which no system reports, in a part that is sampled. */
        int fd = open(path, O_RDWR);
        char *bytes = mmap(NULL, 9000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        assert_ptr_not_equal(bytes, MAP_FAILED);
        bytes[8999] ^= 1;
        assert_int_equal(msync(bytes, 9000, MS_SYNC), 0);
        set_time(path, 1200000000);
        assert_int_equal(fb_file_check(file, &err), FOREBAY_E_IO);
        bytes[8999] ^= 1;
        munmap(bytes, 9000);
        /* More than lies between two samples, anywhere. */
        set_time(path, 1300000000);
        assert_int_equal(fb_file_check(file, &err), FOREBAY_OK);
        char changed[256 << 10];
        memset(changed, 'x', sizeof changed);
        size_t n = sizes[i] < sizeof changed ? 1 : sizeof changed;
        assert_int_equal(pwrite(fd, changed, n, (off_t)(sizes[i] / 2)), n);
        assert_int_equal(fb_file_check(file, &err), FOREBAY_E_IO);
        set_time(path, 1400000000);
        assert_int_equal(fb_file_check(file, &err), FOREBAY_E_IO);
        close(fd);
        fb_file_close(file);
    }
}

/* The wait ends by the clock of fb_now_ns, and not before. */
static void test_timed_wait(void **state)
{
    (void)state;
    pthread_cond_t cond;
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    fb_timed_wait_init(&cond);
    pthread_mutex_lock(&lock);
    uint64_t start = fb_now_ns(), until = start + 30000000;
    bool in_time = true;
    while (in_time) {
        in_time = fb_timed_wait(&cond, &lock, until);
    }
    assert_true(fb_now_ns() >= until);
    assert_false(fb_timed_wait(&cond, &lock, 1)); /* long ago */
    pthread_mutex_unlock(&lock);
    pthread_cond_destroy(&cond);
}

static void test_make_sparse(void **state)
{
    (void)state;
    struct forebay_error err;
    struct stat st;
    const char *path = pattern_file("sparse", 5000);
    assert_int_equal(fb_file_make_sparse(path, 40 * FB_GIB, &err), FOREBAY_OK);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 40 * FB_GIB);
    assert_true((uint64_t)st.st_blocks * 512 < FB_MIB);
    struct fb_file *file = NULL;
    unsigned char bytes[100];
    assert_int_equal(fb_file_open(path, false, &file, &err), FOREBAY_OK);
    assert_int_equal(fb_file_read(file, bytes, sizeof bytes, 39 * FB_GIB, &err), FOREBAY_OK);
    assert_int_equal(bytes[99], 0);
    assert_int_equal(fb_file_read(file, bytes, sizeof bytes, 0, &err), FOREBAY_OK);
    assert_int_equal(bytes[50], 0); /* the old contents are gone */
    fb_file_close(file);
    assert_int_equal(fb_file_make_sparse(in_scratch("no/such/dir"), 1, &err), FOREBAY_E_IO);
    assert_non_null(strstr(err.message, "no/such/dir"));
    assert_int_equal(fb_file_make_sparse(path, UINT64_MAX, &err), FOREBAY_E_IO);
}

/* --- Address space -------------------------------------------------------------------------- */

/* Pages of the range that are in memory, according to mincore. */
static uint64_t present(void *base, uint64_t size)
{
    uint64_t n = size / fb_vm_page_size(), count = 0;
    unsigned char *map = malloc(n);
    assert_int_equal(mincore(base, size, (void *)map), 0);
    for (uint64_t i = 0; i < n; i++) {
        count += map[i] & 1;
    }
    free(map);
    return count;
}

static void test_reserve(void **state)
{
    (void)state;
    uint64_t page = fb_vm_page_size();
    assert_int_equal(page, sysconf(_SC_PAGESIZE));
    for (int huge = 0; huge < 2; huge++) {
        uint64_t size = 9 * FB_MIB + 5;
        unsigned char *base = fb_vm_reserve(size, huge);
        assert_non_null(base);
        assert_int_equal((uintptr_t)base % (huge ? 2 * FB_MIB : page), 0);
        assert_int_equal(present(base, 9 * FB_MIB), 0);
        assert_int_equal(base[0] | base[size - 1] | base[4 * FB_MIB], 0);
        base[size - 1] = 1;
        fb_vm_release(base, size);
        assert_int_equal(mincore(base, page, (void *)&(unsigned char){0}), -1);
        assert_int_equal(mincore(base + 9 * FB_MIB, page, (void *)&(unsigned char){0}), -1);
    }
    assert_null(fb_vm_reserve(0, false));
    assert_null(fb_vm_reserve(UINT64_MAX, true));
    assert_null(fb_vm_reserve((uint64_t)1 << 62, false));
    fb_vm_release(NULL, 5);
}

#ifdef __linux__
/* The address space reserved for alignment is unmapped again. */
static void test_reserve_leaks_nothing(void **state)
{
    (void)state;
    char before[128], after[128];
    fb_vm_release(fb_vm_reserve(4096, true), 4096);
    assert_true(fb_proc_text("", "/proc/self/statm", before, sizeof before));
    for (int i = 0; i < 50; i++) {
        fb_vm_release(fb_vm_reserve(4096 * (unsigned)(i + 1), true), 4096 * (unsigned)(i + 1));
    }
    assert_true(fb_proc_text("", "/proc/self/statm", after, sizeof after));
    uint64_t pages = strtoull(before, NULL, 10);
    assert_in_range(strtoull(after, NULL, 10), 0, pages + 8 * FB_MIB / fb_vm_page_size());
}
#endif

/* The promise behind streaming: address space far beyond memory costs nothing. */
static void test_reserve_beyond_memory(void **state)
{
    (void)state;
#if defined(__SANITIZE_THREAD__)
    skip(); /* no hole of this size in its address space */
#endif
    uint64_t before = fb_memory_rss();
    unsigned char *base = fb_vm_reserve(1024 * FB_GIB, true);
    assert_non_null(base);
    base[1000 * FB_GIB] = 7;
    assert_int_equal(base[1000 * FB_GIB], 7);
    assert_in_range(fb_memory_rss(), 0, before + 16 * FB_MIB);
    fb_vm_release(base, 1024 * FB_GIB);
}

static void test_populate_keeps_contents(void **state)
{
    (void)state;
    uint64_t page = fb_vm_page_size(), size = 64 * page;
    for (int huge = 0; huge < 2; huge++) {
        unsigned char *base = fb_vm_reserve(size, huge);
        base[3 * page] = 9;
        fb_vm_populate(base, size);
        assert_int_equal(present(base, size), 64);
        assert_int_equal(base[3 * page], 9);
        assert_int_equal(base[4 * page], 0);
        fb_vm_populate(base, 0);
        fb_vm_release(base, size);
    }
}

/* Pieces of a few MiB, each populated by one of two threads; the contents stay. */
static void test_a_populator_populates_all(void **state)
{
    (void)state;
    uint64_t page = fb_vm_page_size(), size = 130 * FB_MIB, done = 0;
    struct fb_vm_range ranges[] = {
        {fb_vm_reserve(size, true), size}, {NULL, 0}, {fb_vm_reserve(page, false), page}};
    unsigned char *base = ranges[0].base, *small = ranges[2].base;
    base[70 * FB_MIB] = 9;
    struct fb_populator *p = fb_populator_start(ranges, 3);
    base[129 * FB_MIB] = 8;
    while (fb_populator_help(p, &done) != FB_POPULATED_ALL) {
        assert_in_range(done, 1, size + page);
    }
    assert_int_equal(done, size + page);
    assert_int_equal(present(base, size), size / page);
    assert_int_equal(present(small, page), 1);
    assert_int_equal(base[70 * FB_MIB], 9);
    assert_int_equal(base[129 * FB_MIB], 8);
    assert_int_equal(fb_populator_help(p, &done), FB_POPULATED_ALL);
    fb_populator_end(p);
    fb_vm_release(base, size);
    fb_vm_release(small, page);
}

static void little_memory(struct fb_memory_state *out)
{
    *out = (struct fb_memory_state){.total_bytes = 64 * FB_GIB,
        .available_bytes = 500 * FB_MIB, /* less than the reserve */
        .limit_bytes = UINT64_MAX};
}

static void test_a_populator_leaves_the_reserve_and_what_is_withdrawn(void **state)
{
    (void)state;
    uint64_t page = fb_vm_page_size(), size = 64 * FB_MIB, done = 0;
    struct fb_vm_range range = {fb_vm_reserve(size, false), size};
    char *base = range.base;
    fb_memory_override(little_memory);
    struct fb_populator *p = fb_populator_start(&range, 1);
    assert_int_equal(fb_populator_help(p, &done), FB_POPULATED_NO_ROOM);
    assert_int_equal(present(base, size), 0);
    fb_populator_withdraw(p, base + 24 * FB_MIB, size - 24 * FB_MIB); /* amid a piece */
    fb_memory_override(NULL);
    while (fb_populator_help(p, &done) != FB_POPULATED_ALL) {
    }
    assert_int_equal(present(base, size), 24 * FB_MIB / page);
    assert_int_equal(done, 24 * FB_MIB);
    fb_populator_end(p);
    fb_populator_withdraw(NULL, base, size);
    fb_vm_release(base, size);
}

static void test_a_populator_is_stopped(void **state)
{
    (void)state;
    uint64_t size = 64 * FB_GIB; /* too much to finish: the test would fail or hang */
    struct fb_vm_range range = {fb_vm_reserve(size, true), size};
    fb_populator_end(fb_populator_start(&range, 1));
    assert_in_range(present(range.base, size), 0, size / 2 / fb_vm_page_size());
    fb_vm_release(range.base, size);
    fb_populator_end(fb_populator_start(NULL, 0));
    fb_populator_end(NULL);
}

static bool can_read(const void *at)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    ssize_t n = write(ends[1], at, 1);
    assert_true(n == 1 || errno == EFAULT);
    close(ends[0]);
    close(ends[1]);
    return n == 1;
}

static void test_space_is_inaccessible_until_it_is_allowed(void **state)
{
    (void)state;
    uint64_t page = fb_vm_page_size(), size = 1024 * FB_GIB;
    unsigned char *base = fb_vm_reserve_space(size, true);
    assert_non_null(base);
    assert_false(can_read(base));
    assert_true(fb_vm_allow(base + 3 * page, 2 * page));
    base[3 * page] = base[5 * page - 1] = 1;
    assert_false(can_read(base + 3 * page - 1));
    assert_true(can_read(base + 5 * page - 1));
    assert_false(can_read(base + 5 * page));
    fb_vm_release(base, size);
}

static void test_discard_whole_pages_only(void **state)
{
    (void)state;
    uint64_t page = fb_vm_page_size();
    unsigned char *base = fb_vm_reserve(8 * page, false);
    memset(base, 0x55, 8 * page);
    fb_vm_discard(base + 2 * page + 1, 3 * page); /* whole pages inside: 3 and 4 */
    for (uint64_t i = 0; i < 8 * page; i++) {
        bool gone = i >= 3 * page && i < 5 * page;
        assert_int_equal(base[i], gone ? 0 : 0x55);
    }
    memset(base, 0x66, 8 * page);
    fb_vm_discard(base + 1, page); /* none */
    fb_vm_discard(base + page, 0);
    assert_int_equal(base[page], 0x66);
    fb_vm_discard(base, 8 * page);
    assert_int_equal(present(base, 8 * page), 0);
    /* Locked memory cannot be released, but must read as zero all the same. */
    if (mlock(base, page) == 0) {
        memset(base, 0x77, page);
        fb_vm_discard(base, page);
        assert_int_equal(base[page / 2], 0);
    }
    fb_vm_release(base, 8 * page);
}

static void test_forbid_faults(void **state)
{
    (void)state;
    uint64_t page = fb_vm_page_size();
    volatile unsigned char *base = fb_vm_reserve(4 * page, false);
    base[0] = 1;
    fb_vm_forbid((void *)(base + 1), 3 * page); /* whole pages inside: 1 and 2 */
    base[page - 1] = 1;
    base[3 * page] = 1;
    for (int k = 1; k <= 2; k++) {
        pid_t pid = fork();
        if (pid == 0) {
            signal(SIGSEGV, SIG_DFL);
            signal(SIGBUS, SIG_DFL);
            (void)base[(uint64_t)k * page];
            _exit(0);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
    }
    fb_vm_release((void *)base, 4 * page);
}

/* --- Figures -------------------------------------------------------------------------------- */

static void test_memory_figures(void **state)
{
    (void)state;
    struct fb_memory_state m;
    fb_memory_state(&m);
    uint64_t total = (uint64_t)sysconf(_SC_PHYS_PAGES) * fb_vm_page_size();
    assert_in_range(m.total_bytes, total / 2, total * 2);
    assert_in_range(m.available_bytes, 1, m.total_bytes);
    assert_true(m.limit_bytes == UINT64_MAX || m.limit_bytes < m.total_bytes);
    assert_in_range(fb_memory_headroom(&m), 0, m.available_bytes);

    uint64_t size = 64 * FB_MIB;
    unsigned char *base = fb_vm_reserve(size, false);
    uint64_t before = fb_memory_rss();
    fb_vm_populate(base, size);
    uint64_t after = fb_memory_rss();
    assert_in_range(after, before + size / 2, before + size + size / 2);
    /* Half, because the kernel counts pages per processor and sums them up only now and then. */
    assert_true(fb_memory_peak_rss() >= before + size / 2);
    fb_vm_release(base, size);
    assert_in_range(fb_memory_rss(), 0, after - size / 2);
    assert_true(fb_memory_peak_rss() >= before + size / 2);
}

static void test_headroom(void **state)
{
    (void)state;
    struct fb_memory_state m = {.total_bytes = 100, .available_bytes = 70};
    m.limit_bytes = UINT64_MAX;
    assert_int_equal(fb_memory_headroom(&m), 70);
    m.limit_used_bytes = 50; /* with no limit */
    assert_int_equal(fb_memory_headroom(&m), 70);
    m.limit_bytes = 80;
    assert_int_equal(fb_memory_headroom(&m), 30);
    m.limit_bytes = 500;
    assert_int_equal(fb_memory_headroom(&m), 70);
    m.limit_bytes = 40; /* lowered below the use */
    assert_int_equal(fb_memory_headroom(&m), 0);
}

static void test_processors(void **state)
{
    (void)state;
    int n = fb_cpu_count();
    assert_in_range(n, 1, sysconf(_SC_NPROCESSORS_ONLN));
    assert_true(strlen(fb_cpu_name()) > 3);
    assert_null(strchr(fb_cpu_name(), '\n'));
    assert_ptr_equal(fb_cpu_name(), fb_cpu_name());
#ifdef __linux__
    cpu_set_t before, one;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; cpu++) {
        if (CPU_ISSET(cpu, &before)) {
            CPU_SET(cpu, &one);
        }
    }
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(fb_cpu_count(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
#endif
}

#ifdef __linux__
/* --- Containers, in imitations of /proc and /sys ---------------------------------------------- */

/* Writes text to scratch/root/path, creating directories. */
static void put(const char *root, const char *path, const char *text)
{
    char full[1024];
    snprintf(full, sizeof full, "%s/%s%s", scratch, root, path);
    for (char *p = full + strlen(scratch) + 1; (p = strchr(p, '/')); p++) {
        *p = 0;
        assert_true(mkdir(full, 0700) == 0 || errno == EEXIST);
        *p = '/';
    }
    write_file(full, text, strlen(text));
}

#define V1_MOUNT     "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
#define V1_CPU_MOUNT "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
#define V2_MOUNT     "41 31 0:38 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
#define NONE_V1      "9223372036854771712\n"

static void check_limit(const char *root, uint64_t limit, uint64_t used)
{
    uint64_t got_limit = 1, got_used = 1;
    fb_cgroup_memory(in_scratch(root), 64 * FB_GIB, &got_limit, &got_used);
    assert_int_equal(got_limit, limit);
    assert_int_equal(got_used, used);
}

static void put_v1(
    const char *root, const char *dir, const char *limit, const char *usage, const char *stat)
{
    char path[512];
    snprintf(path, sizeof path, "/sys/fs/cgroup/memory%s/memory.limit_in_bytes", dir);
    put(root, path, limit);
    snprintf(path, sizeof path, "/sys/fs/cgroup/memory%s/memory.usage_in_bytes", dir);
    put(root, path, usage);
    snprintf(path, sizeof path, "/sys/fs/cgroup/memory%s/memory.stat", dir);
    put(root, path, stat);
}

static void put_v2(
    const char *root, const char *dir, const char *max, const char *current, const char *stat)
{
    char path[512];
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.max", dir);
    put(root, path, max);
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.current", dir);
    put(root, path, current);
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.stat", dir);
    put(root, path, stat);
}

static void test_cgroup_v1(void **state)
{
    (void)state;
    put("v1", "/proc/self/cgroup", "9:name=systemd:/\n4:memory:/jobs/a\n3:cpuset:/\n");
    put("v1", "/proc/self/mountinfo", "22 27 0:21 / /proc rw - proc proc rw\n" V1_MOUNT);
    put_v1("v1", "/jobs/a", "1073741824\n", "700000000\n",
        "inactive_file 1\ntotal_inactive_file 300000000\ntotal_active_file 50000000\n"
        "hierarchical_memory_limit 1073741824\n");
    check_limit("v1", 1073741824, 350000000); /* the parents have no files: no limit */
    put_v1("v1", "", NONE_V1, "9000000000\n", "total_inactive_file 0\n");
    put_v1("v1", "/jobs", NONE_V1, "9000000000\n", "total_inactive_file 0\n");
    check_limit("v1", 1073741824, 350000000);
    /* A larger limit above, nearly used up by others, is the tighter one. */
    put_v1("v1", "/jobs", "8589934592\n", "8500000000\n", "total_inactive_file 0\n");
    check_limit("v1", 8589934592, 8500000000);
    /* The limit of an invisible ancestor is known from the statistics only. */
    put_v1("v1", "/jobs", NONE_V1, "9000000000\n", "total_inactive_file 0\n");
    put_v1("v1", "/jobs/a", NONE_V1, "1000\n", "hierarchical_memory_limit 536870912\n");
    check_limit("v1", 536870912, 1000);
}

static void test_cgroup_v2(void **state)
{
    (void)state;
    put("v2", "/proc/self/cgroup", "0::/user.slice/app.scope\n");
    put("v2", "/proc/self/mountinfo", V2_MOUNT);
    put_v2("v2", "/user.slice/app.scope", "max\n", "5000\n", "");
    check_limit("v2", UINT64_MAX, 0);
    put_v2("v2", "/user.slice", "2147483648\n", "1500000000\n",
        "anon 1\nfile 700\ninactive_file 400000000\nactive_file 100000000\n");
    check_limit("v2", 2147483648, 1000000000);
    put_v2("v2", "/user.slice/app.scope", "3000000\n", "1000000\n", "inactive_file 9000000\n");
    check_limit("v2", 3000000, 0); /* never below zero */
    put("v2", "/sys/fs/cgroup/user.slice/app.scope/memory.high", "2000000\n");
    check_limit("v2", 2000000, 0);
    put("v2", "/sys/fs/cgroup/user.slice/app.scope/memory.high", "max\n");
    check_limit("v2", 3000000, 0);
    put_v2("v2", "/user.slice/app.scope", "68719476736\n", "1\n", ""); /* all of memory: no limit */
    check_limit("v2", 2147483648, 1000000000);
}

/* A file that stays open shows every change. The pressure at the root is that of the machine. */
static void test_cgroup_stays_open(void **state)
{
    struct fb_cgroup group;
    uint64_t limit, used;
    char text[256];
    (void)state;
    put("open", "/proc/self/cgroup", "0::/a\n");
    put("open", "/proc/self/mountinfo", V2_MOUNT);
    put("open", "/sys/fs/cgroup/a/memory.pressure", "some avg10=1.00 total=7\n");
    put_v2("open", "/a", "3000000\n", "1000000\n", "inactive_file 0\n");
    fb_cgroup_open(in_scratch("open"), &group);
    for (int i = 1; i < 5; i++) {
        snprintf(text, sizeof text, "%d00000\n", i);
        put_v2("open", "/a", "2000000\n", text, "inactive_file 0\n");
        fb_cgroup_read(&group, FB_GIB, &limit, &used);
        assert_int_equal(limit, 2000000);
        assert_int_equal(used, i * 100000);
    }
    assert_true(fb_proc_again(group.pressure, text, sizeof text));
    assert_string_equal(text, "some avg10=1.00 total=7\n");
    fb_cgroup_close(&group);
    put("open", "/proc/self/cgroup", "0::/\n");
    put("open", "/sys/fs/cgroup/memory.pressure", "some avg10=1.00 total=7\n");
    fb_cgroup_open(in_scratch("open"), &group);
    assert_int_equal(group.pressure, -1);
    fb_cgroup_close(&group);
    assert_false(fb_proc_again(-1, text, sizeof text));
}

static void test_pressure_text(void **state)
{
    uint64_t us = 5;
    (void)state;
    assert_true(fb_psi_total("some avg10=0.00 avg60=0.00 avg300=0.00 total=131917020\n"
                             "full avg10=0.00 avg60=0.00 avg300=0.00 total=80429980\n",
        &us));
    assert_int_equal(us, 131917020);
    static const char *const bad[] = {"", "some", "full avg10=0.00 total=5", "some total=x",
        "some total=", "some total=-1", "\n"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(fb_psi_total(bad[i], &us));
    }
    assert_int_equal(us, 131917020);
}

/* In a container the path is that of the host, of which the mount shows only the end; or, in a
 * namespace, the path is relative to a directory that is not mounted. */
static void test_cgroup_namespaces(void **state)
{
    (void)state;
    put("ns", "/proc/self/cgroup", "4:memory:/docker/abc/sub\n");
    put("ns", "/proc/self/mountinfo",
        "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n");
    put_v1("ns", "", "1000000\n", "500000\n", "");
    put_v1("ns", "/sub", "400000\n", "100\n", "");
    check_limit("ns", 400000, 100);
    put("ns", "/proc/self/cgroup", "4:memory:/docker/abc\n");
    check_limit("ns", 1000000, 500000);
    put("ns", "/proc/self/cgroup", "4:memory:/elsewhere/entirely\n");
    check_limit("ns", 1000000, 500000);
    put("ns", "/proc/self/cgroup", "4:memory:/docker/abcdef\n"); /* no ancestor, though a prefix */
    put_v1("ns", "def", "5\n", "5\n", ""); /* beside the mount, not below it */
    check_limit("ns", 1000000, 500000);
    put("ns", "/proc/self/cgroup", "4:memory:/docker/abc/../sub\n");
    check_limit("ns", 1000000, 500000);

    put("ns2", "/proc/self/cgroup", "0::/../../host/path\n");
    put("ns2", "/proc/self/mountinfo", V2_MOUNT);
    put_v2("ns2", "", "777\n", "7\n", "");
    check_limit("ns2", 777, 7);
}

/* Both versions at once: v1 controllers beside an empty v2 tree, and vice versa. */
static void test_cgroup_hybrid(void **state)
{
    (void)state;
    put("hybrid", "/proc/self/cgroup", "4:memory:/a\n1:cpu:/\n0::/a\n");
    put("hybrid", "/proc/self/mountinfo",
        V1_MOUNT "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
    put("hybrid", "/sys/fs/cgroup/unified/cgroup.procs", "");
    put_v1("hybrid", "/a", "5000\n", "3000\n", "");
    check_limit("hybrid", 5000, 3000);
    put("hybrid", "/sys/fs/cgroup/unified/a/memory.max", "4500\n");
    put("hybrid", "/sys/fs/cgroup/unified/a/memory.current", "4000\n");
    check_limit("hybrid", 4500, 4000);
}

static void test_cgroup_malformed(void **state)
{
    (void)state;
    static const char *const groups[] = {"", "\n", ":::\n", "4\n", "4:memory\n", "x:memory:\n",
        "4:memory:/a", "0::", "0::/a\n0::/b\n", "\xff\xfe:memory:/\n"};
    static const char *const mounts[] = {"", "\n", " - \n", "35 31 0:32 / - cgroup\n",
        "35 - cgroup cgroup rw,memory\n", "a b c d e - cgroup2\n", V1_MOUNT, V2_MOUNT};
    static const char *const limits[] = {"", "\n", "-1\n", "max\n", "12x\n", " 5\n", "none"};
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
        for (size_t m = 0; m < sizeof mounts / sizeof *mounts; m++) {
            const char *limit = limits[(g + m) % (sizeof limits / sizeof *limits)];
            put("bad", "/proc/self/cgroup", groups[g]);
            put("bad", "/proc/self/mountinfo", mounts[m]);
            put_v1("bad", "/a", limit, "x", "total_inactive_file\n");
            put_v2("bad", "/a", limit, "x", "inactive_file -5\n");
            check_limit("bad", UINT64_MAX, 0);
        }
    }
    check_limit("nothing/there", UINT64_MAX, 0);
    /* A malformed use with a valid limit: the limit still applies. */
    put("bad2", "/proc/self/cgroup", "0::/\n");
    put("bad2", "/proc/self/mountinfo", V2_MOUNT);
    put_v2("bad2", "", "4096000", "what?\n", "inactive_file\nactive_file   \n");
    check_limit("bad2", 4096000, 0);
}

static void test_cgroup_cpus(void **state)
{
    (void)state;
    put("cpu2", "/proc/self/cgroup", "0::/a/b\n");
    put("cpu2", "/proc/self/mountinfo", V2_MOUNT);
    put("cpu2", "/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    assert_true(fb_cgroup_cpus(in_scratch("cpu2")) == 0);
    put("cpu2", "/sys/fs/cgroup/a/cpu.max", "150000 100000\n");
    assert_true(fb_cgroup_cpus(in_scratch("cpu2")) == 1.5);
    put("cpu2", "/sys/fs/cgroup/a/b/cpu.max", "50000 100000\n");
    assert_true(fb_cgroup_cpus(in_scratch("cpu2")) == 0.5);

    put("cpu1", "/proc/self/cgroup", "2:cpu,cpuacct:/a\n3:cpuset:/\n");
    put("cpu1", "/proc/self/mountinfo", V1_CPU_MOUNT);
    put("cpu1", "/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "-1\n");
    put("cpu1", "/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n");
    assert_true(fb_cgroup_cpus(in_scratch("cpu1")) == 0);
    put("cpu1", "/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "400000\n");
    assert_true(fb_cgroup_cpus(in_scratch("cpu1")) == 4);
}

static void test_memory_state_of_a_container(void **state)
{
    (void)state;
    struct fb_memory_state m;
    put("m", "/proc/meminfo",
        "MemTotal:       16000000 kB\nMemFree:          100000 kB\nMemAvailable:    9000000 kB\n");
    fb_memory_state_at(in_scratch("m"), &m);
    assert_int_equal(m.total_bytes, 16000000 * FB_KIB);
    assert_int_equal(m.available_bytes, 9000000 * FB_KIB);
    assert_int_equal(m.limit_bytes, UINT64_MAX);
    put("m", "/proc/self/cgroup", "0::/\n");
    put("m", "/proc/self/mountinfo", V2_MOUNT);
    put_v2("m", "", "4194304000\n", "94304000\n", "");
    fb_memory_state_at(in_scratch("m"), &m);
    assert_int_equal(fb_memory_headroom(&m), 4100000000);
    fb_memory_state_at(in_scratch("nothing"), &m); /* no /proc at all */
    assert_true(m.total_bytes > 0 && m.available_bytes == m.total_bytes);
}

static void test_cores(void **state)
{
    (void)state;
    static const int cpus[] = {0, 1, 2, 3, 4, 5};
    static const char *const siblings[] = {"0,3", "1,4", "2", "0,3", "1,4"}; /* none for cpu5 */
    for (int i = 0; i < 5; i++) {
        char path[128];
        snprintf(
            path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", i);
        put("cores", path, siblings[i]);
    }
    assert_int_equal(fb_cpu_cores(in_scratch("cores"), cpus, 6), 4);
    assert_int_equal(fb_cpu_cores(in_scratch("cores"), cpus + 3, 2), 2);
    assert_int_equal(fb_cpu_cores(in_scratch("cores"), (int[]){0, 3}, 2), 1);
    assert_int_equal(fb_cpu_cores(in_scratch("none"), cpus, 6), 6);
}

static void test_cpu_idle(void **state)
{
    (void)state;
    uint64_t ticks;
    put("stat", "/proc/stat",
        "cpu  9 9 9 1111 222 9 9 9 0 0\ncpu0 1 2 3 100 20 4 5 6 0 0\ncpu1 1 2 3 7 8 4 5 6 0 0\n"
        "cpu12 1 2 3 1000 0 4 5 6 0 0\nintr 5 100 20\nctxt 7\n");
    assert_true(fb_cpu_idle_at(in_scratch("stat"), (int[]){0, 12}, 2, &ticks));
    assert_int_equal(ticks, 1120);
    assert_true(fb_cpu_idle_at(in_scratch("stat"), (int[]){1}, 1, &ticks));
    assert_int_equal(ticks, 15);
    assert_false(fb_cpu_idle_at(in_scratch("stat"), (int[]){0, 2}, 2, &ticks)); /* not shown */
    assert_false(fb_cpu_idle_at(in_scratch("none"), (int[]){0}, 1, &ticks));
}

static void test_cpu_description(void **state)
{
    (void)state;
    char text[256], tiny[12];
    put("x86", "/proc/cpuinfo",
        "processor\t: 0\nmodel\t\t: 1\nmodel name\t: Frobnicator 9000\n"
        "flags\t\t: fpu vme avx avx2 sse4_1 smep fma nx\nbugs\t\t: avx_bug\n\nprocessor\t: 1\n");
    fb_cpu_describe(in_scratch("x86"), text, sizeof text);
    assert_string_equal(text, "Frobnicator 9000: avx avx2 sse4_1 fma");
    fb_cpu_describe(in_scratch("x86"), tiny, sizeof tiny);
    assert_string_equal(tiny, "Frobnicator");
    put("arm", "/proc/cpuinfo",
        "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\nCPU implementer\t: 0x41\n"
        "CPU part\t: 0xd0c\n");
    fb_cpu_describe(in_scratch("arm"), text, sizeof text);
    assert_string_equal(text, "Arm 0x41/0xd0c: asimd asimddp i8mm");
    fb_cpu_describe(in_scratch("none"), text, sizeof text);
    assert_string_equal(text, "unknown processor");
}

static void test_written_bytes(void **state)
{
    (void)state;
    uint64_t before = fb_os_written_bytes();
    static char bytes[1 << 20];
    const char *path = in_scratch("written");
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    assert_int_equal(write(fd, bytes, sizeof bytes), sizeof bytes);
    assert_int_equal(fsync(fd), 0);
    close(fd);
    if (access("/proc/self/io", R_OK) == 0) {
        assert_in_range(fb_os_written_bytes(), before + sizeof bytes, before + 64 * FB_MIB);
    }
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open_and_read),
        cmocka_unit_test(test_read_past_the_end),
        cmocka_unit_test(test_open_refuses),
        cmocka_unit_test(test_direct_descriptor),
        cmocka_unit_test(test_check_notices_changes),
        cmocka_unit_test(test_check_tells_time_from_content),
        cmocka_unit_test(test_timed_wait),
        cmocka_unit_test(test_make_sparse),
        cmocka_unit_test(test_reserve),
        cmocka_unit_test(test_reserve_beyond_memory),
        cmocka_unit_test(test_populate_keeps_contents),
        cmocka_unit_test(test_a_populator_populates_all),
        cmocka_unit_test(test_a_populator_is_stopped),
        cmocka_unit_test(test_space_is_inaccessible_until_it_is_allowed),
        cmocka_unit_test(test_a_populator_leaves_the_reserve_and_what_is_withdrawn),
        cmocka_unit_test(test_discard_whole_pages_only),
        cmocka_unit_test(test_forbid_faults),
        cmocka_unit_test(test_memory_figures),
        cmocka_unit_test(test_headroom),
        cmocka_unit_test(test_processors),
#ifdef __linux__
        cmocka_unit_test(test_reserve_leaks_nothing),
        cmocka_unit_test(test_cgroup_v1),
        cmocka_unit_test(test_cgroup_v2),
        cmocka_unit_test(test_cgroup_stays_open),
        cmocka_unit_test(test_pressure_text),
        cmocka_unit_test(test_cgroup_namespaces),
        cmocka_unit_test(test_cgroup_hybrid),
        cmocka_unit_test(test_cgroup_malformed),
        cmocka_unit_test(test_cgroup_cpus),
        cmocka_unit_test(test_memory_state_of_a_container),
        cmocka_unit_test(test_cores),
        cmocka_unit_test(test_cpu_idle),
        cmocka_unit_test(test_cpu_description),
        cmocka_unit_test(test_written_bytes),
#endif
    };
    return cmocka_run_group_tests_name("os", tests, make_scratch, remove_scratch);
}
