/*
 * gpu.h - experts that a GPU computes with, though its memory has no room for all of them.
 *
 *      llama.cpp                      proxy (proxy.h): the GPU's own device and back end, except
 *          |  graph of the GPU        that a node on experts of ours is supported, and that graphs
 *          v                          come to us first
 *      walk (gpu_walk.h)
 *          |  nodes up to a layer's experts: computed by the GPU
 *          |  the router's ids: read back, once per layer
 *          |  missing experts: stream (RAM or disk) ---> slots on the GPU (gpu_slots.h)
 *          v
 *      nodes on experts: computed by the GPU on slots in place of experts, and slot numbers in
 *      place of ids; whatever is between them as it is
 *
 * All experts of a layer are computed by one device, which the plan chose; what happens to be in a
 * slot decides only how long it takes. So the results are those of llama.cpp with these layers'
 * experts on the GPU.
 *
 * Threads: everything here belongs to the thread that loads, computes and frees.
 */
#ifndef FB_GPU_GPU_H
#define FB_GPU_GPU_H

#include "forebay.h"
#include "gpu/gpu_slots.h"

struct fb_weights;

/* Whether the device computes products of experts of this kind. */
bool fb_gpu_computes(ggml_backend_dev_t device, const struct fb_weights *weights, int weight);

/* From how many rows on the device computes products of dense weights that are not in its memory:
 * ggml's offload_op, 32 unless the user sets GGML_OP_OFFLOAD_MIN_BATCH. 0: it never does. */
int fb_gpu_prompt_rows(ggml_backend_dev_t device);

/* The memory that it needs for that, beside what llama.cpp allocates. */
uint64_t fb_gpu_prompt_bytes(const struct fb_weights *weights);

/* Allocates slots_bytes of the proxied device's memory, or what it has of them, as slots for the
 * experts that the binding has given to it, divided as plan/device_slots.h says; with
 * fb_binding_share_slots, all of it as a transit beside the stream's slots. From now on the proxy
 * computes with these. The binding has been started, and must outlive the result. E_NOMEM when not
 * even fb_device_slots_least, or fb_device_slots_least_transit, can be had. */
enum forebay_status fb_gpu_start(struct fb_binding *binding, uint64_t slots_bytes,
    struct fb_gpu_slots **out, struct forebay_error *err);
/* After llama.cpp's context and before the binding is freed. NULL is accepted. */
void fb_gpu_stop(struct fb_gpu_slots *slots);

#endif
