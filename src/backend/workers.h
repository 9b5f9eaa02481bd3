/*
 * workers.h - the CPU backend that computes for us, and its threads: nodes, our own operations, and
 * unpacking, all on the same threads.
 *
 * Results are those of `n_threads` threads. Fewer may compute while other programs want the
 * processors (fb_workers_limit): nodes whose result depends on the number of threads (partition.h)
 * are still computed by all.
 *
 * Belongs to one thread, which calls everything here; each call returns when its work is done.
 */
#ifndef FB_BACKEND_WORKERS_H
#define FB_BACKEND_WORKERS_H

#include "backend/form.h"

struct fb_workers {
    ggml_backend_t cpu;
    ggml_backend_dev_t cpu_dev;
    ggml_threadpool_t threadpool; /* NULL when the CPU backend has none */
    int n_threads;                /* that results are computed for */
    int threadpool_threads;
    ggml_threadpool_t *few; /* [n_threads]: of so many threads; NULL: not needed so far. llama.cpp
                             * may hold each of them, so they live as long as the workers. */
    int *ids;               /* [threadpool_threads]: the system's numbers of its threads */
    int kept_off;           /* the processor that they keep off; -1: none */
    int limit;              /* of threads at this time, see fb_workers_limit; 0: none */
    bool pairs;             /* see fb_partition_matters */
    bool fixed;             /* the CPU backend chooses kernels by the number of threads */
    uint32_t poll;          /* how long idle threads spin: 0 (not at all) to 100 */
    struct ggml_cgraph *graph; /* reused for every computation */
    int graph_size;
    struct ggml_context *graph_ctx;
    struct ggml_context *op_ctx; /* our own operations */
    struct fb_raw_unit *units;   /* see fb_workers_units */
    int cap_units;
};

/* False when there is no CPU backend; then nothing is held. */
bool fb_workers_init(struct fb_workers *w);
void fb_workers_release(struct fb_workers *w);

void fb_workers_set_threads(struct fb_workers *w, int n_threads);

/* From now on at most `limit` threads compute whatever any number of threads computes alike. No
 * result changes. 0: no limit. Costs nothing if it is the limit already; otherwise threads may be
 * started and ended (some 100 us). */
void fb_workers_limit(struct fb_workers *w, int limit);
/* True while fewer threads compute. */
bool fb_workers_limited(const struct fb_workers *w);

/* Idle threads sleep at once instead of spinning (bench/LOG.md: when waits are long, the spinning
 * costs the disk 8 %; when they are short, waking up costs compute 7 %). */
void fb_workers_sleep_when_idle(struct fb_workers *w);

/* `hook` is called by one of the threads between the nodes of a computation; true stops it. */
void fb_workers_set_hook(struct fb_workers *w, ggml_abort_callback hook, void *user);

/* Computes the nodes in order. */
enum ggml_status fb_workers_compute(struct fb_workers *w, struct ggml_tensor **nodes, int n);

/* A node that calls fun(dst, ith, nth, user) on every thread. Valid until fb_workers_reset_ops;
 * at most 8 at a time. */
struct ggml_tensor *fb_workers_op(struct fb_workers *w, ggml_custom_op_t fun, void *user);
void fb_workers_reset_ops(struct fb_workers *w);

/* Unpacks n units on all threads. Resets the ops. */
void fb_workers_unpack(struct fb_workers *w, const struct fb_raw_unit *units, int n);

/* Room for n units, to be filled for fb_workers_unpack; valid until the next call. */
struct fb_raw_unit *fb_workers_units(struct fb_workers *w, int n);

#endif
