/*
 * test_thread_governor.c - the decision how many threads compute while other programs use the
 * processors, on simulated sequences; and what it is made from: readings of the processors' use.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "base/units.h"
#include "os/cpu_use.h"
#include "plan/thread_governor.h"

#define SECOND ((uint64_t)1000000000)
#define TICK   (SECOND / 10)

static int after(struct fb_thread_governor *g, uint64_t *now, uint64_t ns, double used, int n_cpus)
{
    int threads = g->threads;
    for (uint64_t t = 0; t < ns; t += TICK) {
        *now += TICK;
        threads = fb_thread_governor_decide(g, *now, used, n_cpus);
        assert_true(threads >= 1 && threads <= g->most); /* T1 */
    }
    return threads;
}

/* Threads after the first reading. */
static int threads_for(int most, int cores, int n_cpus, double used)
{
    struct fb_thread_governor g;
    fb_thread_governor_init(&g, most, cores, SECOND);
    return fb_thread_governor_decide(&g, TICK, used, n_cpus);
}

static void test_free_cores(void **state)
{
    (void)state;
    assert_int_equal(threads_for(2, 2, 2, 0), 2);
    assert_int_equal(threads_for(2, 2, 2, 0.3), 2);  /* a browser plays a film */
    assert_int_equal(threads_for(2, 2, 2, 0.67), 1); /* fair share of one busy process */
    assert_int_equal(threads_for(2, 2, 2, 1), 1);
    assert_int_equal(threads_for(2, 2, 2, 2), 1);
    assert_int_equal(threads_for(8, 8, 8, 1), 7);
    assert_int_equal(threads_for(8, 8, 8, 3.5), 4);
    assert_int_equal(threads_for(3, 8, 8, 4.5), 3); /* fewer threads than cores: there is room */
    assert_int_equal(threads_for(3, 8, 8, 6), 2);
}

static void test_hyperthreads(void **state)
{
    (void)state;
    assert_int_equal(threads_for(8, 8, 16, 0.5), 8);
    assert_int_equal(threads_for(8, 8, 16, 1), 7); /* its core is worth half to us */
    assert_int_equal(threads_for(8, 8, 16, 8), 4);
    assert_int_equal(threads_for(16, 8, 16, 0), 16); /* the user asks for hyperthreads */
    assert_int_equal(threads_for(16, 8, 16, 1), 15);
}

static void test_more_threads_than_processors(void **state)
{
    (void)state;
    assert_int_equal(threads_for(4, 2, 2, 0), 2);
    assert_int_equal(threads_for(1, 2, 2, 2), 1);
}

static void test_nonsense(void **state)
{
    (void)state;
    assert_int_equal(threads_for(2, 2, 2, NAN), 1);
    assert_int_equal(threads_for(2, 2, 2, -5), 2);
    assert_int_equal(threads_for(2, 2, 0, 1e9), 1);
    assert_int_equal(threads_for(0, 0, 0, 0), 1);
}

/* Fewer at once, more after a second of calm. */
static void test_comes_back(void **state)
{
    struct fb_thread_governor g;
    uint64_t now = SECOND;
    (void)state;
    fb_thread_governor_init(&g, 4, 4, SECOND);
    assert_int_equal(after(&g, &now, TICK, 1, 4), 3);
    assert_int_equal(after(&g, &now, TICK, 2, 4), 2);
    assert_int_equal(after(&g, &now, 60 * SECOND, 2, 4), 2);
    assert_int_equal(after(&g, &now, SECOND / 2, 0, 4), 2);
    assert_int_equal(after(&g, &now, TICK, 2, 4), 2); /* not calm after all */
    assert_int_equal(after(&g, &now, SECOND / 2, 0, 4), 2);
    assert_int_equal(after(&g, &now, SECOND / 2, 1, 4), 2); /* still room for one more */
    assert_int_equal(after(&g, &now, TICK, 1, 4), 3);
    assert_int_equal(after(&g, &now, 2 * SECOND, 0, 4), 4);
}

/* Just over and just under the limit, in turn: it does not swing. */
static void test_does_not_swing(void **state)
{
    struct fb_thread_governor g;
    uint64_t now = SECOND;
    (void)state;
    fb_thread_governor_init(&g, 2, 2, SECOND);
    for (int i = 0; i < 100; i++) {
        after(&g, &now, TICK, 0.45, 2);
        assert_int_equal(after(&g, &now, 2 * SECOND, 0.3, 2), 1);
    }
    assert_int_equal(after(&g, &now, 2 * SECOND, 0.2, 2), 2);
}

/* Two of us on one machine settle. */
static void test_two_of_us(void **state)
{
    struct fb_thread_governor a, b;
    (void)state;
    fb_thread_governor_init(&a, 8, 8, SECOND);
    fb_thread_governor_init(&b, 8, 8, SECOND);
    int at_a = 8, at_b = 8;
    for (int i = 1; i < 1000; i++) {
        /* As the system divides the processors. */
        double share = at_a + at_b > 8 ? 8.0 / (at_a + at_b) : 1;
        double used_a = at_a * share, used_b = at_b * share;
        at_a = fb_thread_governor_decide(&a, (uint64_t)i * TICK, used_b, 8);
        at_b = fb_thread_governor_decide(&b, (uint64_t)i * TICK, used_a, 8);
        assert_true(i < 3 || at_a + at_b == 8);
    }
    assert_true(at_a >= 2 && at_b >= 2);
}

static void test_used_by_others(void **state)
{
    (void)state;
    const struct fb_cpu_use from = {10 * SECOND, 5 * SECOND, 7 * SECOND, 2};
    struct fb_cpu_use to = {11 * SECOND, 5 * SECOND, 8 * SECOND, 2};
    assert_float_equal(fb_cpu_use_by_others(&from, &to), 1, 1e-9);
    to.idle_ns += SECOND / 2;
    assert_float_equal(fb_cpu_use_by_others(&from, &to), 0.5, 1e-9);
    to.own_ns += 2 * SECOND; /* ticks are coarse: more than there was */
    assert_float_equal(fb_cpu_use_by_others(&from, &to), 0, 1e-9);
    assert_float_equal(fb_cpu_use_by_others(&from, &from), 0, 1e-9);
}

static void test_reading(void **state)
{
    struct fb_cpu_use from, to;
    (void)state;
    if (!fb_cpu_use_read(&from)) {
        skip(); /* the system does not say */
    }
    volatile uint64_t sum = 0;
    do { /* a tenth of a second of our own */
        for (int i = 0; i < 100000; i++) {
            sum += (uint64_t)i;
        }
        assert_true(fb_cpu_use_read(&to));
    } while (to.own_ns - from.own_ns < TICK);
    assert_true(from.n_cpus >= 1 && to.n_cpus == from.n_cpus);
    assert_true(to.now_ns > from.now_ns && to.idle_ns >= from.idle_ns);
    double used = fb_cpu_use_by_others(&from, &to);
    assert_true(used >= 0 && used <= from.n_cpus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_free_cores),
        cmocka_unit_test(test_hyperthreads),
        cmocka_unit_test(test_more_threads_than_processors),
        cmocka_unit_test(test_nonsense),
        cmocka_unit_test(test_comes_back),
        cmocka_unit_test(test_does_not_swing),
        cmocka_unit_test(test_two_of_us),
        cmocka_unit_test(test_used_by_others),
        cmocka_unit_test(test_reading),
    };
    return cmocka_run_group_tests_name("thread_governor", tests, NULL, NULL);
}
