/*
 * gpu_walk.h - one pass over the nodes of a graph on a GPU some of whose weights are ours.
 *
 *      node without a weight of ours   computed with its neighbours
 *      node on a dense weight          nodes before it computed, and meanwhile the weight copied to
 *                                      the GPU (gpu_dense.h); computed with those after it
 *      first node of a layer           nodes before it computed, ids read back, missing experts
 *                                      copied into slots; or, when not all that are needed fit,
 *      node of a layer                 together: its weight is the slots, its ids slot numbers
 *                                      in sets:  computed once for each set of experts in slots or
 *                                                in the transit, rows of all others masked
 *
 * Where the slots are the stream's own, nothing is copied into them: a lease or a set of the stream
 * stays open while the GPU computes with it.
 */
#ifndef FB_GPU_GPU_WALK_H
#define FB_GPU_GPU_WALK_H

#include "backend/routing.h"
#include "gpu/gpu_slots.h"

struct fb_gpu_walk;

/* `gpu`: the GPU's own back end, which computes. */
struct fb_gpu_walk *fb_gpu_walk_new(ggml_backend_t gpu);
void fb_gpu_walk_free(struct fb_gpu_walk *walk);

/* Computes the graph; asynchronously, as far as it does not wait for ids. `slots` NULL: no experts
 * are ours. Why it failed: fb_binding_take_error. */
enum ggml_status fb_gpu_walk_graph(struct fb_gpu_walk *walk, struct fb_binding *binding,
    struct fb_gpu_slots *slots, struct ggml_cgraph *graph);

#endif
