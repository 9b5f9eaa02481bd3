/*
 * walk.h - computing a graph: nodes with a claimed weight on shadows, all others as they are.
 *
 * The walk queues node after node, and the CPU backend computes the queue at once. The queue is
 * computed where something must happen between nodes: a streamed weight must have been read, or the
 * experts that a router chose must be known.
 *
 *      [norm q-shadow k-shadow ... router] | [gate-shadow up-shadow act down-shadow norm ...] | ...
 *                                         ids known: begin the lease, wait for the parts
 */
#ifndef FB_BACKEND_WALK_H
#define FB_BACKEND_WALK_H

#include "backend/exec.h"

struct fb_moe;
struct fb_expert_use;

/* One per llama.cpp context. */
struct fb_walk {
    struct fb_exec exec;
    struct fb_moe *moe;
    int *dense_order;                   /* the graph's streamed dense weights, by use */
    struct fb_expert_use *expert_order; /* its expert matrices, by use */
    int cap_order;
};

/* NULL when there is no CPU backend. */
struct fb_walk *fb_walk_new(void);
void fb_walk_free(struct fb_walk *walk);

/* Computes the graph of a model that is served by `b`; of any other (NULL), or before the binding
 * has a stream, as it is. Blocks while weights are read. */
enum ggml_status fb_walk_graph(
    struct fb_walk *walk, struct fb_binding *b, struct ggml_cgraph *graph);

#endif
