#include "backend/queue.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

/* Room for our own nodes (gather.h: 8 products and 2 operations at a time), each with shadows of
 * its result, weight, input and ids. A node of the graph has its weight's and, for experts, its
 * ids'. */
#define OWN_NODES 32

void fb_queue_reserve(struct fb_queue *q, int n_nodes)
{
    if (n_nodes + OWN_NODES > q->cap_nodes) {
        q->cap_nodes = n_nodes + OWN_NODES;
        q->cap_shadows = 3 * n_nodes + 5 * OWN_NODES;
        q->nodes = fb_xrealloc(q->nodes, (size_t)q->cap_nodes * sizeof(struct ggml_tensor *));
        q->shadows = fb_xrealloc(q->shadows, (size_t)q->cap_shadows * sizeof *q->shadows);
    }
    fb_queue_clear(q);
}

void fb_queue_clear(struct fb_queue *q)
{
    q->n_nodes = 0;
    q->n_shadows = 0;
}

void fb_queue_release(struct fb_queue *q)
{
    free(q->nodes);
    free(q->shadows);
    *q = (struct fb_queue){0};
}

void fb_queue_add(struct fb_queue *q, struct ggml_tensor *node)
{
    FB_ASSERT(q->n_nodes < q->cap_nodes);
    q->nodes[q->n_nodes++] = node;
}

struct ggml_tensor *fb_queue_shadow(struct fb_queue *q, const struct ggml_tensor *tensor)
{
    FB_ASSERT(q->n_shadows < q->cap_shadows);
    struct ggml_tensor *shadow = &q->shadows[q->n_shadows++];
    *shadow = *tensor;
    return shadow;
}

struct ggml_tensor *fb_queue_shadow_weight(
    struct fb_queue *q, const struct ggml_tensor *weight, const struct fb_form *form, void *data)
{
    struct ggml_tensor *shadow = fb_queue_shadow(q, weight);
    fb_form_point(form, shadow, data);
    return shadow;
}

struct ggml_tensor *fb_queue_tensor(struct fb_queue *q, const struct ggml_tensor *like,
    enum ggml_type type, int64_t ne0, int64_t ne1, int64_t ne2, void *data)
{
    struct ggml_tensor *t = fb_queue_shadow(q, like);
    t->type = type;
    t->op = GGML_OP_NONE;
    t->view_src = NULL;
    t->view_offs = 0;
    t->extra = NULL;
    t->data = data;
    memset(t->src, 0, sizeof t->src);
    t->ne[0] = ne0;
    t->ne[1] = ne1;
    t->ne[2] = ne2;
    t->ne[3] = 1;
    t->nb[0] = ggml_type_size(type);
    t->nb[1] = t->nb[0] * (size_t)ne0;
    t->nb[2] = t->nb[1] * (size_t)ne1;
    t->nb[3] = t->nb[2] * (size_t)ne2;
    return t;
}
