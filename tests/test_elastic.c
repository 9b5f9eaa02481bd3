/*
 * test_elastic.c - memory that weights give back and regain: which dense weights (elastic.h), and
 * that the slots of a pool (pool.h) really hold less of it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "os/memory.h"
#include "stream/elastic.h"
#include "stream/pool.h"

#define LAYERS 100

/* A dense model: LAYERS matrices of 1 MiB, every fourth repacked, and an output matrix of 16. */
struct model {
    struct fb_tensor tensors[LAYERS + 1];
    struct fb_catalog catalog;
    struct fb_weight weights[LAYERS + 1];
    struct fb_weights set;
    bool resident[LAYERS + 1];
    struct fb_elastic e;
};

static struct model *make_model(uint64_t ring_bytes, uint64_t scratch_bytes)
{
    struct model *m = test_calloc(1, sizeof *m);
    for (int i = 0; i <= LAYERS; i++) {
        uint64_t bytes = i < LAYERS ? FB_MIB : 16 * FB_MIB;
        m->tensors[i].role = i < LAYERS ? FB_ROLE_ATTENTION : FB_ROLE_OUTPUT;
        m->weights[i] = (struct fb_weight){.tensor = i,
            .group = -1,
            .file_bytes = bytes,
            .unit_bytes = bytes,
            .stride = bytes,
            .unpack = i % 4 ? FB_UNPACK_DIRECT : FB_UNPACK_REPACK};
        m->resident[i] = true;
    }
    m->catalog.tensors = m->tensors;
    m->catalog.n_tensors = LAYERS + 1;
    m->set =
        (struct fb_weights){.catalog = &m->catalog, .n_weights = LAYERS + 1, .weights = m->weights};
    fb_elastic_init(&m->e, &m->set, m->resident, ring_bytes, scratch_bytes);
    return m;
}

static void free_model(struct model *m)
{
    fb_elastic_release(&m->e);
    test_free(m);
}

static int drop_all(struct model *m)
{
    int n = 0, w;
    while ((w = fb_elastic_drop(&m->e)) >= 0) {
        assert_false(fb_elastic_present(&m->e, w));
        n++;
    }
    return n;
}

static void test_a_plan_without_a_ring_gets_room_for_one(void **state)
{
    struct model *m = make_model(0, 0);
    (void)state;
    assert_int_equal(m->e.most_bytes, LAYERS * FB_MIB); /* the output matrix stays */
    assert_true(m->e.ring_bytes > FB_MIB && m->e.ring_bytes < 16 * FB_MIB);
    assert_int_equal(m->e.scratch_bytes, FB_MIB);
    assert_int_equal(m->e.least_bytes, m->e.ring_bytes + m->e.scratch_bytes);
    assert_int_equal(fb_elastic_held(&m->e), LAYERS * FB_MIB);
    free_model(m);
}

/* Holds at most what it is allowed (but for the ring), and about as much. */
static void test_holds_what_is_allowed(void **state)
{
    struct model *m = make_model(0, 0);
    (void)state;
    for (uint64_t bytes = LAYERS * FB_MIB;; bytes -= FB_MIB / 2) {
        uint64_t wanted = fb_elastic_plan(&m->e, bytes);
        drop_all(m);
        assert_int_equal(fb_elastic_held(&m->e), wanted);
        assert_true(wanted <= bytes || wanted == m->e.least_bytes);
        assert_true(wanted + m->e.least_bytes + FB_MIB > bytes);
        if (bytes == 0) {
            break;
        }
    }
    assert_int_equal(m->e.n_streamed, LAYERS);
    fb_elastic_plan(&m->e, UINT64_MAX);
    for (int i = 0; i <= LAYERS; i++) {
        assert_int_equal(fb_elastic_restore(&m->e, i), i < LAYERS);
    }
    assert_int_equal(m->e.n_streamed, 0);
    assert_int_equal(m->e.present_bytes, m->e.most_bytes);
    free_model(m);
}

/* With half of the weights streamed, no long stretch of the pass is all streamed or all present. */
static void test_gives_back_evenly(void **state)
{
    struct model *m = make_model(4 * FB_MIB, FB_MIB);
    int longest[2] = {0}, run = 0;
    (void)state;
    assert_int_equal(m->e.least_bytes, 0); /* the plan's ring will do */
    fb_elastic_plan(&m->e, LAYERS / 2 * FB_MIB);
    assert_int_equal(drop_all(m), LAYERS / 2);
    for (int i = 0; i < LAYERS; i++) {
        bool present = fb_elastic_present(&m->e, i);
        run = i && present == fb_elastic_present(&m->e, i - 1) ? run + 1 : 1;
        longest[present] = run > longest[present] ? run : longest[present];
    }
    assert_true(longest[0] <= 8 && longest[1] <= 8);
    free_model(m);
}

static void test_gives_back_only_what_fits_the_ring(void **state)
{
    struct model *m = make_model(2 * FB_MIB, 0); /* no scratch: nothing repacked can be streamed */
    (void)state;
    assert_int_equal(m->e.n_ranked, LAYERS * 3 / 4);
    fb_elastic_plan(&m->e, 0);
    drop_all(m);
    for (int i = 0; i <= LAYERS; i++) {
        assert_int_equal(fb_elastic_present(&m->e, i), i % 4 == 0);
    }
    free_model(m);
    m = make_model(FB_MIB, FB_MIB); /* an envelope is larger than the weight */
    assert_int_equal(m->e.n_ranked, 0);
    assert_int_equal(fb_elastic_plan(&m->e, 0), 0);
    assert_int_equal(fb_elastic_drop(&m->e), -1);
    free_model(m);
}

/* --- Pools ------------------------------------------------------------------------------------ */

enum { SLOTS = 96 };

static void test_slots_cost_memory_only_in_use(void **state)
{
    const int experts = SLOTS, slots = SLOTS;
    struct fb_cache *cache = fb_cache_new(1, &experts, &slots, fb_cache_policy("lru"));
    struct fb_pool pool = {
        .n_slots = SLOTS, .max_slots = SLOTS, .n_parts = 2, .stride = {FB_MIB, FB_MIB / 2}};
    int evicted;
    (void)state;
    for (int p = 0; p < 2; p++) {
        pool.memory_bytes[p] = SLOTS * pool.stride[p];
        pool.memory[p] = fb_vm_reserve(pool.memory_bytes[p], true);
        fb_vm_populate(pool.memory[p], pool.memory_bytes[p]);
    }
    assert_int_equal(fb_pool_slot_bytes(&pool), FB_MIB * 3 / 2);
    for (int i = 0; i < SLOTS; i++) {
        assert_int_equal(fb_cache_acquire(cache, 0, i, &evicted), i);
        memset(pool.memory[0] + (uint64_t)i * FB_MIB, i + 1, FB_MIB);
    }
    uint64_t full = fb_memory_rss();
    fb_cache_pin(cache, 0, 40);
    fb_pool_resize(&pool, cache, 0, 24);
    assert_int_equal(pool.n_slots, 41); /* up to the one that is being read into */
    fb_cache_unpin(cache, 0, 40);
    pool.n_users = 1;
    fb_pool_resize(&pool, cache, 0, 24);
    assert_int_equal(pool.n_slots, 41); /* somebody computes with it */
    pool.n_users = 0;
    fb_pool_resize(&pool, cache, 0, 24);
    assert_int_equal(pool.n_slots, 24);
    fb_cache_check(cache);
    assert_true(fb_memory_rss() + 100 * FB_MIB < full); /* 72 slots are 108 MiB */
    for (int i = 0; i < 24; i++) {
        assert_int_equal(pool.memory[0][(uint64_t)i * FB_MIB + 77], i + 1);
    }
    fb_pool_resize(&pool, cache, 0, SLOTS);
    assert_int_equal(fb_cache_slots(cache, 0), SLOTS);
    assert_true(fb_memory_rss() + 8 * FB_MIB > full); /* populated */
    for (int p = 0; p < 2; p++) {
        fb_vm_release(pool.memory[p], pool.memory_bytes[p]);
    }
    fb_cache_free(cache);
}

/* --- Holders ---------------------------------------------------------------------------------- */

/* A pool, and what its holder found when it was asked to let go. */
struct held {
    struct fb_pool pool;
    int n_calls, index, n_slots;
    bool intact;
};

static void note_let_go(void *user, int index)
{
    struct held *h = user;
    h->n_calls++;
    h->index = index;
    h->n_slots = h->pool.n_slots;
    h->intact = h->pool.memory[0][h->pool.memory_bytes[0] - 1] == 1;
}

static void make_held(struct held *h)
{
    *h = (struct held){.pool = {.n_slots = 4, .max_slots = 4, .room = 8, .n_parts = 1}};
    h->pool.stride[0] = FB_MIB;
    h->pool.memory_bytes[0] = 8 * FB_MIB;
    h->pool.memory[0] = fb_vm_reserve(h->pool.memory_bytes[0], true);
    h->pool.memory[0][h->pool.memory_bytes[0] - 1] = 1;
    h->pool.prefetched = test_calloc(8, 1);
}

static void free_held(struct held *h)
{
    fb_vm_release(h->pool.memory[0], h->pool.memory_bytes[0]);
    test_free(h->pool.prefetched);
}

/* The holder lets go before memory is given back or regained, and only if it is. */
static void test_a_holder_is_asked_before_a_pool_changes(void **state)
{
    const int experts = 8, slots = 4;
    struct fb_cache *cache = fb_cache_new(1, &experts, &slots, fb_cache_policy("lru"));
    struct held h;
    (void)state;
    make_held(&h);
    const struct fb_pool_holder holder = {note_let_go, &h};
    h.pool.holder = &holder;
    fb_pool_resize(&h.pool, cache, 0, 4);
    assert_int_equal(h.n_calls, 0); /* it has that size */
    h.pool.n_users = 1;
    fb_pool_resize(&h.pool, cache, 0, 2);
    assert_int_equal(h.n_calls, 0);
    h.pool.n_users = 0;
    fb_pool_resize(&h.pool, cache, 0, 2);
    assert_int_equal(h.n_calls, 1);
    assert_int_equal(h.n_slots, 4);
    assert_true(h.intact);
    assert_int_equal(h.pool.memory[0][h.pool.memory_bytes[0] - 1], 0); /* given back */
    fb_pool_resize(&h.pool, cache, 0, 3);
    assert_int_equal(h.n_calls, 2);
    assert_int_equal(h.n_slots, 2);
    free_held(&h);
    fb_cache_free(cache);
}

static void test_held_slots_are_not_lent(void **state)
{
    const int experts[] = {8, 8}, slots[] = {4, 4};
    struct fb_cache *cache = fb_cache_new(2, experts, slots, fb_cache_policy("lru"));
    struct held h[2];
    (void)state;
    make_held(&h[0]);
    make_held(&h[1]);
    for (int held = 0; held < 2; held++) {
        const struct fb_pool_holder holder = {note_let_go, &h[held]};
        h[held].pool.holder = &holder;
        assert_false(fb_pool_lend(&h[0].pool, 0, 1, &h[1].pool, 1, cache));
        h[held].pool.holder = NULL;
    }
    assert_true(fb_pool_lend(&h[0].pool, 0, 1, &h[1].pool, 1, cache));
    assert_int_equal(h[1].pool.n_slots, 5);
    free_held(&h[0]);
    free_held(&h[1]);
    fb_cache_free(cache);
}

static void test_shares(void **state)
{
    struct fb_pool pool = {.n_slots = 10, .max_slots = 10};
    (void)state;
    assert_int_equal(fb_pool_share(&pool, 0), 2);
    assert_int_equal(fb_pool_share(&pool, 0.5), 6);
    assert_int_equal(fb_pool_share(&pool, 1), 10);
    pool.max_slots = 1;
    assert_int_equal(fb_pool_fewest(&pool), 1);
    assert_int_equal(fb_pool_share(&pool, 0), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_plan_without_a_ring_gets_room_for_one),
        cmocka_unit_test(test_holds_what_is_allowed),
        cmocka_unit_test(test_gives_back_evenly),
        cmocka_unit_test(test_gives_back_only_what_fits_the_ring),
        cmocka_unit_test(test_slots_cost_memory_only_in_use),
        cmocka_unit_test(test_a_holder_is_asked_before_a_pool_changes),
        cmocka_unit_test(test_held_slots_are_not_lent),
        cmocka_unit_test(test_shares),
    };
    return cmocka_run_group_tests_name("elastic", tests, NULL, NULL);
}
