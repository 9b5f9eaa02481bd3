/*
 * queue.h - nodes that wait to be computed together, and the copies of tensors they were made of.
 *
 * A node whose weight is ours cannot be computed as it is: its weight's address is not where the
 * bytes are. A *shadow* is a copy of a tensor that we may change; llama.cpp's own is left alone:
 *
 *      llama.cpp's   MUL_MAT [weight at an inaccessible address] [input]
 *      queued        shadow of the MUL_MAT [shadow of the weight, at the unit's bytes] [input]
 *
 * Shadows live until the queue is cleared, after its nodes have been computed.
 */
#ifndef FB_BACKEND_QUEUE_H
#define FB_BACKEND_QUEUE_H

#include "backend/form.h"

/* Zeroed: empty, without room. */
struct fb_queue {
    struct ggml_tensor **nodes;
    int n_nodes, cap_nodes;
    struct ggml_tensor *shadows;
    int n_shadows, cap_shadows;
};

/* Clears the queue and makes room for n_nodes nodes of a graph, and some nodes of our own. */
void fb_queue_reserve(struct fb_queue *q, int n_nodes);
void fb_queue_clear(struct fb_queue *q);
void fb_queue_release(struct fb_queue *q);

/* Appends a node, which must live until the queue is cleared. */
void fb_queue_add(struct fb_queue *q, struct ggml_tensor *node);

/* A copy of the tensor. */
struct ggml_tensor *fb_queue_shadow(struct fb_queue *q, const struct ggml_tensor *tensor);

/* A copy of a weight as a leaf: its bytes are at `data`, in this form. */
struct ggml_tensor *fb_queue_shadow_weight(
    struct fb_queue *q, const struct ggml_tensor *weight, const struct fb_form *form, void *data);

/* A leaf over memory of ours, in the buffer of `like`: contiguous, of shape [ne0, ne1, ne2]. */
struct ggml_tensor *fb_queue_tensor(struct fb_queue *q, const struct ggml_tensor *like,
    enum ggml_type type, int64_t ne0, int64_t ne1, int64_t ne2, void *data);

#endif
