/*
 * test_elastic.c - memory that weights give back and take again: which dense weights go (elastic.h),
 * and that the slots of a pool (pool.h) really take less of it.
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
    struct st_tensor tensors[LAYERS + 1];
    struct st_catalog catalog;
    struct st_weight weights[LAYERS + 1];
    struct st_weights set;
    bool resident[LAYERS + 1];
    struct st_elastic e;
};

static struct model *make_model(uint64_t ring_bytes, uint64_t scratch_bytes)
{
    struct model *m = test_calloc(1, sizeof *m);
    for (int i = 0; i <= LAYERS; i++) {
        uint64_t bytes = i < LAYERS ? ST_MIB : 16 * ST_MIB;
        m->tensors[i].role = i < LAYERS ? ST_ROLE_ATTENTION : ST_ROLE_OUTPUT;
        m->weights[i] = (struct st_weight){.tensor = i,
            .group = -1,
            .file_bytes = bytes,
            .unit_bytes = bytes,
            .stride = bytes,
            .arrival = i % 4 ? ST_ARRIVE_DIRECT : ST_ARRIVE_TRANSFORM};
        m->resident[i] = true;
    }
    m->catalog.tensors = m->tensors;
    m->catalog.n_tensors = LAYERS + 1;
    m->set =
        (struct st_weights){.catalog = &m->catalog, .n_weights = LAYERS + 1, .weights = m->weights};
    st_elastic_init(&m->e, &m->set, m->resident, ring_bytes, scratch_bytes);
    return m;
}

static void free_model(struct model *m)
{
    st_elastic_release(&m->e);
    test_free(m);
}

static int drop_all(struct model *m)
{
    int n = 0, w;
    while ((w = st_elastic_drop(&m->e)) >= 0) {
        assert_false(st_elastic_kept(&m->e, w));
        n++;
    }
    return n;
}

static void test_all_kept_has_room_for_a_ring(void **state)
{
    struct model *m = make_model(0, 0);
    (void)state;
    assert_int_equal(m->e.most_bytes, LAYERS * ST_MIB); /* the output matrix stays */
    assert_true(m->e.ring_bytes > ST_MIB && m->e.ring_bytes < 16 * ST_MIB);
    assert_int_equal(m->e.scratch_bytes, ST_MIB);
    assert_int_equal(m->e.least_bytes, m->e.ring_bytes + m->e.scratch_bytes);
    assert_int_equal(st_elastic_held(&m->e), LAYERS * ST_MIB);
    free_model(m);
}

/* Whatever it is told to hold, it holds no more (but for the ring), and about as much. */
static void test_holds_what_it_may(void **state)
{
    struct model *m = make_model(0, 0);
    (void)state;
    for (uint64_t bytes = LAYERS * ST_MIB;; bytes -= ST_MIB / 2) {
        uint64_t wanted = st_elastic_plan(&m->e, bytes);
        drop_all(m);
        assert_int_equal(st_elastic_held(&m->e), wanted);
        assert_true(wanted <= bytes || wanted == m->e.least_bytes);
        assert_true(wanted + m->e.least_bytes + ST_MIB > bytes);
        if (bytes == 0) {
            break;
        }
    }
    assert_int_equal(m->e.n_streamed, LAYERS);
    st_elastic_plan(&m->e, UINT64_MAX);
    for (int i = 0; i <= LAYERS; i++) {
        assert_int_equal(st_elastic_restore(&m->e, i), i < LAYERS);
    }
    assert_int_equal(m->e.n_streamed, 0);
    assert_int_equal(m->e.kept_bytes, m->e.most_bytes);
    free_model(m);
}

/* Half of them gone: no long stretch of the pass is without work for the disk, or all work. */
static void test_goes_evenly(void **state)
{
    struct model *m = make_model(4 * ST_MIB, ST_MIB);
    int longest[2] = {0}, run = 0;
    (void)state;
    assert_int_equal(m->e.least_bytes, 0); /* the plan's ring will do */
    st_elastic_plan(&m->e, LAYERS / 2 * ST_MIB);
    assert_int_equal(drop_all(m), LAYERS / 2);
    for (int i = 0; i < LAYERS; i++) {
        bool kept = st_elastic_kept(&m->e, i);
        run = i && kept == st_elastic_kept(&m->e, i - 1) ? run + 1 : 1;
        longest[kept] = run > longest[kept] ? run : longest[kept];
    }
    assert_true(longest[0] <= 8 && longest[1] <= 8);
    free_model(m);
}

static void test_only_what_fits_the_ring(void **state)
{
    struct model *m = make_model(2 * ST_MIB, 0); /* no scratch: nothing repacked can be streamed */
    (void)state;
    assert_int_equal(m->e.n_ranked, LAYERS * 3 / 4);
    st_elastic_plan(&m->e, 0);
    drop_all(m);
    for (int i = 0; i <= LAYERS; i++) {
        assert_int_equal(st_elastic_kept(&m->e, i), i % 4 == 0);
    }
    free_model(m);
    m = make_model(ST_MIB, ST_MIB); /* an envelope is larger than the weight */
    assert_int_equal(m->e.n_ranked, 0);
    assert_int_equal(st_elastic_plan(&m->e, 0), 0);
    assert_int_equal(st_elastic_drop(&m->e), -1);
    free_model(m);
}

/* --- Pools -------------------------------------------------------------------------------- */

enum { SLOTS = 96 };

static void test_slots_cost_memory_only_in_use(void **state)
{
    const int experts = SLOTS, slots = SLOTS;
    struct st_cache *cache = st_cache_new(1, &experts, &slots, st_cache_policy("lru"));
    struct st_pool pool = {
        .n_slots = SLOTS, .max_slots = SLOTS, .n_parts = 2, .stride = {ST_MIB, ST_MIB / 2}};
    int evicted;
    (void)state;
    for (int p = 0; p < 2; p++) {
        pool.memory_bytes[p] = SLOTS * pool.stride[p];
        pool.memory[p] = st_vm_reserve(pool.memory_bytes[p], true);
        st_vm_populate(pool.memory[p], pool.memory_bytes[p]);
    }
    assert_int_equal(st_pool_slot_bytes(&pool), ST_MIB * 3 / 2);
    for (int i = 0; i < SLOTS; i++) {
        assert_int_equal(st_cache_acquire(cache, 0, i, &evicted), i);
        memset(pool.memory[0] + (uint64_t)i * ST_MIB, i + 1, ST_MIB);
    }
    uint64_t full = st_memory_rss();
    st_cache_pin(cache, 0, 40);
    st_pool_resize(&pool, cache, 0, 24);
    assert_int_equal(pool.n_slots, 41); /* up to the one that is being read into */
    st_cache_unpin(cache, 0, 40);
    pool.n_passes = 1;
    st_pool_resize(&pool, cache, 0, 24);
    assert_int_equal(pool.n_slots, 41); /* somebody computes with it */
    pool.n_passes = 0;
    st_pool_resize(&pool, cache, 0, 24);
    assert_int_equal(pool.n_slots, 24);
    st_cache_check(cache);
    assert_true(st_memory_rss() + 100 * ST_MIB < full); /* 72 slots are 108 MiB */
    for (int i = 0; i < 24; i++) {
        assert_int_equal(pool.memory[0][(uint64_t)i * ST_MIB + 77], i + 1);
    }
    st_pool_resize(&pool, cache, 0, SLOTS);
    assert_int_equal(st_cache_slots(cache, 0), SLOTS);
    assert_true(st_memory_rss() + 8 * ST_MIB > full); /* populated */
    for (int p = 0; p < 2; p++) {
        st_vm_release(pool.memory[p], pool.memory_bytes[p]);
    }
    st_cache_free(cache);
}

static void test_shares(void **state)
{
    struct st_pool pool = {.n_slots = 10, .max_slots = 10};
    (void)state;
    assert_int_equal(st_pool_share(&pool, 0), 2);
    assert_int_equal(st_pool_share(&pool, 0.5), 6);
    assert_int_equal(st_pool_share(&pool, 1), 10);
    pool.max_slots = 1;
    assert_int_equal(st_pool_fewest(&pool), 1);
    assert_int_equal(st_pool_share(&pool, 0), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_kept_has_room_for_a_ring),
        cmocka_unit_test(test_holds_what_it_may),
        cmocka_unit_test(test_goes_evenly),
        cmocka_unit_test(test_only_what_fits_the_ring),
        cmocka_unit_test(test_slots_cost_memory_only_in_use),
        cmocka_unit_test(test_shares),
    };
    return cmocka_run_group_tests_name("elastic", tests, NULL, NULL);
}
