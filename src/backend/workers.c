/* workers.c - the CPU backend that computes for us, its threads, and repacking on all of them. */
#include "backend/internal.h"
#include "backend/shuffle.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"

/* ggml's own default: idle threads spin for a while before they sleep. */
#define POLL_DEFAULT 50

static void *cpu_proc(const struct workers *w, const char *name)
{
    return ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(w->cpu_dev), name);
}

/* Functions of the CPU backend, which is loaded at run time and found by name. */
typedef ggml_threadpool_t (*threadpool_new)(struct ggml_threadpool_params *params);
typedef void (*threadpool_free)(ggml_threadpool_t pool);
typedef void (*set_threadpool)(ggml_backend_t cpu, ggml_threadpool_t pool);

bool fb_workers_init(struct workers *w)
{
    *w = (struct workers){0};
    w->poll = POLL_DEFAULT;
    w->cpu_dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    w->cpu = w->cpu_dev ? ggml_backend_dev_init(w->cpu_dev, NULL) : NULL;
    return w->cpu != NULL;
}

static void free_pool(struct workers *w)
{
    threadpool_free release = (threadpool_free)cpu_proc(w, "ggml_threadpool_free");
    if (w->pool && release) {
        release(w->pool);
    }
    w->pool = NULL;
}

void fb_workers_release(struct workers *w)
{
    ggml_free(w->graph_ctx);
    ggml_free(w->op_ctx);
    free(w->units);
    ggml_backend_free(w->cpu);
    free_pool(w);
}

static void make_pool(struct workers *w, int n_threads)
{
    threadpool_new make = (threadpool_new)cpu_proc(w, "ggml_threadpool_new");
    set_threadpool use = (set_threadpool)cpu_proc(w, "ggml_backend_cpu_set_threadpool");
    if (make && use) {
        struct ggml_threadpool_params params = ggml_threadpool_params_default(n_threads);
        params.poll = w->poll;
        ggml_threadpool_t pool = make(&params);
        use(w->cpu, pool);
        free_pool(w);
        w->pool = pool;
        w->pool_threads = n_threads;
    }
}

void fb_workers_set_threads(struct workers *w, int n_threads)
{
    if (n_threads == w->n_threads) {
        return;
    }
    if (n_threads > w->pool_threads) {
        make_pool(w, n_threads);
    }
    ggml_backend_set_n_threads_t set =
        (ggml_backend_set_n_threads_t)cpu_proc(w, "ggml_backend_set_n_threads");
    if (set) {
        set(w->cpu, n_threads);
    }
    w->n_threads = n_threads;
}

void fb_workers_sleep_when_idle(struct workers *w)
{
    w->poll = 0;
    if (w->pool) {
        make_pool(w, w->pool_threads);
    }
}

void fb_workers_set_hook(struct workers *w, ggml_abort_callback hook, void *user)
{
    ggml_backend_set_abort_callback_t set =
        (ggml_backend_set_abort_callback_t)cpu_proc(w, "ggml_backend_set_abort_callback");
    if (set) {
        set(w->cpu, hook, user);
    }
}

enum ggml_status fb_workers_compute(struct workers *w, struct ggml_tensor **nodes, int n)
{
    if (n == 0) {
        return GGML_STATUS_SUCCESS;
    }
    if (n > w->graph_size) {
        w->graph_size = n * 2 > 1024 ? n * 2 : 1024;
        ggml_free(w->graph_ctx);
        struct ggml_init_params params = {
            .mem_size =
                ggml_graph_overhead_custom((size_t)w->graph_size, false) + ggml_tensor_overhead(),
            .no_alloc = true,
        };
        w->graph_ctx = ggml_init(params);
        w->graph = ggml_new_graph_custom(w->graph_ctx, (size_t)w->graph_size, false);
    }
    ggml_graph_clear(w->graph);
    for (int i = 0; i < n; i++) {
        ggml_graph_add_node(w->graph, nodes[i]);
    }
    return ggml_backend_graph_compute(w->cpu, w->graph);
}

/* --- Our own work on ggml's threads -------------------------------------------------------- */

#define MAX_OPS 8

struct ggml_tensor *fb_workers_op(struct workers *w, ggml_custom_op_t fun, void *user)
{
    if (!w->op_ctx) {
        struct ggml_init_params params = {
            .mem_size = MAX_OPS * (ggml_tensor_overhead() + 64), .no_alloc = true};
        w->op_ctx = ggml_init(params);
    }
    struct ggml_tensor *op =
        ggml_custom_4d(w->op_ctx, GGML_TYPE_I8, 1, 1, 1, 1, NULL, 0, fun, GGML_N_TASKS_MAX, user);
    op->flags |= GGML_TENSOR_FLAG_COMPUTE;
    return op;
}

void fb_workers_reset_ops(struct workers *w)
{
    if (w->op_ctx) {
        ggml_reset(w->op_ctx);
    }
}

/* --- Arrivals: repacking ------------------------------------------------------------------- */

/* Rows per piece of work, a multiple of what a shuffle takes at a time. */
#define PIECE_ROWS 64

struct arriving {
    const struct unit *units;
    atomic_int next; /* piece */
    int pieces;
};

static int64_t pieces_of(const struct claim *claim)
{
    return claim->shuffle ? (claim->unit_ne[1] + PIECE_ROWS - 1) / PIECE_ROWS : 1;
}

static void put_rows(const struct unit *u, int64_t first, int64_t rows)
{
    size_t at = (size_t)first * ggml_row_size(u->claim->type, u->claim->unit_ne[0]);
    fb_shuffle_unpack(u->claim->shuffle, (const char *)u->raw + at, rows, (char *)u->dest + at);
}

static struct ggml_tensor tensor_of(const struct claim *claim, const int64_t ne[4])
{
    struct ggml_tensor t = {
        .type = claim->type, .buffer = claim->form_buffer, .extra = claim->form_extra};
    memcpy(t.ne, ne, sizeof t.ne);
    t.nb[0] = ggml_type_size(t.type);
    t.nb[1] = ggml_row_size(t.type, t.ne[0]);
    t.nb[2] = t.nb[1] * (size_t)t.ne[1];
    t.nb[3] = t.nb[2] * (size_t)t.ne[2];
    return t;
}

/* As llama.cpp does it. */
static void put_by_layout(
    const struct claim *claim, const int64_t ne[4], const void *raw, void *dest)
{
    struct ggml_tensor t = tensor_of(claim, ne);
    t.data = dest;
    t.buffer->iface.set_tensor(t.buffer, &t, raw, 0, ggml_nbytes(&t));
}

size_t fb_layout_bytes(const struct claim *claim, int64_t columns, int64_t rows)
{
    struct ggml_tensor t = tensor_of(claim, (int64_t[4]){columns, rows, 1, 1});
    return ggml_backend_buft_get_alloc_size(claim->layout, &t);
}

void fb_layout_unpack(
    const struct claim *claim, int64_t columns, int64_t rows, const void *raw, void *dest)
{
    put_by_layout(claim, (int64_t[4]){columns, rows, 1, 1}, raw, dest);
}

void fb_unit_unpack(const struct unit *u)
{
    if (u->claim->shuffle) {
        put_rows(u, 0, u->claim->unit_ne[1]);
    } else if (u->claim->layout) {
        put_by_layout(u->claim, u->claim->unit_ne, u->raw, u->dest);
    } else {
        memcpy(u->dest, u->raw, u->file_bytes);
    }
}

static void unpack_pieces(struct ggml_tensor *dst, int ith, int nth, void *user)
{
    struct arriving *job = user;
    (void)dst;
    (void)ith;
    (void)nth;
    for (int piece; (piece = atomic_fetch_add(&job->next, 1)) < job->pieces;) {
        const struct unit *u = job->units;
        int skip = piece;
        for (int n; (n = (int)pieces_of(u->claim)) <= skip; u++) {
            skip -= n;
        }
        if (!u->claim->shuffle) {
            fb_unit_unpack(u);
            continue;
        }
        int64_t first = (int64_t)skip * PIECE_ROWS, left = u->claim->unit_ne[1] - first;
        put_rows(u, first, left < PIECE_ROWS ? left : PIECE_ROWS);
    }
}

void fb_workers_unpack(struct workers *w, const struct unit *units, int n)
{
    struct arriving job = {.units = units};
    for (int i = 0; i < n; i++) {
        job.pieces += (int)pieces_of(units[i].claim);
    }
    fb_workers_reset_ops(w);
    struct ggml_tensor *op = fb_workers_op(w, unpack_pieces, &job);
    if (fb_workers_compute(w, &op, 1) != GGML_STATUS_SUCCESS) {
        FB_BUG("the CPU backend refused to run %d pieces of repacking", job.pieces);
    }
}

void fb_workers_unpack_weights(
    struct workers *workers, const struct fb_binding *b, const struct fb_unpack *arrivals, int n)
{
    if (n > workers->cap_units) {
        workers->cap_units = n;
        workers->units = fb_xrealloc(workers->units, (size_t)n * sizeof *workers->units);
    }
    for (int i = 0; i < n; i++) {
        const struct fb_weight *w = &b->weights->weights[arrivals[i].weight];
        workers->units[i] =
            (struct unit){&b->claims[w->tensor], arrivals[i].raw, arrivals[i].dest, w->file_bytes};
    }
    fb_workers_unpack(workers, workers->units, n);
}

void fb_workers_unpack_for_stream(void *user, const struct fb_unpack *arrivals, int n)
{
    struct fb_binding *b = user;
    fb_workers_unpack_weights(&b->exec->workers, b, arrivals, n);
}
