/*
 * compute.c - small graphs of the shapes that models compute, timed on the CPU backend.
 *
 *      memory   [ weights, larger than caches ......................... | activations ]
 *
 * A measurement makes tensors whose data are in this memory, computes them several times on the
 * workers that a model would use, and takes the median. The weights are whatever the memory holds:
 * the kernels take the same time for any bytes. Where caches must not help, nodes use different
 * parts of the memory in turn.
 */
#include "backend/compute.h"

#include <stdlib.h>

#include "backend/workers.h"
#include "base/error.h"
#include "base/units.h"
#include "os/memory.h"

/* More than most caches hold: the weights of a large model are read from memory. */
#define WEIGHT_BYTES     (256 * FB_MIB)
#define MIN_WEIGHT_BYTES (16 * FB_MIB)
#define ROW              4096 /* a multiple of every type's block */
/* The batch that is timed: rows of weights, tokens, experts, and how many each token uses. */
#define BATCH_ROWS   512
#define BATCH_TOKENS 128
#define N_EXPERTS    16
#define N_USED       2
#define UNPACK_BYTES (16 * FB_MIB) /* of one unit that is repacked */
#define SMALL_OPS    64
/* Most products of a token with its experts that are timed, one after another. */
#define DECODE_NODES 512
/* Attention as in common models, to so many tokens. */
#define HEADS    32
#define HEADS_KV 8
#define HEAD     128
#define ATTENDED 512

struct fb_bench {
    struct fb_workers workers;
    uint64_t weight_bytes;
    char *memory;             /* weight_bytes for weights, then activations */
    struct ggml_context *ctx; /* headers of the tensors of one measurement */
};

static uint64_t activations_bytes(void)
{
    return (uint64_t)(ROW + N_USED * BATCH_ROWS) * BATCH_TOKENS * sizeof(float) + 3 * FB_MIB;
}

struct fb_bench *fb_bench_new(int n_threads, uint64_t room_bytes)
{
    if (room_bytes < MIN_WEIGHT_BYTES + activations_bytes()) {
        return NULL;
    }
    struct fb_bench *bench = fb_xcalloc(1, sizeof *bench);
    struct ggml_init_params params = {
        .mem_size = (2 * DECODE_NODES + SMALL_OPS) * ggml_tensor_overhead(), .no_alloc = true};
    bench->weight_bytes = fb_min(WEIGHT_BYTES, room_bytes - activations_bytes());
    uint64_t bytes = bench->weight_bytes + activations_bytes();
    bench->memory = fb_vm_reserve(bytes, true);
    bench->ctx = ggml_init(params);
    if (!bench->memory || !bench->ctx || !fb_workers_init(&bench->workers)) {
        fb_bench_free(bench);
        return NULL;
    }
    fb_vm_populate(bench->memory, bytes);
    fb_workers_set_threads(&bench->workers, n_threads);
    return bench;
}

void fb_bench_limit(struct fb_bench *bench, int n_threads)
{
    fb_workers_limit(&bench->workers, n_threads);
}

void fb_bench_free(struct fb_bench *bench)
{
    if (!bench) {
        return;
    }
    if (bench->workers.cpu) {
        fb_workers_release(&bench->workers);
    }
    ggml_free(bench->ctx);
    if (bench->memory) {
        fb_vm_release(bench->memory, bench->weight_bytes + activations_bytes());
    }
    free(bench);
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Median seconds of several computations of the nodes; 0 when they fail. */
static double median_s(struct fb_bench *bench, struct ggml_tensor **nodes, int n, double seconds)
{
    uint64_t took[1000], end = fb_now_ns() + (uint64_t)(seconds * 1e9);
    int m = 0;
    for (int i = 0; i < 3 || (fb_now_ns() < end && i < 1000); i++) {
        uint64_t start = fb_now_ns();
        if (fb_workers_compute(&bench->workers, nodes, n) != GGML_STATUS_SUCCESS) {
            return 0;
        }
        m += i > 0; /* the first one warms up */
        took[m - (i > 0)] = fb_now_ns() - start;
    }
    qsort(took, (size_t)m, sizeof *took, by_size);
    return (double)fb_max(took[m / 2], 1) * 1e-9;
}

/* --- Types --------------------------------------------------------------------------------- */

/* A product of `rows` rows of weights with `tokens` rows of activations, in our memory. */
static struct ggml_tensor *product(
    struct fb_bench *bench, enum ggml_type type, int64_t rows, int64_t tokens)
{
    struct ggml_tensor *weight = ggml_new_tensor_2d(bench->ctx, type, ROW, rows);
    struct ggml_tensor *input = ggml_new_tensor_2d(bench->ctx, GGML_TYPE_F32, ROW, tokens);
    struct ggml_tensor *out = ggml_mul_mat(bench->ctx, weight, input);
    out->flags |= GGML_TENSOR_FLAG_COMPUTE;
    weight->data = bench->memory;
    input->data = bench->memory + bench->weight_bytes;
    out->data = (char *)input->data + ggml_nbytes(input);
    return out;
}

/* Seconds per product; weights in `form`. */
static double time_product(struct fb_bench *bench, const struct fb_form *form, enum ggml_type type,
    int64_t rows, int64_t tokens, double seconds)
{
    ggml_reset(bench->ctx);
    struct ggml_tensor *node = product(bench, type, rows, tokens);
    fb_form_point(form, node->src[0], bench->memory);
    return ggml_backend_dev_supports_op(bench->workers.cpu_dev, node)
               ? median_s(bench, &node, 1, seconds)
               : 0;
}

static uint64_t form_bytes(const struct fb_form *form, const struct ggml_tensor *weight)
{
    return form->layout.buft ? ggml_backend_buft_get_alloc_size(form->layout.buft, weight)
                             : ggml_nbytes(weight);
}

/* Multiply-adds per second for a batch whose tokens use N_USED of N_EXPERTS expert matrices each,
 * evenly. */
static double experts_batch_rate(struct fb_bench *bench, const struct fb_form *form,
    enum ggml_type type, int64_t columns, int64_t rows, double seconds)
{
    int32_t ids[BATCH_TOKENS][N_USED];
    int64_t row_bytes = (columns + N_USED * rows) * (int64_t)sizeof(float);
    int tokens = (int)fb_min(BATCH_TOKENS, activations_bytes() / (uint64_t)row_bytes);
    for (int t = 0; t < tokens; t++) {
        for (int k = 0; k < N_USED; k++) {
            ids[t][k] = (7 * t + k) % N_EXPERTS;
        }
    }
    ggml_reset(bench->ctx);
    struct ggml_context *ctx = bench->ctx;
    struct ggml_tensor *weight = ggml_new_tensor_3d(ctx, type, columns, rows, N_EXPERTS);
    struct ggml_tensor *input = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, columns, 1, tokens);
    struct ggml_tensor *chosen = ggml_new_tensor_2d(ctx, GGML_TYPE_I32, N_USED, tokens);
    struct ggml_tensor *node = ggml_mul_mat_id(ctx, weight, input, chosen);
    node->flags |= GGML_TENSOR_FLAG_COMPUTE;
    if (tokens < N_EXPERTS || form_bytes(form, weight) > bench->weight_bytes) {
        return 0;
    }
    fb_form_point(form, weight, bench->memory);
    input->data = bench->memory + bench->weight_bytes;
    chosen->data = ids;
    node->data = (char *)input->data + ggml_nbytes(input);
    double took = ggml_backend_dev_supports_op(bench->workers.cpu_dev, node)
                      ? median_s(bench, &node, 1, seconds)
                      : 0;
    return took > 0 ? (double)(columns * rows) * N_USED * tokens / took : 0;
}

/* Bytes per second that all threads repack. Each unit has its own source and destination in our
 * memory, since bytes read from a disk are in no cache of the processor, nor is their slot. */
static double unpack_rate(struct fb_bench *bench, struct fb_form *form, enum ggml_type type)
{
    uint64_t row_bytes = ggml_row_size(type, ROW);
    uint64_t most = fb_min(UNPACK_BYTES, bench->weight_bytes / 2);
    int64_t rows = (int64_t)fb_round_down(most / row_bytes, 64);
    uint64_t bytes = row_bytes * (uint64_t)rows, took = 0;
    int n = (int)(bench->weight_bytes / (2 * most));
    form->layout.unit_ne[0] = ROW;
    form->layout.unit_ne[1] = rows;
    form->layout.unit_ne[2] = form->layout.unit_ne[3] = 1;
    for (int i = 0; i < n; i++) {
        char *raw = bench->memory + (uint64_t)i * 2 * most;
        struct fb_raw_unit unit = {form, raw, raw + most, bytes};
        uint64_t start = fb_now_ns();
        fb_workers_unpack(&bench->workers, &unit, 1);
        took += fb_now_ns() - start;
    }
    return took > 0 ? (double)bytes * n / ((double)took * 1e-9) : 0;
}

bool fb_bench_type(
    struct fb_bench *bench, int type_number, bool repack, double seconds, struct fb_bench_rate *out)
{
    enum ggml_type type = type_number;
    if (ggml_blck_size(type) == 0 || ROW % ggml_blck_size(type) != 0) {
        return false;
    }
    uint64_t row_bytes = ggml_row_size(type, ROW);
    int64_t rows = (int64_t)fb_round_down(bench->weight_bytes / row_bytes, 64);
    struct fb_form form = {0};
    ggml_reset(bench->ctx);
    struct ggml_tensor *trial = product(bench, type, rows, 1);
    if (repack && !fb_form_choose(&form, trial, trial->src[0], true, false)) {
        return false;
    }
    if (form.layout.buft &&
        form.layout.unit_bytes > bench->weight_bytes) { /* larger than in the file */
        double fit = (double)bench->weight_bytes / (double)form.layout.unit_bytes;
        rows = (int64_t)fb_round_down((uint64_t)((double)rows * fit), 64);
    }
    double decode = time_product(bench, &form, type, rows, 1, seconds / 3);
    double batch = time_product(bench, &form, type, BATCH_ROWS, BATCH_TOKENS, seconds / 3);
    double madds = (double)ROW * BATCH_ROWS * BATCH_TOKENS;
    *out = (struct fb_bench_rate){
        .repacked = form.layout.buft != NULL,
        .decode = decode > 0 ? (double)rows * (double)row_bytes / decode : 0,
        .batch = batch > 0 ? madds / batch : 0,
        .experts = experts_batch_rate(bench, &form, type, ROW, BATCH_ROWS, seconds / 3),
        .unpack = form.layout.buft ? unpack_rate(bench, &form, type) : 0,
    };
    fb_form_release(&form);
    return decode > 0 && batch > 0;
}

/* Bytes of weights per second for a token with its experts. The matrix with fewer columns than rows
 * is taken for the down matrix, which has an input per expert; gate and up share one. */
static double experts_decode_rate(struct fb_bench *bench, const struct fb_form *form,
    enum ggml_type type, int columns, int rows, int used, double seconds)
{
    struct ggml_tensor *nodes[DECODE_NODES];
    double bytes = (double)ggml_row_size(type, columns) * rows;
    double held = form->layout.buft ? (double)form->layout.unit_bytes : bytes;
    int n = (int)fb_min(
        (uint64_t)DECODE_NODES * (uint64_t)used, (uint64_t)((double)bench->weight_bytes / held));
    int n_nodes = n / used;
    struct ggml_context *ctx = bench->ctx;
    ggml_reset(ctx);
    struct ggml_tensor *weight = ggml_new_tensor_3d(ctx, type, columns, rows, n);
    struct ggml_tensor *input =
        ggml_new_tensor_3d(ctx, GGML_TYPE_F32, columns, columns < rows ? used : 1, 1);
    uint64_t needed = ggml_nbytes(input) + sizeof(float) * (uint64_t)rows * (uint64_t)used;
    if (n_nodes == 0 || needed > activations_bytes()) {
        return 0;
    }
    int32_t *ids = fb_xcalloc((size_t)n, sizeof *ids);
    fb_form_point(form, weight, bench->memory);
    input->data = bench->memory + bench->weight_bytes;
    for (int i = 0; i < n_nodes; i++) {
        struct ggml_tensor *chosen = ggml_new_tensor_2d(ctx, GGML_TYPE_I32, used, 1);
        chosen->data = ids + (ptrdiff_t)i * used;
        for (int k = 0; k < used; k++) {
            ids[i * used + k] = k * n_nodes + i; /* not one after another in memory */
        }
        nodes[i] = ggml_mul_mat_id(ctx, weight, input, chosen);
        nodes[i]->flags |= GGML_TENSOR_FLAG_COMPUTE;
        nodes[i]->data = (char *)input->data + ggml_nbytes(input);
    }
    double took = ggml_backend_dev_supports_op(bench->workers.cpu_dev, nodes[0])
                      ? median_s(bench, nodes, n_nodes, seconds)
                      : 0;
    free(ids);
    return took > 0 ? bytes * n_nodes * used / took : 0;
}

bool fb_bench_expert(struct fb_bench *bench, int type_number, bool repack, int columns, int rows,
    int used, double seconds, struct fb_bench_rate *out)
{
    enum ggml_type type = type_number;
    if (ggml_blck_size(type) == 0 || columns % ggml_blck_size(type) != 0 || used < 1) {
        return false;
    }
    struct fb_form form = {0};
    ggml_reset(bench->ctx);
    struct ggml_tensor *weight = ggml_new_tensor_3d(bench->ctx, type, columns, rows, used);
    struct ggml_tensor *input = ggml_new_tensor_3d(bench->ctx, GGML_TYPE_F32, columns, 1, 1);
    struct ggml_tensor *chosen = ggml_new_tensor_2d(bench->ctx, GGML_TYPE_I32, used, 1);
    struct ggml_tensor *trial = ggml_mul_mat_id(bench->ctx, weight, input, chosen);
    if (repack && !fb_form_choose(&form, trial, weight, true, true)) {
        return false;
    }
    *out = (struct fb_bench_rate){
        .repacked = form.layout.buft != NULL,
        .decode = experts_decode_rate(bench, &form, type, columns, rows, used, seconds / 2),
        .experts = experts_batch_rate(bench, &form, type, columns, rows, seconds / 2),
    };
    fb_form_release(&form);
    return out->decode > 0;
}

/* --- Memory, small operations, attention ---------------------------------------------------- */

static void read_share(struct ggml_tensor *dst, int ith, int nth, void *user)
{
    const struct fb_bench *bench = user;
    uint64_t share = fb_round_down(bench->weight_bytes / (uint64_t)nth, 64);
    const uint64_t *at = (const uint64_t *)(bench->memory + (uint64_t)ith * share);
    uint64_t sum[4] = {0};
    (void)dst;
    for (uint64_t i = 0; i + 4 <= share / sizeof *at; i += 4) {
        for (int lane = 0; lane < 4; lane++) {
            sum[lane] += at[i + (uint64_t)lane];
        }
    }
    volatile uint64_t used = sum[0] + sum[1] + sum[2] + sum[3];
    (void)used;
}

double fb_bench_memory(struct fb_bench *bench, double seconds)
{
    fb_workers_reset_ops(&bench->workers);
    struct ggml_tensor *op = fb_workers_op(&bench->workers, read_share, bench);
    return (double)bench->weight_bytes / median_s(bench, &op, 1, seconds);
}

double fb_bench_op(struct fb_bench *bench)
{
    struct ggml_tensor *nodes[SMALL_OPS];
    ggml_reset(bench->ctx);
    struct ggml_tensor *x = ggml_new_tensor_1d(bench->ctx, GGML_TYPE_F32, ROW);
    x->data = bench->memory + bench->weight_bytes;
    for (int i = 0; i < SMALL_OPS; i++) { /* as between the matrix products of a layer */
        nodes[i] = i % 2 ? ggml_add(bench->ctx, x, x) : ggml_rms_norm(bench->ctx, x, 1e-5f);
        nodes[i]->data = (char *)x->data + (i % 2 ? -1 : 1) * (ptrdiff_t)ggml_nbytes(x);
        nodes[i]->flags |= GGML_TENSOR_FLAG_COMPUTE;
        x = nodes[i];
    }
    return median_s(bench, nodes, SMALL_OPS, 0.02) / SMALL_OPS;
}

double fb_bench_attention(struct fb_bench *bench, int tokens)
{
    struct ggml_tensor *nodes[16];
    struct ggml_context *ctx = bench->ctx;
    ggml_reset(ctx);
    struct ggml_tensor *q = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, HEAD, tokens, HEADS);
    q->data = bench->memory + bench->weight_bytes;
    char *at = bench->memory;
    int n = tokens > 1 ? 1 : 16;
    for (int i = 0; i < n; i++) { /* layers: each has its own KV cache */
        struct ggml_tensor *kv[2];
        for (int j = 0; j < 2; j++) { /* token by token, as in the KV cache */
            kv[j] = ggml_new_tensor_3d(ctx, GGML_TYPE_F16, HEAD, HEADS_KV, ATTENDED);
            if (at + ggml_nbytes(kv[j]) > bench->memory + bench->weight_bytes) {
                at = bench->memory;
            }
            kv[j]->data = at;
            at += ggml_nbytes(kv[j]);
        }
        struct ggml_tensor *k = ggml_permute(ctx, kv[0], 0, 2, 1, 3);
        struct ggml_tensor *v = ggml_permute(ctx, kv[1], 0, 2, 1, 3);
        k->data = kv[0]->data;
        v->data = kv[1]->data;
        nodes[i] = ggml_flash_attn_ext(ctx, q, k, v, NULL, 0.1f, 0, 0);
        nodes[i]->flags |= GGML_TENSOR_FLAG_COMPUTE;
        nodes[i]->data = (char *)q->data + ggml_nbytes(q);
    }
    double took = median_s(bench, nodes, n, 0.03);
    return took > 0 ? n * 2.0 * HEAD * HEADS * ATTENDED * tokens / took : 0;
}
