/*
 * workers.c - the CPU backend as a library of functions found by name, and small graphs for it.
 *
 * The CPU backend is a plug-in of ggml, chosen for the processor when the program starts. Whatever
 * is not in ggml's common interface (thread pools, the abort callback) is looked up by name, and
 * done without where a version does not have it. Unpacking runs as a custom operation in a graph of
 * one node, so that it uses the threads that compute.
 *
 * ggml's threads spin at barriers. One runnable thread more than there are processors is ruinous:
 * two of ours may share a processor, and then each barrier lasts as long as the system lets the
 * spinning one run, some 3 ms. Therefore there are two thread pools. The one that does not compute
 * is paused, so that its threads sleep:
 *
 *      nodes       a  b  c  ATTENTION  d  e  f
 *      all         .  .  .      x      .  .  .     threads that results are computed for
 *      few         x  x  x      .      x  x  x     threads that there are free processors for
 */
#include "backend/workers.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "backend/partition.h"
#include "base/error.h"
#include "os/thread.h"

/* ggml's own default: idle threads spin for a while before they sleep. */
#define POLL_DEFAULT 50

static void *cpu_proc(const struct fb_workers *w, const char *name)
{
    return ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(w->cpu_dev), name);
}

typedef ggml_threadpool_t (*threadpool_new)(struct ggml_threadpool_params *params);
typedef void (*threadpool_free)(ggml_threadpool_t threadpool);
typedef void (*set_threadpool)(ggml_backend_t cpu, ggml_threadpool_t threadpool);

/* True when the CPU backend names this among what it was built for, or what the CPU can do. */
static bool has_feature(const struct fb_workers *w, const char *name)
{
    ggml_backend_get_features_t get =
        (ggml_backend_get_features_t)cpu_proc(w, "ggml_backend_get_features");
    struct ggml_backend_feature *f = get ? get(ggml_backend_dev_backend_reg(w->cpu_dev)) : NULL;
    while (f && f->name && strcmp(f->name, name) != 0) {
        f++;
    }
    return f && f->name;
}

bool fb_workers_init(struct fb_workers *w)
{
    *w = (struct fb_workers){0};
    w->poll = POLL_DEFAULT;
    w->cpu_dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    w->cpu = w->cpu_dev ? ggml_backend_dev_init(w->cpu_dev, NULL) : NULL;
    w->pairs = w->cpu && has_feature(w, "MATMUL_INT8");
    w->fixed = w->cpu && has_feature(w, "KLEIDIAI");
    return w->cpu != NULL;
}

static void free_threadpool(const struct fb_workers *w, ggml_threadpool_t threadpool)
{
    threadpool_free release = (threadpool_free)cpu_proc(w, "ggml_threadpool_free");
    if (threadpool && release) {
        release(threadpool);
    }
}

void fb_workers_release(struct fb_workers *w)
{
    ggml_free(w->graph_ctx);
    ggml_free(w->op_ctx);
    free(w->units);
    ggml_backend_free(w->cpu);
    free_threadpool(w, w->threadpool);
    for (int i = 0; w->few && i < w->n_threads; i++) {
        free_threadpool(w, w->few[i]);
    }
    free(w->few);
    free(w->ids);
}

/* Makes the backend compute with a pool of its own threads. NULL, and the backend's pool is as
 * before, when the CPU backend knows no pools. */
static ggml_threadpool_t make_threadpool(struct fb_workers *w, int n_threads)
{
    threadpool_new make = (threadpool_new)cpu_proc(w, "ggml_threadpool_new");
    set_threadpool use = (set_threadpool)cpu_proc(w, "ggml_backend_cpu_set_threadpool");
    if (!make || !use) {
        return NULL;
    }
    struct ggml_threadpool_params params = ggml_threadpool_params_default(n_threads);
    params.poll = w->poll;
    ggml_threadpool_t threadpool = make(&params);
    use(w->cpu, threadpool);
    return threadpool;
}

static void make_all(struct fb_workers *w, int n_threads)
{
    ggml_threadpool_t threadpool = make_threadpool(w, n_threads);
    if (threadpool) {
        free_threadpool(w, w->threadpool);
        w->threadpool = threadpool;
        w->threadpool_threads = n_threads;
    }
}

/* The next computation is by so many threads of this pool. */
static void compute_with(struct fb_workers *w, ggml_threadpool_t threadpool, int n_threads)
{
    ggml_backend_set_n_threads_t set =
        (ggml_backend_set_n_threads_t)cpu_proc(w, "ggml_backend_set_n_threads");
    set_threadpool use = (set_threadpool)cpu_proc(w, "ggml_backend_cpu_set_threadpool");
    if (use && threadpool) {
        use(w->cpu, threadpool);
    }
    if (set) {
        set(w->cpu, n_threads);
    }
}

void fb_workers_set_threads(struct fb_workers *w, int n_threads)
{
    if (n_threads == w->n_threads) {
        return;
    }
    FB_ASSERT(!w->few);
    if (n_threads > w->threadpool_threads) {
        make_all(w, n_threads);
    }
    compute_with(w, w->threadpool, n_threads);
    w->n_threads = n_threads;
}

void fb_workers_sleep_when_idle(struct fb_workers *w)
{
    w->poll = 0;
    if (w->threadpool) {
        make_all(w, w->threadpool_threads);
    }
}

/* --- Fewer threads ---------------------------------------------------------------------------- */

bool fb_workers_limited(const struct fb_workers *w)
{
    return w->limit > 0 && w->limit < w->n_threads && w->few && w->few[w->limit];
}

static void note_id(struct ggml_tensor *dst, int ith, int nth, void *user)
{
    struct fb_workers *w = user;
    (void)dst;
    (void)nth;
    w->ids[ith] = fb_thread_id();
}

/* Makes the threads of `threadpool` known, and the pool of so many threads. */
static void prepare_limit(struct fb_workers *w, int limit)
{
    if (!w->few) {
        w->few = fb_xcalloc((size_t)w->n_threads, sizeof *w->few);
        w->ids = fb_xcalloc((size_t)w->n_threads, sizeof *w->ids);
        w->kept_off = -1;
        fb_workers_reset_ops(w);
        struct ggml_tensor *op = fb_workers_op(w, note_id, w);
        (void)fb_workers_compute(w, &op, 1);
    }
    if (!w->few[limit]) {
        w->few[limit] = make_threadpool(w, limit);
    }
}

/* The threads of `threadpool` may wake up on the processor that this thread runs on, and would wait
 * there until it ceases to spin for them. -1: they may run anywhere. */
static void keep_off(struct fb_workers *w, int cpu)
{
    for (int i = 1; i < w->n_threads && cpu != w->kept_off; i++) {
        fb_thread_keep_off(w->ids[i], cpu);
    }
    w->kept_off = cpu;
}

void fb_workers_limit(struct fb_workers *w, int limit)
{
    bool before = fb_workers_limited(w), fewer = limit > 0 && limit < w->n_threads && !w->fixed;
    if (fewer) {
        prepare_limit(w, limit);
    }
    w->limit = limit;
    if (!before && !fewer) {
        return;
    }
    /* Pauses the threads of the pool before; those of `threadpool` may have been woken by llama.cpp,
     * whose own backend has the same pool, and are paused, too, if they are not to compute. */
    compute_with(w, w->threadpool, w->n_threads);
    if (fb_workers_limited(w)) {
        compute_with(w, w->few[limit], limit);
    } else {
        keep_off(w, -1);
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

static void reserve_graph(struct fb_workers *w, int n)
{
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
}

static enum ggml_status compute_run(struct fb_workers *w, struct ggml_tensor **nodes, int n)
{
    ggml_graph_clear(w->graph);
    for (int i = 0; i < n; i++) {
        ggml_graph_add_node(w->graph, nodes[i]);
    }
    return ggml_backend_graph_compute(w->cpu, w->graph);
}

/* Nodes in a row of the same kind at a time: those for all threads, and those for few. */
static enum ggml_status compute_limited(struct fb_workers *w, struct ggml_tensor **nodes, int n)
{
    enum ggml_status status = GGML_STATUS_SUCCESS;
    for (int from = 0, to; from < n && status == GGML_STATUS_SUCCESS; from = to) {
        bool all = fb_partition_matters(nodes[from], w->n_threads, w->pairs);
        for (to = from + 1;
             to < n && fb_partition_matters(nodes[to], w->n_threads, w->pairs) == all; to++) {
        }
        if (all) {
            keep_off(w, fb_thread_cpu());
            compute_with(w, w->threadpool, w->n_threads);
        }
        status = compute_run(w, nodes + from, to - from);
        if (all) {
            compute_with(w, w->few[w->limit], w->limit);
        }
    }
    return status;
}

enum ggml_status fb_workers_compute(struct fb_workers *w, struct ggml_tensor **nodes, int n)
{
    if (n == 0) {
        return GGML_STATUS_SUCCESS;
    }
    reserve_graph(w, n);
    return fb_workers_limited(w) ? compute_limited(w, nodes, n) : compute_run(w, nodes, n);
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
