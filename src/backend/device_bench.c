/*
 * device_bench.c - small graphs of the shapes that models compute, timed on a GPU.
 *
 * A measurement makes tensors in a buffer of the device, computes the graph several times, and
 * takes the median. Nodes use different weights in turn, so that the device's caches help as
 * little as in a model. Each time includes what handing over the graph takes.
 */
#include "backend/device_bench.h"

#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"
#include "ggml-alloc.h"

#define ROOM       (128 * FB_MIB) /* more than most caches hold */
#define LEAST      (4 * FB_MIB)
#define ROW        4096 /* a multiple of every type's block */
#define MATRICES   8    /* large ones, or fewer where there is little room */
#define LEAST_ROWS 64
#define NODES      16           /* of experts */
#define TOTAL_NS   20000000     /* of the runs of one measurement, about */
#define UPLOAD     (4 * FB_MIB) /* at a time: about a part of an expert */
#define SMALL_OPS  64
#define RUNS       50

struct fb_device_bench {
    ggml_backend_t backend;
    uint64_t room_bytes;
    int batch;                /* tokens */
    struct ggml_context *ctx; /* headers of the tensors of one measurement */
};

struct fb_device_bench *fb_device_bench_new(
    ggml_backend_dev_t device, uint64_t room_bytes, int batch)
{
    if (room_bytes < LEAST) {
        return NULL;
    }
    struct ggml_init_params params = {
        .mem_size = 512 * ggml_tensor_overhead() + ggml_graph_overhead(), .no_alloc = true};
    struct fb_device_bench *bench = fb_xcalloc(1, sizeof *bench);
    bench->room_bytes = fb_min(room_bytes, ROOM);
    bench->batch = batch;
    bench->backend = ggml_backend_dev_init(device, NULL);
    bench->ctx = ggml_init(params);
    if (!bench->backend || !bench->ctx) {
        fb_device_bench_free(bench);
        return NULL;
    }
    return bench;
}

void fb_device_bench_free(struct fb_device_bench *bench)
{
    if (bench) {
        ggml_free(bench->ctx);
        if (bench->backend) {
            ggml_backend_free(bench->backend);
        }
        free(bench);
    }
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Median seconds of several computations of the graph, the first two of which compile kernels and
 * warm up; 0 when they fail. */
static double median_s(struct fb_device_bench *bench, struct ggml_cgraph *graph)
{
    uint64_t took[RUNS], total = 0;
    int n = 0;
    for (int i = 0; i < RUNS + 2 && (n < 3 || total < TOTAL_NS); i++) {
        uint64_t start = fb_now_ns();
        if (ggml_backend_graph_compute(bench->backend, graph) != GGML_STATUS_SUCCESS) {
            return 0;
        }
        uint64_t now = fb_now_ns();
        if (i >= 2) {
            took[n++] = now - start;
            total += now - start;
        }
    }
    qsort(took, (size_t)n, sizeof *took, by_size);
    return (double)fb_max(took[n / 2], 1) * 1e-9;
}

static bool computes(const struct fb_device_bench *bench, const struct ggml_tensor *node)
{
    return bench->backend &&
           ggml_backend_dev_supports_op(ggml_backend_get_device(bench->backend), node);
}

/* Allocates all tensors of the context, zeroed; NULL when the device refuses. */
static ggml_backend_buffer_t allocate(struct fb_device_bench *bench)
{
    ggml_backend_buffer_t buffer =
        bench->backend ? ggml_backend_alloc_ctx_tensors(bench->ctx, bench->backend) : NULL;
    if (buffer) {
        ggml_backend_buffer_clear(buffer, 0);
    }
    return buffer;
}

/* A back end remembers activations by the addresses of their tensors, which the next measurement
 * uses again. */
static void renew(struct fb_device_bench *bench)
{
    ggml_backend_dev_t device = ggml_backend_get_device(bench->backend);
    ggml_backend_free(bench->backend);
    bench->backend = ggml_backend_dev_init(device, NULL);
}

/* Seconds of all nodes, whose tensors get memory. `ids`: of each node, or NULL. */
static double time_nodes(
    struct fb_device_bench *bench, struct ggml_tensor **nodes, int n, const int32_t *ids)
{
    struct ggml_cgraph *graph = ggml_new_graph(bench->ctx);
    for (int i = 0; i < n; i++) {
        if (!computes(bench, nodes[i])) {
            return 0;
        }
        ggml_build_forward_expand(graph, nodes[i]);
    }
    ggml_backend_buffer_t buffer = allocate(bench);
    if (!buffer) {
        return 0;
    }
    for (int i = 0; i < n && ids; i++) {
        struct ggml_tensor *chosen = nodes[i]->src[2];
        ggml_backend_tensor_set(chosen, ids, 0, ggml_nbytes(chosen));
        ids += ggml_nelements(chosen);
    }
    double took = median_s(bench, graph);
    ggml_backend_buffer_free(buffer);
    renew(bench);
    return took;
}

/* Large matrices, each used by one node. */
static double time_matrices(
    struct fb_device_bench *bench, enum ggml_type type, int64_t rows, int n, int tokens)
{
    struct ggml_tensor *nodes[MATRICES];
    ggml_reset(bench->ctx);
    struct ggml_tensor *input = ggml_new_tensor_2d(bench->ctx, GGML_TYPE_F32, ROW, tokens);
    for (int i = 0; i < n; i++) {
        struct ggml_tensor *weight = ggml_new_tensor_2d(bench->ctx, type, ROW, rows);
        nodes[i] = ggml_mul_mat(bench->ctx, weight, input);
    }
    return time_nodes(bench, nodes, n, NULL);
}

static bool measure_matrices(
    struct fb_device_bench *bench, enum ggml_type type, double *decode, double *batch)
{
    uint64_t row_bytes = ggml_row_size(type, ROW), room = bench->room_bytes / 2 / row_bytes;
    int n = MATRICES;
    while (n > 1 && room / (uint64_t)n < LEAST_ROWS) {
        n /= 2;
    }
    int64_t rows = (int64_t)fb_min(ROW, fb_round_down(room / (uint64_t)n, LEAST_ROWS));
    if (rows == 0) {
        return false;
    }
    double one = time_matrices(bench, type, rows, n, 1);
    double many = time_matrices(bench, type, rows, 1, bench->batch);
    *decode = one > 0 ? (double)row_bytes * (double)rows * n / one : 0;
    *batch = many > 0 ? (double)ROW * (double)rows * bench->batch / many : 0;
    return one > 0 && many > 0;
}

/* Products with a stack of n experts, each node of `tokens` tokens with others. As in a model, the
 * down matrix has an input for each expert; it is taken to be the one with fewer columns. */
static double time_experts(struct fb_device_bench *bench, enum ggml_type type, int columns,
    int rows, int used, int n, int n_nodes, int tokens)
{
    struct ggml_tensor *nodes[NODES];
    int picks = n_nodes * tokens * used;
    int32_t *ids = fb_xcalloc((size_t)picks, sizeof *ids);
    for (int i = 0; i < picks; i++) {
        ids[i] = i % n;
    }
    ggml_reset(bench->ctx);
    struct ggml_tensor *stack = ggml_new_tensor_3d(bench->ctx, type, columns, rows, n);
    struct ggml_tensor *input =
        ggml_new_tensor_3d(bench->ctx, GGML_TYPE_F32, columns, columns < rows ? used : 1, tokens);
    for (int i = 0; i < n_nodes; i++) {
        struct ggml_tensor *chosen = ggml_new_tensor_2d(bench->ctx, GGML_TYPE_I32, used, tokens);
        nodes[i] = ggml_mul_mat_id(bench->ctx, stack, input, chosen);
    }
    double took = time_nodes(bench, nodes, n_nodes, ids);
    free(ids);
    return took;
}

static bool measure_experts(struct fb_device_bench *bench, enum ggml_type type, int columns,
    int rows, int used, double *decode, double *batch)
{
    uint64_t unit = ggml_row_size(type, columns) * (uint64_t)rows;
    int n = (int)fb_min(bench->room_bytes / 2 / unit, (uint64_t)NODES * (uint64_t)used);
    if (n < used) {
        return false;
    }
    double one = time_experts(bench, type, columns, rows, used, n, NODES, 1);
    double many = time_experts(bench, type, columns, rows, used, n, 1, bench->batch);
    *decode = one > 0 ? (double)unit * used * NODES / one : 0;
    *batch = many > 0 ? (double)columns * rows * used * bench->batch / many : 0;
    return one > 0 && many > 0;
}

bool fb_device_bench_kind(struct fb_device_bench *bench, int type_number, int columns, int rows,
    int used, double *decode, double *batch)
{
    enum ggml_type type = type_number;
    int64_t block = ggml_blck_size(type), row = columns ? columns : ROW;
    if (block == 0 || row % block != 0 || (columns && used < 1)) {
        return false;
    }
    return columns ? measure_experts(bench, type, columns, rows, used, decode, batch)
                   : measure_matrices(bench, type, decode, batch);
}

double fb_device_bench_upload(struct fb_device_bench *bench)
{
    uint64_t bytes = fb_min(UPLOAD, bench->room_bytes / 4), took[RUNS];
    ggml_reset(bench->ctx);
    struct ggml_tensor *to = ggml_new_tensor_1d(bench->ctx, GGML_TYPE_I8, (int64_t)(4 * bytes));
    ggml_backend_buffer_t buffer = allocate(bench);
    char *from = fb_xcalloc(4, bytes);
    for (int i = 0; i < RUNS && buffer; i++) {
        uint64_t start = fb_now_ns(), at = (uint64_t)(i % 4) * bytes;
        ggml_backend_tensor_set(to, from + at, at, bytes);
        took[i] = fb_now_ns() - start;
    }
    qsort(took, buffer ? RUNS : 0, sizeof *took, by_size);
    double rate = buffer ? (double)bytes / ((double)fb_max(took[RUNS / 2], 1) * 1e-9) : 0;
    ggml_backend_buffer_free(buffer);
    free(from);
    return rate;
}

double fb_device_bench_op(struct fb_device_bench *bench)
{
    ggml_reset(bench->ctx);
    struct ggml_tensor *x = ggml_new_tensor_1d(bench->ctx, GGML_TYPE_F32, ROW);
    for (int i = 0; i < SMALL_OPS; i++) { /* it is handing over that takes time */
        x = ggml_scale(bench->ctx, x, 0.5f);
    }
    return time_nodes(bench, &x, 1, NULL) / SMALL_OPS;
}

double fb_device_bench_turn(struct fb_device_bench *bench)
{
    uint64_t took[RUNS];
    float result[16];
    bool done = true;
    ggml_reset(bench->ctx);
    struct ggml_tensor *x = ggml_new_tensor_1d(bench->ctx, GGML_TYPE_F32, ROW);
    struct ggml_tensor *scaled = ggml_scale(bench->ctx, x, 0.5f);
    struct ggml_cgraph *graph = ggml_new_graph(bench->ctx);
    ggml_build_forward_expand(graph, scaled);
    ggml_backend_buffer_t buffer = computes(bench, scaled) ? allocate(bench) : NULL;
    for (int i = 0; i < RUNS && buffer; i++) {
        uint64_t start = fb_now_ns();
        done = ggml_backend_graph_compute(bench->backend, graph) == GGML_STATUS_SUCCESS && done;
        ggml_backend_tensor_get(scaled, result, 0, sizeof result);
        took[i] = fb_now_ns() - start;
    }
    qsort(took, buffer ? RUNS : 0, sizeof *took, by_size);
    double seconds = buffer && done ? (double)fb_max(took[RUNS / 2], 1) * 1e-9 : 0;
    ggml_backend_buffer_free(buffer);
    return seconds;
}
