/* test_base.c - src/base: sizes, errors, random numbers, log levels, bookkeeping memory. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <errno.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/log.h"
#include "base/random.h"
#include "base/units.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* --- Sizes -------------------------------------------------------------------------------- */

static void test_parse_size_accepts(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } cases[] = {
        {"0", 0},
        {"4096", 4096},
        {"17B", 17},
        {"17 b", 17},
        {"1k", FB_KIB},
        {"512m", 512 * FB_MIB},
        {"512MiB", 512 * FB_MIB},
        {"2 GB", 2 * FB_GIB},
        {"2gb", 2 * FB_GIB},
        {"4G", 4 * FB_GIB},
        {"1.5GiB", 3 * FB_GIB / 2},
        {".5K", 512},
        {"3.", 3},
        {"1T", 1024 * FB_GIB},
        {"2P", (uint64_t)2 << 50},
        {"8191P", (uint64_t)8191 << 50},
        {"7E", (uint64_t)7 << 60},
        {"0.1G", 107374182},
        {"00000000000000000000000000007", 7},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        uint64_t bytes = 99;
        if (!fb_parse_size(cases[i].text, &bytes)) {
            fail_msg("\"%s\" was refused", cases[i].text);
        }
        if (bytes != cases[i].bytes) {
            fail_msg("\"%s\" gave %llu", cases[i].text, (unsigned long long)bytes);
        }
    }
}

static void test_parse_size_refuses(void **state)
{
    (void)state;
    static const char *const cases[] = {NULL, "", " ", "G", "GiB", ".", "..", "-1", "-0", "+4",
        " 4", "1..5", "1.2.3", "1,5", "1e5", "1e400", "0x10", "inf", "nan", "4Gi", "4iB", "4GiBs",
        "4GG", "4 G B", "4G 5", "4G\n", "4%", "4Q", "8E", "8192P", "9223372036854775808",
        "18446744073709551615", "18446744073709551616", "99999999999999999999999999999",
        "999999999999999999999999999999999999999999999999999999999999999999999999999P", "\xff",
        "4\xff", "\xd9\xa4"};
    for (size_t i = 0; i < COUNT(cases); i++) {
        uint64_t bytes = 99;
        if (fb_parse_size(cases[i], &bytes)) {
            fail_msg("\"%s\" was accepted as %llu", cases[i], (unsigned long long)bytes);
        }
        assert_int_equal(bytes, 99); /* untouched */
    }
}

static void test_rates(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes_per_s;
    } cases[] = {{"1.8G", 1800000000}, {"550M", 550000000}, {"500MB/s", 500000000},
        {"2 gb/s", 2000000000}, {"4096", 4096}, {"1k", 1000}, {"1GiB", FB_GIB},
        {"2MiB/s", 2 * FB_MIB}, {"3.5GB", 3500000000}, {"1", 1}};
    static const char *const wrong[] = {NULL, "", "0", "0.5", "fast", "-1", "1e9", "1G/m", "1G/s/s",
        "/s", "1Gi", "inf", "8E5", "99E"};
    for (size_t i = 0; i < COUNT(cases); i++) {
        uint64_t rate = 99;
        if (!fb_parse_rate(cases[i].text, &rate) || rate != cases[i].bytes_per_s) {
            fail_msg("\"%s\" gave %llu", cases[i].text, (unsigned long long)rate);
        }
    }
    for (size_t i = 0; i < COUNT(wrong); i++) {
        uint64_t rate = 99;
        assert_false(fb_parse_rate(wrong[i], &rate));
        assert_int_equal(rate, 99);
    }
    assert_string_equal(FB_RATE(0), "0 B/s");
    assert_string_equal(FB_RATE(999), "999 B/s");
    assert_string_equal(FB_RATE(1e3), "1.0 kB/s");
    assert_string_equal(FB_RATE(550e6), "550 MB/s");
    assert_string_equal(FB_RATE(1.84e9), "1.8 GB/s");
    assert_string_equal(FB_RATE(5e15), "5000 TB/s");
}

static void test_format_size(void **state)
{
    (void)state;
    assert_string_equal(FB_SIZE(0), "0 B");
    assert_string_equal(FB_SIZE(17), "17 B");
    assert_string_equal(FB_SIZE(1023), "1023 B");
    assert_string_equal(FB_SIZE(FB_KIB), "1.0 KiB");
    assert_string_equal(FB_SIZE(512 * FB_MIB), "512 MiB");
    assert_string_equal(FB_SIZE(34 * FB_GIB / 10), "3.4 GiB");
    assert_string_equal(FB_SIZE((uint64_t)3 << 50), "3.0 PiB");
    assert_string_equal(FB_SIZE(UINT64_MAX), "16.0 EiB");

    char small[4] = {'x', 'x', 'x', 'x'};
    assert_ptr_equal(fb_format_size(512 * FB_MIB, small, sizeof small), small);
    assert_string_equal(small, "512");
}

/* A formatted size can be parsed again, and is off by no more than its last digit. */
static void test_size_round_trip(void **state)
{
    (void)state;
    uint64_t seed = 1;
    for (int i = 0; i < 20000; i++) {
        uint64_t bytes = (fb_random_next(&seed) >> 2) >> (i % 62);
        uint64_t back = 0;
        assert_true(fb_parse_size(FB_SIZE(bytes), &back));
        uint64_t off = bytes > back ? bytes - back : back - bytes;
        assert_true(off <= bytes / 20);
        assert_true(bytes >= FB_KIB || off == 0);
    }
}

static void test_rounding(void **state)
{
    (void)state;
    for (uint64_t n = 0; n < 300; n++) {
        for (uint64_t step = 1; step < 70; step++) {
            uint64_t up = fb_round_up(n, step), down = fb_round_down(n, step);
            assert_true(up >= n && up < n + step && up % step == 0);
            assert_true(down <= n && down + step > n && down % step == 0);
        }
    }
    assert_int_equal(fb_min(3, UINT64_MAX), 3);
    assert_int_equal(fb_max(3, UINT64_MAX), UINT64_MAX);
}

static void test_clock_never_goes_back(void **state)
{
    (void)state;
    uint64_t last = fb_now_ns();
    assert_true(last > 0);
    for (int i = 0; i < 10000; i++) {
        uint64_t now = fb_now_ns();
        assert_true(now >= last);
        last = now;
    }
}

/* --- Errors ------------------------------------------------------------------------------- */

/* An error between two guards, which no message may overwrite. */
struct guarded {
    char before[32];
    struct forebay_error err;
    char after[32];
};

static void guard(struct guarded *g)
{
    memset(g, 0x5a, sizeof *g);
}

static void check_guard(const struct guarded *g)
{
    for (size_t i = 0; i < sizeof g->before; i++) {
        assert_int_equal(g->before[i], 0x5a);
        assert_int_equal(g->after[i], 0x5a);
    }
}

static void test_fail_fills_and_returns(void **state)
{
    (void)state;
    struct forebay_error err;
    assert_int_equal(fb_fail(&err, FOREBAY_E_FORMAT, "Get it again.", "%s: bad at %d", "m.gguf", 7),
        FOREBAY_E_FORMAT);
    assert_int_equal(err.status, FOREBAY_E_FORMAT);
    assert_string_equal(err.message, "m.gguf: bad at 7");
    assert_string_equal(err.hint, "Get it again.");

    assert_int_equal(fb_fail_errno(&err, FOREBAY_E_IO, ENOENT, NULL, "%s", "m.gguf"), FOREBAY_E_IO);
    assert_int_equal(err.status, FOREBAY_E_IO);
    assert_string_equal(err.message, "m.gguf: No such file or directory");
    assert_string_equal(err.hint, "");
}

static void test_fail_without_an_error(void **state)
{
    (void)state;
    assert_int_equal(fb_fail(NULL, FOREBAY_E_NOFIT, "", "%d", 1), FOREBAY_E_NOFIT);
    assert_int_equal(fb_fail_errno(NULL, FOREBAY_E_IO, EIO, "", "%d", 1), FOREBAY_E_IO);
}

/* Lengths around the field's size, with and without an errno text, which must be cut, too. */
static void test_fail_cuts_long_texts(void **state)
{
    (void)state;
    static char text[2000];
    const size_t field = sizeof((struct forebay_error *)0)->message - 1;
    const size_t hint_field = sizeof((struct forebay_error *)0)->hint - 1;
    for (size_t n = 0; n<sizeof text; n += n> 200 && n < 560 ? 1 : 61) {
        memset(text, 'a', n);
        text[n] = 0;
        struct guarded g;
        guard(&g);
        fb_fail(&g.err, FOREBAY_E_IO, text, "%s", text);
        check_guard(&g);
        assert_int_equal(strlen(g.err.message), fb_min(n, field));
        assert_int_equal(strlen(g.err.hint), fb_min(n, hint_field));

        guard(&g);
        fb_fail_errno(&g.err, FOREBAY_E_IO, ENOSPC, text, "%s", text);
        check_guard(&g);
        assert_int_equal(
            strlen(g.err.message), fb_min(n + strlen(": ") + strlen(strerror(ENOSPC)), field));
    }
}

static void test_status_out_of_range(void **state)
{
    (void)state;
    assert_string_equal(forebay_status_name((enum forebay_status)77), "?");
    assert_string_equal(forebay_status_text((enum forebay_status)77), "?");
}

/* Runs `body` in a child; its stderr goes to `said`. Returns the wait status. */
static int in_child(void (*body)(void), char *said, size_t cap)
{
    int pipe_fd[2];
    assert_int_equal(pipe(pipe_fd), 0);
    fflush(stdout);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        signal(SIGABRT, SIG_DFL); /* cmocka catches it */
        dup2(pipe_fd[1], 2);
        close(pipe_fd[0]);
        close(pipe_fd[1]);
        body();
        _exit(0);
    }
    close(pipe_fd[1]);
    size_t used = 0;
    ssize_t n;
    while ((n = read(pipe_fd[0], said + used, cap - 1 - used)) > 0) {
        used += (size_t)n;
    }
    said[used] = 0;
    close(pipe_fd[0]);
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void break_an_assertion(void)
{
    int slots = 3;
    FB_ASSERT(slots == 4);
}

static void keep_an_assertion(void)
{
    int slots = 4;
    FB_ASSERT(slots == 4);
}

static void test_bug_reports_and_aborts(void **state)
{
    (void)state;
    char said[1024];
    int status = in_child(break_an_assertion, said, sizeof said);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
    assert_non_null(strstr(said, "forebay: bug at "));
    assert_non_null(strstr(said, "test_base.c:"));
    assert_non_null(strstr(said, "assertion failed: slots == 4"));

    status = in_child(keep_an_assertion, said, sizeof said);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_string_equal(said, "");
}

static void test_bookkeeping_memory(void **state)
{
    (void)state;
    void *nothing = fb_xmalloc(0);
    assert_non_null(nothing);
    free(nothing);

    unsigned char *zeros = fb_xcalloc(100, 7);
    for (int i = 0; i < 700; i++) {
        assert_int_equal(zeros[i], 0);
    }
    memset(zeros, 3, 700);
    zeros = fb_xrealloc(zeros, 5000);
    assert_int_equal(zeros[699], 3);
    free(zeros);

    char *copy = fb_xstrdup("expert");
    assert_string_equal(copy, "expert");
    free(copy);
}

/* --- Random numbers ------------------------------------------------------------------------- */

/* The first outputs of the reference implementation (Vigna's splitmix64.c) for seed 1234567. */
static void test_random_sequence(void **state)
{
    (void)state;
    static const uint64_t want[] = {6457827717110365317u, 3203168211198807973u,
        9817491932198370423u, 4593380528125082431u, 16408922859458223821u};
    uint64_t seed = 1234567;
    for (size_t i = 0; i < COUNT(want); i++) {
        assert_true(fb_random_hash(1234567 + i * FB_RANDOM_STEP) == want[i]);
        assert_true(fb_random_next(&seed) == want[i]);
    }
    assert_true(fb_random_mix(1, 2, 3) != fb_random_mix(2, 1, 3));
}

/* --- Log ---------------------------------------------------------------------------------- */

struct heard {
    int n;
    enum forebay_log_level level;
    char line[2048];
};

static void hear(enum forebay_log_level level, const char *line, void *user)
{
    struct heard *heard = user;
    heard->n++;
    heard->level = level;
    snprintf(heard->line, sizeof heard->line, "%s", line);
}

static int reset_log(void **state)
{
    (void)state;
    forebay_log_set_sink(NULL, NULL);
    forebay_log_set_level(FOREBAY_LOG_WARN);
    return 0;
}

static void test_log_levels(void **state)
{
    (void)state;
    assert_true(fb_log_enabled(FOREBAY_LOG_WARN)); /* the default */
    assert_false(fb_log_enabled(FOREBAY_LOG_INFO));

    struct heard heard = {0};
    forebay_log_set_sink(hear, &heard);
    for (int threshold = FOREBAY_LOG_ERROR; threshold <= FOREBAY_LOG_DEBUG; threshold++) {
        forebay_log_set_level((enum forebay_log_level)threshold);
        for (int level = FOREBAY_LOG_ERROR; level <= FOREBAY_LOG_DEBUG; level++) {
            heard.n = 0;
            fb_log((enum forebay_log_level)level, "slot %d of %s", level, "four");
            assert_int_equal(heard.n, level <= threshold);
            assert_int_equal(fb_log_enabled((enum forebay_log_level)level), level <= threshold);
            if (heard.n) {
                char expected[32];
                snprintf(expected, sizeof expected, "slot %d of four", level);
                assert_int_equal(heard.level, level);
                assert_string_equal(heard.line, expected);
            }
        }
    }
}

static void test_log_cuts_long_lines(void **state)
{
    (void)state;
    static char text[5000];
    memset(text, 'b', sizeof text - 1);
    struct heard heard = {0};
    forebay_log_set_sink(hear, &heard);
    fb_log(FOREBAY_LOG_ERROR, "%s", text);
    assert_int_equal(heard.n, 1);
    assert_int_equal(strlen(heard.line), 1023);
    assert_int_equal(strspn(heard.line, "b"), 1023);
}

static void log_to_stderr(void)
{
    forebay_log_set_level(FOREBAY_LOG_DEBUG);
    fb_log(FOREBAY_LOG_ERROR, "one");
    fb_log(FOREBAY_LOG_WARN, "two");
    fb_log(FOREBAY_LOG_INFO, "three");
    fb_log(FOREBAY_LOG_DEBUG, "four");
}

static void test_log_without_a_sink(void **state)
{
    (void)state;
    char said[256];
    in_child(log_to_stderr, said, sizeof said);
    assert_string_equal(
        said, "forebay: error: one\nforebay: warning: two\nforebay: three\nforebay: debug: four\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse_size_accepts),
        cmocka_unit_test(test_parse_size_refuses),
        cmocka_unit_test(test_rates),
        cmocka_unit_test(test_format_size),
        cmocka_unit_test(test_size_round_trip),
        cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_clock_never_goes_back),
        cmocka_unit_test(test_fail_fills_and_returns),
        cmocka_unit_test(test_fail_without_an_error),
        cmocka_unit_test(test_fail_cuts_long_texts),
        cmocka_unit_test(test_status_out_of_range),
        cmocka_unit_test(test_bug_reports_and_aborts),
        cmocka_unit_test(test_bookkeeping_memory),
        cmocka_unit_test(test_random_sequence),
        cmocka_unit_test_setup_teardown(test_log_levels, reset_log, reset_log),
        cmocka_unit_test_setup_teardown(test_log_cuts_long_lines, reset_log, reset_log),
        cmocka_unit_test_setup_teardown(test_log_without_a_sink, reset_log, reset_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
