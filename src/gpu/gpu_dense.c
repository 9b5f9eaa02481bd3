/*
 * gpu_dense.c - dense weights of the CPU on their way to the GPU, through two buffers in turn. An
 * event for each says when the GPU is done with it, so that the next weight is copied meanwhile.
 */
#include "gpu/gpu_dense.h"

#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"
#include "model/weights.h"
#include "stream/stream.h"

#define BUFFERS 2
/* A GPU's back end may need some more for a tensor than its bytes. */
#define PADDING_BYTES (4 * FB_KIB)

struct fb_gpu_dense {
    ggml_backend_t gpu;
    ggml_backend_buffer_t buffers[BUFFERS];
    ggml_backend_event_t computed[BUFFERS]; /* NULL: the GPU has no events */
    struct fb_binding *binding;             /* during a pass */
    struct ggml_context *ctx;               /* headers of the pass's weights */
    int *order;                             /* in which it uses those that are streamed */
    int cap;                                /* of both */
    int n_fetched;                          /* in this pass */
};

struct fb_gpu_dense *fb_gpu_dense_new(ggml_backend_t gpu)
{
    struct fb_gpu_dense *d = fb_xcalloc(1, sizeof *d);
    d->gpu = gpu;
    for (int i = 0; i < BUFFERS; i++) {
        d->computed[i] = ggml_backend_event_new(ggml_backend_get_device(gpu));
    }
    return d;
}

void fb_gpu_dense_free(struct fb_gpu_dense *d)
{
    if (!d) {
        return;
    }
    for (int i = 0; i < BUFFERS; i++) {
        ggml_backend_buffer_free(d->buffers[i]);
        ggml_backend_event_free(d->computed[i]);
    }
    ggml_free(d->ctx);
    free(d->order);
    free(d);
}

/* Of one buffer. */
static uint64_t buffer_bytes(const struct fb_weights *ws)
{
    uint64_t bytes = 0;
    for (int i = 0; i < ws->n_weights; i++) {
        bytes = ws->weights[i].group < 0 ? fb_max(bytes, ws->weights[i].unit_bytes) : bytes;
    }
    return bytes ? bytes + PADDING_BYTES : 0;
}

uint64_t fb_gpu_dense_bytes(const struct fb_weights *ws)
{
    return BUFFERS * buffer_bytes(ws);
}

/* --- A pass ---------------------------------------------------------------------------------- */

static bool allocate(struct fb_gpu_dense *d, uint64_t bytes)
{
    for (int i = 0; i < BUFFERS; i++) {
        if (!d->buffers[i]) {
            d->buffers[i] = ggml_backend_alloc_buffer(d->gpu, bytes);
        }
        if (!d->buffers[i]) {
            return false;
        }
        ggml_backend_buffer_set_usage(d->buffers[i], GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    }
    return true;
}

bool fb_gpu_dense_is_used_by(const struct ggml_tensor *node)
{
    return node->op == GGML_OP_MUL_MAT && fb_claim_of(node->src[0]);
}

int fb_gpu_dense_count(struct ggml_cgraph *graph)
{
    int n = 0;
    for (int i = 0; i < ggml_graph_n_nodes(graph); i++) {
        n += fb_gpu_dense_is_used_by(ggml_graph_node(graph, i));
    }
    return n;
}

/* Makes room for n headers and as many entries of the order. */
static void reserve(struct fb_gpu_dense *d, int n)
{
    if (n > d->cap) {
        ggml_free(d->ctx);
        d->cap = n;
        d->order = fb_xrealloc(d->order, (size_t)n * sizeof *d->order);
        d->ctx = ggml_init((struct ggml_init_params){
            .mem_size = (size_t)n * ggml_tensor_overhead(), .no_alloc = true});
    }
    ggml_reset(d->ctx);
}

static void schedule(struct fb_gpu_dense *d, struct ggml_cgraph *graph)
{
    int n = 0;
    for (int i = 0; i < ggml_graph_n_nodes(graph); i++) {
        const struct ggml_tensor *node = ggml_graph_node(graph, i);
        if (fb_gpu_dense_is_used_by(node)) {
            int weight = fb_claim_of(node->src[0])->weight;
            if (!fb_stream_is_resident(d->binding->stream, weight)) {
                d->order[n++] = weight;
            }
        }
    }
    fb_stream_schedule_dense(d->binding->stream, d->order, n);
}

enum ggml_status fb_gpu_dense_begin(
    struct fb_gpu_dense *d, struct fb_binding *binding, struct ggml_cgraph *graph)
{
    struct forebay_error error;
    int n = fb_gpu_dense_count(graph);
    d->binding = binding;
    d->n_fetched = 0;
    if (n == 0) {
        return GGML_STATUS_SUCCESS;
    }
    reserve(d, n);
    schedule(d, graph);
    if (allocate(d, buffer_bytes(binding->weights))) {
        return GGML_STATUS_SUCCESS;
    }
    fb_fail(&error, FOREBAY_E_NOMEM, "Give a smaller --device-mem, or a smaller --batch.",
        "the device has no memory left for the weights of a prompt");
    return fb_binding_fail(binding, &error);
}

void fb_gpu_dense_end(struct fb_gpu_dense *d)
{
    d->binding = NULL;
}

/* --- A weight -------------------------------------------------------------------------------- */

/* Notes that the nodes with the weight that was fetched last have been handed over, and waits for
 * those with the one before, whose buffer is the next. */
static void turn(struct fb_gpu_dense *d)
{
    int last = d->n_fetched - 1;
    if (last < 0) {
        return;
    }
    if (!d->computed[last % BUFFERS]) {
        ggml_backend_synchronize(d->gpu);
        return;
    }
    ggml_backend_event_record(d->computed[last % BUFFERS], d->gpu);
    if (last > 0) {
        ggml_backend_event_synchronize(d->computed[d->n_fetched % BUFFERS]);
    }
}

static struct ggml_tensor *header(
    struct fb_gpu_dense *d, const struct ggml_tensor *weight, ggml_backend_buffer_t buffer)
{
    struct ggml_tensor *t = ggml_new_tensor(d->ctx, weight->type, ggml_n_dims(weight), weight->ne);
    ggml_backend_tensor_alloc(buffer, t, ggml_backend_buffer_get_base(buffer));
    return t;
}

static void copy(struct fb_gpu_dense *d, struct ggml_tensor *to, const void *data)
{
    uint64_t before = fb_now_ns();
    ggml_backend_tensor_set(to, data, 0, ggml_nbytes(to));
    d->binding->copied_bytes += ggml_nbytes(to);
    d->binding->copied_ns += fb_now_ns() - before;
}

enum ggml_status fb_gpu_dense_fetch(
    struct fb_gpu_dense *d, const struct ggml_tensor *weight, struct ggml_tensor **out)
{
    struct fb_stream *stream = d->binding->stream;
    int w = fb_claim_of(weight)->weight;
    struct forebay_error error;
    const void *data;
    turn(d);
    *out = header(d, weight, d->buffers[d->n_fetched++ % BUFFERS]);
    fb_stream_adapt(stream, true);
    if (fb_stream_is_resident(stream, w)) {
        copy(d, *out, fb_stream_resident(stream, w));
        return GGML_STATUS_SUCCESS;
    }
    if (fb_stream_dense_acquire(stream, w, &data, &error) != FOREBAY_OK) {
        return fb_binding_fail(d->binding, &error);
    }
    copy(d, *out, data);
    fb_stream_dense_release(stream);
    return GGML_STATUS_SUCCESS;
}
