/*
 * moe.h - expert nodes (MUL_MAT_ID): which experts a layer needs is known when its router's ids
 * have been computed. Then there are two ways:
 *
 *   together   The experts all fit into the layer's slots (always so in decode). One lease covers
 *              the gate, up and down nodes of the layer. Slots stand in for experts, slot numbers
 *              for ids, and the CPU backend computes MUL_MAT_ID as usual. While some experts are
 *              being read, the rows of the others are computed: partial.h.
 *
 *                ids   [7 99 7 12]     weight  [expert 0][expert 1]...[expert 127]
 *                       |                       |
 *                slots [0  2 0  1]     shadow  [slot 0: 7][slot 1: 12][slot 2: 99]
 *
 *   in sets    A batch that needs more experts than there are slots, or that must read many:
 *              batch.h.
 *
 * One per context; a layer is open from its first expert node until the next layer's, or the end of
 * the graph.
 */
#ifndef FB_BACKEND_MOE_H
#define FB_BACKEND_MOE_H

#include "backend/exec.h"

struct fb_moe;

struct fb_moe *fb_moe_new(void);
void fb_moe_free(struct fb_moe *moe); /* no layer is open */

/* Handles an expert node: queues it, or computes the queue and the node. May block on reads. */
enum ggml_status fb_moe_node(struct fb_moe *moe, struct fb_exec *ex, struct ggml_tensor *node,
    const struct fb_tensor_claim *claim);

/* Completes nodes that were computed in part; to be called before anything that may use them. Does
 * nothing when there are none. */
enum ggml_status fb_moe_complete(struct fb_moe *moe, struct fb_exec *ex);

/* Frees the memory that batches need; no layer is open. */
void fb_moe_shed(struct fb_moe *moe);

/* Closes the open layer, if any: after the graph, or its failure. */
void fb_moe_finish(struct fb_moe *moe, struct fb_exec *ex);

#endif
