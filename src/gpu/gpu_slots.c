/*
 * gpu_slots.c - a buffer of the device for each part of each group, and one for the transit.
 *
 * Their sizes follow from plan/device_slots.h.
 */
#include "gpu/gpu_slots.h"

#include <stdlib.h>

#include "backend/binding.h"
#include "base/error.h"
#include "base/units.h"
#include "model/weights.h"
#include "plan/device_slots.h"

struct fb_gpu_slots {
    const struct fb_binding *binding;
    ggml_backend_buffer_type_t buft;
    struct fb_tier *tier;
    struct ggml_context *ctx;       /* headers of the stacks */
    struct ggml_tensor **stacks;    /* [n_weights]; NULL: not on the device */
    ggml_backend_buffer_t *buffers; /* [n_weights] */
    ggml_backend_buffer_t transit;
    struct ggml_tensor **transits; /* [n_weights] the transit for each; NULL: not on the device */
    struct fb_gpu_uploads uploads;
};

/* --- Memory ---------------------------------------------------------------------------------- */

/* A stack of n units of the weight in the buffer, whose first unit is at the buffer's beginning. */
static struct ggml_tensor *stack_in(
    const struct fb_gpu_slots *s, int weight, int n, ggml_backend_buffer_t buffer)
{
    const struct fb_weights *ws = s->binding->weights;
    const struct fb_tensor *info = &ws->catalog->tensors[ws->weights[weight].tensor];
    struct ggml_tensor *t =
        ggml_new_tensor_3d(s->ctx, (enum ggml_type)info->type, info->ne[0], info->ne[1], n);
    ggml_backend_tensor_alloc(buffer, t, ggml_backend_buffer_get_base(buffer));
    return t;
}

static ggml_backend_buffer_t new_buffer(const struct fb_gpu_slots *s, uint64_t bytes)
{
    ggml_backend_buffer_t buffer = NULL;
    if (bytes <= ggml_backend_buft_get_max_size(s->buft)) {
        buffer = ggml_backend_buft_alloc_buffer(s->buft, bytes);
    }
    if (buffer) {
        ggml_backend_buffer_set_usage(buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
        ggml_backend_buffer_clear(buffer, 0); /* the spare unit is read, if only to be skipped */
    }
    return buffer;
}

static bool allocate_group(struct fb_gpu_slots *s, int g, int n)
{
    const struct fb_group *group = &s->binding->weights->groups[g];
    for (int p = 0; p < group->n_parts; p++) {
        int w = group->weight[p];
        s->buffers[w] = new_buffer(s, s->binding->weights->weights[w].unit_bytes * (uint64_t)n);
        if (!s->buffers[w]) {
            return false;
        }
        s->stacks[w] = stack_in(s, w, n, s->buffers[w]);
    }
    return true;
}

/* The transit as a stack of each weight's units, less one. */
static bool allocate_transit(struct fb_gpu_slots *s, uint64_t bytes)
{
    const struct fb_weights *ws = s->binding->weights;
    s->transit = new_buffer(s, bytes);
    for (int w = 0; s->transit && w < ws->n_weights; w++) {
        if (s->stacks[w]) {
            int units = (int)(bytes / ws->weights[w].unit_bytes);
            s->transits[w] = stack_in(s, w, units - 1, s->transit);
        }
    }
    return s->transit != NULL;
}

static bool allocate_groups(struct fb_gpu_slots *s, const struct fb_device_slots *sizes)
{
    const struct fb_weights *ws = s->binding->weights;
    int *n_experts = fb_xcalloc((size_t)ws->n_groups, sizeof *n_experts);
    int *n_parts = fb_xcalloc((size_t)ws->n_groups, sizeof *n_parts);
    int *n_slots = fb_xcalloc((size_t)ws->n_groups, sizeof *n_slots);
    bool ok = true;
    for (int g = 0; g < ws->n_groups; g++) {
        n_experts[g] = ws->groups[g].n_expert;
        n_parts[g] = ws->groups[g].n_parts;
        if (fb_binding_on_gpu(s->binding, g)) {
            n_slots[g] = fb_device_slots_of(sizes, &ws->groups[g]);
            ok = ok && allocate_group(s, g, n_slots[g]);
        }
    }
    s->tier = fb_tier_new(ws->n_groups, n_experts, n_parts, n_slots);
    free(n_experts);
    free(n_parts);
    free(n_slots);
    return ok;
}

struct fb_gpu_slots *fb_gpu_slots_new(
    const struct fb_binding *b, ggml_backend_buffer_type_t buft, uint64_t bytes)
{
    const struct fb_weights *ws = b->weights;
    struct fb_gpu_slots *s = fb_xcalloc(1, sizeof *s);
    struct ggml_init_params params = {
        .mem_size = 2 * ((size_t)ws->n_weights + 1) * ggml_tensor_overhead(), .no_alloc = true};
    s->binding = b;
    s->buft = buft;
    s->stacks = fb_xcalloc((size_t)ws->n_weights, sizeof(struct ggml_tensor *));
    s->transits = fb_xcalloc((size_t)ws->n_weights, sizeof(struct ggml_tensor *));
    s->buffers = fb_xcalloc((size_t)ws->n_weights, sizeof(ggml_backend_buffer_t));
    s->ctx = ggml_init(params);
    const struct fb_device_slots sizes =
        fb_device_slots_make(ws, b->gpu_first_layer, b->gpu_end_layer, bytes);
    if (!allocate_groups(s, &sizes) || !allocate_transit(s, sizes.transit_bytes)) {
        fb_gpu_slots_free(s);
        return NULL;
    }
    return s;
}

void fb_gpu_slots_free(struct fb_gpu_slots *s)
{
    if (!s) {
        return;
    }
    const struct fb_weights *ws = s->binding->weights;
    for (int w = 0; w < ws->n_weights; w++) {
        ggml_backend_buffer_free(s->buffers[w]);
    }
    ggml_backend_buffer_free(s->transit);
    fb_tier_free(s->tier);
    ggml_free(s->ctx);
    free(s->transits);
    free(s->stacks);
    free(s->buffers);
    free(s);
}

/* --- Slots ----------------------------------------------------------------------------------- */

struct fb_tier *fb_gpu_slots_tier(const struct fb_gpu_slots *s)
{
    return s->tier;
}

int fb_gpu_slots_total(const struct fb_gpu_slots *s)
{
    int n = 0;
    for (int g = 0; g < s->binding->weights->n_groups; g++) {
        n += fb_tier_slots(s->tier, g);
    }
    return n;
}

struct ggml_tensor *fb_gpu_slots_stack(const struct fb_gpu_slots *s, int weight)
{
    return s->stacks[weight];
}

static void upload(
    struct fb_gpu_slots *s, struct ggml_tensor *stack, int weight, int index, const void *unit)
{
    uint64_t bytes = s->binding->weights->weights[weight].unit_bytes, before = fb_now_ns();
    ggml_backend_tensor_set(stack, unit, (size_t)index * stack->nb[2], bytes);
    s->uploads.bytes += bytes;
    s->uploads.ns += fb_now_ns() - before;
}

void fb_gpu_slots_fill(struct fb_gpu_slots *s, int weight, int slot, const void *unit)
{
    upload(s, s->stacks[weight], weight, slot, unit);
}

void fb_gpu_slots_read(struct fb_gpu_slots *s, int weight, int slot, void *unit)
{
    uint64_t bytes = s->binding->weights->weights[weight].unit_bytes, before = fb_now_ns();
    const struct ggml_tensor *stack = s->stacks[weight];
    ggml_backend_tensor_get(stack, unit, (size_t)slot * stack->nb[2], bytes);
    s->uploads.back_bytes += bytes;
    s->uploads.ns += fb_now_ns() - before;
}

/* --- Transit --------------------------------------------------------------------------------- */

struct ggml_tensor *fb_gpu_slots_transit(const struct fb_gpu_slots *s, int weight)
{
    return s->transits[weight];
}

void fb_gpu_slots_transit_fill(struct fb_gpu_slots *s, int weight, int index, const void *unit)
{
    upload(s, s->transits[weight], weight, index, unit);
}

struct fb_gpu_uploads fb_gpu_slots_uploads(const struct fb_gpu_slots *s)
{
    return s->uploads;
}
