#include "gpu/proxy.h"

#include <stdlib.h>

#include "backend/binding.h"
#include "backend/device_state.h"
#include "base/error.h"
#include "gpu/gpu_walk.h"

/* All mutable state of the proxy that belongs to the process: ggml passes none of our own data. */
static struct {
    struct ggml_backend_device device;
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

static bool device_supports_op(ggml_backend_dev_t dev, const struct ggml_tensor *op)
{
    (void)dev;
    for (int s = 0; s < GGML_MAX_SRC; s++) {
        if (is_given(op->src[s]) && !(s == 0 && op->op == GGML_OP_MUL_MAT_ID)) {
            return false;
        }
    }
    return ggml_backend_dev_supports_op(proxy.gpu, op);
}

static bool device_supports_buft(ggml_backend_dev_t dev, ggml_backend_buffer_type_t buft)
{
    (void)dev;
    return buft == &fb_device.gpu_buft || ggml_backend_dev_supports_buft(proxy.gpu, buft);
}

ggml_backend_dev_t fb_proxy_of(ggml_backend_dev_t gpu)
{
    FB_ASSERT(proxy.n_backends == 0);
    proxy.gpu = gpu;
    proxy.device = *gpu;
    proxy.device.iface.init_backend = device_init_backend;
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
