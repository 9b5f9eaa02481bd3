/*
 * test_cache_echo.c - the policy echo against its definition, written without rings, bits or state:
 * every worth is computed from the list of all steps so far. Then the case that the policy exists
 * for, and slots that move between pools.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/cache.h"
#include "cache/policy.h"
#include "random.h"

#define N_POOLS   3
#define N_KEYS    20
#define WINDOW    128
#define ONE       65536u
#define MAX_STEPS (N_POOLS * 320)

/* --- The definition --------------------------------------------------------------------------- */

struct step {
    int pool, n;
    int keys[N_KEYS];
};

static struct step steps[MAX_STEPS];
static int n_steps;

static bool step_uses(const struct step *step, int key)
{
    for (int i = 0; i < step->n; i++) {
        if (step->keys[i] == key) {
            return true;
        }
    }
    return false;
}

/* The step of the same pool that lies `lag` steps of the pool before step s; NULL: none. */
static const struct step *before(int s, int lag)
{
    int pool = steps[s].pool;
    while (lag > 0 && --s >= 0) {
        lag -= steps[s].pool == pool;
    }
    return s >= 0 ? &steps[s] : NULL;
}

/* How similar the present is to `lag` steps ago. */
static uint32_t alike(int lag)
{
    uint32_t sum = 0;
    for (int s = 0; s < n_steps; s++) {
        const struct step *then = before(s, lag);
        sum -= (uint32_t)((uint64_t)sum * (ONE / N_POOLS) / ONE);
        for (int i = 0; i < steps[s].n; i++) {
            if (then && step_uses(then, steps[s].keys[i])) {
                sum += ONE / (uint32_t)then->n;
            }
        }
    }
    return sum;
}

static uint64_t rate(int last, int key)
{
    uint32_t sum = 0;
    for (int s = 0; s <= last; s++) {
        if (steps[s].pool == steps[last].pool) {
            sum -= sum / 16;
            sum += step_uses(&steps[s], key) ? ONE / 16 : 0;
        }
    }
    return sum;
}

static int last_of(int pool)
{
    int s = n_steps - 1;
    while (steps[s].pool != pool) {
        s--;
    }
    return s;
}

static void worth_by_definition(int pool, const uint32_t *looks, uint64_t *worth)
{
    uint64_t most = 0, total = 0, weight[WINDOW] = {0}, echo = 0;
    int last = last_of(pool);
    for (int e = 0; e < N_KEYS; e++) {
        worth[e] = rate(last, e);
    }
    for (int lag = 1; lag < WINDOW; lag++) {
        most = looks[lag] > most ? looks[lag] : most;
    }
    for (int lag = 1; lag < WINDOW && most; lag++) {
        uint64_t power = looks[lag] * (((uint64_t)1 << 32) / most) >> 20;
        power = power * power / 4096;
        power = power * power / 4096;
        weight[lag] = power * power;
        total += weight[lag];
    }
    for (int lag = WINDOW - 1; lag >= 1 && total; lag--) {
        const struct step *next = before(last, lag - 1);
        echo = echo / 2 + weight[lag];
        for (int e = 0; e < N_KEYS; e++) {
            if (next && step_uses(next, e)) {
                worth[e] += echo * (((uint64_t)ONE << 24) / total) >> 24;
            }
        }
    }
}

/* --- Against the policy ----------------------------------------------------------------------- */

/* Steps like those of text: passages repeat, with changes; now and then a whole batch of tokens
 * at once, or a pool that is left out. */
static struct step next_step(int pool, int back)
{
    struct step step = {.pool = pool};
    const struct step *like = n_steps >= back ? &steps[n_steps - back] : NULL;
    int n = random_below(25) == 0 ? 5 + random_below(N_KEYS - 5) : 3;
    if (like && like->pool == pool && random_below(4) > 0) {
        step = *like;
        if (random_below(3) > 0) {
            return step;
        }
        step.n -= step.n > 0;
    }
    while (step.n < n) {
        int key = random_below(1 + random_below(N_KEYS));
        if (!step_uses(&step, key)) {
            step.keys[step.n++] = key;
        }
    }
    return step;
}

static void take(const struct fb_cache_policy *policy, void *echo, const struct step *step)
{
    policy->step(echo, step->pool);
    for (int i = 0; i < step->n; i++) {
        policy->touch(echo, step->pool, step->keys[i]);
        if (random_below(8) == 0) { /* an early query and a second touch change nothing */
            policy->worth(echo, step->pool);
            policy->touch(echo, step->pool, step->keys[i]);
        }
    }
    steps[n_steps++] = *step;
}

static void test_equals_its_definition(void **state)
{
    (void)state;
    const struct fb_cache_policy *policy = fb_cache_policy("echo");
    for (uint64_t seed = 1; seed <= 2; seed++) {
        void *echo = policy->make(N_POOLS, N_KEYS);
        int compared = 0;
        random_state = seed * 0x9E3779B97F4A7C15u + 1;
        n_steps = 0;
        for (int t = 0; n_steps + N_POOLS <= MAX_STEPS; t++) {
            int back = (t / 40 % 3 + 1) * 7 * N_POOLS;
            for (int l = 0; l < N_POOLS; l++) {
                struct step step = next_step(l, back);
                if (l < N_POOLS - 1 || random_below(50) > 0) {
                    take(policy, echo, &step);
                }
            }
            if (t % 29 != 28) {
                continue;
            }
            uint32_t looks[WINDOW];
            for (int lag = 1; lag < WINDOW; lag++) {
                looks[lag] = alike(lag);
            }
            int pool = steps[n_steps - 1].pool; /* only its worths are up to date */
            uint64_t worth[N_KEYS];
            worth_by_definition(pool, looks, worth);
            assert_memory_equal(policy->worth(echo, pool), worth, sizeof worth);
            compared++;
        }
        assert_true(compared >= 10);
        policy->free(echo);
    }
}

/* --- What it is for --------------------------------------------------------------------------- */

static int use(struct fb_cache *cache, int pool, int key)
{
    int evicted;
    fb_cache_step(cache, pool);
    fb_cache_touch(cache, pool, key);
    assert_true(fb_cache_acquire(cache, pool, key, &evicted) >= 0);
    return evicted;
}

static int misses_of_a_cycle(const char *policy)
{
    const int n_keys = 8, n_slots = 4;
    struct fb_cache *cache = fb_cache_new(1, &n_keys, &n_slots, fb_cache_policy(policy));
    int misses = 0;
    for (int t = 0; t < 90; t++) {
        int key = t % 6;
        misses += t >= 30 && fb_cache_find(cache, 0, key) < 0;
        use(cache, 0, key);
    }
    fb_cache_check(cache);
    fb_cache_free(cache);
    return misses;
}

/* Six keys in turn, four slots: the least recently used key is always the next one. LRU never hits;
 * the optimum misses two or three of six. */
static void test_a_repeated_passage_is_recognised(void **state)
{
    (void)state;
    assert_int_equal(misses_of_a_cycle("lru"), 60);
    assert_in_range(misses_of_a_cycle("echo"), 20, 36);
}

/* --- Slots that move -------------------------------------------------------------------------- */

static struct fb_cache *two_pools(const char *policy, int floor)
{
    const int n_keys[] = {8, 8}, n_slots[] = {4, 4};
    struct fb_cache *cache = fb_cache_new(2, n_keys, n_slots, fb_cache_policy(policy));
    fb_cache_set_floor(cache, 0, floor);
    fb_cache_set_floor(cache, 1, floor);
    for (int t = 0; t < 60; t++) { /* pool 0 uses one key, pool 1 needs all at random */
        use(cache, 0, t < 4 ? t : 0);
        use(cache, 1, (t * 5 + t / 8) % 8);
    }
    return cache;
}

static void test_a_slot_is_offered_where_it_is_worth_little(void **state)
{
    (void)state;
    int from = -7, slot = -7;
    struct fb_cache *cache = two_pools("echo", 2);
    fb_cache_step(cache, 1);
    assert_true(fb_cache_trade(cache, 1, &from, &slot));
    assert_int_equal(from, 0);
    assert_int_not_equal(fb_cache_key(cache, 0, slot), 0);
    int offered = fb_cache_key(cache, 0, slot);
    fb_cache_protect(cache, 0, offered, 5); /* an unprotected one is offered instead */
    assert_true(fb_cache_trade(cache, 1, &from, &slot));
    assert_int_not_equal(fb_cache_key(cache, 0, slot), offered);
    for (int s = 0; s < 4; s++) {
        fb_cache_pin(cache, 0, s);
    }
    assert_false(fb_cache_trade(cache, 1, &from, &slot));
    for (int s = 0; s < 4; s++) {
        fb_cache_unpin(cache, 0, s);
    }
    assert_false(fb_cache_trade(cache, 0, &from, &slot)); /* never in the other direction */
    fb_cache_resize(cache, 0, 3);
    fb_cache_resize(cache, 1, 5);
    assert_false(fb_cache_trade(cache, 1, &from, &slot)); /* pool 1 has a free slot now */
    fb_cache_check(cache);
    fb_cache_free(cache);
}

static void test_no_pool_falls_below_its_floor(void **state)
{
    (void)state;
    int from, slot;
    struct fb_cache *cache = two_pools("echo", 4);
    assert_false(fb_cache_trade(cache, 1, &from, &slot));
    fb_cache_set_floor(cache, 0, 3);
    assert_true(fb_cache_trade(cache, 1, &from, &slot));
    fb_cache_free(cache);
}

static void test_a_free_slot_is_offered_first(void **state)
{
    (void)state;
    int from, slot;
    struct fb_cache *cache = two_pools("echo", 2);
    fb_cache_drop(cache, 0, 2);
    assert_true(fb_cache_trade(cache, 1, &from, &slot));
    assert_int_equal(slot, 2);
    fb_cache_free(cache);
}

static void test_no_trade_with_worths_that_are_not_comparable(void **state)
{
    (void)state;
    int from, slot;
    const char *const others[] = {"lru", "lfu"};
    for (int i = 0; i < 2; i++) {
        struct fb_cache *cache = two_pools(others[i], 2);
        assert_false(fb_cache_trade(cache, 1, &from, &slot));
        fb_cache_free(cache);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_its_definition),
        cmocka_unit_test(test_a_repeated_passage_is_recognised),
        cmocka_unit_test(test_a_slot_is_offered_where_it_is_worth_little),
        cmocka_unit_test(test_no_pool_falls_below_its_floor),
        cmocka_unit_test(test_a_free_slot_is_offered_first),
        cmocka_unit_test(test_no_trade_with_worths_that_are_not_comparable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
