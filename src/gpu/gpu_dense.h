/*
 * gpu_dense.h - dense weights that a GPU computes a prompt with, though they are in the machine's
 * memory or on its disk: each is copied to the GPU once per pass, into one of two buffers.
 *
 *      CPU   copy w0 to A | copy w1 to B | wait for A | copy w2 to A | wait for B | ...
 *      GPU                  nodes from    w0 on         nodes from    w1 on         ...
 *                           up to w1                    up to w2
 *
 * So a weight is read from the disk and copied while the GPU computes with the one before.
 *
 * Threads: as gpu.h.
 */
#ifndef FB_GPU_GPU_DENSE_H
#define FB_GPU_GPU_DENSE_H

#include "backend/binding.h"

struct fb_gpu_dense;

/* Allocates nothing on the GPU yet. */
struct fb_gpu_dense *fb_gpu_dense_new(ggml_backend_t gpu);
/* While the GPU does not compute with any of them. NULL is fine. */
void fb_gpu_dense_free(struct fb_gpu_dense *dense);

/* Memory of the GPU that the buffers take. */
uint64_t fb_gpu_dense_bytes(const struct fb_weights *weights);

/* Whether the node is a product of such a weight, and how many of the graph's nodes are. */
bool fb_gpu_dense_is_used_by(const struct ggml_tensor *node);
int fb_gpu_dense_count(struct ggml_cgraph *graph);

/* Around a pass over the graph. Begin tells the stream in which order the graph uses the weights,
 * and fails, with the binding's error, when the GPU has no memory for the buffers. At the end the
 * GPU must have been waited for. */
enum ggml_status fb_gpu_dense_begin(
    struct fb_gpu_dense *dense, struct fb_binding *binding, struct ggml_cgraph *graph);
void fb_gpu_dense_end(struct fb_gpu_dense *dense);

/* Copies the weight behind llama.cpp's tensor. *out: the same on the GPU, until the end of the pass
 * as a header, and its data until the second fetch from now. All nodes with weights that were
 * fetched before have been handed to the GPU. Blocks while the weight is read. */
enum ggml_status fb_gpu_dense_fetch(
    struct fb_gpu_dense *dense, const struct ggml_tensor *weight, struct ggml_tensor **out);

#endif
