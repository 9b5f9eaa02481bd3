/*
 * gpu_shared.c - see gpu_shared.h. There is one buffer for each part of each pool; groups that
 * share a pool share its buffers, and each weight has a tensor of its own on them.
 *
 * ggml's Vulkan devices can wrap memory although their properties do not say so; the others that
 * can, say so. What counts is whether it works.
 */
#include "gpu/gpu_shared.h"

#include <stdlib.h>

#include "backend/binding.h"
#include "backend/memory_watch.h"
#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "ggml-backend-impl.h"
#include "os/memory.h"
#include "stream/pool.h"

struct wrapped_part {
    ggml_backend_buffer_t buffer; /* NULL: not wrapped */
    bool refused;                 /* at the pool's present size */
};

struct fb_gpu_shared {
    struct fb_binding *binding;
    ggml_backend_dev_t device;
    struct fb_pool_holder holder;
    struct wrapped_part
        *wraps; /* [n_groups][FB_MAX_PARTS], by pool: there are at most as many as groups */
    struct ggml_context *ctx;    /* headers of the stacks */
    struct ggml_tensor **stacks; /* [n_weights]; NULL: not on the device */
    bool warned;
};

/* --- Wrapping -------------------------------------------------------------------------------- */

/* Wraps `bytes` at `base`, both multiples of the page size. NULL: the device refuses. */
static ggml_backend_buffer_t wrap_memory(ggml_backend_dev_t device, void *base, uint64_t bytes)
{
    if (!device->iface.buffer_from_host_ptr ||
        bytes > ggml_backend_buft_get_max_size(ggml_backend_dev_buffer_type(device))) {
        return NULL;
    }
    ggml_backend_buffer_t buffer =
        ggml_backend_dev_buffer_from_host_ptr(device, base, bytes, bytes);
    if (buffer) {
        ggml_backend_buffer_set_usage(buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    }
    return buffer;
}

static void unwrap(struct wrapped_part *wrap)
{
    ggml_backend_buffer_free(wrap->buffer);
    *wrap = (struct wrapped_part){0};
}

static struct wrapped_part *wraps_of(const struct fb_gpu_shared *s, int pool)
{
    return &s->wraps[(size_t)pool * FB_MAX_PARTS];
}

static void let_go(void *user, int pool)
{
    struct wrapped_part *wraps = wraps_of(user, pool);
    for (int p = 0; p < FB_MAX_PARTS; p++) {
        unwrap(&wraps[p]);
    }
}

static void refuse(struct fb_gpu_shared *s, struct wrapped_part *wrap, uint64_t bytes)
{
    wrap->refused = true;
    if (!s->warned) {
        fb_warn("%s does not wrap %s of expert slots: their experts are copied",
            ggml_backend_dev_name(s->device), FB_SIZE(bytes));
        s->warned = true;
    }
}

struct ggml_tensor *fb_gpu_shared_stack(struct fb_gpu_shared *s, int weight)
{
    struct fb_stream *stream = s->binding->stream;
    const struct fb_weight *w = &s->binding->weights->weights[weight];
    struct wrapped_part *wrap = &wraps_of(s, fb_stream_pool(stream, w->group))[w->part];
    struct ggml_tensor *t = s->stacks[weight];
    uint64_t stride;
    int n_slots;
    void *base = fb_stream_slots(stream, weight, &stride, &n_slots);
    if (!t || wrap->refused || !fb_weight_is_packed(w, stride)) {
        return NULL;
    }
    if (!wrap->buffer) {
        uint64_t bytes = fb_round_up(stride * (uint64_t)n_slots, fb_vm_page_size());
        wrap->buffer = wrap_memory(s->device, base, bytes);
        if (!wrap->buffer) {
            refuse(s, wrap, bytes);
            return NULL;
        }
    }
    if (t->buffer != wrap->buffer || t->ne[2] != n_slots) {
        t->ne[2] = n_slots;
        t->nb[3] = t->nb[2] * (size_t)n_slots;
        t->buffer = NULL;
        t->data = NULL;
        ggml_backend_tensor_alloc(wrap->buffer, t, ggml_backend_buffer_get_base(wrap->buffer));
    }
    return t;
}

bool fb_gpu_shared_group(struct fb_gpu_shared *s, int group)
{
    const struct fb_group *g = &s->binding->weights->groups[group];
    bool all = true;
    for (int p = 0; p < g->n_parts; p++) {
        all = fb_gpu_shared_stack(s, g->weight[p]) && all;
    }
    return all;
}

/* --- Life ------------------------------------------------------------------------------------ */

/* The headers, of no slots yet. */
static void make_stacks(struct fb_gpu_shared *s)
{
    const struct fb_weights *ws = s->binding->weights;
    struct ggml_init_params params = {
        .mem_size = ((size_t)ws->n_weights + 1) * ggml_tensor_overhead(), .no_alloc = true};
    s->ctx = ggml_init(params);
    s->stacks = fb_xcalloc((size_t)ws->n_weights, sizeof(struct ggml_tensor *));
    for (int w = 0; w < ws->n_weights; w++) {
        int group = ws->weights[w].group;
        const struct fb_tensor *info = &ws->catalog->tensors[ws->weights[w].tensor];
        if (group >= 0 && fb_binding_on_gpu(s->binding, group)) {
            s->stacks[w] =
                ggml_new_tensor_3d(s->ctx, (enum ggml_type)info->type, info->ne[0], info->ne[1], 1);
        }
    }
}

struct fb_gpu_shared *fb_gpu_shared_new(struct fb_binding *b, ggml_backend_dev_t device)
{
    struct fb_gpu_shared *s = fb_xcalloc(1, sizeof *s);
    s->binding = b;
    s->device = device;
    s->holder = (struct fb_pool_holder){let_go, s};
    s->wraps = fb_xcalloc((size_t)b->weights->n_groups * FB_MAX_PARTS, sizeof *s->wraps);
    make_stacks(s);
    fb_memory_watch_graph_begin(b->memory_watch);
    fb_stream_set_holder(b->stream, &s->holder);
    for (int g = 0; g < b->weights->n_groups; g++) {
        fb_gpu_shared_group(s, g);
    }
    fb_memory_watch_graph_end(b->memory_watch);
    return s;
}

void fb_gpu_shared_free(struct fb_gpu_shared *s)
{
    if (!s) {
        return;
    }
    fb_memory_watch_graph_begin(s->binding->memory_watch);
    fb_stream_set_holder(s->binding->stream, NULL);
    for (int g = 0; g < s->binding->weights->n_groups; g++) {
        let_go(s, g);
    }
    fb_memory_watch_graph_end(s->binding->memory_watch);
    ggml_free(s->ctx);
    free(s->stacks);
    free(s->wraps);
    free(s);
}

int fb_gpu_shared_total(const struct fb_gpu_shared *s)
{
    const struct fb_weights *ws = s->binding->weights;
    int n = 0, n_slots;
    uint64_t stride;
    for (int g = 0; g < ws->n_groups; g++) {
        bool first = g == 0 || fb_stream_pool(s->binding->stream, g) !=
                                   fb_stream_pool(s->binding->stream, g - 1);
        if (first && fb_binding_on_gpu(s->binding, g)) {
            fb_stream_slots(s->binding->stream, ws->groups[g].weight[0], &stride, &n_slots);
            n += n_slots;
        }
    }
    return n;
}

/* --- Whether it works ------------------------------------------------------------------------ */

#define TRIAL_BYTES (64 * FB_KIB)

/* Has the device copy the first tensor to the second, and compares the result with the memory that
 * the first one is. */
static bool copies(ggml_backend_t backend, struct ggml_cgraph *graph, struct ggml_tensor *to,
    float *memory, float factor)
{
    size_t n = TRIAL_BYTES / sizeof *memory;
    float *seen = fb_xmalloc(TRIAL_BYTES);
    bool equal = true;
    for (size_t i = 0; i < n; i++) {
        memory[i] = (float)i * factor;
    }
    equal = ggml_backend_graph_compute(backend, graph) == GGML_STATUS_SUCCESS;
    ggml_backend_tensor_get(to, seen, 0, TRIAL_BYTES);
    for (size_t i = 0; i < n && equal; i++) {
        equal = seen[i] == (float)i * factor;
    }
    free(seen);
    return equal;
}

static bool try_wrap(ggml_backend_t backend, ggml_backend_buffer_t wrapped,
    ggml_backend_buffer_t other, float *memory)
{
    struct ggml_init_params params = {
        .mem_size = 8 * ggml_tensor_overhead() + ggml_graph_overhead(), .no_alloc = true};
    struct ggml_context *ctx = ggml_init(params);
    int64_t n = TRIAL_BYTES / sizeof *memory;
    struct ggml_tensor *from = ggml_new_tensor_1d(ctx, GGML_TYPE_F32, n);
    struct ggml_tensor *to = ggml_new_tensor_1d(ctx, GGML_TYPE_F32, n);
    ggml_backend_tensor_alloc(wrapped, from, ggml_backend_buffer_get_base(wrapped));
    ggml_backend_tensor_alloc(other, to, ggml_backend_buffer_get_base(other));
    struct ggml_tensor *copy = ggml_cpy(ctx, from, to);
    ggml_backend_view_init(copy);
    struct ggml_cgraph *graph = ggml_new_graph(ctx);
    ggml_build_forward_expand(graph, copy);
    bool works = ggml_backend_supports_op(backend, copy) && copies(backend, graph, to, memory, 1) &&
                 copies(backend, graph, to, memory, -3);
    ggml_free(ctx);
    return works;
}

bool fb_gpu_shared_works(ggml_backend_dev_t device)
{
    float *memory = fb_vm_reserve(TRIAL_BYTES, true);
    ggml_backend_t backend = ggml_backend_dev_init(device, NULL);
    ggml_backend_buffer_t wrapped = NULL, other = NULL;
    if (memory && backend) {
        wrapped = wrap_memory(device, memory, TRIAL_BYTES);
        other = ggml_backend_alloc_buffer(backend, TRIAL_BYTES);
    }
    bool works = wrapped && other && try_wrap(backend, wrapped, other, memory);
    ggml_backend_buffer_free(wrapped);
    ggml_backend_buffer_free(other);
    ggml_backend_free(backend);
    fb_vm_release(memory, TRIAL_BYTES);
    return works;
}
