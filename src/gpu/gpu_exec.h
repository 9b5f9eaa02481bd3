/*
 * gpu_exec.h - computing on a GPU for one llama.cpp context: its back end, the nodes of the graph
 * that were not handed to it yet, and the nodes of the graph that we have changed.
 *
 *      graph   ... handed over | from ...... to ) ...
 *
 * llama.cpp's nodes are changed for the time of a pass, and restored at its end: a GPU's back end
 * fuses a node with its neighbours by identity, so copies will not do.
 */
#ifndef FB_GPU_GPU_EXEC_H
#define FB_GPU_GPU_EXEC_H

#include "backend/binding.h"

struct fb_changed_node;

/* All but `gpu` and `binding` are its own. */
struct fb_gpu_exec {
    ggml_backend_t gpu;
    struct fb_binding *binding; /* during a graph */
    struct ggml_cgraph *graph;  /* likewise */
    int from;                   /* the first node that was not handed over */
    struct fb_changed_node *changed;
    int n_changed, cap_changed;
    struct ggml_context *ctx; /* headers of tensors and small graphs of ours; reset freely */
    ggml_backend_buffer_t ids;
    int32_t *host_ids;
    size_t cap_host_ids;
};

void fb_gpu_exec_init(struct fb_gpu_exec *ex, ggml_backend_t gpu);
void fb_gpu_exec_release(struct fb_gpu_exec *ex);

/* Hands nodes [from, to) to the GPU, and does not wait for it. */
enum ggml_status fb_gpu_exec_compute(struct fb_gpu_exec *ex, int to);

/* Hands node i to the GPU, once more if it was handed over before, and waits for it. */
enum ggml_status fb_gpu_exec_compute_alone(struct fb_gpu_exec *ex, int i);

/* Gives the node another weight and other ids until fb_gpu_exec_restore, which undoes all changes.
 * The GPU must not be computing with a node that is changed or restored. */
void fb_gpu_exec_change(struct fb_gpu_exec *ex, struct ggml_tensor *node,
    struct ggml_tensor *weight, struct ggml_tensor *ids);
void fb_gpu_exec_restore(struct fb_gpu_exec *ex);

/* --- Memory of the GPU ---------------------------------------------------------------------- */

/* Replaces *buffer (NULL: none) by a larger one if it has less than `bytes`. E_NOMEM, as the
 * binding's error, when the GPU has no such memory. */
enum ggml_status fb_gpu_exec_reserve(
    struct fb_gpu_exec *ex, ggml_backend_buffer_t *buffer, size_t bytes);

/* A tensor [ne0, ne1] at `offset` of a buffer; its header is in ex->ctx. */
struct ggml_tensor *fb_gpu_exec_tensor(struct fb_gpu_exec *ex, ggml_backend_buffer_t buffer,
    size_t offset, enum ggml_type type, int64_t ne0, int64_t ne1);

/* Copies the index of each row's expert to the GPU, or `masked` where it is negative or where
 * `index_of` [experts] is NULL. *out: a tensor [picks, tokens], until the next call. */
enum ggml_status fb_gpu_exec_ids(struct fb_gpu_exec *ex, const struct fb_routes *routes,
    const int *index_of, int masked, struct ggml_tensor **out);

#endif
