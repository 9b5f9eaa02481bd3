/*
 * device.c - the tables of functions that ggml calls: buffer, buffer type, backend, device,
 * registry.
 *
 *      registry FOREBAY
 *        device            offers of weights, nodes that we compute      fb_binding_offer
 *          buffer type
 *            buffer        address space of weights, compute buffers     fb_binding_adopt
 *          backend         one per llama context: graphs                 fb_walk_graph
 */
#include "backend/device.h"

#include <stdlib.h>
#include <string.h>

#include "backend/partition.h"
#include "backend/walk.h"
#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "os/memory.h"

/* --- Buffers: address space that takes no memory until it is touched ------------------------ */

struct device_buffer {
    void *base;
    bool mapped;  /* llama.cpp's own mapping of the file, not ours to release */
    bool compute; /* made after the model was loaded */
};

static void buffer_free(ggml_backend_buffer_t buffer)
{
    struct device_buffer *b = buffer->context;
    if (!b->mapped) {
        fb_vm_release(b->base, buffer->size);
    }
    if (b->compute && fb_device.bound) {
        fb_lending_remove(&fb_device.bound->lending, buffer);
    }
    if (!b->compute && --fb_device.n_model_buffers == 0 && fb_device.hooks) {
        fb_device.hooks->model_freed();
    }
    free(b);
}

static void *buffer_base(ggml_backend_buffer_t buffer)
{
    const struct device_buffer *b = buffer->context;
    return b->base;
}

/* llama.cpp reads ggml_nbytes(tensor) bytes of each weight, so the shapes of ours are hidden until
 * the model is loaded. (A file that skips their bytes is not enough: stdio copies bytes that it did
 * not read.) Tensors of compute buffers pass through here, too; only weights have names of weights,
 * and only before the binding is closed. */
static enum ggml_status buffer_init_tensor(ggml_backend_buffer_t buffer, struct ggml_tensor *tensor)
{
    const struct device_buffer *b = buffer->context;
    if (fb_device.bound && !fb_device.bound->weights && !tensor->view_src) {
        if (buffer->buft == &fb_device.gpu_buft) {
            fb_binding_claim_for_gpu(fb_device.bound, tensor);
        }
        fb_binding_adopt(fb_device.bound, tensor, !b->mapped);
    }
    return GGML_STATUS_SUCCESS;
}

static void buffer_memset(ggml_backend_buffer_t buffer, struct ggml_tensor *tensor, uint8_t value,
    size_t offset, size_t size)
{
    (void)buffer;
    memset((char *)tensor->data + offset, value, size);
}

static void buffer_set(ggml_backend_buffer_t buffer, struct ggml_tensor *tensor, const void *data,
    size_t offset, size_t size)
{
    (void)buffer;
    memcpy((char *)tensor->data + offset, data, size);
}

static void buffer_get(ggml_backend_buffer_t buffer, const struct ggml_tensor *tensor, void *data,
    size_t offset, size_t size)
{
    (void)buffer;
    memcpy(data, (const char *)tensor->data + offset, size);
}

static bool buffer_copy(
    ggml_backend_buffer_t buffer, const struct ggml_tensor *src, struct ggml_tensor *dst)
{
    (void)buffer;
    if (!ggml_backend_buffer_is_host(src->buffer)) {
        return false;
    }
    memcpy(dst->data, src->data, ggml_nbytes(src));
    return true;
}

static void buffer_clear(ggml_backend_buffer_t buffer, uint8_t value)
{
    const struct device_buffer *b = buffer->context;
    if (!b->compute) {
        return; /* weights are not there */
    }
    uint64_t whole = value == 0 ? fb_round_down(buffer->size, fb_vm_page_size()) : 0;
    fb_vm_discard(b->base, whole);
    memset((char *)b->base + whole, value, buffer->size - whole);
}

static const struct ggml_backend_buffer_i buffer_table = {
    .free_buffer = buffer_free,
    .get_base = buffer_base,
    .init_tensor = buffer_init_tensor,
    .memset_tensor = buffer_memset,
    .set_tensor = buffer_set,
    .get_tensor = buffer_get,
    .cpy_tensor = buffer_copy,
    .clear = buffer_clear,
};

static const char *buft_name(ggml_backend_buffer_type_t buft)
{
    (void)buft;
    return "FOREBAY";
}

static ggml_backend_buffer_t new_buffer(
    ggml_backend_buffer_type_t buft, void *base, size_t size, bool mapped)
{
    struct device_buffer *b = fb_xcalloc(1, sizeof *b);
    b->base = base;
    b->mapped = mapped;
    b->compute = fb_device.bound && fb_device.bound->weights;
    ggml_backend_buffer_t buffer = ggml_backend_buffer_init(buft, buffer_table, b, size);
    if (b->compute) {
        fb_lending_add(&fb_device.bound->lending, buffer, base);
    } else {
        fb_device.n_model_buffers++;
    }
    return buffer;
}

/* Nobody touches the address space of weights; buffers of a context are computed with. */
static ggml_backend_buffer_t buft_alloc(ggml_backend_buffer_type_t buft, size_t size)
{
    bool weights = fb_device.bound && !fb_device.bound->weights;
    void *base = weights ? fb_vm_reserve_space(size, false) : fb_vm_reserve(size, false);
    return base ? new_buffer(buft, base, size, false) : NULL;
}

static const char *gpu_buft_name(ggml_backend_buffer_type_t buft)
{
    (void)buft;
    return "FOREBAY_GPU";
}

static size_t buft_alignment(ggml_backend_buffer_type_t buft)
{
    (void)buft;
    return 64;
}

static bool buft_is_host(ggml_backend_buffer_type_t buft)
{
    (void)buft;
    return true;
}

/* --- Backend: one per llama context -------------------------------------------------------- */

static const char *backend_name(ggml_backend_t backend)
{
    (void)backend;
    return "FOREBAY";
}

static void backend_free(ggml_backend_t backend)
{
    struct fb_walk *walk = backend->context;
    if (fb_device.bound && fb_device.bound->workers == &walk->exec.workers) {
        fb_device.bound->workers = NULL;
    }
    fb_walk_free(walk);
    free(backend);
    if (fb_device.hooks && fb_device.n_model_buffers == 0) {
        fb_device.hooks->model_freed(); /* the model was measured, not loaded (no_alloc) */
    }
}

static enum ggml_status compute_alone(struct fb_walk *walk, struct ggml_cgraph *graph)
{
    struct forebay_error error;
    if (fb_device.bound) {
        fb_device.bound->workers = &walk->exec.workers; /* of the context that computes */
    }
    if (fb_device.hooks && !fb_device.hooks->computing(&error)) {
        return GGML_STATUS_FAILED;
    }
    return fb_walk_graph(walk, fb_device.bound, graph);
}

static enum ggml_status backend_compute(ggml_backend_t backend, struct ggml_cgraph *graph)
{
    struct fb_binding *b = fb_device.bound;
    if (b && atomic_flag_test_and_set(&b->computing)) {
        fb_log(FOREBAY_LOG_ERROR,
            "two contexts of a streamed model compute at the same time; use one at a time");
        return GGML_STATUS_FAILED;
    }
    enum ggml_status status = compute_alone(backend->context, graph);
    if (b) {
        atomic_flag_clear(&b->computing);
    }
    return status;
}

static void backend_set_threads(ggml_backend_t backend, int n_threads)
{
    struct fb_walk *walk = backend->context;
    if (fb_device.hooks) { /* otherwise fb_binding_set_threads says it */
        fb_workers_set_threads(&walk->exec.workers, n_threads);
    }
}

static ggml_guid_t backend_guid(void)
{
    static ggml_guid guid = {
        'F', 'o', 'r', 'e', 'b', 'a', 'y', ' ', 'w', 'e', 'i', 'g', 'h', 't', 's', '1'};
    return &guid;
}

static ggml_backend_t device_init_backend(ggml_backend_dev_t dev, const char *params)
{
    (void)params;
    struct fb_walk *walk = fb_walk_new();
    if (!walk) {
        return NULL;
    }
    ggml_backend_t backend = fb_xcalloc(1, sizeof *backend);
    backend->guid = backend_guid();
    backend->iface = (struct ggml_backend_i){
        .get_name = backend_name,
        .free = backend_free,
        .graph_compute = backend_compute,
    };
    backend->device = dev;
    backend->context = walk;
    if (fb_device.bound) {
        fb_device.bound->workers = &walk->exec.workers;
        fb_device.bound->has_context = true;
        if (!fb_device.bound->measuring) {
            fb_binding_close(fb_device.bound);
        }
    }
    return backend;
}

/* --- Device -------------------------------------------------------------------------------- */

static const char *device_name(ggml_backend_dev_t dev)
{
    (void)dev;
    return "FOREBAY";
}

static const char *device_description(ggml_backend_dev_t dev)
{
    (void)dev;
    return "weights streamed from storage, computed on the CPU";
}

static void device_memory(ggml_backend_dev_t dev, size_t *free_bytes, size_t *total)
{
    (void)dev;
    *free_bytes = 0; /* it has no memory of its own: it uses the CPU's */
    *total = 0;
}

static enum ggml_backend_dev_type device_type(ggml_backend_dev_t dev)
{
    (void)dev;
    return GGML_BACKEND_DEVICE_TYPE_ACCEL;
}

static void device_props(ggml_backend_dev_t dev, struct ggml_backend_dev_props *props)
{
    *props = (struct ggml_backend_dev_props){
        .name = device_name(dev),
        .description = device_description(dev),
        .type = GGML_BACKEND_DEVICE_TYPE_ACCEL,
        .caps = {.buffer_from_host_ptr = true, .mmap_support = true},
    };
}

/* llama.cpp mapped the file. Tensors keep their addresses in the mapping, which we never touch. */
static ggml_backend_buffer_t device_buffer_from_ptr(
    ggml_backend_dev_t dev, void *ptr, size_t size, size_t max_tensor_size)
{
    (void)dev;
    (void)max_tensor_size;
    return new_buffer(&fb_device.buft, ptr, size, true);
}

/* llama.cpp asks while it loads the model, for a place for weights; and when it has made the back
 * ends of a context, for their activations. */
static ggml_backend_buffer_type_t device_buft(ggml_backend_dev_t dev)
{
    const struct fb_binding *b = fb_device.bound;
    (void)dev;
    return b && b->gives_prompts && b->has_context ? &fb_device.compute_buft : &fb_device.buft;
}

/* Whether the weight is the last matrix of its expert. */
static bool is_last_of_expert(const struct fb_tensor_claim *claim)
{
    const struct fb_catalog *catalog = fb_device.bound->catalog;
    return catalog->tensors[claim - fb_device.bound->claims].role == FB_ROLE_EXPERT_DOWN;
}

static bool is_view(enum ggml_op op)
{
    return op == GGML_OP_NONE || op == GGML_OP_RESHAPE || op == GGML_OP_VIEW ||
           op == GGML_OP_PERMUTE || op == GGML_OP_TRANSPOSE;
}

/* Ops between weights that we accept, so that a graph stays in one piece. An op that is not here
 * stays with the CPU backend itself. That matters for the fused ops of some architectures (gated
 * delta net, lightning indexer, ...): llama.cpp switches them off when they are not on the device
 * of their layer, which would change the numbers. */
static bool is_common(enum ggml_op op)
{
    switch (op) {
    case GGML_OP_DUP:
    case GGML_OP_ADD:
    case GGML_OP_ADD_ID:
    case GGML_OP_ADD1:
    case GGML_OP_SUB:
    case GGML_OP_MUL:
    case GGML_OP_DIV:
    case GGML_OP_SQR:
    case GGML_OP_SQRT:
    case GGML_OP_LOG:
    case GGML_OP_SIN:
    case GGML_OP_COS:
    case GGML_OP_SUM:
    case GGML_OP_SUM_ROWS:
    case GGML_OP_MEAN:
    case GGML_OP_ARGMAX:
    case GGML_OP_REPEAT:
    case GGML_OP_CONCAT:
    case GGML_OP_NORM:
    case GGML_OP_RMS_NORM:
    case GGML_OP_GROUP_NORM:
    case GGML_OP_L2_NORM:
    case GGML_OP_MUL_MAT:
    case GGML_OP_MUL_MAT_ID:
    case GGML_OP_OUT_PROD:
    case GGML_OP_SCALE:
    case GGML_OP_SET:
    case GGML_OP_CPY:
    case GGML_OP_CONT:
    case GGML_OP_GET_ROWS:
    case GGML_OP_SET_ROWS:
    case GGML_OP_DIAG:
    case GGML_OP_DIAG_MASK_INF:
    case GGML_OP_DIAG_MASK_ZERO:
    case GGML_OP_SOFT_MAX:
    case GGML_OP_ROPE:
    case GGML_OP_CLAMP:
    case GGML_OP_PAD:
    case GGML_OP_ARANGE:
    case GGML_OP_ARGSORT:
    case GGML_OP_FLASH_ATTN_EXT:
    case GGML_OP_UNARY:
    case GGML_OP_GLU:
        return true;
    default:
        return is_view(op);
    }
}

/* Whether the op is between an expert's matrices, such as an activation or a bias: if we did not
 * accept it, the graph would be cut there, and with it the layer's lease. The CPU computes it in
 * any case, as both matrices are on the CPU. */
static bool is_inside_expert(const struct ggml_tensor *op)
{
    for (int depth = 0; op && depth < 16; depth++) {
        if (op->op == GGML_OP_MUL_MAT_ID) {
            const struct fb_tensor_claim *claim = fb_claim_of(op->src[0]);
            return depth > 0 && claim && !is_last_of_expert(claim);
        }
        if (op->op != GGML_OP_GLU && op->op != GGML_OP_UNARY && op->op != GGML_OP_SQR &&
            op->op != GGML_OP_ADD_ID && !is_view(op->op)) {
            return false;
        }
        op = op->view_src && !op->src[0] ? op->view_src : op->src[0];
    }
    return false;
}

/* llama.cpp asks two kinds of question. A trial node has a weight in an empty buffer of ours as a
 * source, and the answer decides whether the weight is ours. A node of a graph is ours if its
 * weight is, and otherwise if the CPU supports it, since the CPU computes for us. */
static bool device_supports_op(ggml_backend_dev_t dev, const struct ggml_tensor *op)
{
    (void)dev;
    if (!fb_device.bound && !fb_device.hooks) {
        return false;
    }
    for (int s = 0; s < GGML_MAX_SRC && fb_device.bound && fb_device.bound->measuring; s++) {
        fb_binding_check_type(fb_device.bound, op, s);
    }
    for (int s = 0; s < GGML_MAX_SRC; s++) {
        const struct ggml_tensor *src = op->src[s];
        if (src && src->buffer && src->buffer->buft == &fb_device.buft && src->buffer->size == 0) {
            if (!fb_device.bound && fb_device.hooks) {
                fb_device.hooks->offered(src);
            }
            return fb_device.bound && fb_binding_offer(fb_device.bound, op, src);
        }
        if (fb_claim_of(src)) {
            return s == 0 &&
                   (op->op == GGML_OP_MUL_MAT || op->op == GGML_OP_MUL_MAT_ID || is_view(op->op));
        }
    }
    if (!fb_device.bound || (fb_device.hooks && op->op == GGML_OP_FLASH_ATTN_EXT)) {
        return false; /* with flash attention on auto, llama.cpp would switch it off */
    }
    if (fb_device.bound->beside_device && !is_inside_expert(op)) {
        return false;
    }
    ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    bool ours = is_common(op->op) && ggml_backend_dev_supports_op(cpu, op);
    if (!ours && fb_partition_matters(op, GGML_MAX_N_THREADS, true)) {
        fb_device.bound->fixed_threads = true;
    }
    return ours;
}

static bool device_supports_buft(ggml_backend_dev_t dev, ggml_backend_buffer_type_t buft)
{
    ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    (void)dev;
    return buft == &fb_device.buft || buft == &fb_device.compute_buft ||
           ggml_backend_dev_supports_buft(cpu, buft);
}

/* --- Registration -------------------------------------------------------------------------- */

static const char *reg_name(ggml_backend_reg_t reg)
{
    (void)reg;
    return "FOREBAY";
}

static size_t reg_device_count(ggml_backend_reg_t reg)
{
    (void)reg;
    return 1;
}

static ggml_backend_dev_t reg_device(ggml_backend_reg_t reg, size_t index)
{
    (void)reg;
    return index == 0 ? &fb_device.device : NULL;
}

static void *reg_proc_address(ggml_backend_reg_t reg, const char *name)
{
    (void)reg;
    return strcmp(name, "ggml_backend_set_n_threads") == 0 ? (void *)backend_set_threads : NULL;
}

ggml_backend_reg_t fb_device_reg(void)
{
    fb_device.reg = (struct ggml_backend_reg){
        .api_version = GGML_BACKEND_API_VERSION,
        .iface =
            {
                .get_name = reg_name,
                .get_device_count = reg_device_count,
                .get_device = reg_device,
                .get_proc_address = reg_proc_address,
            },
    };
    fb_device.device = (struct ggml_backend_device){
        .iface =
            {
                .get_name = device_name,
                .get_description = device_description,
                .get_memory = device_memory,
                .get_type = device_type,
                .get_props = device_props,
                .init_backend = device_init_backend,
                .get_buffer_type = device_buft,
                .buffer_from_host_ptr = device_buffer_from_ptr,
                .supports_op = device_supports_op,
                .supports_buft = device_supports_buft,
            },
        .reg = &fb_device.reg,
    };
    fb_device.buft = (struct ggml_backend_buffer_type){
        .iface =
            {
                .get_name = buft_name,
                .alloc_buffer = buft_alloc,
                .get_alignment = buft_alignment,
                .is_host = buft_is_host,
            },
        .device = &fb_device.device,
    };
    fb_device.compute_buft = fb_device.buft;
    fb_device.gpu_buft = fb_device.buft;
    fb_device.gpu_buft.iface.get_name = gpu_buft_name;
    return &fb_device.reg;
}
