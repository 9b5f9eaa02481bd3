/*
 * test_governor.c - how much memory the weights may hold, on simulated sequences of observations;
 * and its inputs: reserve, budget, pressure, and the watch's turns.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/units.h"
#include "os/watch.h"
#include "plan/governor.h"

#define MS     ((uint64_t)1000000)
#define SECOND (1000 * MS)
#define TICK   (20 * MS)

/* A process under a limit: memory that it holds for good, and weights that follow the target at
 * once. */
struct world {
    struct fb_governor g;
    struct fb_governor_input in;
    uint64_t limit, others;
    uint64_t least_headroom; /* seen */
    int n_shrinks, n_grows;
    bool killed;
};

static void world_init(struct world *w, uint64_t limit, uint64_t others, uint64_t most)
{
    *w = (struct world){.limit = limit, .others = others, .least_headroom = UINT64_MAX};
    fb_governor_init(&w->g, most, most / 20, SECOND);
    w->in = (struct fb_governor_input){.held_bytes = most, .reserve_bytes = limit / 16};
}

static void step(struct world *w)
{
    uint64_t used = w->others + w->in.held_bytes;
    w->killed = w->killed || used > w->limit;
    w->in.now_ns += TICK;
    w->in.limit_bytes = w->limit;
    w->in.headroom_bytes = w->limit - fb_min(used, w->limit);
    w->least_headroom = fb_min(w->least_headroom, w->in.headroom_bytes);
    uint64_t target = fb_governor_decide(&w->g, &w->in);
    assert_true(target >= w->g.least_bytes && target <= w->g.most_bytes); /* G1 */
    w->n_shrinks += target < w->in.held_bytes;
    w->n_grows += target > w->in.held_bytes;
    w->in.held_bytes = target;
}

static void steps(struct world *w, uint64_t ns)
{
    for (uint64_t t = 0; t < ns; t += TICK) {
        step(w);
    }
}

static void test_nothing_happens(void **state)
{
    struct world w;
    (void)state;
    world_init(&w, 1000 * FB_MIB, 100 * FB_MIB, 700 * FB_MIB);
    steps(&w, 3600 * SECOND);
    assert_int_equal(w.n_shrinks + w.n_grows, 0);
}

static void test_no_limit(void **state)
{
    struct world w;
    (void)state;
    world_init(&w, 1000 * FB_MIB, 0, 700 * FB_MIB);
    for (int i = 0; i < 1000; i++) {
        w.in.now_ns += TICK;
        w.in.limit_bytes = UINT64_MAX;
        w.in.headroom_bytes = UINT64_MAX;
        assert_int_equal(fb_governor_decide(&w.g, &w.in), 700 * FB_MIB);
    }
}

/* The limit falls by two fifths, in steps of a twentieth every 60 ms: it is never exceeded. */
static void test_limit_falls_in_steps(void **state)
{
    struct world w;
    (void)state;
    world_init(&w, 1000 * FB_MIB, 100 * FB_MIB, 780 * FB_MIB);
    steps(&w, SECOND);
    for (int i = 0; i < 8; i++) {
        w.limit -= 50 * FB_MIB;
        steps(&w, 60 * MS);
    }
    assert_false(w.killed);
    assert_true(w.least_headroom > 0);
    assert_true(w.in.held_bytes <= 500 * FB_MIB);
    steps(&w, 10 * SECOND); /* there is some room when it has stopped falling, but not for all */
    assert_true(w.in.held_bytes + w.others + w.in.reserve_bytes <= w.limit);
    assert_true(w.in.held_bytes + w.others + 3 * w.in.reserve_bytes >= w.limit);
    w.limit = 1100 * FB_MIB;
    steps(&w, 60 * SECOND);
    assert_int_equal(w.in.held_bytes, 780 * FB_MIB);
}

/* The limit falls at once: one decision gives back all that is missing, and the reserve. */
static void test_limit_falls_at_once(void **state)
{
    struct world w;
    (void)state;
    world_init(&w, 1000 * FB_MIB, 100 * FB_MIB, 780 * FB_MIB);
    steps(&w, SECOND);
    w.limit = 600 * FB_MIB;
    w.in.held_bytes = 480 * FB_MIB; /* the kernel refuses less than this, or we would not be here */
    step(&w);
    assert_true(w.in.held_bytes + w.others + w.in.reserve_bytes <= w.limit);
}

/* Another process allocates 1 MiB in each tick, until nothing is left. */
static void test_slow_leak(void **state)
{
    struct world w;
    (void)state;
    world_init(&w, 1000 * FB_MIB, 100 * FB_MIB, 700 * FB_MIB);
    while (w.in.held_bytes > w.g.least_bytes) {
        w.others += FB_MIB;
        step(&w);
        assert_false(w.killed);
        assert_true(w.in.headroom_bytes + FB_MIB >= w.in.reserve_bytes);
    }
    assert_true(w.n_shrinks < 100); /* in pieces, not in drops */
    assert_int_equal(w.n_grows, 0);
}

/* Another process allocates and frees 200 MiB every two seconds, for ten minutes: growth gets
 * rare. */
static void test_oscillation(void **state)
{
    struct world w;
    (void)state;
    world_init(&w, 1000 * FB_MIB, 100 * FB_MIB, 800 * FB_MIB);
    int late = 0;
    for (int i = 0; i < 300; i++) {
        int before = w.n_shrinks;
        w.others = i % 2 ? 100 * FB_MIB : 300 * FB_MIB;
        if (w.others + w.in.held_bytes > w.limit) { /* it cannot take more than there is */
            w.others = w.limit - w.in.held_bytes;
        }
        steps(&w, 2 * SECOND);
        late += i >= 100 ? w.n_shrinks - before : 0;
    }
    assert_false(w.killed);
    assert_true(late <= 20); /* of 200 */
}

static void test_grows_in_steps(void **state)
{
    struct world w;
    (void)state;
    world_init(&w, 4000 * FB_MIB, 100 * FB_MIB, 3000 * FB_MIB);
    w.others = 2500 * FB_MIB;
    w.in.held_bytes = 1000 * FB_MIB;
    steps(&w, SECOND);
    uint64_t least = w.in.held_bytes;
    assert_true(least <= 1250 * FB_MIB);
    w.others = 100 * FB_MIB;
    steps(&w, 900 * MS);
    assert_int_equal(w.in.held_bytes, least); /* it waits a second */
    while (w.in.held_bytes < 3000 * FB_MIB) {
        uint64_t before = w.in.held_bytes;
        step(&w);
        assert_true(w.in.held_bytes <= before + 64 * FB_MIB);
        assert_true(w.in.now_ns < 60 * SECOND);
    }
}

/* Headroom that is allowed but not in use yet is not allowed twice (G2). */
static void test_growth_waits_for_memory(void **state)
{
    struct fb_governor g;
    (void)state;
    fb_governor_init(&g, 1000 * FB_MIB, 0, SECOND);
    struct fb_governor_input in = {.headroom_bytes = 0,
        .reserve_bytes = 10 * FB_MIB,
        .limit_bytes = UINT64_MAX,
        .held_bytes = 1000 * FB_MIB,
        .now_ns = SECOND};
    for (int i = 0; i < 200; i++, in.now_ns += TICK) {
        in.held_bytes = fb_min(in.held_bytes, fb_governor_decide(&g, &in));
    }
    assert_int_equal(g.target_bytes, 0);
    in.held_bytes = 0;
    in.headroom_bytes = 120 * FB_MIB; /* 100 to spare, which stay unused */
    for (int i = 0; i < 1000; i++, in.now_ns += TICK) {
        assert_true(fb_governor_decide(&g, &in) <= 100 * FB_MIB);
    }
    assert_int_equal(g.target_bytes, 100 * FB_MIB);
}

static void test_pressure(void **state)
{
    struct world w;
    (void)state;
    world_init(&w, 1000 * FB_MIB, 0, 400 * FB_MIB);
    w.in.pressure = 0.05; /* some: it does not grow, nor shrink */
    steps(&w, 10 * SECOND);
    assert_int_equal(w.n_shrinks, 0);
    w.in.pressure = 0.5;
    steps(&w, 10 * SECOND);
    assert_in_range(w.n_shrinks, 3, 5); /* an eighth every two seconds */
    assert_true(w.in.held_bytes < 300 * FB_MIB);
    w.in.pressure = 0;
    steps(&w, 60 * SECOND);
    assert_int_equal(w.in.held_bytes, 400 * FB_MIB);
}

/* Whatever is observed, G1 holds, and the same inputs give the same answers (G3). */
static void test_garbage(void **state)
{
    static const uint64_t odd[] = {0, 1, 4096, FB_GIB, UINT64_MAX / 2, UINT64_MAX - 1, UINT64_MAX};
    static const double pressures[] = {0, 1, -1, 1e300, 0.1};
    struct fb_governor a, b;
    uint32_t r = 1;
    (void)state;
    fb_governor_init(&a, 3 * FB_GIB, FB_GIB, SECOND);
    b = a;
    for (int i = 0; i < 200000; i++) {
        uint64_t v[5];
        for (int k = 0; k < 5; k++) {
            r = r * 1664525 + 1013904223;
            v[k] = odd[(r >> 16) % 7];
        }
        const struct fb_governor_input in = {.now_ns = v[0],
            .headroom_bytes = v[1],
            .limit_bytes = v[2],
            .reserve_bytes = v[3],
            .held_bytes = v[4],
            .pressure = pressures[(r >> 8) % 5]};
        uint64_t target = fb_governor_decide(&a, &in);
        assert_true(target >= FB_GIB && target <= 3 * FB_GIB);
        assert_int_equal(target, fb_governor_decide(&b, &in));
    }
    fb_governor_init(&a, 0, 5, SECOND); /* nothing to govern */
    assert_int_equal(fb_governor_decide(&a, &(struct fb_governor_input){0}), 0);
}

/* --- Its inputs ------------------------------------------------------------------------------- */

static void test_reserve(void **state)
{
    struct fb_memory_state s = {.total_bytes = 64 * FB_GIB, .limit_bytes = UINT64_MAX};
    (void)state;
    assert_int_equal(fb_memory_reserve(&s), 512 * FB_MIB);
    s.limit_bytes = 2 * FB_GIB;
    assert_int_equal(fb_memory_reserve(&s), 128 * FB_MIB);
    s.limit_bytes = 300 * FB_MIB;
    assert_int_equal(fb_memory_reserve(&s), 32 * FB_MIB);
    s.limit_bytes = 80 * FB_MIB;
    assert_int_equal(fb_memory_reserve(&s), 10 * FB_MIB);
}

static void fake(struct fb_memory_state *out)
{
    *out = (struct fb_memory_state){
        .total_bytes = FB_GIB, .available_bytes = 700 * FB_MIB, .limit_bytes = UINT64_MAX};
}

static void test_override(void **state)
{
    struct fb_memory_state s;
    struct fb_memory_reader *reader = fb_memory_reader_new();
    (void)state;
    fb_memory_override(fake);
    fb_memory_state(&s);
    assert_int_equal(fb_memory_headroom(&s), 700 * FB_MIB);
    fb_memory_reader_read(reader, &s);
    assert_int_equal(fb_memory_headroom(&s), 700 * FB_MIB);
    fb_memory_override(NULL);
    fb_memory_reader_read(reader, &s);
    assert_int_not_equal(s.available_bytes, 700 * FB_MIB);
    fb_memory_reader_free(reader);
}

/* The reader reports the same as fb_memory_state. */
static void test_reader(void **state)
{
    struct fb_memory_state once, again;
    struct fb_memory_reader *reader = fb_memory_reader_new();
    (void)state;
    for (int i = 0; i < 100; i++) {
        fb_memory_reader_read(reader, &again);
    }
    fb_memory_state(&once);
    assert_int_equal(once.total_bytes, again.total_bytes);
    assert_int_equal(once.limit_bytes, again.limit_bytes);
    assert_true(again.available_bytes > once.available_bytes / 2);
    assert_true(again.pressure >= 0 && again.pressure <= 1);
    fb_memory_reader_free(reader);
}

static atomic_int looks, acts, inside, wrong;

static void look(void *user, const struct fb_memory_state *s, uint64_t now_ns)
{
    (void)user;
    (void)s;
    (void)now_ns;
    atomic_fetch_add(&looks, 1);
}

static void act(void *user)
{
    (void)user;
    atomic_fetch_add(&wrong, atomic_load(&inside));
    atomic_fetch_add(&acts, 1);
    atomic_fetch_add(&wrong, atomic_load(&inside));
}

static void wait_for(atomic_int *count, int more)
{
    const struct timespec pause = {0, 1000000};
    int from = atomic_load(count);
    for (int i = 0; i < 30000 && atomic_load(count) < from + more; i++) {
        nanosleep(&pause, NULL);
    }
    assert_true(atomic_load(count) >= from + more);
}

static void test_watch_takes_turns(void **state)
{
    static const struct fb_watch_calls calls = {look, act};
    (void)state;
    fb_watch_interval_us = 100;
    struct fb_watch *watch = fb_watch_start(&calls, NULL);
    assert_non_null(watch);
    wait_for(&acts, 3);
    for (int i = 0; i < 10; i++) {
        fb_watch_enter(watch);
        atomic_store(&inside, 1);
        int before = atomic_load(&acts);
        wait_for(&looks, 3); /* it goes on looking */
        assert_int_equal(atomic_load(&acts), before);
        atomic_store(&inside, 0);
        fb_watch_leave(watch);
        wait_for(&acts, 1);
    }
    fb_watch_stop(watch);
    assert_int_equal(atomic_load(&wrong), 0);
    fb_watch_stop(NULL);
    fb_watch_interval_us = 20000;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_happens),
        cmocka_unit_test(test_no_limit),
        cmocka_unit_test(test_limit_falls_in_steps),
        cmocka_unit_test(test_limit_falls_at_once),
        cmocka_unit_test(test_slow_leak),
        cmocka_unit_test(test_oscillation),
        cmocka_unit_test(test_grows_in_steps),
        cmocka_unit_test(test_growth_waits_for_memory),
        cmocka_unit_test(test_pressure),
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_reserve),
        cmocka_unit_test(test_override),
        cmocka_unit_test(test_reader),
        cmocka_unit_test(test_watch_takes_turns),
    };
    return cmocka_run_group_tests_name("governor", tests, NULL, NULL);
}
