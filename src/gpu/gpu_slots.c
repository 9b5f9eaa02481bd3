/*
 * gpu_slots.c - a buffer of the device for each part of each group, and one for the transit.
 *
 * Their sizes follow from plan/device_slots.h. When a group gets more or fewer slots, each of its
 * buffers is replaced: a new one is allocated, the units that both have room for are copied, and
 * the old one is freed. So only one buffer at a time is there twice. When the new one is refused,
 * the old one stays; it may then have room for more slots than the tier uses.
 */
#include "gpu/gpu_slots.h"

#include <stdlib.h>

#include "backend/binding.h"
#include "base/error.h"
#include "base/units.h"
#include "gpu/gpu_memory.h"
#include "gpu/gpu_shared.h"
#include "model/weights.h"
#include "plan/device_slots.h"

/* A weight's slots. */
struct slot_stack {
    struct ggml_context *ctx; /* the tensor's header */
    struct ggml_tensor *tensor;
    ggml_backend_buffer_t buffer; /* NULL: not on the device */
};

struct fb_gpu_slots {
    const struct fb_binding *binding;
    ggml_backend_buffer_type_t buft;
    struct fb_tier *tier;         /* NULL: shared */
    struct fb_gpu_shared *shared; /* NULL: copies */
    struct fb_gpu_memory memory;
    struct slot_stack *stacks; /* [n_weights] */
    struct ggml_context *ctx;  /* headers of the transits */
    ggml_backend_buffer_t transit;
    struct ggml_tensor **transits; /* [n_weights] the transit for each; NULL: not on the device */
    struct fb_gpu_uploads uploads;
};

/* --- Memory ---------------------------------------------------------------------------------- */

/* A stack of n units of the weight in the buffer, whose first unit is at the buffer's beginning. */
static struct ggml_tensor *stack_in(const struct fb_gpu_slots *s, struct ggml_context *ctx,
    int weight, int n, ggml_backend_buffer_t buffer)
{
    const struct fb_weights *ws = s->binding->weights;
    const struct fb_tensor *info = &ws->catalog->tensors[ws->weights[weight].tensor];
    struct ggml_tensor *t =
        ggml_new_tensor_3d(ctx, (enum ggml_type)info->type, info->ne[0], info->ne[1], n);
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

static bool make_stack(const struct fb_gpu_slots *s, int weight, int n, struct slot_stack *out)
{
    struct ggml_init_params params = {.mem_size = 2 * ggml_tensor_overhead(), .no_alloc = true};
    uint64_t unit_bytes = s->binding->weights->weights[weight].unit_bytes;
    ggml_backend_buffer_t buffer = new_buffer(s, unit_bytes * (uint64_t)n);
    if (buffer) {
        *out = (struct slot_stack){.ctx = ggml_init(params), .buffer = buffer};
        out->tensor = stack_in(s, out->ctx, weight, n, buffer);
    }
    return buffer != NULL;
}

static void free_stack(struct slot_stack *stack)
{
    ggml_backend_buffer_free(stack->buffer);
    ggml_free(stack->ctx);
}

static bool allocate_group(struct fb_gpu_slots *s, int g, int n)
{
    const struct fb_group *group = &s->binding->weights->groups[g];
    bool ok = true;
    for (int p = 0; p < group->n_parts && ok; p++) {
        ok = make_stack(s, group->weight[p], n, &s->stacks[group->weight[p]]);
    }
    return ok;
}

/* The transit as a stack of each weight's units, less one. */
static bool allocate_transit(struct fb_gpu_slots *s, uint64_t bytes)
{
    const struct fb_weights *ws = s->binding->weights;
    s->transit = new_buffer(s, bytes);
    for (int w = 0; s->transit && w < ws->n_weights; w++) {
        int group = ws->weights[w].group;
        if (group >= 0 && fb_binding_on_gpu(s->binding, group)) {
            int units = (int)(bytes / ws->weights[w].unit_bytes);
            s->transits[w] = stack_in(s, s->ctx, w, units - 1, s->transit);
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

static int most_slots(const struct fb_gpu_slots *s)
{
    int most = 0;
    for (int g = 0; g < s->binding->weights->n_groups; g++) {
        int n = fb_tier_slots(s->tier, g);
        most = n > most ? n : most;
    }
    return most;
}

static struct fb_gpu_slots *new_slots(const struct fb_binding *b, ggml_backend_buffer_type_t buft)
{
    const struct fb_weights *ws = b->weights;
    struct fb_gpu_slots *s = fb_xcalloc(1, sizeof *s);
    struct ggml_init_params params = {
        .mem_size = ((size_t)ws->n_weights + 1) * ggml_tensor_overhead(), .no_alloc = true};
    s->binding = b;
    s->buft = buft;
    s->stacks = fb_xcalloc((size_t)ws->n_weights, sizeof *s->stacks);
    s->transits = fb_xcalloc((size_t)ws->n_weights, sizeof(struct ggml_tensor *));
    s->ctx = ggml_init(params);
    return s;
}

struct fb_gpu_slots *fb_gpu_slots_new(
    const struct fb_binding *b, ggml_backend_buffer_type_t buft, uint64_t bytes)
{
    const struct fb_weights *ws = b->weights;
    struct fb_gpu_slots *s = new_slots(b, buft);
    const struct fb_device_slots sizes =
        fb_device_slots_make(ws, b->gpu_first_layer, b->gpu_end_layer, bytes);
    if (!allocate_groups(s, &sizes) || !allocate_transit(s, sizes.transit_bytes)) {
        fb_gpu_slots_free(s);
        return NULL;
    }
    fb_gpu_memory_init(&s->memory, ggml_backend_buft_get_device(buft), most_slots(s),
        fb_device_slots_each(ws, b->gpu_first_layer, b->gpu_end_layer));
    return s;
}

struct fb_gpu_slots *fb_gpu_slots_new_shared(
    struct fb_binding *b, ggml_backend_dev_t device, uint64_t bytes)
{
    struct fb_gpu_slots *s = new_slots(b, ggml_backend_dev_buffer_type(device));
    if (!allocate_transit(s, bytes)) {
        fb_gpu_slots_free(s);
        return NULL;
    }
    s->shared = fb_gpu_shared_new(b, device);
    return s;
}

void fb_gpu_slots_free(struct fb_gpu_slots *s)
{
    if (!s) {
        return;
    }
    fb_gpu_shared_free(s->shared);
    const struct fb_weights *ws = s->binding->weights;
    for (int w = 0; w < ws->n_weights; w++) {
        free_stack(&s->stacks[w]);
    }
    ggml_backend_buffer_free(s->transit);
    fb_tier_free(s->tier);
    ggml_free(s->ctx);
    free(s->transits);
    free(s->stacks);
    free(s);
}

/* --- More and fewer slots -------------------------------------------------------------------- */

/* Gives a weight's stack n slots, of which the first ones keep their content. False: it stays as it
 * is. */
static bool replace_stack(struct fb_gpu_slots *s, int weight, int n)
{
    struct slot_stack *old = &s->stacks[weight], fresh;
    if (old->tensor->ne[2] == n) {
        return true;
    }
    if (!make_stack(s, weight, n, &fresh)) {
        return false;
    }
    size_t bytes = s->binding->weights->weights[weight].unit_bytes;
    int64_t kept = n < old->tensor->ne[2] ? n : old->tensor->ne[2];
    char *unit = fb_xmalloc(bytes);
    for (int64_t k = 0; k < kept; k++) {
        ggml_backend_tensor_get(old->tensor, unit, (size_t)k * old->tensor->nb[2], bytes);
        ggml_backend_tensor_set(fresh.tensor, unit, (size_t)k * fresh.tensor->nb[2], bytes);
    }
    free(unit);
    free_stack(old);
    *old = fresh;
    return true;
}

static bool replace_stacks(struct fb_gpu_slots *s, int g, int n)
{
    const struct fb_group *group = &s->binding->weights->groups[g];
    bool ok = true;
    for (int p = 0; p < group->n_parts; p++) {
        ok = replace_stack(s, group->weight[p], n) && ok;
    }
    return ok;
}

void fb_gpu_slots_adapt(struct fb_gpu_slots *s, struct fb_levels *levels)
{
    const struct fb_weights *ws = s->binding->weights;
    const struct fb_device_slots sizes = {.n = (uint64_t)fb_gpu_memory_slots(&s->memory)};
    for (int grow = 0; grow < 2; grow++) { /* memory is given back first */
        for (int g = 0; g < ws->n_groups; g++) {
            int n = fb_device_slots_of(&sizes, &ws->groups[g]), now = fb_tier_slots(s->tier, g);
            if (now == 0 || (n > now) != grow) {
                continue;
            }
            if (n < now) {
                fb_levels_resize(levels, g, n);
            }
            bool done = replace_stacks(s, g, n);
            if (n > now && done) {
                fb_levels_resize(levels, g, n);
            }
        }
    }
}

/* --- Slots ----------------------------------------------------------------------------------- */

struct fb_tier *fb_gpu_slots_tier(const struct fb_gpu_slots *s)
{
    return s->tier;
}

struct fb_gpu_shared *fb_gpu_slots_shared(const struct fb_gpu_slots *s)
{
    return s->shared;
}

int fb_gpu_slots_total(const struct fb_gpu_slots *s)
{
    int n = 0;
    if (s->shared) {
        return fb_gpu_shared_total(s->shared);
    }
    for (int g = 0; g < s->binding->weights->n_groups; g++) {
        n += fb_tier_slots(s->tier, g);
    }
    return n;
}

struct ggml_tensor *fb_gpu_slots_stack(const struct fb_gpu_slots *s, int weight)
{
    return s->shared ? fb_gpu_shared_stack(s->shared, weight) : s->stacks[weight].tensor;
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
    upload(s, s->stacks[weight].tensor, weight, slot, unit);
}

void fb_gpu_slots_read(struct fb_gpu_slots *s, int weight, int slot, void *unit)
{
    uint64_t bytes = s->binding->weights->weights[weight].unit_bytes, before = fb_now_ns();
    const struct ggml_tensor *stack = s->stacks[weight].tensor;
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
