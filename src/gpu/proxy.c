#include "gpu/proxy.h"

#include <stdlib.h>

#include "backend/binding.h"
#include "backend/device_state.h"
#include "base/error.h"
#include "gpu/gpu_walk.h"

/* All mutable state of the proxy that belongs to the process: ggml passes none of our own data. */
static struct {
    struct ggml_backend_device device;
    struct ggml_backend_buffer_type measured; /* the GPU's, as memory of the proxy */
    ggml_backend_dev_t gpu;
    struct fb_gpu_slots *slots;
    int n_backends; /* of the proxy, that exist */
} proxy;

struct proxy_backend {
    struct ggml_backend base; /* first: ggml has a pointer to it */
    ggml_backend_t gpu;
    struct fb_gpu_walk *walk;
};

static void backend_free(ggml_backend_t backend)
{
    struct proxy_backend *p = (struct proxy_backend *)backend;
    proxy.n_backends--;
    fb_gpu_walk_free(p->walk);
    ggml_backend_free(p->gpu);
    free(p);
}

static enum ggml_status backend_compute(ggml_backend_t backend, struct ggml_cgraph *graph)
{
    struct proxy_backend *p = (struct proxy_backend *)backend;
    return fb_gpu_walk_graph(p->walk, fb_device.bound, proxy.slots, graph);
}

static ggml_backend_t device_init_backend(ggml_backend_dev_t dev, const char *params)
{
    ggml_backend_t gpu = ggml_backend_dev_init(proxy.gpu, params);
    if (!gpu) {
        return NULL;
    }
    struct proxy_backend *p = fb_xcalloc(1, sizeof *p);
    p->base = *gpu;
    p->base.device = dev;
    p->base.iface.free = backend_free;
    p->base.iface.graph_compute = backend_compute;
    p->gpu = gpu;
    p->walk = fb_gpu_walk_new(gpu);
    proxy.n_backends++;
    return &p->base;
}

static bool is_given(const struct ggml_tensor *src)
{
    return src && fb_gpu_claim_of(src);
}

/* Whether the tensor is a dense weight of the machine's memory whose products the GPU may want. */
static bool is_lent(const struct ggml_tensor *t)
{
    if (!t || !fb_device.bound || !fb_device.bound->gives_prompts) {
        return false;
    }
    const struct ggml_tensor *owner = t->view_src ? t->view_src : t;
    return owner->buffer && owner->buffer->buft == &fb_device.buft;
}

/* Whether the GPU wants the product of a lent weight, by llama.cpp's own rule for such products. */
static bool wants(const struct ggml_tensor *op)
{
    return op->op == GGML_OP_MUL_MAT && !op->src[0]->view_src &&
           ggml_backend_dev_offload_op(proxy.gpu, op);
}

static bool device_supports_op(ggml_backend_dev_t dev, const struct ggml_tensor *op)
{
    (void)dev;
    if (is_lent(op)) {
        return false; /* the weight itself, or a view of it */
    }
    for (int s = 0; s < GGML_MAX_SRC; s++) {
        if (is_lent(op->src[s]) && !(s == 0 && wants(op))) {
            return false;
        }
        if (is_given(op->src[s]) && !(s == 0 && op->op == GGML_OP_MUL_MAT_ID)) {
            return false;
        }
    }
    return ggml_backend_dev_supports_op(proxy.gpu, op);
}

static bool device_supports_buft(ggml_backend_dev_t dev, ggml_backend_buffer_type_t buft)
{
    bool lent = buft == &fb_device.buft && fb_device.bound && fb_device.bound->gives_prompts;
    (void)dev;
    return lent || buft == &fb_device.gpu_buft || buft == &proxy.measured ||
           ggml_backend_dev_supports_buft(proxy.gpu, buft);
}

/* llama.cpp accounts for memory by the device of its buffer type, and must find the proxy there
 * when it measures. Then no buffer is allocated, so that a copy of the type will do. */
static ggml_backend_buffer_type_t device_buft(ggml_backend_dev_t dev)
{
    (void)dev;
    ggml_backend_buffer_type_t buft = ggml_backend_dev_buffer_type(proxy.gpu);
    if (!fb_device.bound || !fb_device.bound->measuring) {
        return buft;
    }
    proxy.measured = *buft;
    proxy.measured.device = &proxy.device;
    return &proxy.measured;
}

ggml_backend_dev_t fb_proxy_of(ggml_backend_dev_t gpu)
{
    FB_ASSERT(proxy.n_backends == 0);
    proxy.gpu = gpu;
    proxy.device = *gpu;
    proxy.device.iface.init_backend = device_init_backend;
    proxy.device.iface.get_buffer_type = device_buft;
    proxy.device.iface.supports_op = device_supports_op;
    proxy.device.iface.supports_buft = device_supports_buft;
    return &proxy.device;
}

ggml_backend_dev_t fb_proxy_gpu(void)
{
    return proxy.gpu;
}

void fb_proxy_set_slots(struct fb_gpu_slots *slots)
{
    proxy.slots = slots;
}
