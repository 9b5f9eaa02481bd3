/*
 * workers.c - the CPU backend as a library of functions found by name, and small graphs for it.
 *
 * The CPU backend is a plug-in of ggml, chosen for the processor when the program starts. Whatever
 * is not in ggml's common interface (thread pools, the abort callback) is looked up by name, and
 * done without where a version does not have it. Unpacking runs as a custom operation in a graph of
 * one node, so that it uses the threads that compute.
 */
#include "backend/workers.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "base/error.h"

/* ggml's own default: idle threads spin for a while before they sleep. */
#define POLL_DEFAULT 50

static void *cpu_proc(const struct fb_workers *w, const char *name)
{
    return ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(w->cpu_dev), name);
}

typedef ggml_threadpool_t (*threadpool_new)(struct ggml_threadpool_params *params);
typedef void (*threadpool_free)(ggml_threadpool_t threadpool);
typedef void (*set_threadpool)(ggml_backend_t cpu, ggml_threadpool_t threadpool);

bool fb_workers_init(struct fb_workers *w)
{
    *w = (struct fb_workers){0};
    w->poll = POLL_DEFAULT;
    w->cpu_dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    w->cpu = w->cpu_dev ? ggml_backend_dev_init(w->cpu_dev, NULL) : NULL;
    return w->cpu != NULL;
}

static void free_threadpool(struct fb_workers *w)
{
    threadpool_free release = (threadpool_free)cpu_proc(w, "ggml_threadpool_free");
    if (w->threadpool && release) {
        release(w->threadpool);
    }
    w->threadpool = NULL;
}

void fb_workers_release(struct fb_workers *w)
{
    ggml_free(w->graph_ctx);
    ggml_free(w->op_ctx);
    free(w->units);
    ggml_backend_free(w->cpu);
    free_threadpool(w);
}

static void make_threadpool(struct fb_workers *w, int n_threads)
{
    threadpool_new make = (threadpool_new)cpu_proc(w, "ggml_threadpool_new");
    set_threadpool use = (set_threadpool)cpu_proc(w, "ggml_backend_cpu_set_threadpool");
    if (make && use) {
        struct ggml_threadpool_params params = ggml_threadpool_params_default(n_threads);
        params.poll = w->poll;
        ggml_threadpool_t threadpool = make(&params);
        use(w->cpu, threadpool);
        free_threadpool(w);
        w->threadpool = threadpool;
        w->threadpool_threads = n_threads;
    }
}

void fb_workers_set_threads(struct fb_workers *w, int n_threads)
{
    if (n_threads == w->n_threads) {
        return;
    }
    if (n_threads > w->threadpool_threads) {
        make_threadpool(w, n_threads);
    }
    ggml_backend_set_n_threads_t set =
        (ggml_backend_set_n_threads_t)cpu_proc(w, "ggml_backend_set_n_threads");
    if (set) {
        set(w->cpu, n_threads);
    }
    w->n_threads = n_threads;
}

void fb_workers_sleep_when_idle(struct fb_workers *w)
{
    w->poll = 0;
    if (w->threadpool) {
        make_threadpool(w, w->threadpool_threads);
    }
}

void fb_workers_set_hook(struct fb_workers *w, ggml_abort_callback hook, void *user)
{
    ggml_backend_set_abort_callback_t set =
        (ggml_backend_set_abort_callback_t)cpu_proc(w, "ggml_backend_set_abort_callback");
    if (set) {
        set(w->cpu, hook, user);
    }
}

enum ggml_status fb_workers_compute(struct fb_workers *w, struct ggml_tensor **nodes, int n)
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

/* --- Our own operations ---------------------------------------------------------------------- */

#define MAX_OPS 8

struct ggml_tensor *fb_workers_op(struct fb_workers *w, ggml_custom_op_t fun, void *user)
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

void fb_workers_reset_ops(struct fb_workers *w)
{
    if (w->op_ctx) {
        ggml_reset(w->op_ctx);
    }
}

/* --- Unpacking ------------------------------------------------------------------------------ */

/* Units, of which each thread claims one piece after the other. */
struct unpacking {
    const struct fb_raw_unit *units;
    atomic_int next; /* piece, counted over all units */
    int n_pieces;
};

static void unpack_pieces(struct ggml_tensor *dst, int ith, int nth, void *user)
{
    struct unpacking *job = user;
    (void)dst;
    (void)ith;
    (void)nth;
    for (int next; (next = atomic_fetch_add(&job->next, 1)) < job->n_pieces;) {
        const struct fb_raw_unit *u = job->units;
        int piece = next;
        for (int n; (n = fb_form_n_pieces(u->form)) <= piece; u++) {
            piece -= n;
        }
        fb_form_unpack_piece(u, piece);
    }
}

void fb_workers_unpack(struct fb_workers *w, const struct fb_raw_unit *units, int n)
{
    struct unpacking job = {.units = units};
    for (int i = 0; i < n; i++) {
        job.n_pieces += fb_form_n_pieces(units[i].form);
    }
    fb_workers_reset_ops(w);
    struct ggml_tensor *op = fb_workers_op(w, unpack_pieces, &job);
    if (fb_workers_compute(w, &op, 1) != GGML_STATUS_SUCCESS) {
        FB_BUG("the CPU backend refused to unpack %d pieces", job.n_pieces);
    }
}

struct fb_raw_unit *fb_workers_units(struct fb_workers *w, int n)
{
    if (n > w->cap_units) {
        w->cap_units = n;
        w->units = fb_xrealloc(w->units, (size_t)n * sizeof *w->units);
    }
    return w->units;
}
