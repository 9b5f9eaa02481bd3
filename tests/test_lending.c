/*
 * test_lending.c - what a graph touches of buffers for intermediate results is counted to the
 * block, and given back after some passes of a few tokens; other buffers are left alone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <string.h>

#include "backend/lending.h"
#include "base/units.h"
#include "ggml-backend-impl.h"
#include "os/memory.h"

#define BLOCK   (64 * FB_KIB)
#define BLOCKS  64
#define ROWS    2 /* tokens of a pass while generating */
#define OWN     (3 * BLOCK)
#define N_FLOAT (BLOCK / sizeof(float))

static struct fb_lending lending;
static struct ggml_context *ctx;
static char *results, *cache; /* memory of two buffers */

static ggml_backend_buffer_t buffer_on(char *memory, enum ggml_backend_buffer_usage usage)
{
    ggml_backend_buffer_t buffer = ggml_backend_cpu_buffer_from_ptr(memory, BLOCKS * BLOCK);
    ggml_backend_buffer_set_usage(buffer, usage);
    fb_lending_add(&lending, buffer, memory);
    return buffer;
}

static int set_up(void **state)
{
    (void)state;
    struct ggml_init_params params = {
        .mem_size = 64 * ggml_tensor_overhead() + 8 * ggml_graph_overhead(), .no_alloc = true};
    lending = (struct fb_lending){0};
    ctx = ggml_init(params);
    results = fb_vm_reserve(BLOCKS * BLOCK, false);
    cache = fb_vm_reserve(BLOCKS * BLOCK, false);
    buffer_on(results, GGML_BACKEND_BUFFER_USAGE_COMPUTE);
    buffer_on(cache, GGML_BACKEND_BUFFER_USAGE_ANY);
    fb_lending_enable(&lending, ROWS, OWN, 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    while (lending.n_lenders > 0) {
        ggml_backend_buffer_t buffer = lending.lenders[0].buffer;
        fb_lending_remove(&lending, buffer);
        ggml_backend_buffer_free(buffer);
    }
    assert_int_equal(lending.results_bytes, 0);
    fb_vm_release(results, BLOCKS * BLOCK);
    fb_vm_release(cache, BLOCKS * BLOCK);
    ggml_free(ctx);
    return 0;
}

/* A tensor of n floats at `offset` of a buffer: 0 for results, 1 for the cache. */
static struct ggml_tensor *tensor_at(int buffer, uint64_t offset, uint64_t n)
{
    struct ggml_tensor *t = ggml_new_tensor_1d(ctx, GGML_TYPE_F32, (int64_t)n);
    ggml_backend_tensor_alloc(
        lending.lenders[buffer].buffer, t, lending.lenders[buffer].base + offset);
    return t;
}

/* Of one node, a + b, at `offset` of the results. */
static struct ggml_cgraph *graph_of(struct ggml_tensor *a, struct ggml_tensor *b, uint64_t offset)
{
    struct ggml_cgraph *graph = ggml_new_graph_custom(ctx, 8, false);
    struct ggml_tensor *sum = ggml_add(ctx, a, b);
    ggml_backend_tensor_alloc(lending.lenders[0].buffer, sum, lending.lenders[0].base + offset);
    ggml_build_forward_expand(graph, sum);
    return graph;
}

static void test_blocks_are_counted_once(void **state)
{
    (void)state;
    fb_lending_pass(&lending, 100);
    /* Blocks 0 and 1; the second in part. The cache is not counted. */
    struct ggml_tensor *a = tensor_at(0, 0, N_FLOAT + 1), *b = tensor_at(1, 0, N_FLOAT + 1);
    assert_int_equal(fb_lending_count(&lending, graph_of(a, b, BLOCK)), 0); /* 0 to 2: its own */
    assert_int_equal(lending.touched_bytes, 3 * BLOCK);
    assert_int_equal(fb_lending_count(&lending, graph_of(a, b, 10 * BLOCK)), 2 * BLOCK);
    assert_int_equal(fb_lending_count(&lending, graph_of(a, b, 11 * BLOCK)), 3 * BLOCK);
    assert_int_equal(fb_lending_count(&lending, graph_of(a, b, 11 * BLOCK)), 3 * BLOCK);
    /* A float in the last block, and a view of it. */
    struct ggml_tensor *last = tensor_at(0, BLOCKS * BLOCK - 8, 2);
    struct ggml_tensor *view = ggml_view_1d(ctx, last, 1, 4);
    ggml_backend_view_init(view);
    struct ggml_tensor *c = tensor_at(1, 0, 1);
    assert_int_equal(fb_lending_count(&lending, graph_of(view, c, 0)), 4 * BLOCK);
}

static void test_memory_comes_back_after_passes_of_few_tokens(void **state)
{
    (void)state;
    struct ggml_tensor *a = tensor_at(0, 0, 8 * N_FLOAT), *b = tensor_at(1, 0, 8 * N_FLOAT);
    struct ggml_cgraph *large = graph_of(a, b, 8 * BLOCK);
    struct ggml_cgraph *small = graph_of(tensor_at(0, 0, 1), tensor_at(1, 0, 1), 64);
    for (int round = 0; round < 3; round++) {
        fb_lending_pass(&lending, 100);
        assert_int_equal(fb_lending_count(&lending, large), 16 * BLOCK - OWN);
        assert_int_equal(lending.most_tokens, 100);
        memset(results, 1, 16 * BLOCK);
        memset(cache, 1, 16 * BLOCK);
        fb_lending_pass(&lending, ROWS); /* a pass of few tokens, then a batch: kept */
        assert_int_equal(fb_lending_count(&lending, small), 16 * BLOCK - OWN);
        fb_lending_pass(&lending, ROWS + 1);
        for (int i = 0; i < 3; i++) {
            fb_lending_pass(&lending, 1);
            assert_int_equal(fb_lending_count(&lending, small), 16 * BLOCK - OWN);
            assert_false(lending.returned);
        }
        fb_lending_pass(&lending, ROWS);
        assert_true(lending.returned);
        lending.returned = false;
        assert_int_equal(results[0] | results[16 * BLOCK - 1], 0); /* given back */
        assert_int_equal(cache[0] & cache[16 * BLOCK - 1], 1);
        assert_int_equal(fb_lending_count(&lending, small), 0);
        assert_int_equal(lending.touched_bytes, BLOCK);
        assert_int_equal(lending.most_tokens, ROWS);
        for (int i = 0; i < 9; i++) { /* nothing to give back */
            fb_lending_pass(&lending, 1);
            assert_false(lending.returned);
        }
    }
}

/* The slack is lent until it is known how much of it is in use. */
static void test_the_slack_comes_back_when_it_is_known(void **state)
{
    (void)state;
    struct ggml_cgraph *small = graph_of(tensor_at(0, 0, 1), tensor_at(1, 0, 1), 64);
    int n_looks = 0;
    fb_lending_enable(&lending, ROWS, OWN, 64 * FB_MIB);
    assert_int_equal(fb_lending_count(&lending, small), 64 * FB_MIB);
    for (int i = 0; i < 300; i++) {
        bool look = fb_lending_pass(&lending, i == 200 ? 100 : 1);
        assert_true(!look || i % 200 >= 4); /* not soon after a batch */
        n_looks += look;
    }
    assert_in_range(n_looks, 2, 10);
    fb_lending_settle(&lending, 5 * FB_MIB - 1);
    assert_int_equal(fb_lending_count(&lending, small), 13 * FB_MIB);
    fb_lending_settle(&lending, FB_GIB);
    assert_int_equal(fb_lending_count(&lending, small), 64 * FB_MIB);
}

static void test_a_pass_of_few_tokens_has_its_share(void **state)
{
    (void)state;
    assert_int_equal(fb_lending_own(512 * FB_MIB, 512, 1), 5 * FB_MIB);
    assert_int_equal(fb_lending_own(512 * FB_MIB, 512, 8), 12 * FB_MIB);
    assert_int_equal(fb_lending_own(3 * FB_MIB, 512, 8), 3 * FB_MIB);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_blocks_are_counted_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            test_memory_comes_back_after_passes_of_few_tokens, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            test_the_slack_comes_back_when_it_is_known, set_up, tear_down),
        cmocka_unit_test(test_a_pass_of_few_tokens_has_its_share),
    };
    return cmocka_run_group_tests_name("lending", tests, NULL, NULL);
}
