/*
 * test_partition.c - operations that are said to compute the same bits with any number of threads,
 * computed by ggml with several numbers; and attention over many cells, which does not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/partition.h"
#include "backend/workers.h"
#include "engine/libs.h"

#define MOST_THREADS 3
#define BYTES        (64u << 20)

static struct fb_workers workers[MOST_THREADS + 1]; /* [threads] */
static struct ggml_context *ctx;

static uint32_t seed;

static float random_value(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)(int32_t)seed / 2147483648.0f;
}

/* A tensor of random values between -1 and 1. */
static struct ggml_tensor *random_tensor(
    enum ggml_type type, int64_t a, int64_t b, int64_t c, int64_t d)
{
    struct ggml_tensor *t = ggml_new_tensor_4d(ctx, type, a, b, c, d);
    int64_t n = ggml_nelements(t);
    float *values = malloc((size_t)n * sizeof *values);
    for (int64_t i = 0; i < n; i++) {
        values[i] = random_value();
    }
    if (type == GGML_TYPE_F32) {
        memcpy(t->data, values, (size_t)n * sizeof *values);
    } else {
        ggml_quantize_chunk(type, values, t->data, 0, n / a, a, NULL);
    }
    free(values);
    return t;
}

static struct ggml_tensor *f32(int64_t a, int64_t b, int64_t c, int64_t d)
{
    return random_tensor(GGML_TYPE_F32, a, b, c, d);
}

/* True when all numbers of threads give the same bits. */
static bool same(struct ggml_tensor *node)
{
    size_t n = ggml_nbytes(node);
    void *first = malloc(n);
    bool equal = true;
    node->flags |= GGML_TENSOR_FLAG_COMPUTE;
    for (int threads = 1; threads <= MOST_THREADS; threads++) {
        memset(node->data, 0xff, n);
        assert_int_equal(fb_workers_compute(&workers[threads], &node, 1), GGML_STATUS_SUCCESS);
        if (threads == 1) {
            memcpy(first, node->data, n);
        }
        equal = equal && memcmp(first, node->data, n) == 0;
    }
    free(first);
    return equal;
}

static void check(struct ggml_tensor *node)
{
    bool matters = fb_partition_matters(node, MOST_THREADS, workers[1].pairs);
    if (!matters && !same(node)) {
        fail_msg("%s of %lld x %lld x %lld", ggml_op_desc(node), (long long)node->ne[0],
            (long long)node->ne[1], (long long)node->ne[2]);
    }
}

static void begin(void)
{
    ggml_free(ctx);
    ctx = ggml_init((struct ggml_init_params){.mem_size = BYTES});
    seed = 1;
}

static struct ggml_tensor *attention(enum ggml_type type, int64_t rows, int64_t cells)
{
    begin();
    struct ggml_tensor *q = f32(64, rows, 4, 1);
    struct ggml_tensor *k = random_tensor(type, 64, cells, 2, 1);
    struct ggml_tensor *v = random_tensor(type, 64, cells, 2, 1);
    struct ggml_tensor *mask = ggml_new_tensor_2d(ctx, GGML_TYPE_F16, cells, rows);
    ggml_fp16_t *at = mask->data;
    for (int64_t i = 0; i < rows * cells; i++) { /* each row sees its own beginning */
        at[i] = ggml_fp32_to_fp16(i % cells < cells - rows + i / cells ? 0 : -INFINITY);
    }
    return ggml_flash_attn_ext(ctx, q, k, v, mask, 0.1f, 0, 0);
}

static void test_attention(void **state)
{
    static const int64_t rows[] = {1, 2, 17, 63, 64}, cells[] = {256, 511, 768};
    (void)state;
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        for (size_t c = 0; c < sizeof cells / sizeof *cells; c++) {
            check(attention(GGML_TYPE_F16, rows[r], cells[c]));
            check(attention(GGML_TYPE_Q8_0, rows[r], cells[c]));
        }
    }
    assert_false(fb_partition_matters(attention(GGML_TYPE_F16, 1, 256), 2, false));
    assert_false(fb_partition_matters(attention(GGML_TYPE_F16, 4, 768), 2, false));
}

/* What the second thread pool is for. If this fails, ggml has changed for the better. */
static void test_attention_differs(void **state)
{
    (void)state;
    struct ggml_tensor *node = attention(GGML_TYPE_F16, 1, 512);
    assert_true(fb_partition_matters(node, 2, false));
    assert_false(same(node));
}

static void test_products(void **state)
{
    static const enum ggml_type types[] = {
        GGML_TYPE_F32, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_K, GGML_TYPE_IQ4_XS};
    static const int64_t rows[] = {3, 30, 514}, columns[] = {1, 2, 5, 64};
    (void)state;
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
            for (size_t c = 0; c < sizeof columns / sizeof *columns; c++) {
                begin();
                struct ggml_tensor *weight = random_tensor(types[t], 256, rows[r], 1, 1);
                check(ggml_mul_mat(ctx, weight, f32(256, columns[c], 1, 1)));
                struct ggml_tensor *experts = random_tensor(types[t], 256, rows[r], 4, 1);
                struct ggml_tensor *ids = ggml_new_tensor_2d(ctx, GGML_TYPE_I32, 2, columns[c]);
                for (int64_t i = 0; i < 2 * columns[c]; i++) {
                    ((int32_t *)ids->data)[i] = (int32_t)((i / 2 * 3 + i) % 4);
                }
                check(ggml_mul_mat_id(ctx, experts, f32(256, 1, columns[c], 1), ids));
            }
        }
    }
}

static void test_pairs(void **state)
{
    (void)state;
    begin();
    struct ggml_tensor *small = random_tensor(GGML_TYPE_Q8_0, 256, 30, 1, 1);
    struct ggml_tensor *large = random_tensor(GGML_TYPE_Q8_0, 256, 512, 1, 1);
    assert_true(fb_partition_matters(ggml_mul_mat(ctx, small, f32(256, 2, 1, 1)), 4, true));
    assert_false(fb_partition_matters(ggml_mul_mat(ctx, small, f32(256, 1, 1, 1)), 4, true));
    assert_false(fb_partition_matters(ggml_mul_mat(ctx, small, f32(256, 2, 1, 1)), 4, false));
    assert_false(fb_partition_matters(ggml_mul_mat(ctx, large, f32(256, 2, 1, 1)), 4, true));
}

/* With rows that no number of threads divides. */
static void test_rows(void **state)
{
    static const int64_t rows[] = {1, 2, 7};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        begin();
        struct ggml_tensor *x = f32(250, rows[i], 3, 1), *y = f32(250, rows[i], 3, 1);
        struct ggml_tensor *one = f32(250, 1, 1, 1), *wide = f32(500, rows[i], 3, 1);
        struct ggml_tensor *position = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, 3);
        memset(position->data, 1, ggml_nbytes(position));
        check(ggml_add(ctx, x, y));
        check(ggml_sub(ctx, x, y));
        check(ggml_mul(ctx, x, one));
        check(ggml_div(ctx, x, y));
        check(ggml_scale(ctx, x, 0.3f));
        check(ggml_norm(ctx, x, 1e-5f));
        check(ggml_rms_norm(ctx, x, 1e-5f));
        check(ggml_l2_norm(ctx, x, 1e-5f));
        check(ggml_soft_max(ctx, x));
        check(ggml_silu(ctx, x));
        check(ggml_gelu(ctx, x));
        check(ggml_sigmoid(ctx, x));
        check(ggml_swiglu(ctx, wide));
        check(ggml_geglu(ctx, wide));
        check(ggml_sum_rows(ctx, x));
        check(ggml_concat(ctx, x, y, 1));
        check(ggml_cont(ctx, ggml_transpose(ctx, x)));
        check(ggml_cast(ctx, x, GGML_TYPE_F16));
        check(ggml_cast(ctx, x, GGML_TYPE_BF16));
        check(ggml_argsort(ctx, x, GGML_SORT_ORDER_DESC));
        check(ggml_rope(ctx, x, position, 64, 0));
    }
}

static void test_state_space(void **state)
{
    (void)state;
    for (int64_t tokens = 1; tokens < 8; tokens += 3) {
        begin();
        check(ggml_ssm_conv(ctx, f32(3 + tokens, 37, 1, 1), f32(4, 37, 1, 1)));
        struct ggml_tensor *ids = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, 1);
        *(int32_t *)ids->data = 0;
        check(ggml_ssm_scan(ctx, f32(16, 8, 5, 1), f32(8, 5, tokens, 1), f32(5, tokens, 1, 1),
            f32(1, 5, 1, 1), f32(16, 1, tokens, 1), f32(16, 1, tokens, 1), ids, 1));
    }
}

static void test_unknown(void **state)
{
    (void)state;
    begin();
    struct ggml_tensor *loss = ggml_cross_entropy_loss(ctx, f32(8, 8, 1, 1), f32(8, 8, 1, 1));
    assert_true(fb_partition_matters(loss, 2, false));
}

static int load(void **state)
{
    struct forebay_error err;
    (void)state;
    if (fb_libs_load(&err) != FOREBAY_OK) {
        return -1;
    }
    for (int threads = 1; threads <= MOST_THREADS; threads++) {
        if (!fb_workers_init(&workers[threads])) {
            return -1;
        }
        fb_workers_sleep_when_idle(&workers[threads]);
        fb_workers_set_threads(&workers[threads], threads);
    }
    return 0;
}

static int unload(void **state)
{
    (void)state;
    for (int threads = 1; threads <= MOST_THREADS; threads++) {
        fb_workers_release(&workers[threads]);
    }
    ggml_free(ctx);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_attention_differs),
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_state_space),
        cmocka_unit_test(test_unknown),
    };
    return cmocka_run_group_tests_name("partition", tests, load, unload);
}
