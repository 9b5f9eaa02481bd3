#include "gpu/gpu_exec.h"

#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"
#include "gpu/graph_slice.h"

#define CTX_BYTES (2 * FB_MIB)

struct fb_changed_node {
    struct ggml_tensor *node, *weight, *ids; /* what the weight and the ids were */
};

void fb_gpu_exec_init(struct fb_gpu_exec *ex, ggml_backend_t gpu)
{
    struct ggml_init_params params = {.mem_size = CTX_BYTES, .no_alloc = true};
    *ex = (struct fb_gpu_exec){.gpu = gpu, .ctx = ggml_init(params)};
}

void fb_gpu_exec_release(struct fb_gpu_exec *ex)
{
    ggml_backend_buffer_free(ex->ids);
    ggml_free(ex->ctx);
    free(ex->changed);
    free(ex->host_ids);
}

enum ggml_status fb_gpu_exec_compute(struct fb_gpu_exec *ex, int to)
{
    if (ex->from >= to) {
        return GGML_STATUS_SUCCESS;
    }
    struct ggml_cgraph slice = fb_graph_slice(ex->graph, ex->from, to);
    ex->from = to;
    return ggml_backend_graph_compute_async(ex->gpu, &slice);
}

enum ggml_status fb_gpu_exec_compute_alone(struct fb_gpu_exec *ex, int i)
{
    ex->from = i;
    enum ggml_status status = fb_gpu_exec_compute(ex, i + 1);
    ggml_backend_synchronize(ex->gpu);
    return status;
}

void fb_gpu_exec_change(struct fb_gpu_exec *ex, struct ggml_tensor *node,
    struct ggml_tensor *weight, struct ggml_tensor *ids)
{
    if (ex->n_changed == ex->cap_changed) {
        ex->cap_changed = ex->cap_changed ? 2 * ex->cap_changed : 256;
        ex->changed = fb_xrealloc(ex->changed, (size_t)ex->cap_changed * sizeof *ex->changed);
    }
    ex->changed[ex->n_changed++] = (struct fb_changed_node){node, node->src[0], node->src[2]};
    node->src[0] = weight;
    node->src[2] = ids;
}

void fb_gpu_exec_restore(struct fb_gpu_exec *ex)
{
    while (ex->n_changed > 0) {
        const struct fb_changed_node *c = &ex->changed[--ex->n_changed];
        c->node->src[0] = c->weight;
        c->node->src[2] = c->ids;
    }
}

/* --- Memory of the GPU ---------------------------------------------------------------------- */

enum ggml_status fb_gpu_exec_reserve(
    struct fb_gpu_exec *ex, ggml_backend_buffer_t *buffer, size_t bytes)
{
    struct forebay_error error;
    if (*buffer && ggml_backend_buffer_get_size(*buffer) >= bytes) {
        return GGML_STATUS_SUCCESS;
    }
    ggml_backend_buffer_free(*buffer);
    *buffer = ggml_backend_alloc_buffer(ex->gpu, bytes + bytes / 2);
    *buffer = *buffer ? *buffer : ggml_backend_alloc_buffer(ex->gpu, bytes);
    if (*buffer) {
        return GGML_STATUS_SUCCESS;
    }
    fb_fail(&error, FOREBAY_E_NOMEM, "Give a smaller --device-mem, or a smaller --batch.",
        "the device has no memory left for a batch");
    return fb_binding_fail(ex->binding, &error);
}

struct ggml_tensor *fb_gpu_exec_tensor(struct fb_gpu_exec *ex, ggml_backend_buffer_t buffer,
    size_t offset, enum ggml_type type, int64_t ne0, int64_t ne1)
{
    struct ggml_tensor *t = ggml_new_tensor_2d(ex->ctx, type, ne0, ne1);
    ggml_backend_tensor_alloc(buffer, t, (char *)ggml_backend_buffer_get_base(buffer) + offset);
    return t;
}

enum ggml_status fb_gpu_exec_ids(struct fb_gpu_exec *ex, const struct fb_routes *routes,
    const int *index_of, int masked, struct ggml_tensor **out)
{
    size_t n = (size_t)routes->tokens * (size_t)routes->picks, bytes = n * sizeof *ex->host_ids;
    if (n > ex->cap_host_ids) {
        ex->cap_host_ids = n;
        ex->host_ids = fb_xrealloc(ex->host_ids, bytes);
    }
    for (size_t i = 0; i < n; i++) {
        int index = index_of ? index_of[routes->experts[i]] : -1;
        ex->host_ids[i] = index < 0 ? masked : index;
    }
    enum ggml_status status = fb_gpu_exec_reserve(ex, &ex->ids, bytes + 64);
    if (status == GGML_STATUS_SUCCESS) {
        *out = fb_gpu_exec_tensor(ex, ex->ids, 0, GGML_TYPE_I32, routes->picks, routes->tokens);
        ggml_backend_tensor_set(*out, ex->host_ids, 0, bytes);
    }
    return status;
}
