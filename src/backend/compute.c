#include "backend/compute.h"

#include <stdlib.h>
#include <string.h>

#include "backend/internal.h"
#include "base/error.h"
#include "base/units.h"
#include "os/memory.h"

/* More than most caches hold: the weights of a large model come from memory. */
#define WEIGHT_BYTES (256 * ST_MIB)
#define WEIGHT_LEAST (16 * ST_MIB)
#define ROW          4096 /* a multiple of every type's block */
#define BATCH_ROWS   512  /* rows of weights, and ... */
#define BATCH_TOKENS 256  /* ... tokens of the batch that is timed */
#define N_EXPERTS    16   /* ... of which each of those tokens uses ... */
#define N_USED       2
#define ARRIVE_BYTES (16 * ST_MIB) /* what comes from the disk is in no cache */
#define SMALL_OPS    64

struct st_bench {
    struct workers workers;
    uint64_t weight_bytes;
    char *memory;             /* weight_bytes for weights, then activations */
    struct ggml_context *ctx; /* headers of the tensors of one measurement */
};

static uint64_t activations_bytes(void)
{
    return (uint64_t)(ROW + N_USED * BATCH_ROWS) * BATCH_TOKENS * sizeof(float) + ST_MIB;
}

struct st_bench *st_bench_new(int n_threads, uint64_t room_bytes)
{
    if (room_bytes < WEIGHT_LEAST + activations_bytes()) {
        return NULL;
    }
    struct st_bench *bench = st_xcalloc(1, sizeof *bench);
    struct ggml_init_params params = {
        .mem_size = (SMALL_OPS + 16) * ggml_tensor_overhead(), .no_alloc = true};
    bench->weight_bytes = st_min(WEIGHT_BYTES, room_bytes - activations_bytes());
    uint64_t bytes = bench->weight_bytes + activations_bytes();
    bench->memory = st_vm_reserve(bytes, true);
    bench->ctx = ggml_init(params);
    if (!bench->memory || !bench->ctx || !st_workers_init(&bench->workers)) {
        st_bench_free(bench);
        return NULL;
    }
    st_vm_populate(bench->memory, bytes);
    st_workers_set_threads(&bench->workers, n_threads);
    return bench;
}

void st_bench_free(struct st_bench *bench)
{
    if (!bench) {
        return;
    }
    if (bench->workers.cpu) {
        st_workers_release(&bench->workers);
    }
    ggml_free(bench->ctx);
    if (bench->memory) {
        st_vm_release(bench->memory, bench->weight_bytes + activations_bytes());
    }
    free(bench);
}

/* Shortest time of several computations of the nodes: what disturbs only makes them longer. */
static double shortest(struct st_bench *bench, struct ggml_tensor **nodes, int n, double seconds)
{
    uint64_t best = UINT64_MAX, end = st_now_ns() + (uint64_t)(seconds * 1e9);
    for (int i = 0; i < 3 || (st_now_ns() < end && i < 1000); i++) {
        uint64_t start = st_now_ns();
        if (st_workers_compute(&bench->workers, nodes, n) != GGML_STATUS_SUCCESS) {
            return 0;
        }
        uint64_t took = st_now_ns() - start;
        best = i > 0 ? st_min(best, took) : best; /* the first one warms up */
    }
    return (double)st_max(best, 1) * 1e-9;
}

/* --- Types --------------------------------------------------------------------------------- */

/* A product of `rows` rows of weights with `tokens` rows of activations, in our memory. */
static struct ggml_tensor *product(
    struct st_bench *bench, enum ggml_type type, int64_t rows, int64_t tokens)
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
static double time_product(struct st_bench *bench, const struct claim *form, enum ggml_type type,
    int64_t rows, int64_t tokens, double seconds)
{
    ggml_reset(bench->ctx);
    struct ggml_tensor *node = product(bench, type, rows, tokens);
    if (form->layout) {
        node->src[0]->buffer = form->form_buffer;
        node->src[0]->extra = form->form_extra;
    }
    return ggml_backend_dev_supports_op(bench->workers.cpu_dev, node)
               ? shortest(bench, &node, 1, seconds)
               : 0;
}

/* Seconds for a batch whose tokens use N_USED of N_EXPERTS expert matrices each, evenly. */
static double time_experts(
    struct st_bench *bench, const struct claim *form, enum ggml_type type, double seconds)
{
    int32_t ids[BATCH_TOKENS][N_USED];
    for (int t = 0; t < BATCH_TOKENS; t++) {
        for (int k = 0; k < N_USED; k++) {
            ids[t][k] = (7 * t + k) % N_EXPERTS;
        }
    }
    ggml_reset(bench->ctx);
    struct ggml_context *ctx = bench->ctx;
    struct ggml_tensor *weight = ggml_new_tensor_3d(ctx, type, ROW, BATCH_ROWS, N_EXPERTS);
    struct ggml_tensor *input = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, ROW, 1, BATCH_TOKENS);
    struct ggml_tensor *chosen = ggml_new_tensor_2d(ctx, GGML_TYPE_I32, N_USED, BATCH_TOKENS);
    struct ggml_tensor *node = ggml_mul_mat_id(ctx, weight, input, chosen);
    node->flags |= GGML_TENSOR_FLAG_COMPUTE;
    if (ggml_nbytes(weight) > bench->weight_bytes) {
        return 0;
    }
    weight->data = bench->memory;
    if (form->layout) {
        weight->buffer = form->form_buffer;
        weight->extra = form->form_extra;
    }
    input->data = bench->memory + bench->weight_bytes;
    chosen->data = ids;
    node->data = (char *)input->data + ggml_nbytes(input);
    return ggml_backend_dev_supports_op(bench->workers.cpu_dev, node)
               ? shortest(bench, &node, 1, seconds)
               : 0;
}

/* Bytes per second that repacking delivers on all threads. */
static double time_arrival(struct st_bench *bench, struct claim *form, enum ggml_type type)
{
    int64_t rows = (int64_t)st_round_down(ARRIVE_BYTES / ggml_row_size(type, ROW), 64);
    uint64_t bytes = ggml_row_size(type, ROW) * (uint64_t)rows;
    char *raw = st_xcalloc(1, bytes);
    uint64_t best = UINT64_MAX;
    struct unit unit = {form, raw, bench->memory, bytes};
    form->unit_ne[0] = ROW;
    form->unit_ne[1] = rows;
    form->unit_ne[2] = form->unit_ne[3] = 1;
    for (int i = 0; i < 6; i++) {
        uint64_t start = st_now_ns();
        st_workers_put(&bench->workers, &unit, 1);
        best = st_min(best, st_now_ns() - start);
    }
    free(raw);
    return (double)bytes / ((double)best * 1e-9);
}

bool st_bench_type(
    struct st_bench *bench, int type_number, bool repack, double seconds, struct st_bench_rate *out)
{
    enum ggml_type type = type_number;
    if (ggml_blck_size(type) == 0 || ROW % ggml_blck_size(type) != 0) {
        return false;
    }
    uint64_t row_bytes = ggml_row_size(type, ROW);
    int64_t rows = (int64_t)st_round_down(bench->weight_bytes / row_bytes, 64);
    struct claim form = {0};
    ggml_reset(bench->ctx);
    struct ggml_tensor *trial = product(bench, type, rows, 1);
    if (repack && !st_claim_choose_form(&form, trial, trial->src[0], true, false)) {
        return false;
    }
    double decode = time_product(bench, &form, type, rows, 1, seconds / 3);
    double batch = time_product(bench, &form, type, BATCH_ROWS, BATCH_TOKENS, seconds / 3);
    double experts = time_experts(bench, &form, type, seconds / 3);
    double madds = (double)ROW * BATCH_ROWS * BATCH_TOKENS;
    *out = (struct st_bench_rate){
        .repacked = form.layout != NULL,
        .decode = decode > 0 ? (double)rows * (double)row_bytes / decode : 0,
        .batch = batch > 0 ? madds / batch : 0,
        .experts = experts > 0 ? N_USED * madds / experts : 0,
        .arrive = form.layout ? time_arrival(bench, &form, type) : 0,
    };
    ggml_backend_buffer_free(form.form_buffer);
    return decode > 0 && batch > 0;
}

/* --- Memory, and operations as such -------------------------------------------------------- */

static void read_share(struct ggml_tensor *dst, int ith, int nth, void *user)
{
    const struct st_bench *bench = user;
    uint64_t share = st_round_down(bench->weight_bytes / (uint64_t)nth, 64);
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

double st_bench_memory(struct st_bench *bench, double seconds)
{
    st_workers_reset_ops(&bench->workers);
    struct ggml_tensor *op = st_workers_op(&bench->workers, read_share, bench);
    return (double)bench->weight_bytes / shortest(bench, &op, 1, seconds);
}

double st_bench_op(struct st_bench *bench)
{
    struct ggml_tensor *nodes[SMALL_OPS];
    ggml_reset(bench->ctx);
    struct ggml_tensor *x = ggml_new_tensor_1d(bench->ctx, GGML_TYPE_F32, ROW);
    x->data = bench->memory + bench->weight_bytes;
    for (int i = 0; i < SMALL_OPS; i++) { /* as between the products of a layer */
        nodes[i] = i % 2 ? ggml_add(bench->ctx, x, x) : ggml_rms_norm(bench->ctx, x, 1e-5f);
        nodes[i]->data = (char *)x->data + (i % 2 ? -1 : 1) * (ptrdiff_t)ggml_nbytes(x);
        nodes[i]->flags |= GGML_TENSOR_FLAG_COMPUTE;
        x = nodes[i];
    }
    return shortest(bench, nodes, SMALL_OPS, 0.02) / SMALL_OPS;
}
