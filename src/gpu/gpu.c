#include "gpu/gpu.h"

#include "backend/binding.h"
#include "base/error.h"
#include "base/units.h"
#include "gpu/gpu_dense.h"
#include "gpu/graph_slice.h"
#include "gpu/proxy.h"
#include "plan/device_slots.h"

#define MOST_PROMPT_ROWS 4096 /* of a pass, for which it is worth it */

bool fb_gpu_computes(ggml_backend_dev_t device, const struct fb_weights *ws, int weight)
{
    const struct fb_tensor *info = &ws->catalog->tensors[ws->weights[weight].tensor];
    struct ggml_init_params params = {.mem_size = 8 * ggml_tensor_overhead(), .no_alloc = true};
    struct ggml_context *ctx = ggml_init(params);
    struct ggml_tensor *stack = ggml_new_tensor_3d(
        ctx, (enum ggml_type)info->type, info->ne[0], info->ne[1], info->n_expert);
    struct ggml_tensor *input = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, info->ne[0], 1, 1);
    struct ggml_tensor *ids = ggml_new_tensor_2d(ctx, GGML_TYPE_I32, 1, 1);
    bool computes = fb_graph_slice_fits() &&
                    ggml_backend_dev_supports_op(device, ggml_mul_mat_id(ctx, stack, input, ids));
    ggml_free(ctx);
    return computes;
}

static bool wants_rows(ggml_backend_dev_t device, struct ggml_context *ctx, int rows)
{
    ggml_reset(ctx);
    struct ggml_tensor *weight = ggml_new_tensor_2d(ctx, GGML_TYPE_Q8_0, 1024, 1024);
    struct ggml_tensor *input = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, 1024, rows);
    return ggml_backend_dev_offload_op(device, ggml_mul_mat(ctx, weight, input));
}

int fb_gpu_prompt_rows(ggml_backend_dev_t device)
{
    struct ggml_init_params params = {.mem_size = 8 * ggml_tensor_overhead(), .no_alloc = true};
    struct ggml_context *ctx = ggml_init(params);
    int too_few = 0, enough = MOST_PROMPT_ROWS;
    bool takes = fb_graph_slice_fits() && wants_rows(device, ctx, enough);
    while (takes && enough - too_few > 1) {
        int rows = too_few + (enough - too_few) / 2;
        *(wants_rows(device, ctx, rows) ? &enough : &too_few) = rows;
    }
    ggml_free(ctx);
    return takes ? enough : 0;
}

uint64_t fb_gpu_prompt_bytes(const struct fb_weights *ws)
{
    return fb_gpu_dense_bytes(ws);
}

enum forebay_status fb_gpu_start(struct fb_binding *binding, uint64_t slots_bytes,
    struct fb_gpu_slots **out, struct forebay_error *err)
{
    ggml_backend_dev_t device = fb_proxy_gpu();
    ggml_backend_buffer_type_t buft = ggml_backend_dev_buffer_type(device);
    int first = binding->gpu_first_layer, end = binding->gpu_end_layer;
    bool shared = binding->shares_slots;
    uint64_t least = shared ? fb_device_slots_least_transit(binding->weights, first, end)
                            : fb_device_slots_least(binding->weights, first, end);
    struct fb_gpu_slots *slots = NULL;
    /* Memory that was free when it was planned may be in use, or in pieces. */
    for (uint64_t bytes = slots_bytes; !slots && bytes >= least; bytes -= bytes / 4 + 1) {
        slots = shared ? fb_gpu_slots_new_shared(binding, device, bytes)
                       : fb_gpu_slots_new(binding, buft, bytes);
    }
    if (!slots) {
        return fb_fail(err, FOREBAY_E_NOMEM, "Give a smaller --device-mem.",
            "%s has no %s for experts", ggml_backend_dev_name(device), FB_SIZE(slots_bytes));
    }
    fb_proxy_set_slots(slots);
    *out = slots;
    return FOREBAY_OK;
}

void fb_gpu_stop(struct fb_gpu_slots *slots)
{
    fb_proxy_set_slots(NULL);
    fb_gpu_slots_free(slots);
}
