/*
 * masked.c - see masked.h: tries a shape of node once, with a pattern in the rows that must stay;
 * then computes in place, or aside with the rows copied afterwards.
 */
#include "gpu/masked.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

#define MAX_SHAPES 256
#define COPIES     512 /* rows that are copied by one graph */
#define PATTERN    0xA5

/* A shape of an expert node, and whether the GPU leaves masked rows alone in it. */
struct node_shape {
    enum ggml_type type;
    int64_t columns, rows, picks, tokens;
    bool inputs; /* an input for each pick, not one for all */
    bool keeps;
};

struct fb_masked {
    struct node_shape shapes[MAX_SHAPES];
    int n_shapes;
    ggml_backend_buffer_t rows; /* a node's result that is not to be where it belongs */
};

struct fb_masked *fb_masked_new(void)
{
    return fb_xcalloc(1, sizeof(struct fb_masked));
}

void fb_masked_free(struct fb_masked *m)
{
    ggml_backend_buffer_free(m->rows);
    free(m);
}

/* --- Which kernels skip masked rows ---------------------------------------------------------- */

/* Tries it with every row masked, on the node's result, which is not computed yet. */
static enum ggml_status try_node(struct fb_gpu_exec *ex, int i, bool *keeps)
{
    struct ggml_tensor *node = ggml_graph_node(ex->graph, i);
    size_t bytes = ggml_nbytes(node);
    unsigned char *seen = fb_xmalloc(bytes);
    memset(seen, PATTERN, bytes);
    ggml_backend_tensor_set(node, seen, 0, bytes);
    enum ggml_status status = fb_gpu_exec_compute_alone(ex, i);
    ggml_backend_tensor_get(node, seen, 0, bytes);
    *keeps = true;
    for (size_t at = 0; at < bytes && *keeps; at++) {
        *keeps = seen[at] == PATTERN;
    }
    free(seen);
    return status;
}

/* Whether the GPU leaves masked rows of node i alone. */
static enum ggml_status keeps_masked(struct fb_masked *m, struct fb_gpu_exec *ex, int i,
    const struct fb_routes *routes, struct ggml_tensor *transit, bool *keeps)
{
    struct ggml_tensor *node = ggml_graph_node(ex->graph, i), *ids;
    struct node_shape shape = {transit->type, transit->ne[0], transit->ne[1], node->ne[1],
        node->ne[2], node->src[1]->ne[1] > 1, false};
    for (int k = 0; k < m->n_shapes; k++) {
        struct node_shape *s = &m->shapes[k];
        if (s->type == shape.type && s->columns == shape.columns && s->rows == shape.rows &&
            s->picks == shape.picks && s->tokens == shape.tokens && s->inputs == shape.inputs) {
            *keeps = s->keeps;
            return GGML_STATUS_SUCCESS;
        }
    }
    enum ggml_status status = fb_gpu_exec_ids(ex, routes, NULL, (int)transit->ne[2], &ids);
    if (status != GGML_STATUS_SUCCESS) {
        return status;
    }
    fb_gpu_exec_change(ex, node, transit, ids);
    status = try_node(ex, i, &shape.keeps);
    fb_gpu_exec_restore(ex);
    if (m->n_shapes < MAX_SHAPES) {
        m->shapes[m->n_shapes++] = shape;
    }
    *keeps = shape.keeps;
    return status;
}

/* --- Aside ----------------------------------------------------------------------------------- */

static size_t row_bytes(const struct ggml_tensor *node)
{
    return (size_t)node->ne[0] * sizeof(float);
}

/* Computes node i into memory of ours. */
static enum ggml_status compute_aside(struct fb_masked *m, struct fb_gpu_exec *ex, int i)
{
    struct ggml_tensor *node = ggml_graph_node(ex->graph, i);
    struct ggml_tensor kept = *node;
    enum ggml_status status = fb_gpu_exec_reserve(ex, &m->rows, ggml_nbytes(node) + 256);
    if (status != GGML_STATUS_SUCCESS) {
        return status;
    }
    node->buffer = m->rows;
    node->data = ggml_backend_buffer_get_base(m->rows);
    status = fb_gpu_exec_compute_alone(ex, i);
    node->buffer = kept.buffer;
    node->data = kept.data;
    return status;
}

/* Adds the copy of a row from our memory to the node's result. */
static void add_copy(struct fb_masked *m, struct fb_gpu_exec *ex, struct ggml_cgraph *graph,
    const struct ggml_tensor *node, int row)
{
    size_t at = (size_t)row * row_bytes(node);
    struct ggml_tensor *from = fb_gpu_exec_tensor(ex, m->rows, at, GGML_TYPE_F32, node->ne[0], 1);
    struct ggml_tensor *to = ggml_new_tensor_2d(ex->ctx, GGML_TYPE_F32, node->ne[0], 1);
    to->buffer = node->buffer;
    to->data = (char *)node->data + at;
    struct ggml_tensor *copy = ggml_cpy(ex->ctx, from, to);
    ggml_backend_view_init(copy);
    ggml_build_forward_expand(graph, copy);
}

/* Copies the rows that are not masked from our memory to where node i's result belongs. */
static enum ggml_status copy_rows(struct fb_masked *m, struct fb_gpu_exec *ex, int i,
    const struct fb_routes *routes, const int *index_of)
{
    const struct ggml_tensor *node = ggml_graph_node(ex->graph, i);
    int n = routes->tokens * routes->picks, row = 0;
    enum ggml_status status = GGML_STATUS_SUCCESS;
    while (row < n && status == GGML_STATUS_SUCCESS) {
        ggml_reset(ex->ctx);
        struct ggml_cgraph *graph = ggml_new_graph_custom(ex->ctx, 4 * COPIES, false);
        for (int copies = 0; row < n && copies < COPIES; row++) {
            if (index_of[routes->experts[row]] >= 0) {
                add_copy(m, ex, graph, node, row);
                copies++;
            }
        }
        status = ggml_backend_graph_compute_async(ex->gpu, graph);
        ggml_backend_synchronize(ex->gpu);
    }
    return status;
}

/* --- A set ----------------------------------------------------------------------------------- */

enum ggml_status fb_masked_compute(struct fb_masked *m, struct fb_gpu_exec *ex, int i,
    const struct fb_routes *routes, struct ggml_tensor *transit, struct ggml_tensor *stack,
    const int *index_of)
{
    struct ggml_tensor *ids;
    bool keeps = false;
    ggml_reset(ex->ctx); /* nothing that it holds is in use */
    enum ggml_status status = keeps_masked(m, ex, i, routes, transit, &keeps);
    if (status == GGML_STATUS_SUCCESS) {
        /* A row that is not skipped must find a unit; whatever it computes is not used. */
        status = fb_gpu_exec_ids(ex, routes, index_of, keeps ? (int)stack->ne[2] : 0, &ids);
    }
    if (status != GGML_STATUS_SUCCESS) {
        return status;
    }
    fb_gpu_exec_change(ex, ggml_graph_node(ex->graph, i), stack, ids);
    status = keeps ? fb_gpu_exec_compute_alone(ex, i) : compute_aside(m, ex, i);
    fb_gpu_exec_restore(ex);
    return keeps || status != GGML_STATUS_SUCCESS ? status : copy_rows(m, ex, i, routes, index_of);
}
