/*
 * proxy.h - the device that llama.cpp gets in place of a GPU's.
 *
 * It is a copy of the GPU's ggml device, with the same context, so that whatever it is asked, the
 * GPU's own code answers; except for four functions:
 *
 *      supports_buft   also the buffer types of experts that are given to the GPU, and of dense
 *                      weights if these are lent to it for prompts
 *      supports_op     a product of such experts, if the GPU computes products of that kind; and of
 *                      such dense weights, if it also has enough rows
 *      get_buffer_type while llama.cpp measures, a copy that names the proxy as its device
 *      init_backend    a copy of the GPU's back end whose graphs pass through fb_gpu_walk_graph
 *
 * Buffers are the GPU's own.
 */
#ifndef FB_GPU_PROXY_H
#define FB_GPU_PROXY_H

#include "ggml-backend.h"

struct fb_gpu_slots;

/* The proxy of a GPU's device, to be given to llama.cpp in place of it. One per process: the result
 * of the last call counts. */
ggml_backend_dev_t fb_proxy_of(ggml_backend_dev_t gpu);

/* The GPU of the proxy. */
ggml_backend_dev_t fb_proxy_gpu(void);

/* Slots for the graphs of all back ends of the proxy; NULL: there are none (any more). */
void fb_proxy_set_slots(struct fb_gpu_slots *slots);

#endif
