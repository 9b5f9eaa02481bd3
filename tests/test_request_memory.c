/* test_request_memory.c - memory for requests: who gets room, who waits, and the estimate. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/units.h"
#include "serve/request_memory.h"

#define MIB FB_MIB

/* One request gets at most three quarters; large ones together, too; the rest is for small ones. */
static void test_limits(void **state)
{
    (void)state;
    struct fb_request_memory *m = fb_request_memory_new(16 * MIB);
    struct fb_memory_share a, b, c;
    fb_share_open(m, &a, -1);
    fb_share_open(m, &b, -1);
    fb_share_open(m, &c, -1);
    fb_share_received(m, &a);
    assert_int_equal(fb_request_memory_most(m), 12 * MIB);
    assert_false(fb_share_set(m, &a, 12 * MIB + 1));
    assert_int_equal(a.bytes, 0);
    assert_true(fb_share_set(m, &a, 12 * MIB));
    for (int i = 1; i <= 4; i++) {
        assert_true(fb_share_set(m, &b, MIB)); /* a sixteenth is small */
    }
    assert_true(fb_share_set(m, &c, MIB));
    fb_request_memory_stop(m); /* does not wait now */
    assert_false(fb_share_set(m, &b, 2 * MIB));
    assert_int_equal(b.bytes, MIB);
    assert_true(fb_share_set(m, &a, 10 * MIB));
    assert_false(fb_share_set(m, &b, 2 * MIB));
    assert_true(fb_share_set(m, &a, 9 * MIB));
    assert_true(fb_share_set(m, &b, 2 * MIB));
    fb_share_close(m, &a);
    fb_share_close(m, &b);
    fb_share_close(m, &c);
    fb_request_memory_free(m);
}

/* A share that needs room cuts off the largest body that is larger, and gets its room. */
static void test_cutting_off(void **state)
{
    (void)state;
    struct fb_request_memory *m = fb_request_memory_new(16 * MIB);
    struct fb_memory_share held[3], small;
    int ends[3][2];
    char byte;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends[i]), 0);
        fb_share_open(m, &held[i], ends[i][0]);
        assert_true(fb_share_set(m, &held[i], (uint64_t)(3 + i) * MIB)); /* 12 in all */
    }
    fb_share_open(m, &small, -1);
    assert_true(fb_share_set(m, &small, MIB));
    assert_false(fb_share_set(m, &small, 4 * MIB)); /* nobody closes the one that is cut off */
    assert_int_equal(recv(ends[2][1], &byte, 1, MSG_DONTWAIT), 0);
    assert_int_equal(recv(ends[1][1], &byte, 1, MSG_DONTWAIT), -1);
    assert_false(fb_share_set(m, &held[2], 6 * MIB)); /* at once */
    fb_share_close(m, &held[2]);
    assert_true(fb_share_set(m, &small, 4 * MIB));
    fb_share_close(m, &held[0]);
    fb_share_close(m, &held[1]);
    fb_share_close(m, &small);
    fb_request_memory_free(m);
    for (int i = 0; i < 3; i++) {
        close(ends[i][0]);
        close(ends[i][1]);
    }
}

struct closing {
    struct fb_request_memory *memory;
    struct fb_memory_share share;
};

static void *close_later(void *arg)
{
    struct closing *c = arg;
    usleep(50000);
    fb_share_close(c->memory, &c->share);
    return NULL;
}

static void test_waiting(void **state)
{
    (void)state;
    struct fb_request_memory *m = fb_request_memory_new(16 * MIB);
    struct closing first = {.memory = m};
    struct fb_memory_share second;
    pthread_t thread;
    fb_share_open(m, &first.share, -1);
    fb_share_received(m, &first.share);
    assert_true(fb_share_set(m, &first.share, 10 * MIB));
    fb_share_open(m, &second, -1);
    assert_int_equal(pthread_create(&thread, NULL, close_later, &first), 0);
    assert_true(fb_share_set(m, &second, 10 * MIB));
    pthread_join(thread, NULL);
    fb_share_close(m, &second);
    fb_request_memory_free(m);
}

/* Characters within strings are text, not structure. */
static void test_estimate(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        size_t values;
    } texts[] = {{"", 1}, {"1", 1}, {"[]", 2}, {"[1,2]", 3}, {"{\"a\":1}", 3}, {"\"[,:{\"", 1},
        {"\"\\\"[,,\"", 1}, {"\"\\\\\",,", 3}, {"\"[[[", 1}, {"[{\"a\":[1,2]},\"b\"]", 7}};
    uint64_t value = fb_json_bytes("[]", 2) - fb_json_bytes("11", 2);
    uint64_t byte = fb_json_bytes("11", 2) - fb_json_bytes("1", 1);
    assert_true(value >= 364); /* an empty object in jansson */
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        size_t n = strlen(texts[i].json);
        assert_int_equal(fb_json_bytes(texts[i].json, n), texts[i].values * value + n * byte);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_cutting_off),
        cmocka_unit_test(test_waiting),
        cmocka_unit_test(test_estimate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
