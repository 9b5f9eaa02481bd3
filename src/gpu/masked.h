/*
 * masked.h - an expert node computed with a part of its experts: the rows of all others are masked,
 * so that each set of experts adds its rows to the node's result.
 *
 * A masked row's id is one more than the stack has. Kernels that go through the stack expert by
 * expert, for many tokens, skip such rows. Kernels for few tokens compute whatever an id points at,
 * and would overwrite rows of other sets: then the node is computed into memory of ours, and the
 * set's rows are copied. Which is which is tried once for every shape of node, with the transit as
 * its stack: a unit is behind that, too (gpu_slots.h).
 *
 * The node keeps its shape, because kernels are chosen by it.
 */
#ifndef FB_GPU_MASKED_H
#define FB_GPU_MASKED_H

#include "gpu/gpu_exec.h"

struct fb_masked; /* the shapes that were tried, and memory on the GPU */

struct fb_masked *fb_masked_new(void);
void fb_masked_free(struct fb_masked *masked);

/* Computes node i of the graph, whose input is computed, with the experts of `stack`: index_of[e]
 * is expert e's index in it, negative if it is not there. `transit`: of the node's weight. Waits
 * for the GPU, and resets ex->ctx. */
enum ggml_status fb_masked_compute(struct fb_masked *masked, struct fb_gpu_exec *ex, int i,
    const struct fb_routes *routes, struct ggml_tensor *transit, struct ggml_tensor *stack,
    const int *index_of);

#endif
